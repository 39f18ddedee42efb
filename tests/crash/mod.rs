//! Exactly once across crashes: a child process feeds and runs a topology of two sub-topologies with a repartition topic, a table and
//! timers; it is killed at every step of commit, flush and restore, and at random moments, and started again. In the end outputs and
//! state are those of a run that never crashed: every acknowledged request is counted once, every timer fired once, nothing else.

mod global_tables;
mod timers;
mod windows;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use millstream::log::{EmbeddedLog, Log, embedded};
use millstream::{
    Accepted, App, Clock, Config, Events, Handle, Offset, Partition, Process, Record, RequestKey, Scope, Store, StreamBuilder,
    TimeDomain, Topic, Topology,
};
use tokio::task::JoinSet;

const INPUT: Topic<u64, u64> = Topic::new("input").partitions(3).keep_forever();
const COUNTS: Topic<u64, u64> = Topic::new("counts").partitions(2).keep_forever();
const ECHOES: Topic<u64, u64> = Topic::new("echoes").keep_forever();
const WAITING: Store<u64, u64> = Store::keyed("waiting");
const KEYS: u64 = 40;
/// Long enough for a machine that is busy with something else.
const LONG: Duration = Duration::from_secs(60);

fn topology() -> Topology {
    let mut builder = StreamBuilder::new("crash");
    let input = builder.stream(&INPUT);
    input.group_by("by-remainder", |_, n| n % KEYS).count("counts").to_stream().to(&COUNTS);
    let echo = Process::new("echo", |ctx: &mut Scope<'_, u64, u64>, record: Record<u64, u64>| {
        ctx.store(&WAITING).put(&record.key, &record.value)?;
        ctx.schedule(TimeDomain::WallClock, ctx.wall_clock().plus_ms(3), &record.key)
    });
    let echo = echo.store(&WAITING).on_timer(|ctx, key: u64, at| {
        let value = ctx.store(&WAITING).take(&key)?.unwrap_or(u64::MAX);
        ctx.forward(Record::new(key, value, at))
    });
    input.process(echo).to(&ECHOES);
    builder.build().expect("the topology is valid")
}

fn config(dir: &Path) -> Config {
    Config { threads: 2, state_flush_interval_ms: 20, commit_interval_ms: 20, ..Config::embedded(dir) }
}

/// What the child is to do: append these numbers, in this directory. `None` in a test binary that is nobody's child.
fn job() -> Option<(Range<u64>, PathBuf)> {
    let job = std::env::var("CRASH_JOB").ok()?;
    let mut parts = job.splitn(3, ' ');
    let mut next = || parts.next().expect("from, to and directory");
    let number = |text: &str| text.parse().expect("a number");
    Some((number(next())..number(next()), PathBuf::from(next())))
}

fn start(topology: Topology, dir: &Path) -> App {
    App::start(topology, config(dir)).expect("the application starts after any crash")
}

/// Appends the record of each number once, and says which were acknowledged.
async fn feed(handle: &Handle, numbers: Range<u64>, input: Topic<u64, u64>, record: fn(&Handle, u64) -> Record<u64, u64>) {
    let mut running = JoinSet::new();
    for n in numbers {
        let (handle, input) = (handle.clone(), input.clone());
        running.spawn(async move {
            let request = RequestKey { key: n.to_be_bytes().to_vec(), fingerprint: [0; 32], keep_ms: 3_600_000 };
            let record = record(&handle, n);
            let accept = async || Ok::<_, ()>(Accepted { events: Events::new().with(&input, &record), answer: Vec::new() });
            if handle.once(&request, accept).await.is_ok() {
                println!("acknowledged {n}");
            }
        });
        if running.len() >= 16 {
            running.join_next().await;
        }
    }
    running.join_all().await;
}

fn wait<T>(talk: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(talk)
}

fn stop(app: App) {
    assert_eq!(app.stop(), None);
    println!("stopped cleanly");
}

/// Not a test by itself: what the child runs. It appends its numbers, says which were acknowledged, and stops when all of them are through.
#[test]
#[ignore = "run by the other tests of this file, in a process that they kill"]
fn child() {
    let Some((numbers, dir)) = job() else { return };
    let app = start(topology(), &dir);
    let handle = app.handle();
    wait(async {
        feed(&handle, numbers, INPUT, |handle, n| Record::new(n, n, handle.now())).await;
        handle.caught_up("counts", LONG).await.expect("the counts catch up");
        let waiting = handle.view("waiting").expect("a store of the topology");
        while !waiting.page(&millstream::Range::all(), millstream::Direction::Forward, 1).expect("the view answers").is_empty() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    stop(app);
}

fn open_log(dir: &Path) -> EmbeddedLog {
    EmbeddedLog::open(dir.join("log"), embedded::Options::new(|| Clock::System.now())).expect("the log opens")
}

/// The records of a topic, in order by partition.
fn read_topic<K: 'static, V: 'static>(log: &EmbeddedLog, topic: &Topic<K, V>) -> Vec<Record<K, V>> {
    let info = log.topic(topic.name()).expect("the log answers").expect("the topic exists");
    let mut records = Vec::new();
    for partition in (0..info.partitions).map(Partition) {
        let mut next = Offset(0);
        loop {
            let fetched = log.fetch(info.id, partition, next, 1 << 20).expect("the topic can be read");
            for record in fetched.batches.iter().flat_map(|batch| batch.records_from(next)) {
                let key = topic.key_codec().decode(record.key).expect("a key");
                let value = topic.value_codec().decode(record.value).expect("a value");
                records.push(Record { key, value, timestamp: record.timestamp, headers: record.headers.to_headers() });
            }
            next = fetched.next;
            if next >= fetched.end {
                break;
            }
        }
    }
    records
}

/// Numbers below what is asked for, from a seed that is printed.
fn random() -> impl FnMut(u64) -> u64 {
    let seed = Clock::System.now().0 as u64;
    let seed = std::env::var("CRASH_SEED").map_or(seed, |text| text.parse().expect("CRASH_SEED is a number"));
    println!("CRASH_SEED={seed}");
    let mut random = seed;
    move |n| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % n
    }
}

/// How often the child is killed.
fn rounds() -> u32 {
    std::env::var("CRASH_ROUNDS").map_or(8, |text| text.parse().expect("CRASH_ROUNDS is a number"))
}

/// A topology's life over several processes.
struct Life {
    /// The name of the test that the child runs.
    child: &'static str,
    dir: tempfile::TempDir,
    acknowledged: BTreeSet<u64>,
}

impl Life {
    fn new(child: &'static str) -> Life {
        Life { child, dir: tempfile::tempdir().expect("a temporary directory"), acknowledged: BTreeSet::new() }
    }

    /// The first number that was never acknowledged: from there on the next child tries (again).
    fn next(&self) -> u64 {
        (0..).find(|n| !self.acknowledged.contains(n)).expect("numbers do not end")
    }

    fn spawn(&self, to: u64, fault: Option<&str>) -> Child {
        let mut command = Command::new(std::env::current_exe().expect("a running test has a path"));
        command.args(["--exact", self.child, "--ignored", "--nocapture"]).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.env("CRASH_JOB", format!("{} {to} {}", self.next(), self.dir.path().display()));
        command.env_remove("MILLSTREAM_FAULT").envs(fault.map(|fault| ("MILLSTREAM_FAULT", fault)));
        command.spawn().expect("the child starts")
    }

    /// Reads what the child says until it ends, or until `enough`, when it is killed. Whether it stopped cleanly.
    fn follow(&mut self, mut child: Child, mut enough: impl FnMut(usize) -> bool) -> bool {
        let mut clean = false;
        let mut heard = 0;
        for line in BufReader::new(child.stdout.take().expect("its output is piped")).lines().map_while(Result::ok) {
            // The test harness may have begun the line.
            if let Some(n) = line.split("acknowledged ").nth(1) {
                self.acknowledged.insert(n.parse().expect("a number"));
                heard += 1;
            }
            clean |= line.contains("stopped cleanly");
            if enough(heard) {
                child.kill().expect("the child is killed");
            }
        }
        let output = child.wait_with_output().expect("the child ends");
        if output.status.code().is_some_and(|code| code != 0) {
            panic!("the child failed, where it may only be killed: {}", String::from_utf8_lossy(&output.stderr));
        }
        clean
    }

    /// Dies once at each of these points; how many numbers that took.
    fn die_at_each(&mut self, points: &[(&str, u32)], numbers_each: u64) -> u64 {
        let mut total = 0;
        for (point, nth) in points {
            total += numbers_each;
            let child = self.spawn(total, Some(&format!("{point}:{nth}:abort")));
            assert!(!self.follow(child, |_| false), "{point} was never reached for the time {nth}");
        }
        total
    }

    /// Is killed at random moments, before so many numbers are acknowledged; how many numbers there are to be.
    fn die_at_random(&mut self, most: u64) -> u64 {
        let mut below = random();
        for _ in 0..rounds() {
            let child = self.spawn(u64::MAX, None);
            let until = 1 + below(most) as usize;
            assert!(!self.follow(child, |heard| heard >= until));
        }
        self.acknowledged.last().map_or(0, |last| last + 1).next_multiple_of(KEYS) + KEYS
    }

    /// Finishes without a crash.
    fn finish(&mut self, total: u64) {
        let child = self.spawn(total, None);
        assert!(self.follow(child, |_| false), "the last run stops cleanly");
        assert_eq!(self.acknowledged, (0..total).collect());
    }

    /// Finishes without a crash and compares everything with what `total` numbers must come to.
    fn check(mut self, total: u64) {
        self.finish(total);
        let expected: BTreeMap<u64, u64> =
            (0..KEYS).map(|key| (key, (0..total).filter(|n| n % KEYS == key).count() as u64)).collect();
        let log = open_log(self.dir.path());
        let mut input: Vec<u64> = read_topic(&log, &INPUT).into_iter().map(|record| record.key).collect();
        input.sort_unstable();
        assert_eq!(input, (0..total).collect::<Vec<_>>(), "each request is in the input once");
        let mut last = BTreeMap::new();
        for Record { key, value: count, .. } in read_topic(&log, &COUNTS) {
            assert_eq!(count, last.get(&key).map_or(1, |last| last + 1), "the counts of key {key} are emitted one by one");
            last.insert(key, count);
        }
        assert_eq!(last, expected);
        let echoes = read_topic(&log, &ECHOES).into_iter();
        let mut echoes: Vec<_> = echoes.map(|record| (record.key, record.value)).collect();
        echoes.sort_unstable();
        assert_eq!(echoes, (0..total).map(|n| (n, n)).collect::<Vec<_>>(), "each timer fired once, with its value");
        drop(log);
        let app = App::start(topology(), config(self.dir.path())).expect("the application starts");
        let view = app.handle().view("counts").expect("a store of the topology");
        for (key, count) in expected {
            let row = view.get(&key.to_be_bytes()).expect("the view answers").expect("the key has a count");
            assert_eq!(row[..], count.to_be_bytes(), "the stored count of key {key}");
        }
    }
}

/// Each point, and at which visit the process dies there. Something is to be restored after a crash between log and state.
const POINTS: &[(&str, u32)] = &[
    ("commit:before-log", 4),
    ("log:commit:before-write", 9),
    ("log:commit:after-write", 9),
    ("log:commit:after-publish", 9),
    ("commit:after-log", 4),
    ("state:restore:applied", 1),
    ("state:commit:begin", 4),
    ("state:commit:store-applied", 8),
    ("state:commit:applied", 4),
    ("commit:after-state", 4),
    ("state:flush:frozen", 1),
    ("state:flush:store-written", 1),
    ("state:flush:store-synced", 1),
    ("state:flush:positions-written", 1),
    ("state:flush:positions-synced", 1),
];

#[test]
fn a_crash_at_each_step_of_commit_flush_and_restore_changes_nothing() {
    let mut life = Life::new("crash::child");
    let total = life.die_at_each(POINTS, 600);
    life.check(total);
}

#[test]
fn a_kill_at_any_moment_changes_nothing() {
    let mut life = Life::new("crash::child");
    let total = life.die_at_random(400);
    life.check(total);
}
