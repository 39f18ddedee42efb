//! The stores alone: what counting 2,000,000 records over 1,000,000 uniform keys costs (a get and a put each, a commit every 30,000, all of
//! it on disk at the end), and what restoring as many changelog records does, with a memory budget that holds the state and with about a
//! tenth of it. Counting straight on RocksDB stands beside it.
//!
//! `cargo bench --workspace --bench state`; `N=200000 RUNS=1` for a short run.

use std::collections::HashMap;
use std::path::Path;

use millstream_benches::{LARGE_BYTES, SMALL_BYTES, Usage, compare, coupons, number, variant};
use millstream_state::{Access, Db, Home, Options, Position, StoreId, StoreSpec, TaskId, TaskState};

const PER_COMMIT: usize = 30_000;
const COUNTS: StoreId = StoreId(0);
const VARIANTS: [&str; 7] =
    ["count-large", "count-small", "count-ordered", "rocksdb-large", "rocksdb-small", "restore-large", "restore-small"];

fn main() {
    let records = number("N", 2_000_000);
    let Some(variant) = variant() else {
        return compare(&format!("Stores alone, {records} records, {} keys", records / 2), &VARIANTS);
    };
    let commits = commits(records);
    let dir = tempfile::tempdir().expect("a temporary directory");
    let usage = Usage::begin();
    match &*variant {
        "count-large" => with_store(dir.path(), Access::Keyed, LARGE_BYTES, |db, state| count(commits, db, state)),
        "count-small" => with_store(dir.path(), Access::Keyed, SMALL_BYTES, |db, state| count(commits, db, state)),
        "count-ordered" => with_store(dir.path(), Access::Ordered, LARGE_BYTES, |db, state| count(commits, db, state)),
        "rocksdb-large" => count_on_rocksdb(commits, dir.path(), LARGE_BYTES),
        "rocksdb-small" => count_on_rocksdb(commits, dir.path(), SMALL_BYTES),
        "restore-large" => with_store(dir.path(), Access::Keyed, LARGE_BYTES, |_, state| restore(commits, state)),
        "restore-small" => with_store(dir.path(), Access::Keyed, SMALL_BYTES, |_, state| restore(commits, state)),
        other => panic!("no variant {other:?}"),
    }
    usage.print(records);
}

/// Opens a store, and closes it with everything on disk.
fn with_store(dir: &Path, access: Access, memory_budget_bytes: usize, f: impl FnOnce(&Db, &mut TaskState)) {
    let stores = vec![StoreSpec::new("counts", access)];
    let options = Options { memory_budget_bytes, ..Options::new(Home::Directory(dir.to_owned()), stores) };
    let db = Db::open(options).expect("the database opens");
    let mut state = db.task(TaskId { sub_topology: 0, partition: 0 }, &[COUNTS]).expect("the task is free");
    f(&db, &mut state);
    drop(state);
    db.close().expect("the state is flushed");
}

/// The keys of each commit.
fn commits(records: u64) -> impl Iterator<Item = Vec<String>> {
    let mut keys = coupons(records);
    std::iter::from_fn(move || Some(keys.by_ref().take(PER_COMMIT).collect()).filter(|keys: &Vec<_>| !keys.is_empty()))
}

fn position(records: usize) -> Position {
    Position { topic_id: [1; 16], offset: records as u64, wall_ms: 0 }
}

fn number_of(value: &[u8]) -> u64 {
    u64::from_be_bytes(value.try_into().expect("eight bytes"))
}

fn count(commits: impl Iterator<Item = Vec<String>>, db: &Db, state: &mut TaskState) {
    let (mut read, mut logged) = (0, 0);
    for commit in commits {
        for key in &commit {
            state.savepoint();
            let value = state.get(COUNTS, key.as_bytes()).expect("the store is read");
            let count = value.map_or(0, |value| number_of(&value));
            state.put(COUNTS, key.as_bytes(), &(count + 1).to_be_bytes());
        }
        read += commit.len();
        logged += state.dirty().map(|row| row.key().len() + row.value().map_or(0, <[u8]>::len)).sum::<usize>();
        state.commit(&[(COUNTS, position(read))]);
        db.make_room().expect("there is room");
    }
    std::hint::black_box(logged);
}

fn restore(commits: impl Iterator<Item = Vec<String>>, state: &mut TaskState) {
    let mut restored = 0;
    for part in commits {
        restored += part.len();
        let rows = part.iter().map(|key| (COUNTS, key.as_bytes(), Some(&[7; 8][..])));
        state.restore(rows, &[(COUNTS, position(restored))]).expect("the store is restored");
    }
}

/// The same gets and puts, each transaction as one write batch without a write-ahead log.
fn count_on_rocksdb(commits: impl Iterator<Item = Vec<String>>, dir: &Path, budget: usize) {
    let mut blocks = rocksdb::BlockBasedOptions::default();
    blocks.set_block_cache(&rocksdb::Cache::new_lru_cache(budget / 2));
    blocks.set_cache_index_and_filter_blocks(true);
    blocks.set_bloom_filter(10.0, false);
    let mut options = rocksdb::Options::default();
    options.create_if_missing(true);
    options.set_compression_type(rocksdb::DBCompressionType::Lz4);
    options.set_write_buffer_size((budget / 4).min(64 << 20));
    options.set_block_based_table_factory(&blocks);
    let db = rocksdb::DB::open(&options, dir).expect("RocksDB opens");
    let mut unlogged = rocksdb::WriteOptions::default();
    unlogged.disable_wal(true);
    for commit in commits {
        let mut written = HashMap::<&str, u64>::new();
        for key in &commit {
            let stored = || db.get_pinned(key).expect("RocksDB reads").map_or(0, |value| number_of(&value));
            *written.entry(key).or_insert_with(stored) += 1;
        }
        let mut batch = rocksdb::WriteBatch::default();
        written.iter().for_each(|(key, count)| batch.put(key, count.to_be_bytes()));
        db.write_opt(batch, &unlogged).expect("RocksDB writes");
    }
    db.flush().expect("RocksDB flushes");
}
