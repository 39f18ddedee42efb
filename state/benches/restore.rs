//! What restoring costs: 2,000,000 changelog records over 1,000,000 uniform keys with values of 8 bytes, 100,000 at a time, all of it on disk
//! at the end. Prints records per second until the last one is taken in, and CPU seconds per million of all threads, for a memory budget that
//! holds the state and for about a tenth of it. Each runs in a process of its own.
//!
//! `cargo bench --workspace --bench restore`; `-- keyed 268435456` runs one alone.

use std::error::Error;
use std::process::Command;
use std::time::Instant;

use millstream_state::{Access, Db, Home, Options, Position, StoreId, StoreSpec, TaskId};

const RECORDS: u64 = 2_000_000;
const KEYS: u64 = 1_000_000;
const PER_PART: usize = 100_000;
const COUNTS: StoreId = StoreId(0);

type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    if let [kind, budget] = &arguments[..] {
        return run(kind, budget.parse()?);
    }
    println!("{:<28} {:>12} {:>14} {:>12} {:>10}", "restore", "records / s", "CPU s / 1M", "close s", "RSS MiB");
    for (kind, budget) in [("keyed", 256 << 20), ("keyed", 12 << 20), ("ordered", 256 << 20), ("ordered", 12 << 20)] {
        let output = Command::new(std::env::current_exe()?).args([kind, &budget.to_string()]).output()?;
        if !output.status.success() {
            return Err(format!("{kind} failed: {}", String::from_utf8_lossy(&output.stderr)).into());
        }
        print!("{}", String::from_utf8(output.stdout)?);
    }
    Ok(())
}

fn run(kind: &str, budget: usize) -> Outcome<()> {
    let access = match kind {
        "keyed" => Access::Keyed,
        "ordered" => Access::Ordered,
        _ => return Err(format!("{kind} is neither keyed nor ordered").into()),
    };
    let directory = tempfile::tempdir()?;
    let stores = vec![StoreSpec::new("counts", access)];
    let home = Home::Directory(directory.path().to_owned());
    let db = Db::open(Options { memory_budget_bytes: budget, ..Options::new(home, stores) })?;
    let mut state = db.task(TaskId { sub_topology: 0, partition: 0 }, &[COUNTS])?;
    let records: Vec<([u8; 14], [u8; 8])> = keys().enumerate().map(|(i, key)| (key, (i as u64).to_be_bytes())).collect();
    let (begin, cpu) = (Instant::now(), cpu_seconds()?);
    let mut offset = 0;
    for part in records.chunks(PER_PART) {
        offset += part.len() as u64;
        let rows = part.iter().map(|(key, value)| (&key[..], Some(&value[..])));
        state.restore(COUNTS, rows, Position { topic_id: [1; 16], offset, wall_ms: 0 })?;
    }
    let took = begin.elapsed().as_secs_f64();
    drop(state);
    db.close()?;
    let close = begin.elapsed().as_secs_f64() - took;
    let per_million = (cpu_seconds()? - cpu) / (RECORDS as f64 / 1e6);
    let name = format!("{kind}, {:.1} MiB", budget as f64 / f64::from(1 << 20));
    println!("{name:<28} {:>12.0} {per_million:>14.2} {close:>12.2} {:>10.1}", RECORDS as f64 / took, peak_mib()?);
    Ok(())
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
