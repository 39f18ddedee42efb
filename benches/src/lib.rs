//! What the measurements share: the inputs, by a published generator, and the accounting of a child process. Nothing here measures.

pub mod contract;
pub mod join;

use std::fmt::Write;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Instant;

/// SplitMix64 (Steele, Lea, Flood 2014), as the workloads define their inputs.
pub struct SplitMix64(pub u64);

impl SplitMix64 {
    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// The next number below `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        self.draw() % n
    }
}

/// The first record's timestamp, in milliseconds since the epoch; record `i` is `i` ms later.
pub const T0: i64 = 1_760_000_000_000;

/// A memory budget that holds the state of a million keys.
pub const LARGE_BYTES: usize = 256 << 20;
/// About a tenth of what that state takes in memory.
pub const SMALL_BYTES: usize = 12 << 20;

/// So many keys of 14 bytes, of `records / 2` different ones, uniform.
pub fn coupons(records: u64) -> impl Iterator<Item = String> {
    let mut random = SplitMix64(1);
    (0..records).map(move |_| format!("coupon-{:07}", random.below(records / 2)))
}

/// Workload W1: claims of `records / 2` coupons, uniform, keys of 14 and values of 150 bytes.
pub fn claims(records: u64) -> impl Iterator<Item = (String, String, i64)> {
    let mut random = SplitMix64(1);
    (0..records).map(move |i| {
        let key = format!("coupon-{:07}", random.below(records / 2));
        let user = random.below(100_000_000);
        let at = T0 + i as i64;
        let mut value = format!("{{\"couponId\":\"{key}\",\"userId\":\"user-{user:08}\",\"requestedAt\":\"{at}\",\"pad\":\"");
        while value.len() < 148 {
            value.push('x');
        }
        value.push_str("\"}");
        (key, value, at)
    })
}

/// What this process has used since it began to be measured.
pub struct Usage {
    begun: Instant,
    cpu_seconds: f64,
}

impl Usage {
    /// From now on. What is held already counts as memory, but not what was held before.
    pub fn begin() -> Usage {
        std::fs::write("/proc/self/clear_refs", "5").expect("Linux forgets the most memory that was held");
        Usage { begun: Instant::now(), cpu_seconds: cpu_seconds() }
    }

    /// Prints the figures, for so many records, as [`compare`] reads them.
    pub fn print(&self, records: u64) {
        println!("records_per_s {}", records as f64 / self.begun.elapsed().as_secs_f64());
        println!("cpu_s_per_million {}", (cpu_seconds() - self.cpu_seconds) * 1e6 / records as f64);
        println!("peak_mib {}", peak_memory_mib());
    }
}

/// The processor time that this process has used, user and system, in seconds.
fn cpu_seconds() -> f64 {
    // SAFETY: `usage` is a plain structure that the call fills; the pointer is valid for its duration.
    let usage = unsafe {
        let mut usage = std::mem::zeroed::<libc::rusage>();
        libc::getrusage(libc::RUSAGE_SELF, &mut usage);
        usage
    };
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    seconds(usage.ru_utime) + seconds(usage.ru_stime)
}

/// The most memory that this process has held since it began to be measured, in MiB.
fn peak_memory_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    line.and_then(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok()).unwrap_or(f64::NAN) / 1024.0
}

/// A number from the environment.
pub fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// What this process is to measure; none if it is the one that [compares](compare).
pub fn variant() -> Option<String> {
    std::env::var("BENCH_VARIANT").ok()
}

/// Runs this program as each of the variants in turn, `RUNS` times (3), and prints a table.
pub fn compare(title: &str, variants: &[&str]) {
    let mut runs: Vec<Vec<Vec<(String, f64)>>> = vec![Vec::new(); variants.len()];
    for _ in 0..number("RUNS", 3) {
        for (i, variant) in variants.iter().enumerate() {
            runs[i].push(run_variant(variant));
        }
    }
    println!("{title}; median (minimum-maximum) of {} runs in turn", runs[0].len());
    println!("{:14} {:>34} {:>22} {:>22}", "variant", "records/s", "CPU s per million", "peak memory MiB");
    for (variant, runs) in variants.iter().zip(&runs) {
        let column = |name: &str| -> Vec<f64> {
            runs.iter().filter_map(|run| run.iter().find(|(n, _)| n == name).map(|(_, value)| *value)).collect()
        };
        println!(
            "{variant:14} {:>34} {:>22} {:>22}",
            spread(&column("records_per_s"), 0),
            spread(&column("cpu_s_per_million"), 2),
            spread(&column("peak_mib"), 0)
        );
    }
}

/// Runs this program again as the named variant, so that each is measured in a process of its own, and gives the figures it prints:
/// lines of `name value`.
fn run_variant(variant: &str) -> Vec<(String, f64)> {
    let exe = std::env::current_exe().expect("a running program has a path");
    let output = Command::new(&exe).arg0("bench").env("BENCH_VARIANT", variant).stderr(Stdio::inherit()).output();
    let output = output.unwrap_or_else(|e| panic!("variant {variant} does not start: {e}"));
    assert!(output.status.success(), "variant {variant} failed: {}", String::from_utf8_lossy(&output.stdout));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let figure = |line: &str| line.split_once(' ').and_then(|(name, value)| Some((name.to_owned(), value.trim().parse().ok()?)));
    text.lines().filter_map(figure).collect()
}

/// Minimum, median and maximum of the runs, as one cell of a table.
fn spread(values: &[f64], decimals: usize) -> String {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let mut cell = String::new();
    if let (Some(first), Some(last)) = (sorted.first(), sorted.last()) {
        let median = sorted[sorted.len() / 2];
        let _ = write!(cell, "{median:.decimals$} ({first:.decimals$}-{last:.decimals$})");
    }
    cell
}
