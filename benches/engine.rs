//! The engine alone (W1): 2,000,000 claims of 1,000,000 coupons counted through the embedded log, synced at every commit, every update
//! emitted. Beside it, in the same run and in turn: the same gets and puts straight on RocksDB, and the log alone. Then W2: N / 4 orders
//! joined with their payments.
//!
//! `cargo bench --workspace --bench engine`; `N=200000 RUNS=1` for a short run.

use std::path::Path;
use std::time::Duration;

use millstream::codec::Data;
use millstream::log::{Append, EmbeddedLog, Log, RecordBatch, Transaction, embedded, partition};
use millstream::{App, Clock, Config, Headers, Offset, Partition, StreamBuilder, Timestamp, Topic, Topology};
use millstream_benches::join::{self, Order, PaidOrder, Payment, orders_and_payments};
use millstream_benches::{LARGE_BYTES, SMALL_BYTES, Usage, claims, compare, number, variant};

const CLAIMS: Topic<String, Vec<u8>> = Topic::new("bench-count-in").partitions(4).keep_forever();
const COUNTS: Topic<String, String> = Topic::new("bench-count-out").partitions(4).keep_forever();

const ORDERS: Topic<String, Order> = Topic::new("bench-orders-in").partitions(4).keep_forever();
const PAYMENTS: Topic<String, Payment> = Topic::new("bench-payments-in").partitions(4).keep_forever();
const PAID: Topic<String, PaidOrder> = Topic::new("bench-paid-out").partitions(4).keep_forever();

const COMMIT_RECORDS: usize = 20_000;

fn main() {
    let records = number("N", 2_000_000);
    match variant().as_deref() {
        Some("engine-large") => engine(records, LARGE_BYTES),
        Some("engine-small") => engine(records, SMALL_BYTES),
        Some("rocksdb") => bare_rocksdb(records),
        Some("log") => log_alone(records),
        Some("join") => join(records / 4),
        Some(other) => panic!("no variant {other:?}"),
        None => {
            compare(&format!("W1, {records} records, {} keys", records / 2), &["engine-large", "engine-small", "rocksdb", "log"]);
            compare(&format!("W2, {} orders and their payments", records / 4), &["join"]);
        }
    }
}

fn topology() -> Topology {
    let mut builder = StreamBuilder::new("bench");
    let counts = builder.stream(&CLAIMS).group_by_key().count("counts");
    counts.to_stream().map_values(|count| count.map(|n| n.to_string())).to(&COUNTS);
    builder.build().expect("the topology is valid")
}

fn open_log(dir: &Path) -> EmbeddedLog {
    EmbeddedLog::open(dir, embedded::Options::new(|| Clock::System.now())).expect("the log opens")
}

/// Writes the input of a topic, before the clock runs.
fn fill<K, V>(dir: &Path, topic: &Topic<K, V>, records: impl Iterator<Item = (String, i64, Vec<u8>)>) {
    let log = open_log(dir);
    let topic = log.create_topic(&topic.spec()).expect("the topic is created");
    let mut batches: Vec<RecordBatch> = (0..topic.partitions).map(|_| RecordBatch::new()).collect();
    let write = |batches: &mut Vec<RecordBatch>| {
        let appends = batches.iter_mut().enumerate().map(|(p, batch)| {
            let batch = std::mem::take(batch);
            Append { topic: topic.id, partition: Partition(p as u32), batch }
        });
        let transaction = Transaction { appends: appends.collect(), ..Transaction::default() };
        log.commit(transaction).wait().expect("the log takes the input");
    };
    for (i, (key, at, value)) in records.enumerate() {
        let partition = partition(Some(key.as_bytes()), topic.partitions, 0);
        batches[partition.0 as usize].push(Timestamp(at), Some(key.as_bytes()), Some(&value), &Headers::EMPTY);
        if i % 1000 == 999 {
            write(&mut batches);
        }
    }
    write(&mut batches);
}

fn engine(records: u64, state_memory_bytes: usize) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    fill(&dir.path().join("log"), &CLAIMS, claims(records).map(|(key, value, at)| (key, at, value.into_bytes())));
    run(topology(), dir.path(), state_memory_bytes, records);
    check_counts(dir.path(), records);
}

/// Runs the topology until its input is used up, and says what that took.
fn run(topology: Topology, dir: &Path, state_memory_bytes: usize, records: u64) {
    let config = Config { threads: 1, state_memory_bytes, ..Config::embedded(dir) };
    let usage = Usage::begin();
    let app = App::start(topology, config).expect("the application starts");
    let handle = app.handle();
    let (sender, done) = std::sync::mpsc::channel::<()>();
    while !handle.ready() {
        // Nothing is ever sent: this is a pause that costs no processor time.
        let _ = done.recv_timeout(Duration::from_millis(5));
    }
    drop(sender);
    usage.print(records);
    drop(handle);
    assert_eq!(app.stop(), None);
}

fn join(orders: u64) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let log = dir.path().join("log");
    let (ordered, payments) = orders_and_payments(orders);
    let (records, paid) = (ordered.len() + payments.len(), payments.len());
    fill(&log, &ORDERS, ordered.into_iter().map(|(key, at, order)| (key, at, json(&order))));
    fill(&log, &PAYMENTS, payments.into_iter().map(|(key, at, payment)| (key, at, json(&payment))));
    let mut builder = StreamBuilder::new("bench");
    let (orders, payments) = (builder.stream(&ORDERS), builder.stream(&PAYMENTS));
    join::paid(&orders, &payments).to(&PAID);
    run(builder.build().expect("the topology is valid"), dir.path(), LARGE_BYTES, records as u64);
    let log = open_log(&log);
    let topic = log.topic(PAID.name()).expect("the log answers").expect("the topic exists");
    let end = |partition| log.fetch(topic.id, Partition(partition), Offset(0), 1).expect("the output can be read").end.0;
    assert_eq!((0..topic.partitions).map(end).sum::<u64>(), paid as u64, "each payment has found its order");
}

fn json<T: Data>(value: &T) -> Vec<u8> {
    let mut bytes = Vec::new();
    T::CODEC.encode(value, &mut bytes).expect("it can be written");
    bytes
}

/// Each key's counts are 1, 2, 3, … in this order, and the last ones add up to the number of records.
fn check_counts(dir: &Path, records: u64) {
    let log = open_log(&dir.join("log"));
    let topic = log.topic(COUNTS.name()).expect("the log answers").expect("the topic exists");
    let mut last = std::collections::HashMap::<Vec<u8>, u64>::new();
    for partition in (0..topic.partitions).map(Partition) {
        let mut next = Offset(0);
        loop {
            let fetched = log.fetch(topic.id, partition, next, 8 << 20).expect("the output can be read");
            for record in fetched.batches.iter().flat_map(|batch| batch.records_from(next)) {
                let count = last.entry(record.key.expect("a key").to_vec()).or_default();
                *count += 1;
                let value = std::str::from_utf8(record.value.expect("a count")).expect("decimal text");
                assert_eq!(value, count.to_string(), "counts of a key are in order");
            }
            next = fetched.next;
            if next >= fetched.end {
                break;
            }
        }
    }
    assert_eq!(last.values().sum::<u64>(), records);
}

/// The floor: one get and one put a record straight on RocksDB, written in batches of a commit, without a write-ahead log.
fn bare_rocksdb(records: u64) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut options = rocksdb::Options::default();
    options.create_if_missing(true);
    options.set_write_buffer_size(64 << 20);
    let mut table = rocksdb::BlockBasedOptions::default();
    table.set_bloom_filter(10.0, false);
    table.set_block_cache(&rocksdb::Cache::new_lru_cache(LARGE_BYTES / 2));
    options.set_block_based_table_factory(&table);
    let db = rocksdb::DB::open(&options, dir.path()).expect("RocksDB opens");
    let keys: Vec<String> = claims(records).map(|(key, ..)| key).collect();
    let mut unsynced = rocksdb::WriteOptions::default();
    unsynced.disable_wal(true);
    let usage = Usage::begin();
    for commit in keys.chunks(COMMIT_RECORDS) {
        // What the running batch has written is read from a map, as any program with transactions has to.
        let mut written = std::collections::HashMap::<&str, u64>::new();
        let mut batch = rocksdb::WriteBatch::default();
        for key in commit {
            let count = match written.get(key.as_str()) {
                Some(count) => *count,
                None => {
                    let read = db.get_pinned(key).expect("RocksDB reads");
                    read.map_or(0, |bytes| u64::from_be_bytes(bytes[..].try_into().expect("eight bytes")))
                }
            };
            written.insert(key, count + 1);
            batch.put(key, (count + 1).to_be_bytes());
        }
        db.write_opt(batch, &unsynced).expect("RocksDB writes");
    }
    usage.print(records);
    drop(db);
}

/// The log alone: the same input read, the same outputs and changelog records appended, synced, and nothing else.
fn log_alone(records: u64) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    fill(dir.path(), &CLAIMS, claims(records).map(|(key, value, at)| (key, at, value.into_bytes())));
    let log = open_log(dir.path());
    let input = log.topic(CLAIMS.name()).expect("the log answers").expect("the input is there");
    let output = log.create_topic(&COUNTS.spec()).expect("the output is created");
    let changelog: Topic<String, Vec<u8>> = Topic::new("bench-changelog").partitions(4).compacted();
    let changelog = log.create_topic(&changelog.spec()).expect("the changelog is created");
    let usage = Usage::begin();
    for partition in (0..input.partitions).map(Partition) {
        let mut next = Offset(0);
        let (mut outputs, mut changes) = (RecordBatch::new(), RecordBatch::new());
        loop {
            let fetched = log.fetch(input.id, partition, next, 1 << 20).expect("the input can be read");
            for record in fetched.batches.iter().flat_map(|batch| batch.records_from(next)) {
                outputs.push(record.timestamp, record.key, Some(b"1"), &Headers::EMPTY);
                changes.push(record.timestamp, record.key, Some(&[0; 16]), &Headers::EMPTY);
            }
            next = fetched.next;
            if outputs.len() >= COMMIT_RECORDS || next >= fetched.end {
                let appends = vec![
                    Append { topic: output.id, partition, batch: std::mem::take(&mut outputs) },
                    Append { topic: changelog.id, partition, batch: std::mem::take(&mut changes) },
                ];
                log.commit(Transaction { appends, ..Transaction::default() }).wait().expect("the log commits");
            }
            if next >= fetched.end {
                break;
            }
        }
    }
    usage.print(records);
}
