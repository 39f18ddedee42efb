//! What the measurements share: the inputs, by a published generator, and the accounting of a child process. Nothing here measures.

pub mod contract;

use std::fmt::Write;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

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

/// The processor time that this process has used, user and system, in seconds.
pub fn cpu_seconds() -> f64 {
    // SAFETY: `usage` is a plain structure that the call fills; the pointer is valid for its duration.
    let usage = unsafe {
        let mut usage = std::mem::zeroed::<libc::rusage>();
        libc::getrusage(libc::RUSAGE_SELF, &mut usage);
        usage
    };
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    seconds(usage.ru_utime) + seconds(usage.ru_stime)
}

/// The most memory that this process has held, in MiB.
pub fn peak_memory_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    line.and_then(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok()).unwrap_or(f64::NAN) / 1024.0
}

/// Runs this program again as the named variant, so that each is measured in a process of its own, and gives the figures it prints:
/// lines of `name value`.
pub fn run_variant(variant: &str) -> Vec<(String, f64)> {
    let exe = std::env::current_exe().expect("a running program has a path");
    let output = Command::new(&exe).arg0("bench").env("BENCH_VARIANT", variant).stderr(Stdio::inherit()).output();
    let output = output.unwrap_or_else(|e| panic!("variant {variant} does not start: {e}"));
    assert!(output.status.success(), "variant {variant} failed: {}", String::from_utf8_lossy(&output.stdout));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let figure = |line: &str| line.split_once(' ').and_then(|(name, value)| Some((name.to_owned(), value.trim().parse().ok()?)));
    text.lines().filter_map(figure).collect()
}

/// Minimum, median and maximum of the runs, as one cell of a table.
pub fn spread(values: &[f64], decimals: usize) -> String {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let mut cell = String::new();
    if let (Some(first), Some(last)) = (sorted.first(), sorted.last()) {
        let median = sorted[sorted.len() / 2];
        let _ = write!(cell, "{median:.decimals$} ({first:.decimals$}-{last:.decimals$})");
    }
    cell
}
