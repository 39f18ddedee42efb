//! What an application under test is told and what it says: the contract of `peers/kafka-streams/README.md`. Nothing here measures.

use std::env;
use std::io::Write;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;

use millstream::Clock;

/// How many partitions all topics have.
pub const PARTITIONS: u32 = 4;

/// What is to be done.
pub struct Task {
    /// `count`, `join` or `dedup`.
    pub workload: String,
    /// Brokers as `host:port`.
    pub brokers: String,
    /// The application's name, which is its consumer group's.
    pub application: String,
    /// Where local state lies.
    pub state: PathBuf,
    /// The topics it reads.
    pub inputs: Vec<String>,
    /// The topic it writes.
    pub output: String,
    /// The commit interval, in milliseconds.
    pub commit_ms: u64,
    /// Worker threads.
    pub threads: usize,
    /// Whether the store's contents are to be told.
    pub verify: bool,
}

impl Task {
    /// What the environment says.
    ///
    /// # Errors
    /// The variable that is missing or no number.
    pub fn of_environment() -> Result<Task, String> {
        let text = |name: &str| env::var(name).map_err(|_| format!("{name} is not set: the judge runs this, see its README"));
        let number = |name: &str| text(name)?.parse::<u64>().map_err(|e| format!("{name}: {e}"));
        Ok(Task {
            workload: text("BENCH_WORKLOAD")?,
            brokers: text("BENCH_BOOTSTRAP")?,
            application: text("BENCH_APP_ID")?,
            state: text("BENCH_STATE_DIR")?.into(),
            inputs: text("BENCH_IN")?.split(',').map(str::to_owned).collect(),
            output: text("BENCH_OUT")?,
            commit_ms: number("BENCH_COMMIT_MS")?,
            threads: number("BENCH_THREADS")? as usize,
            verify: text("BENCH_VERIFY_STORE")? == "1",
        })
    }
}

/// What is received from once the process is told to end by SIGTERM.
///
/// # Errors
/// If the system has no threads or signals to give.
pub fn termination() -> std::io::Result<mpsc::Receiver<()>> {
    let (told, termination) = mpsc::channel();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut signal = {
        let _entered = runtime.enter();
        tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?
    };
    std::thread::spawn(move || {
        runtime.block_on(signal.recv());
        // Whoever does not listen any more ends already.
        let _gone = told.send(());
    });
    Ok(termination)
}

/// What is said, as it happens.
#[derive(Clone, Copy)]
pub struct Said(&'static Inner);

struct Inner {
    clock: Clock,
    first: AtomicBool,
}

impl Said {
    /// Nothing was said yet.
    #[must_use]
    pub fn new(clock: Clock) -> Said {
        // One a process, which lives as long as that.
        Said(Box::leak(Box::new(Inner { clock, first: AtomicBool::new(false) })))
    }

    /// That something happens now, in milliseconds since 1970, which is the answer.
    pub fn at(self, what: &str) -> i64 {
        let now = self.0.clock.now().0;
        line(format_args!("{what} {now}"));
        now
    }

    /// That a record enters the topology, if it is the first.
    pub fn first(self) {
        if !self.0.first.load(Ordering::Relaxed) && !self.0.first.swap(true, Ordering::Relaxed) {
            self.at("first");
        }
    }

    /// When the last store was restored, and from how many records; it is 0 if none was.
    pub fn restored(self, at: i64, records: u64) {
        line(format_args!("restored {} {records}", if records == 0 { 0 } else { at }));
    }

    /// What the store holds.
    pub fn store(self, entries: u64, sum: u64) {
        line(format_args!("store {entries} {sum}"));
    }

    /// That it cannot go on.
    pub fn error(self) {
        line(format_args!("error"));
    }
}

fn line(what: std::fmt::Arguments<'_>) {
    let mut out = std::io::stdout().lock();
    // A judge that has gone needs no answer.
    let _gone = writeln!(out, "BENCH {what}").and_then(|()| out.flush());
}
