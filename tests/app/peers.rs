//! Processes on a real Kafka that know of each other.

use std::sync::Arc;

use millstream::log::{KafkaConfig, KafkaLog};
use millstream::{App, Config, StreamBuilder, Topic, Topology};

use super::support::eventually;
use crate::log::kafka::broker::{Broker, Settings};
use crate::log::kafka::prefix;

/// An application whose one table has the rows of a topic.
struct Rows {
    app: &'static str,
    input: Topic<String, u64>,
}

impl Rows {
    fn new(input: &str, partitions: u32) -> Rows {
        let prefix = prefix();
        let name = |of: &str| -> &'static str { Box::leak(format!("{prefix}{of}").into_boxed_str()) };
        Rows { app: name("app"), input: Topic::new(name(input)).partitions(partitions).compacted() }
    }

    fn topology(&self) -> Topology {
        let mut builder = StreamBuilder::new(self.app);
        builder.table(&self.input, "rows");
        builder.build().expect("the topology is valid")
    }
}

#[test]
fn a_thread_that_the_others_cannot_be_told_of_does_not_begin() {
    let properties = "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer\n\
                      allow.everyone.if.no.acl.found=true\n";
    let broker = Broker::with(Settings { protocol: "PLAINTEXT", properties: properties.into(), scram: String::new() });
    let (rows, dir) = (Rows::new("in", 3), tempfile::tempdir().expect("a temporary directory"));
    let log = KafkaLog::open(KafkaConfig::new(broker.address())).expect("the broker answers");
    let config = Config { threads: 1, ..Config::shared(dir.path()) };
    let app = App::start_on(rows.topology(), config, Arc::new(log)).expect("the application starts");
    let workers = format!("{}-workers", rows.app);
    // What is not allowed is refused from here on.
    let all_but_write = ["Read", "Describe", "DescribeConfigs"].map(|operation| ["--operation", operation]).concat();
    let whom = [&["--allow-principal", "User:ANONYMOUS", "--topic", &workers], &all_but_write[..]].concat();
    broker.tool("org.apache.kafka.tools.AclCommand", &[&["--add"], &whom[..]].concat(), "");
    let said = app.handle().add_thread().expect_err("nobody could end what it leaves open when it dies").to_string();
    assert!(said.contains("not allowed") && said.contains("a right on the topic"), "{said}");
    assert_eq!(app.handle().threads(), 1);
    broker.tool("org.apache.kafka.tools.AclCommand", &[&["--remove", "--force"], &whom[..]].concat(), "");
    eventually("it can tell of itself", || app.handle().add_thread().is_ok());
    assert_eq!((app.handle().threads(), app.stop()), (2, None));
}
