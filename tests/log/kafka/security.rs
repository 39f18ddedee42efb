//! TLS, SASL and rights, on a broker that asks for all of them, and what is said when they are wrong.

use super::broker::{Broker, Settings};
use super::shared_broker;
use crate::log::support::{appending, contents, put, topic};
use millstream::log::kafka::Mechanism;
use millstream::log::{Error, KafkaConfig, KafkaLog, Log};
use std::path::Path;
use std::process::Command;

fn keytool(args: &[&str]) {
    let run = Command::new("keytool").args(args).args(["-storepass", "changeit", "-noprompt"]).output().expect("Java's keytool");
    assert!(run.status.success(), "keytool {args:?}: {}", String::from_utf8_lossy(&run.stdout));
}

/// A broker with a certificate of its own, users, and rights for alice alone; and the certificate.
fn guarded(dir: &Path) -> (Broker, String) {
    let path = |name: &str| dir.join(name).display().to_string();
    let [keys, trusted, certificate] = [path("keys.p12"), path("trusted.p12"), path("ca.pem")];
    let pair = ["-genkeypair", "-alias", "broker", "-keyalg", "RSA", "-dname", "CN=broker", "-ext", "SAN=IP:127.0.0.1"];
    keytool(&[&pair[..], &["-validity", "9", "-storetype", "PKCS12", "-keystore", &keys]].concat());
    keytool(&["-exportcert", "-rfc", "-alias", "broker", "-keystore", &keys, "-file", &certificate]);
    keytool(&["-importcert", "-alias", "broker", "-storetype", "PKCS12", "-keystore", &trusted, "-file", &certificate]);
    let users = "username=\"admin\" password=\"a\" user_admin=\"a\" user_alice=\"plain\" user_mallory=\"m\"";
    let scram = "org.apache.kafka.common.security.scram.ScramLoginModule required;";
    let properties = format!(
        "listener.security.protocol.map=CONTROLLER:PLAINTEXT,SASL_SSL:SASL_SSL\n\
         security.inter.broker.protocol=SASL_SSL\n\
         sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512\n\
         sasl.mechanism.inter.broker.protocol=PLAIN\n\
         listener.name.sasl_ssl.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required {users};\n\
         listener.name.sasl_ssl.scram-sha-256.sasl.jaas.config={scram}\n\
         listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config={scram}\n\
         ssl.keystore.type=PKCS12\nssl.keystore.location={keys}\nssl.keystore.password=changeit\nssl.key.password=changeit\n\
         ssl.truststore.type=PKCS12\nssl.truststore.location={trusted}\nssl.truststore.password=changeit\n\
         authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer\n\
         super.users=User:admin;User:alice;User:ANONYMOUS\n"
    );
    let scram = "SCRAM-SHA-256=[name=alice,password=s256];SCRAM-SHA-512=[name=alice,password=s512]".to_owned();
    (Broker::with(Settings { protocol: "SASL_SSL", properties, scram }), certificate)
}

#[test]
fn a_guarded_cluster_is_used_by_who_may() {
    let dir = tempfile::tempdir().unwrap();
    let (broker, certificate) = guarded(dir.path());
    let as_user = |mechanism, user: &str, password: &str| {
        KafkaLog::open(KafkaConfig::new(broker.address()).tls(Some(&certificate)).sasl(mechanism, user, password))
    };
    let mut expected = Vec::new();
    for (mechanism, password) in [(Mechanism::Plain, "plain"), (Mechanism::ScramSha256, "s256"), (Mechanism::ScramSha512, "s512")]
    {
        let log = as_user(mechanism, "alice", password).unwrap_or_else(|error| panic!("{mechanism:?}: {error}"));
        let orders = topic(&log, "orders", 1);
        put(&log, &orders, 0, &[(password, "v")]);
        expected.push(format!("{password}=v"));
        assert_eq!(contents(&log, &orders, 0), expected);
    }

    let wrong = as_user(Mechanism::ScramSha256, "alice", "guess").unwrap_err();
    assert!(matches!(&wrong, Error::Unauthenticated { .. }), "{wrong}");

    let untrusted = KafkaConfig::new(broker.address()).tls(None::<&str>).sasl(Mechanism::Plain, "alice", "plain");
    let untrusted = KafkaLog::open(untrusted).unwrap_err();
    assert!(matches!(&untrusted, Error::Unauthenticated { .. }), "{untrusted}");

    let mallory = as_user(Mechanism::Plain, "mallory", "m").expect("she is known");
    let denied = mallory.create_topic(&crate::log::support::spec("hers", 1, millstream::log::Cleanup::KEEP)).unwrap_err();
    assert!(matches!(&denied, Error::Denied { .. }) && denied.to_string().contains("hers"), "{denied}");
    let alice = as_user(Mechanism::Plain, "alice", "plain").unwrap();
    let orders = alice.topic("orders").unwrap().expect("she made it");
    alice.commit(appending(&orders, 0, &[("k", "v")])).wait().unwrap();
}

#[test]
fn a_wrong_configuration_is_told() {
    let no_host = KafkaLog::open(KafkaConfig::new("no-such-host.invalid:9092")).unwrap_err();
    assert!(no_host.to_string().contains("no such host"), "{no_host}");
    let address = shared_broker().address();
    for (config, expected) in [
        (KafkaConfig::new(" "), "configuration of Kafka: no brokers are given"),
        (
            KafkaConfig::new(&*address).property("isolation.level", "read_uncommitted"),
            "configuration of Kafka: property isolation.level is the engine's own: exactly once rests on it",
        ),
        (KafkaConfig::new(&*address).property("client.rock", "a"), "client.rock"),
        (KafkaConfig::new(&*address).tls(Some("/no/such.pem")), "configuration of Kafka: there is no file /no/such.pem"),
    ] {
        let error = KafkaLog::open(config).unwrap_err();
        assert!(matches!(error, Error::Misconfigured { .. }) && error.to_string().contains(expected), "{error}");
    }
}
