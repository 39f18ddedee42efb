//! Short words for what the tests of the log do all the time.

use millstream::log::Health;
use millstream::log::embedded::{EmbeddedLog, Options};
use millstream::log::{
    Append, Cleanup, Committed, Error, GroupOffsets, Log, RecordBatch, Request, TopicInfo, TopicSpec, Transaction,
};
use millstream::{Clock, Headers, Offset, Partition, Timestamp};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Longer than anything takes, shorter than anybody waits.
pub const SOON: Duration = Duration::from_secs(20);

/// A clock that stands still until it is moved.
#[derive(Clone, Default)]
pub struct ManualClock(Arc<AtomicI64>);

impl ManualClock {
    pub fn at(ms: i64) -> ManualClock {
        ManualClock(Arc::new(AtomicI64::new(ms)))
    }

    pub fn advance_ms(&self, ms: i64) {
        self.0.fetch_add(ms, Relaxed);
    }

    /// Options with this clock, whose maintenance happens only when a test asks for it.
    pub fn options(&self) -> Options {
        let clock = self.clone();
        let mut options = Options::new(move || Timestamp(clock.0.load(Relaxed)));
        options.maintenance_interval = Duration::from_secs(3600);
        options
    }
}

pub fn open(dir: &Path) -> EmbeddedLog {
    EmbeddedLog::open(dir, ManualClock::at(1_000_000).options()).expect("the log opens")
}

pub fn spec(name: &str, partitions: u32, cleanup: Cleanup) -> TopicSpec {
    TopicSpec { name: name.to_owned(), partitions, cleanup }
}

/// A topic that keeps everything.
pub fn topic(log: &dyn Log, name: &str, partitions: u32) -> TopicInfo {
    log.create_topic(&spec(name, partitions, Cleanup::KEEP)).expect("the topic is made")
}

/// A batch of these keys and values; `-` is no value.
pub fn batch(records: &[(&str, &str)]) -> RecordBatch {
    batch_at(Timestamp(5), records)
}

fn batch_at(timestamp: Timestamp, records: &[(&str, &str)]) -> RecordBatch {
    let mut batch = RecordBatch::new();
    for (key, value) in records {
        let value = (*value != "-").then_some(value.as_bytes());
        batch.push(timestamp, Some(key.as_bytes()), value, &Headers::EMPTY);
    }
    batch
}

pub fn append(topic: &TopicInfo, partition: u32, records: &[(&str, &str)]) -> Append {
    Append { topic: topic.id, partition: Partition(partition), batch: batch(records) }
}

/// A transaction of one append.
pub fn appending(topic: &TopicInfo, partition: u32, records: &[(&str, &str)]) -> Transaction {
    Transaction { appends: vec![append(topic, partition, records)], ..Transaction::default() }
}

/// A transaction of one record of this moment.
pub fn appending_now(topic: &TopicInfo, partition: u32, key: &str, value: &str) -> Transaction {
    let batch = batch_at(Clock::System.now(), &[(key, value)]);
    let append = Append { topic: topic.id, partition: Partition(partition), batch };
    Transaction { appends: vec![append], ..Transaction::default() }
}

pub fn with_offset(mut transaction: Transaction, group: &str, topic: &TopicInfo, partition: u32, offset: u64) -> Transaction {
    let offsets = vec![(topic.id, Partition(partition), Offset(offset))];
    transaction.offsets = Some(GroupOffsets { group: group.into(), offsets });
    transaction
}

pub fn with_request(mut transaction: Transaction, key: &str, expires_at: i64) -> Transaction {
    transaction.request = Some(Request {
        key: key.as_bytes().to_vec(),
        fingerprint: [7; 32],
        answer: format!("answer to {key}").into_bytes(),
        expires_at: Timestamp(expires_at),
    });
    transaction
}

/// Appends and waits; the offset of the first record.
pub fn put(log: &dyn Log, topic: &TopicInfo, partition: u32, records: &[(&str, &str)]) -> u64 {
    let committed = log.commit(appending(topic, partition, records)).wait();
    only(committed)
}

pub fn only(committed: Result<Committed, Error>) -> u64 {
    let base_offsets = committed.expect("the transaction is committed").base_offsets;
    assert_eq!(base_offsets.len(), 1);
    base_offsets[0].0
}

/// All records from `from` to the end as `offset key=value`, fetched in pieces of about `max_bytes`.
pub fn read_from(log: &dyn Log, topic: &TopicInfo, partition: u32, from: u64, max_bytes: usize) -> Result<Vec<String>, Error> {
    let (mut at, mut records) = (Offset(from), Vec::new());
    loop {
        let fetched = log.fetch(topic.id, Partition(partition), at, max_bytes)?;
        for batch in &fetched.batches {
            records.extend(batch.records_from(at).map(|record| {
                let text = |bytes: Option<&[u8]>| bytes.map_or("-".into(), |b| String::from_utf8_lossy(b).into_owned());
                format!("{} {}={}", record.offset, text(record.key), text(record.value))
            }));
        }
        assert!(fetched.next > at || fetched.next == fetched.end, "a fetch goes on or is at the end");
        at = fetched.next;
        if at == fetched.end {
            return Ok(records);
        }
    }
}

pub fn read(log: &dyn Log, topic: &TopicInfo, partition: u32) -> Vec<String> {
    let start = log.bounds(topic.id, Partition(partition)).expect("the partition exists").start;
    read_from(log, topic, partition, start.0, 1 << 20).expect("what is kept can be read")
}

/// As `read`, without the offsets.
pub fn contents(log: &dyn Log, topic: &TopicInfo, partition: u32) -> Vec<String> {
    let without_offset = |record: String| record.split_once(' ').map_or(String::new(), |(_, content)| content.to_owned());
    read(log, topic, partition).into_iter().map(without_offset).collect()
}

/// Waits until the log has repaired itself.
pub fn wait_until_up(log: &EmbeddedLog) {
    let deadline = Instant::now() + SOON;
    let mut seen = log.version();
    while log.health() != Health::Up {
        assert!(Instant::now() < deadline, "still {:?}", log.health());
        seen = log.wait(seen, Duration::from_millis(50));
    }
}

/// Numbers that look random and depend on the seed alone (SplitMix64).
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % n
    }
}
