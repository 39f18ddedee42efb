//! The log against a plain model: random transactions, trims, maintenance and reopening, and after each step both say the same.

use crate::log::support::{ManualClock, batch, read_from, spec, with_offset, with_request};
use millstream::log::embedded::{Durability, EmbeddedLog, Options};
use millstream::log::{Append, Cleanup, Error, Log, TopicInfo, Transaction};
use millstream::{Offset, Partition};
use proptest::prelude::*;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

const RETENTION_MS: u64 = 1_000;
const DELETE_RETENTION_MS: u64 = 500;

/// Two topics of two partitions each: `events` forgets by time, `table` is compacted.
const PLACES: [(usize, u32); 4] = [(0, 0), (0, 1), (1, 0), (1, 1)];

#[derive(Clone, Debug)]
enum Step {
    /// To each of these places, records of these keys; then how far a group has read, and a request.
    Commit(Vec<(usize, Vec<(u8, bool)>)>, Option<u64>, Option<u8>),
    Trim(usize, u64),
    Maintain,
    Pass(u64),
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let records = proptest::collection::vec((0..4u8, proptest::bool::weighted(0.8)), 0..6);
    let appends = proptest::collection::vec((0..PLACES.len(), records), 0..4);
    prop_oneof![
        8 => (appends, proptest::option::of(0..99u64), proptest::option::of(0..6u8)).prop_map(|(a, o, r)| Step::Commit(a, o, r)),
        2 => (0..PLACES.len(), 0..40u64).prop_map(|(place, before)| Step::Trim(place, before)),
        2 => Just(Step::Maintain),
        2 => (0..700u64).prop_map(Step::Pass),
        1 => Just(Step::Reopen),
    ]
}

/// A record of the model: its text, its key, whether it has a value, and when it was appended.
#[derive(Clone, Debug)]
struct Expected {
    text: String,
    key: u8,
    has_value: bool,
    appended_at: u64,
}

#[derive(Default)]
struct Model {
    now: u64,
    partitions: [BTreeMap<u64, Expected>; 4],
    starts: [u64; 4],
    ends: [u64; 4],
    read: Option<u64>,
    requests: HashMap<u8, (Vec<u64>, u64)>,
}

fn open(dir: &Path, clock: &ManualClock, tail_cache_bytes: usize) -> (EmbeddedLog, [TopicInfo; 2]) {
    let options = Options {
        durability: Durability::Buffered,
        compact_bytes: 1,
        tail_cache_bytes,
        write_buffer_bytes: 1 << 20,
        ..clock.options()
    };
    let log = EmbeddedLog::open(dir, options).unwrap();
    let events = Cleanup::Delete { retention_ms: Some(RETENTION_MS), retention_bytes: None };
    let table = Cleanup::Compact { delete_retention_ms: DELETE_RETENTION_MS };
    let topics = [("events", events), ("table", table)].map(|(name, cleanup)| log.create_topic(&spec(name, 2, cleanup)).unwrap());
    (log, topics)
}

fn check(steps: &[Step], tail_cache_bytes: usize) {
    let dir = tempfile::tempdir().unwrap();
    let clock = ManualClock::at(0);
    let mut model = Model::default();
    let (mut log, mut topics) = open(dir.path(), &clock, tail_cache_bytes);
    for (number, step) in steps.iter().enumerate() {
        match step {
            Step::Commit(appends, read, request) => commit(&log, &topics, &mut model, number, appends, *read, *request),
            Step::Trim(place, before) => {
                let (topic, partition) = PLACES[*place];
                log.trim(topics[topic].id, Partition(partition), Offset(*before)).unwrap();
                model.starts[*place] = model.starts[*place].max((*before).min(model.ends[*place]));
            }
            Step::Maintain => {
                log.maintain().unwrap();
                model.retain();
            }
            Step::Pass(ms) => {
                clock.advance_ms(*ms as i64);
                model.now += ms;
            }
            Step::Reopen => {
                drop(log);
                (log, topics) = open(dir.path(), &clock, tail_cache_bytes);
            }
        }
        compare(&log, &topics, &model);
    }
}

fn commit(
    log: &EmbeddedLog,
    topics: &[TopicInfo; 2],
    model: &mut Model,
    number: usize,
    appends: &[(usize, Vec<(u8, bool)>)],
    read: Option<u64>,
    request: Option<u8>,
) {
    let (mut transaction, mut expected_offsets, mut ends) = (Transaction::default(), Vec::new(), model.ends);
    let mut added = Vec::new();
    for (place, records) in appends {
        let (topic, partition) = PLACES[*place];
        expected_offsets.push(ends[*place]);
        let mut encoded = Vec::new();
        for (key, has_value) in records {
            let value = if *has_value { number.to_string() } else { "-".to_owned() };
            let text = format!("{} k{key}={value}", ends[*place]);
            added.push((*place, ends[*place], Expected { text, key: *key, has_value: *has_value, appended_at: model.now }));
            encoded.push((format!("k{key}"), value));
            ends[*place] += 1;
        }
        let encoded: Vec<_> = encoded.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        transaction.appends.push(Append { topic: topics[topic].id, partition: Partition(partition), batch: batch(&encoded) });
    }
    if let Some(offset) = read {
        transaction = with_offset(transaction, "group", &topics[0], 0, offset);
    }
    if let Some(key) = request {
        transaction = with_request(transaction, &key.to_string(), model.now as i64 + 300);
    }
    let outcome = log.commit(transaction).wait();
    if request.is_some_and(|key| model.requests.get(&key).is_some_and(|(_, expires_at)| *expires_at > model.now)) {
        assert_eq!(outcome, Err(Error::RequestExists));
        return;
    }
    let offsets: Vec<_> = outcome.unwrap().base_offsets.iter().map(|offset| offset.0).collect();
    assert_eq!(offsets, expected_offsets);
    model.ends = ends;
    for (place, offset, record) in added {
        model.partitions[place].insert(offset, record);
    }
    model.read = read.or(model.read);
    if let Some(key) = request {
        model.requests.insert(key, (offsets, model.now + 300));
    }
}

impl Model {
    /// Each commit is a batch of its own here, for the steps wait for each other; so batches go as records of one time do.
    fn retain(&mut self) {
        for place in 0..2 {
            let kept = self.partitions[place]
                .iter()
                .find(|(at, r)| **at >= self.starts[place] && r.appended_at + RETENTION_MS >= self.now);
            let start = kept.map_or(self.ends[place], |(at, _)| *at);
            self.starts[place] = self.starts[place].max(start);
        }
    }
}

fn compare(log: &EmbeddedLog, topics: &[TopicInfo; 2], model: &Model) {
    for (place, (topic, partition)) in PLACES.into_iter().enumerate() {
        let info = &topics[topic];
        let bounds = log.bounds(info.id, Partition(partition)).unwrap();
        assert_eq!(
            (bounds.start.0, bounds.end.0),
            (model.starts[place], model.ends[place]),
            "bounds of {}-{partition}",
            info.name
        );
        let expected: Vec<_> = model.partitions[place].range(model.starts[place]..).map(|(_, record)| record).collect();
        let found = read_from(log, info, partition, bounds.start.0, 60).unwrap();
        if topic == 0 {
            assert_eq!(found, expected.iter().map(|record| record.text.clone()).collect::<Vec<_>>());
        } else {
            check_compacted(&expected, &found, model.now);
        }
        if bounds.start.0 > 0 {
            let below = log.fetch(info.id, Partition(partition), Offset(bounds.start.0 - 1), 60);
            assert!(matches!(below, Err(Error::OutOfRange { .. })));
        }
    }
    let offsets: Vec<_> = model.read.map(|offset| (topics[0].id, Partition(0), Offset(offset))).into_iter().collect();
    assert_eq!(log.offsets("group").unwrap(), offsets);
    for key in 0..6u8 {
        let stored = log.request(key.to_string().as_bytes()).unwrap();
        let positions = stored.map(|request| request.positions.iter().map(|(_, _, offset)| offset.0).collect());
        let expected = model.requests.get(&key).filter(|(_, expires_at)| *expires_at > model.now);
        assert_eq!(positions, expected.map(|(offsets, _)| offsets.clone()), "request {key}");
    }
}

/// Compaction may have come anywhere: what is found was written, and the last record of each key is there, unless it is a
/// tombstone past its time.
fn check_compacted(expected: &[&Expected], found: &[String], now: u64) {
    let mut written = expected.iter().map(|record| &record.text);
    assert!(found.iter().all(|record| written.any(|text| text == record)), "{found:?} is in the order of {expected:?}");
    let last: HashMap<u8, &Expected> = expected.iter().map(|record| (record.key, *record)).collect();
    for record in last.values() {
        let may_be_gone = !record.has_value && record.appended_at + DELETE_RETENTION_MS < now;
        assert!(may_be_gone || found.contains(&record.text), "{} is gone from {found:?}", record.text);
        if may_be_gone && !found.contains(&record.text) {
            let key = format!(" k{}=", record.key);
            assert!(!found.iter().any(|text| text.contains(&key)), "what {} deleted is back in {found:?}", record.text);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    #[test]
    fn says_what_the_model_says(steps in proptest::collection::vec(step(), 1..50), tail in prop_oneof![Just(0), Just(300), Just(1 << 20)]) {
        check(&steps, tail);
    }
}
