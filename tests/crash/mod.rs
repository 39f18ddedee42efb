//! Exactly once across crashes: a child process feeds and runs a topology of two sub-topologies with a repartition topic, a table and
//! timers; it is killed at every step of commit, flush and restore, and at random moments, and started again. In the end outputs and
//! state are those of a run that never crashed: every acknowledged request is counted once, every timer fired once, nothing else.

mod feeds;
mod global_tables;
mod power;
mod timers;
mod windows;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::app::support::{read, wait};
use millstream::{
    Accepted, App, Clock, Config, Events, Handle, Headers, Process, Record, RequestKey, Scope, Seen, Store, StreamBuilder,
    TimeDomain, Topic, Topology,
};

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

/// What a child does: appends what `events` makes of each number that it is asked for, says which were acknowledged, and stops when all of
/// them are in the `store`, and `after` is through, too. Nothing where the test harness calls it and not a parent.
fn live(
    topology: Topology,
    store: &str,
    before: impl AsyncFnOnce(&Handle),
    events: fn(&Handle, u64) -> Events,
    after: impl AsyncFnOnce(&Handle),
) {
    let Ok(job) = std::env::var("CRASH_JOB") else { return };
    let mut parts = job.splitn(3, ' ');
    let mut next = || parts.next().expect("from, to and directory");
    let (from, to): (u64, u64) = (next().parse().expect("a number"), next().parse().expect("a number"));
    let app = App::start(topology, config(Path::new(next()))).expect("the application starts after any crash");
    let handle = app.handle();
    wait(async {
        before(&handle).await;
        let mut running = tokio::task::JoinSet::new();
        for n in from..to {
            let handle = handle.clone();
            running.spawn(async move {
                let request = RequestKey { key: n.to_be_bytes().to_vec(), fingerprint: [0; 32], keep_ms: 3_600_000 };
                let accept = async || Ok::<_, ()>(Accepted { events: events(&handle, n), answer: Vec::new() });
                if handle.once(&request, accept).await.is_ok() {
                    println!("acknowledged {n}");
                }
            });
            if running.len() >= 16 {
                running.join_next().await;
            }
        }
        running.join_all().await;
        handle.caught_up(store, LONG).await.expect("the store catches up");
        after(&handle).await;
    });
    assert_eq!(app.stop(), None);
    println!("stopped cleanly");
}

/// Not a test by itself: what the child runs.
#[test]
#[ignore = "run by the other tests of this file, in a process that they kill"]
fn child() {
    let events = |handle: &Handle, n| {
        Events::new().with(&INPUT, &Record { key: n, value: n, timestamp: handle.now(), headers: Headers::EMPTY })
    };
    live(
        topology(),
        "counts",
        async |_| {},
        events,
        async |handle| {
            let waiting = handle.view("waiting").expect("a store of the topology");
            while !waiting
                .page(&millstream::Range::all(), millstream::Direction::Forward, 1)
                .expect("the view answers")
                .peek()
                .is_empty()
            {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        },
    );
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
        let mut input: Vec<u64> = read(self.dir.path(), &INPUT).into_iter().map(|record| record.key).collect();
        input.sort_unstable();
        assert_eq!(input, (0..total).collect::<Vec<_>>(), "each request is in the input once");
        let mut last = BTreeMap::new();
        for Record { key, value: count, .. } in read(self.dir.path(), &COUNTS) {
            assert_eq!(count, last.get(&key).map_or(1, |last| last + 1), "the counts of key {key} are emitted one by one");
            last.insert(key, count);
        }
        assert_eq!(last, expected);
        let echoes = read(self.dir.path(), &ECHOES).into_iter();
        let mut echoes: Vec<_> = echoes.map(|record| (record.key, record.value)).collect();
        echoes.sort_unstable();
        assert_eq!(echoes, (0..total).map(|n| (n, n)).collect::<Vec<_>>(), "each timer fired once, with its value");
        let app = App::start(topology(), config(self.dir.path())).expect("the application starts");
        let view = app.handle().view("counts").expect("a store of the topology");
        for (key, count) in expected {
            let row = view.get(&key.to_be_bytes()).and_then(Seen::wait).expect("the view answers").expect("the key has a count");
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
    ("log:sync:begin", 9),
    ("log:sync:done", 9),
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
