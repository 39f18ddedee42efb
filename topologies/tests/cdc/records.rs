//! What lies in a topic: read from the log, as any program could.

use std::collections::BTreeMap;
use std::path::Path;

use millstream::log::embedded::Options;
use millstream::log::{EmbeddedLog, Log};
use millstream::{Offset, Partition, Timestamp};

/// A record, in text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    pub key: Option<String>,
    pub value: Option<String>,
    pub timestamp: i64,
    pub headers: Vec<(String, String)>,
}

impl Stored {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// The records of every topic, by partition and offset.
pub fn read(data: &Path) -> BTreeMap<String, Vec<Stored>> {
    let log = EmbeddedLog::open(data.join("log"), Options::new(|| Timestamp(0))).expect("the log of a shop that has stopped");
    let topics = log.topics().expect("topics");
    topics.iter().map(|topic| (topic.name.to_string(), of(&log, &topic.name))).collect()
}

/// The committed records of a topic, by partition and offset.
pub fn of(log: &dyn Log, topic: &str) -> Vec<Stored> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let topic = log.topic(topic).expect("the log answers").expect("the topic exists");
    let mut records = Vec::new();
    for partition in (0..topic.partitions).map(Partition) {
        let mut next: Offset = log.bounds(topic.id, partition).expect("bounds").start;
        loop {
            let fetched = log.fetch(topic.id, partition, next, 1 << 20).expect("records");
            for record in fetched.batches.iter().flat_map(|batch| batch.records_from(next)) {
                let headers = record.headers.to_headers();
                records.push(Stored {
                    key: record.key.map(text),
                    value: record.value.map(text),
                    timestamp: record.timestamp.0,
                    headers: headers.iter().map(|(name, value)| (name.to_owned(), text(value))).collect(),
                });
            }
            if fetched.next == next {
                break;
            }
            next = fetched.next;
        }
    }
    records
}
