//! A program of which only one may write: it knows that it still does, or says that it does not; and where it has lost its producers, what it
//! read before counts for nothing.

use super::broker::{Broker, Settings};
use super::transactions::until;
use super::{config, prefix};
use crate::app::support::alone;
use crate::log::support::{appending, contents, put, topic};
use millstream::Partition;
use millstream::log::{Error, KafkaConfig, KafkaLog, Log};
use millstream_state::fault;
use std::sync::mpsc;
use std::time::Duration;

#[test]
fn a_fenced_writer_is_told_and_appends_nothing() {
    let name = prefix() + "relay";
    let exclusive = || KafkaLog::open(config().exclusive_writer(name.clone())).expect("the broker answers");
    let first = exclusive();
    let relayed = topic(&first, &name, 1);
    put(&first, &relayed, 0, &[("a", "1")]);

    // From here on what the second reads is all there is, though it has not written yet.
    let second = exclusive();
    let seen = topic(&second, &name, 1);
    for _ in 0..2 {
        let refused = first.commit(appending(&relayed, 0, &[("c", "3")])).wait().unwrap_err();
        assert!(matches!(&refused, Error::Fenced { .. }) && refused.is_fatal(), "{refused}");
        assert_eq!(refused.to_string(), format!("another process has taken over as {name}"));
    }
    for (key, value) in [("b", "2"), ("d", "4"), ("e", "5")] {
        put(&second, &seen, 0, &[(key, value)]);
    }
    assert_eq!(contents(&second, &seen, 0), ["a=1", "b=2", "d=4", "e=5"]);
}

#[test]
fn who_lost_its_producers_reads_anew_before_it_writes_and_takes_nothing_back() {
    let properties = "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer\n\
                      allow.everyone.if.no.acl.found=true\n";
    let broker = Broker::with(Settings { protocol: "PLAINTEXT", properties: properties.into(), scram: String::new() });
    let deny = |how: &[&str]| {
        let what = ["--deny-principal", "User:ANONYMOUS", "--operation", "All"];
        let whom = ["--transactional-id", "relay", "--resource-pattern-type", "prefixed"];
        broker.tool("org.apache.kafka.tools.AclCommand", &[how, &what, &whom].concat(), "");
    };
    let log = || KafkaConfig::new(broker.address());
    let open = |config| KafkaLog::open(config).expect("the broker answers");
    let (relay, other) = (open(log().exclusive_writer("relay")), open(log()));
    let relayed = topic(&relay, "relayed", 1);
    let (mut written, mut next) = (Vec::new(), 0);
    let mut relay_one = |written: &mut Vec<String>| {
        next += 1;
        let outcome = relay.commit(appending(&relayed, 0, &[("r", &next.to_string())])).wait();
        outcome.map(|_| written.push(format!("r={next}")))
    };
    // Both of its producers have written.
    for _ in 0..3 {
        relay_one(&mut written).expect("it is the only one");
    }
    // One of them is refused, and of no use after that.
    deny(&["--add"]);
    let refused = loop {
        match relay_one(&mut written) {
            Ok(()) => {}
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, Error::Denied { .. }), "{refused}");
    // Meanwhile somebody else may write.
    let seen = topic(&other, "relayed", 1);
    put(&other, &seen, 0, &[("other", "1"), ("other", "2")]);
    written.extend(["other=1".to_owned(), "other=2".to_owned()]);
    deny(&["--remove", "--force"]);
    let replaced = loop {
        match relay_one(&mut written) {
            Err(Error::Denied { .. }) => {}
            outcome => break outcome.expect_err("what it was made from may be old"),
        }
    };
    assert!(matches!(replaced, Error::Aborted { .. }) && replaced.is_retriable(), "{replaced}");
    assert_eq!(contents(&relay, &relayed, 0), written, "nothing of what was refused, and all that was not");
    for _ in 0..3 {
        relay_one(&mut written).expect("it is the only one");
    }
    assert_eq!(contents(&other, &seen, 0), written);
    // The new producers are fenced as those before.
    let second = open(log().exclusive_writer("relay"));
    let fenced = relay_one(&mut written).expect_err("another has taken over");
    assert!(matches!(fenced, Error::Fenced { .. }), "{fenced}");
    assert_eq!(contents(&second, &topic(&second, "relayed", 1), 0), written);
}

/// A broker that ends a transaction soon when its time is up, and a writer whose transactions have 3 s.
fn impatient() -> (Broker, impl Fn() -> KafkaLog + Send + Sync + 'static) {
    let properties = "transaction.abort.timed.out.transaction.cleanup.interval.ms=200\n".to_owned();
    let broker = Broker::with(Settings { protocol: "PLAINTEXT", properties, scram: String::new() });
    let config = KafkaConfig::new(broker.address()).property("socket.timeout.ms", "3000");
    let config = config.transaction_timeout(Duration::from_secs(3)).exclusive_writer("relay");
    (broker, move || KafkaLog::open(config.clone()).expect("the broker answers"))
}

/// Holds up the next transaction, all of which is sent, until the cluster has ended it.
fn hold_up_until_it_is_ended(broker: &Broker, then: impl Fn() + Send + Sync + 'static) {
    let watcher = KafkaLog::open(KafkaConfig::new(broker.address())).expect("the broker answers");
    let watched = topic(&watcher, "relayed", 1);
    fault::on_visit("kafka:commit:before-end", move || {
        fault::disarm("kafka:commit:before-end");
        let sent = watcher.open_ends(&[(watched.id, Partition(0))]).expect("the broker answers")[0];
        until(|| watcher.bounds(watched.id, Partition(0)).expect("the broker answers").end > sent);
        then();
    });
}

#[test]
fn who_was_away_for_longer_than_its_transaction_lasts_commits_nothing_of_it_and_goes_on() {
    alone("log::kafka::exclusive::who_was_away_for_longer_than_its_transaction_lasts_commits_nothing_of_it_and_goes_on", || {
        let (broker, open) = impatient();
        let first = open();
        let relayed = topic(&first, "relayed", 1);
        let mut written = Vec::new();
        let write = |written: &mut Vec<String>, value: &str| {
            put(&first, &relayed, 0, &[("a", value)]);
            written.push(format!("a={value}"));
        };
        // One of its producers, the other, and one whose other was just replaced.
        for (round, between) in [3, 3, 1].into_iter().enumerate() {
            (0..between).for_each(|number| write(&mut written, &format!("{round}-{number}")));
            hold_up_until_it_is_ended(&broker, || ());
            let refused = first.commit(appending(&relayed, 0, &[("b", "1")])).wait().expect_err("the cluster has ended it");
            assert!(refused.is_retriable() || refused.is_outcome_unknown(), "{refused}");
            let said = refused.to_string();
            assert!(said.contains("where the cluster gives 3.0s"), "{said}");
            assert_eq!(contents(&first, &relayed, 0), written);
        }
        (0..4).for_each(|number| write(&mut written, &format!("last-{number}")));
        // It is the only one still.
        let second = open();
        let seen = topic(&second, "relayed", 1);
        let fenced = first.commit(appending(&relayed, 0, &[("c", "1")])).wait().expect_err("another has taken over");
        assert!(matches!(fenced, Error::Fenced { .. }), "{fenced}");
        put(&second, &seen, 0, &[("d", "1")]);
        written.push("d=1".into());
        assert_eq!(contents(&second, &seen, 0), written);
    });
}

#[test]
fn who_was_away_while_another_took_over_ends_and_takes_nothing_back() {
    alone("log::kafka::exclusive::who_was_away_while_another_took_over_ends_and_takes_nothing_back", || {
        let (broker, open) = impatient();
        let first = open();
        let relayed = topic(&first, "relayed", 1);
        put(&first, &relayed, 0, &[("a", "1"), ("b", "2")]);
        let (took_over, second) = mpsc::channel();
        hold_up_until_it_is_ended(&broker, move || took_over.send(open()).expect("the test waits"));
        let write = |value| first.commit(appending(&relayed, 0, &[("c", value)])).wait().expect_err("another has taken over");
        // Its time was up as well, so that is all it can say of the first.
        let refused = write("3");
        assert!(!refused.is_fatal(), "{refused}");
        for value in ["4", "5"] {
            let refused = write(value);
            assert!(matches!(refused, Error::Fenced { .. }), "{refused}");
        }
        let second = second.recv().expect("it took over");
        let seen = topic(&second, "relayed", 1);
        assert_eq!(contents(&second, &seen, 0), ["a=1", "b=2"]);
        for (key, value) in [("e", "5"), ("f", "6"), ("g", "7")] {
            put(&second, &seen, 0, &[(key, value)]);
        }
        assert_eq!(contents(&second, &seen, 0), ["a=1", "b=2", "e=5", "f=6", "g=7"]);
    });
}

#[test]
fn who_is_fenced_while_it_gives_a_transaction_up_does_not_take_back() {
    alone("log::kafka::exclusive::who_is_fenced_while_it_gives_a_transaction_up_does_not_take_back", || {
        let broker = Broker::start();
        let open = {
            let config = KafkaConfig::new(broker.address()).exclusive_writer("relay");
            move || KafkaLog::open(config.clone()).expect("the broker answers")
        };
        let first = open();
        let relayed = topic(&first, "relayed", 1);
        put(&first, &relayed, 0, &[("a", "1")]);
        // A transaction that has to be given up for another reason.
        let smaller =
            ["--alter", "--entity-type", "topics", "--entity-name", "relayed", "--add-config", "max.message.bytes=1000"];
        broker.tool("kafka.admin.ConfigCommand", &smaller, "");
        let (began, second) = mpsc::channel();
        let take_over = open.clone();
        fault::on_visit("kafka:commit:before-abort", move || {
            fault::disarm("kafka:commit:before-abort");
            began.send(take_over()).expect("the test waits");
        });
        let large = "x".repeat(5_000);
        let mut expected = vec!["a=1".to_owned()];
        let write = || first.commit(appending(&relayed, 0, &[("b", &large)])).wait();
        // The broker hears of the setting a moment later.
        let refused = loop {
            match write() {
                Ok(_) => expected.push(format!("b={large}")),
                Err(error) => break error,
            }
        };
        for refused in [refused, write().expect_err("it ends"), write().expect_err("it ends")] {
            assert!(matches!(refused, Error::Fenced { .. }), "{refused}");
        }
        let second = second.recv().expect("it took over");
        let seen = topic(&second, "relayed", 1);
        for (key, value) in [("c", "3"), ("d", "4")] {
            put(&second, &seen, 0, &[(key, value)]);
            expected.push(format!("{key}={value}"));
        }
        assert_eq!(contents(&second, &seen, 0), expected);
    });
}
