//! A global table over kills while it is brought to the end of its topic: whatever dies, nothing is processed before the table is whole, and
//! each record is joined once, with what the table holds.

use std::path::Path;

use millstream::log::{Append, EmbeddedLog, Log, RecordBatch, Transaction, embedded};
use millstream::{App, Clock, Events, Handle, Headers, Partition, Record, StreamBuilder, Timestamp, Topic, Topology};

use super::{Life, config, live};
use crate::app::support::read;

const NAMES: Topic<u64, Option<String>> = Topic::new("names").compacted();
const INPUT: Topic<u64, u64> = Topic::new("visits").partitions(2).keep_forever();
const JOINED: Topic<u64, String> = Topic::new("named").keep_forever();
/// So many and so long that the topic is read in two parts.
const KEYS: u64 = 4_000;
const LENGTH: usize = 1_500;

fn topology() -> Topology {
    let mut builder = StreamBuilder::new("crash-global");
    let names = builder.global_table(&NAMES, "names");
    let named = builder.stream(&INPUT).join_global("named", &names, |key, _| *key, |n, name| format!("{n} {name:?}"));
    named.to(&JOINED);
    named.to_table("last");
    builder.build().expect("the topology is valid")
}

/// What the table holds in the end: one in ten keys is deleted.
fn name(key: u64) -> Option<String> {
    (!key.is_multiple_of(10)).then(|| format!("{key:0>LENGTH$}"))
}

#[test]
#[ignore = "run by the other tests of this file, in a process that they kill"]
fn child() {
    // Something to be flushed, whatever a child before has done.
    let one_more = async |handle: &Handle| {
        let one_more = Events::new().with(&INPUT, &Record::new(0, u64::MAX, Timestamp(0)));
        handle.append(one_more).await.expect("it is appended");
    };
    live(topology(), "last", one_more, |_, _| Events::new(), async |_| {});
}

fn open_log(dir: &Path) -> EmbeddedLog {
    EmbeddedLog::open(dir.join("log"), embedded::Options::new(|| Clock::System.now())).expect("the log opens")
}

/// Appends while no application runs.
fn append<K: 'static, V: 'static>(log: &EmbeddedLog, topic: &Topic<K, V>, records: impl Iterator<Item = (u64, K, V)>) {
    let info = log.topic(topic.name()).expect("the log answers").expect("the topic exists");
    let mut batches: Vec<RecordBatch> = (0..info.partitions).map(|_| RecordBatch::new()).collect();
    for (at, key, value) in records {
        let (mut bytes, mut row) = (Vec::new(), Vec::new());
        topic.key_codec().encode(&key, &mut bytes).expect("the key encodes");
        let is_there =
            topic.value_codec().encode(&value, &mut row).expect("the value encodes") == millstream::codec::Presence::Present;
        let partition = millstream::log::partition(Some(&bytes), info.partitions, 0).0 as usize;
        batches[partition].push(Timestamp(at as i64), Some(&bytes), is_there.then_some(&row[..]), &Headers::EMPTY);
    }
    let append = |(partition, batch)| Append { topic: info.id, partition: Partition(partition), batch };
    let appends = (0..).zip(batches).map(append).collect();
    log.commit(Transaction { appends, offsets: None, request: None }).wait().expect("the log takes it");
}

#[test]
fn a_kill_while_a_global_table_is_read_leaves_no_hole() {
    let mut life = Life::new("crash::global_tables::child");
    drop(App::start(topology(), config(life.dir.path())).expect("the application starts").stop()); // makes the topics
    let (log, state) = (open_log(life.dir.path()), life.dir.path().join("state"));
    append(&log, &NAMES, (0..KEYS).map(|key| (key, key, Some("old".to_owned()))));
    // In parts, for a transaction has its bounds.
    for part in 0..10 {
        append(&log, &NAMES, (0..KEYS).filter(|key| key % 10 == (part + 3) % 10).map(|key| (KEYS + key, key, name(key))));
    }
    append(&log, &INPUT, (0..KEYS).map(|key| (key, key, key)));
    drop(log);

    let mut die_at = |point: &str, nth: u32| {
        let child = life.spawn(0, Some(&format!("{point}:{nth}:abort")));
        assert!(!life.follow(child, |_| false), "{point} was never reached for the time {nth}");
    };
    for part in 1..=2 {
        // Nothing is processed yet, so the topics have all of the state, and the table is read from their beginning.
        std::fs::remove_dir_all(&state).expect("the state is removed");
        die_at("global:taken-in", part);
    }
    for moment in ["frozen", "store-written", "store-synced", "positions-written", "positions-synced"] {
        die_at(&format!("state:flush:{moment}"), 1);
    }
    life.finish(0);

    let joined = read(life.dir.path(), &JOINED);
    let mut found: Vec<String> =
        joined.into_iter().map(|record| record.value).filter(|text| !text.starts_with(&u64::MAX.to_string())).collect();
    found.sort_unstable();
    let mut expected: Vec<String> =
        (0..KEYS).filter(|key| name(*key).is_some()).map(|key| format!("{key} {:?}", name(key))).collect();
    expected.sort_unstable();
    assert_eq!(found.len(), expected.len());
    assert!(found == expected, "each visit has the name that its key has in the end");
}
