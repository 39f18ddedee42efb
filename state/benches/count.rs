//! What state costs in the count workload: 2,000,000 records over 1,000,000 uniform keys, a get and a put each, a commit every 30,000, all of
//! it on disk at the end. Prints CPU seconds per million records, of all threads, with a memory budget that holds the state, with a tenth of
//! the least that does, and straight on RocksDB beside it. Each runs in a process of its own, so that CPU and memory are its own too.
//!
//! `cargo bench -p millstream-state`; `-- keyed 268435456` runs one alone.

use std::collections::HashMap;
use std::error::Error;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use millstream_state::{Access, Db, Home, Options, Position, StoreId, StoreSpec, TaskId};

const RECORDS: u64 = 2_000_000;
const KEYS: u64 = 1_000_000;
const PER_COMMIT: u64 = 30_000;
const COUNTS: StoreId = StoreId(0);

type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    if let [kind, budget] = &arguments[..] {
        return run(kind, budget.parse()?);
    }
    println!("{:<28} {:>12} {:>14} {:>12} {:>10} {:>10}", "state", "CPU s / 1M", "records / s", "flush s", "rows MiB", "RSS MiB");
    let needs = child("keyed", 256 << 20)? / 5 * 8; // of a budget, five eighths are for rows
    child("keyed", needs / 10)?;
    child("ordered", 256 << 20)?;
    child("rocksdb", 256 << 20)?;
    child("rocksdb", needs / 10)?;
    Ok(())
}

/// Runs one in a process of its own, and gives the bytes that its rows took in memory.
fn child(kind: &str, budget: usize) -> Outcome<usize> {
    let output = Command::new(std::env::current_exe()?).args([kind, &budget.to_string()]).output()?;
    let line = String::from_utf8(output.stdout)?;
    let error = String::from_utf8_lossy(&output.stderr);
    let (shown, rows) = line.trim_end().rsplit_once('\t').ok_or_else(|| format!("{kind} failed: {error}"))?;
    println!("{shown}");
    Ok(rows.parse()?)
}

fn run(kind: &str, budget: usize) -> Outcome<()> {
    let directory = tempfile::tempdir()?;
    let (begin, cpu) = (Instant::now(), cpu_seconds()?);
    let (flush_s, rows) = match kind {
        "keyed" => count(directory.path(), Access::Keyed, budget)?,
        "ordered" => count(directory.path(), Access::Ordered, budget)?,
        "rocksdb" => count_on_rocksdb(directory.path(), budget)?,
        _ => return Err(format!("{kind} is none of keyed, ordered, rocksdb").into()),
    };
    let per_million = (cpu_seconds()? - cpu) / (RECORDS as f64 / 1e6);
    let rate = RECORDS as f64 / begin.elapsed().as_secs_f64();
    let name = format!("{kind}, {:.1} MiB", budget as f64 / f64::from(1 << 20));
    println!(
        "{name:<28} {per_million:>12.2} {rate:>14.0} {flush_s:>12.2} {:>10.1} {:>10.1}\t{rows}",
        rows as f64 / f64::from(1 << 20),
        peak_mib()?
    );
    Ok(())
}

fn count(directory: &Path, access: Access, budget: usize) -> Outcome<(f64, usize)> {
    let stores = vec![StoreSpec::new("counts", access)];
    let db = Db::open(Options { memory_budget_bytes: budget, ..Options::new(Home::Directory(directory.to_owned()), stores) })?;
    let mut state = db.task(TaskId { sub_topology: 0, partition: 0 }, &[COUNTS])?;
    let mut logged = 0;
    for (i, key) in keys().enumerate() {
        state.savepoint();
        let count = match state.get(COUNTS, &key)? {
            Some(value) => u64::from_be_bytes(value[..].try_into()?),
            None => 0,
        };
        state.put(COUNTS, &key, &(count + 1).to_be_bytes());
        let offset = i as u64 + 1;
        if offset.is_multiple_of(PER_COMMIT) || offset == RECORDS {
            logged += state.dirty().map(|row| row.key().len() + row.value().map_or(0, <[u8]>::len)).sum::<usize>();
            state.commit(&[(COUNTS, Position { topic_id: [1; 16], offset, wall_ms: 0 })]);
            db.make_room()?;
        }
    }
    std::hint::black_box(logged);
    let rows = db.memory().rows;
    let flush = Instant::now();
    drop(state);
    db.close()?;
    Ok((flush.elapsed().as_secs_f64(), rows))
}

/// The same gets and puts, each transaction as one write batch without a write-ahead log.
fn count_on_rocksdb(directory: &Path, budget: usize) -> Outcome<(f64, usize)> {
    let mut blocks = rocksdb::BlockBasedOptions::default();
    blocks.set_block_cache(&rocksdb::Cache::new_lru_cache(budget / 2));
    blocks.set_cache_index_and_filter_blocks(true);
    blocks.set_bloom_filter(10.0, false);
    let mut options = rocksdb::Options::default();
    options.create_if_missing(true);
    options.set_compression_type(rocksdb::DBCompressionType::Lz4);
    options.set_write_buffer_size((budget / 4).min(64 << 20));
    options.set_block_based_table_factory(&blocks);
    let db = rocksdb::DB::open(&options, directory)?;
    let mut unlogged = rocksdb::WriteOptions::default();
    unlogged.disable_wal(true);
    let mut uncommitted: HashMap<[u8; 14], u64> = HashMap::new();
    for (i, key) in keys().enumerate() {
        let count = match uncommitted.get(&key) {
            Some(count) => *count,
            None => match db.get_pinned(key)? {
                Some(value) => u64::from_be_bytes(value[..].try_into()?),
                None => 0,
            },
        };
        uncommitted.insert(key, count + 1);
        let offset = i as u64 + 1;
        if offset.is_multiple_of(PER_COMMIT) || offset == RECORDS {
            let mut batch = rocksdb::WriteBatch::default();
            uncommitted.drain().for_each(|(key, count)| batch.put(key, count.to_be_bytes()));
            db.write_opt(batch, &unlogged)?;
        }
    }
    let flush = Instant::now();
    db.flush()?;
    drop(db);
    Ok((flush.elapsed().as_secs_f64(), 0))
}

/// `coupon-0000000` and its like, uniform.
fn keys() -> impl Iterator<Item = [u8; 14]> {
    let mut state: u64 = 1;
    (0..RECORDS).map(move |_| {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        let mut number = (z ^ (z >> 31)) % KEYS;
        let mut key = *b"coupon-0000000";
        for digit in key[7..].iter_mut().rev() {
            *digit = b'0' + (number % 10) as u8;
            number /= 10;
        }
        key
    })
}

/// CPU time of this process, all threads, user and system.
fn cpu_seconds() -> Outcome<f64> {
    const TICKS_PER_SECOND: f64 = 100.0; // of Linux on every machine this runs on
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields = stat.rsplit_once(')').ok_or("/proc/self/stat has a name in brackets")?.1;
    let ticks = fields.split_whitespace().skip(11).take(2).map(str::parse::<u64>).sum::<Result<u64, _>>()?;
    Ok(ticks as f64 / TICKS_PER_SECOND)
}

fn peak_mib() -> Outcome<f64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("/proc/self/status has VmHWM")?;
    let kib: f64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib / 1024.0)
}
