//! An application in several processes on a real Kafka, which are killed, frozen and cut off: in the end outputs and stores are those of a
//! run without a crash, computed from what the input topic holds. `KAFKA_TESTS=long` (`make kafka-crash`) is minutes of it.
//!
//! The processes are this test binary, which runs [`process`] in them.

mod dead;
mod kills;
mod state;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use millstream::log::{Append, KafkaConfig, KafkaLog, Log, RecordBatch, Transaction, partition};
use millstream::{
    App, Clock, Config, Direction, Handle, Headers, Partition, Process, Range, Record, Scope, Seen, Standbys, StartError, Store,
    StreamBuilder, Timestamp, Topic, Topology,
};
use tempfile::TempDir;

use crate::log::kafka::broker::{Broker, signal};

const APPLICATION: &str = "cluster";
const INPUT: Topic<u64, u64> = Topic::new("input").partitions(4).keep_forever();
const SUMS_OUT: Topic<u64, u64> = Topic::new("sums-out").partitions(3).keep_forever();
const COUNTS_OUT: Topic<u64, u64> = Topic::new("counts-out").partitions(2).keep_forever();
/// Each makes as many rows as its value says, from its key on.
const FILL: Topic<u64, u64> = Topic::new("fill").keep_forever();
const SUMS: Store<u64, u64> = Store::keyed("sums");
const COUNTS: Store<u64, u64> = Store::keyed("counts");
const ROWS: Store<u64, String> = Store::keyed("rows");

const KEYS: u64 = 50;
const REMAINDERS: u64 = 7;
const ROW_BYTES: usize = 1_000;
/// Long enough for a machine that is busy with something else.
const LONG: Duration = Duration::from_secs(120);
/// The brokers of tests let a group be as quick as this.
const SESSION: Duration = Duration::from_millis(1500);

fn is_long() -> bool {
    std::env::var("KAFKA_TESTS").is_ok_and(|length| length == "long")
}

/// Sums by key, and through a repartition topic how many values there are of each remainder; rows as asked for.
fn topology() -> Topology {
    let mut builder = StreamBuilder::new(APPLICATION);
    let input = builder.stream(&INPUT);
    let sum = Process::new("sum", |ctx: &mut Scope<'_, u64, u64>, record: Record<u64, u64>| {
        let sum = ctx.store(&SUMS).get(&record.key)?.unwrap_or(0) + record.value;
        ctx.store(&SUMS).put(&record.key, &sum)?;
        ctx.forward(record.with_value(sum))
    });
    input.process(sum.store(&SUMS)).to(&SUMS_OUT);
    input.group_by("by-remainder", |_, n| n % REMAINDERS).count(COUNTS.name()).to_stream().to(&COUNTS_OUT);
    let fill = Process::<u64, u64, u64, u64>::new("fill", |ctx, record| {
        (record.key..record.key + record.value).try_for_each(|key| ctx.store(&ROWS).put(&key, &row(key)))
    });
    builder.stream(&FILL).process(fill.store(&ROWS));
    builder.build().expect("the topology is valid")
}

/// A row that does not compress to nothing.
fn row(key: u64) -> String {
    let mut state = key;
    let mut text = String::with_capacity(ROW_BYTES + 16);
    while text.len() < ROW_BYTES {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        text.push_str(&format!("{state:016x}"));
    }
    text
}

/// What a process is to be.
#[derive(Clone, Copy)]
struct Job {
    threads: usize,
    session_timeout: Duration,
    transaction_timeout: Duration,
    /// A fault of its own, as `MILLSTREAM_FAULT` takes it.
    fault: Option<&'static str>,
}

impl Default for Job {
    fn default() -> Job {
        Job { threads: 2, session_timeout: SESSION, transaction_timeout: Duration::from_secs(10), fault: None }
    }
}

/// Not a test by itself: what a process runs until its input ends. To each line of it, it says what it has.
#[test]
#[ignore = "run by the other tests of this directory, in processes that they kill"]
fn process() {
    let Ok(job) = std::env::var("CLUSTER_JOB") else { return };
    let [brokers, dir, threads, session, transaction] = job.split(' ').collect::<Vec<_>>()[..] else { panic!("{job}") };
    let number = |text: &str| text.parse::<u64>().expect("a number");
    let [session, transaction] = [session, transaction].map(|ms| Duration::from_millis(number(ms)));
    let begun = Instant::now();
    let config = Config { threads: number(threads) as usize, state_memory_bytes: 64 << 20, ..Config::shared(dir) };
    let kafka = KafkaConfig::new(brokers).session_timeout(session).transaction_timeout(transaction);
    // Whoever supervises it starts it again while the brokers are away.
    let start = || App::start_on(topology(), config.clone(), Arc::new(KafkaLog::open(kafka.clone())?));
    let app = loop {
        match start() {
            Ok(app) => break app,
            Err(StartError::Log(error)) if error.is_retriable() && begun.elapsed() < LONG => println!("not yet: {error}"),
            Err(error) => panic!("it does not start: {error}"),
        }
    };
    let handle = app.handle();
    let mut all_here = None;
    let (lines, asked) = std::sync::mpsc::channel();
    std::thread::spawn(move || std::io::stdin().lines().map_while(Result::ok).try_for_each(|_| lines.send(())));
    loop {
        let said = asked.recv_timeout(Duration::from_millis(2));
        if all_here.is_none() && readable(&handle) == TASKS {
            all_here = Some(begun.elapsed());
        }
        match said {
            Ok(()) => {
                let all_here = all_here.map_or(0, |time| time.as_millis());
                let [restored, dirty] =
                    ["millstream_restored_records_total", "millstream_state_dirty_bytes"].map(|name| metric(&handle, name));
                println!("CLUSTER {} {all_here} {restored} {dirty}", readable(&handle));
            }
            Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {}
            Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => break,
        }
    }
    drop(handle);
    assert_eq!(app.stop(), None);
    println!("CLUSTER stopped");
}

/// How many tasks there are of sub-topologies with a store.
const TASKS: usize = 4 + 4 + 1;

/// How many of them are here.
fn readable(handle: &Handle) -> usize {
    let of = |store: &str, partitions: u32| {
        let view = handle.view(store).expect("a store of the topology");
        (0..partitions).filter(|partition| view.get_in(Partition(*partition), &[0; 8]).is_ok()).count()
    };
    of(SUMS.name(), 4) + of(COUNTS.name(), 4) + of(ROWS.name(), 1)
}

fn metric(handle: &Handle, name: &str) -> u64 {
    let mut metrics = String::new();
    prometheus_client::encoding::text::encode_registry(&mut metrics, &handle.registry().read()).expect("text");
    let value = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.expect("there is such a metric").trim().parse().expect("a number")
}

fn open(broker: &Broker) -> KafkaLog {
    KafkaLog::open(KafkaConfig::new(broker.address())).expect("the broker answers")
}

/// A process of the application, killed when it is dropped.
struct Member {
    child: Child,
    /// Its end ends the process.
    stdin: Option<ChildStdin>,
    said: BufReader<ChildStdout>,
    dir: Arc<TempDir>,
}

/// What a process has.
#[derive(Clone, Copy, Debug)]
struct Has {
    tasks: usize,
    /// How long after its start it had all tasks, if it ever had.
    all_after: Duration,
    /// How many changelog records it has applied.
    restored: u64,
    /// How many bytes of state are not on disk yet.
    dirty: u64,
}

impl Member {
    fn start(broker: &Broker, dir: &Arc<TempDir>, job: Job) -> Member {
        let mut command = Command::new(std::env::current_exe().expect("a running test has a path"));
        command.args(["--exact", "cluster::process", "--ignored", "--nocapture"]).env_remove("MILLSTREAM_FAULT");
        let [session, transaction] = [job.session_timeout, job.transaction_timeout].map(|time| time.as_millis());
        let told = format!("{} {} {} {session} {transaction}", broker.address(), dir.path().display(), job.threads);
        command.env("CLUSTER_JOB", told).envs(job.fault.map(|fault| ("MILLSTREAM_FAULT", fault)));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the test binary runs");
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take().expect("a pipe"));
        Member { child, stdin, said: BufReader::new(stdout), dir: Arc::clone(dir) }
    }

    fn new(broker: &Broker, job: Job) -> Member {
        Member::start(broker, &Arc::new(TempDir::new().expect("a directory")), job)
    }

    /// `kill -9`.
    fn kill(mut self) -> Arc<TempDir> {
        self.child.kill().expect("it is there to be killed");
        self.child.wait().expect("it was killed");
        Arc::clone(&self.dir)
    }

    fn signal(&self, number: i32) {
        signal(self.child.id(), number);
    }

    /// What it has now; `None` once it has ended.
    fn has(&mut self) -> Option<Has> {
        self.stdin.as_mut()?.write_all(b"\n").ok()?;
        let line = self.next_line()?;
        let [tasks, all_after, restored, dirty] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
        let number = |text: &str| text.parse::<u64>().expect("a number");
        Some(Has {
            tasks: number(tasks) as usize,
            all_after: Duration::from_millis(number(all_after)),
            restored: number(restored),
            dirty: number(dirty),
        })
    }

    fn next_line(&mut self) -> Option<String> {
        let mut line = String::new();
        loop {
            line.clear();
            if self.said.read_line(&mut line).expect("a line") == 0 {
                return None;
            }
            // The test harness may have begun the line.
            if let Some((_, said)) = line.trim_end().split_once("CLUSTER ") {
                return Some(said.to_owned());
            }
        }
    }

    /// Waits until it has all tasks.
    fn wait_for_all(&mut self) -> Has {
        let begun = Instant::now();
        loop {
            let has = self.has().expect("it still runs");
            if has.tasks == TASKS {
                return has;
            }
            assert!(begun.elapsed() < LONG, "{has:?}");
            pass(Duration::from_millis(20));
        }
    }

    /// Lets it finish, commit and leave.
    fn stop(mut self) {
        self.stdin = None;
        let said = self.next_line();
        let status = self.child.wait().expect("it ends");
        assert!(status.success() && said.as_deref() == Some("stopped"), "{status}, {said:?}");
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        // It may have ended already, which is fine.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Lets time pass: that is what is tested, or there is no event for what is waited for.
fn pass(time: Duration) {
    let until = Instant::now() + time;
    while Instant::now() < until {
        std::thread::park_timeout(until.saturating_duration_since(Instant::now()));
    }
}

/// Writes these as one transaction.
fn write(
    log: &dyn Log,
    topic: &Topic<u64, u64>,
    records: impl IntoIterator<Item = (u64, u64)>,
) -> Result<(), millstream::log::Error> {
    let info = log.create_topic(&topic.spec())?;
    let mut batches: Vec<RecordBatch> = (0..info.partitions).map(|_| RecordBatch::new()).collect();
    let now = Timestamp(Clock::System.now().0);
    for (key, value) in records {
        let (key, value) = (key.to_be_bytes(), value.to_be_bytes());
        let place = partition(Some(&key), info.partitions, 0);
        batches[place.0 as usize].push(now, Some(&key), Some(&value), &Headers::EMPTY);
    }
    let append = |(p, batch)| Append { topic: info.id, partition: Partition(p as u32), batch };
    let appends = batches.into_iter().enumerate().filter(|(_, batch)| !batch.is_empty()).map(append).collect();
    log.commit(Transaction { appends, ..Transaction::default() }).wait().map(drop)
}

/// Every committed record of a topic, by partition in order.
fn read(log: &dyn Log, topic: &Topic<u64, u64>) -> Vec<(u64, u64)> {
    let begun = Instant::now();
    loop {
        match try_read(log, topic) {
            Ok(records) => return records,
            // A client that has not found its broker again.
            Err(error) => assert!(error.is_retriable() && begun.elapsed() < LONG, "{error}"),
        }
        pass(Duration::from_millis(50));
    }
}

fn try_read(log: &dyn Log, topic: &Topic<u64, u64>) -> Result<Vec<(u64, u64)>, millstream::log::Error> {
    let Some(info) = log.topic(topic.name())? else { return Ok(Vec::new()) };
    let mut records = Vec::new();
    let number = |bytes: Option<&[u8]>| u64::from_be_bytes(bytes.expect("bytes").try_into().expect("eight bytes"));
    let begun = Instant::now();
    for partition in (0..info.partitions).map(Partition) {
        let (mut next, end) = (log.bounds(info.id, partition)?.start, log.open_ends(&[(info.id, partition)])?[0]);
        // What is open or decided and not shown yet has its end soon.
        while next < end {
            let seen = log.version();
            let fetched = log.fetch(info.id, partition, next, 1 << 20)?;
            let read = fetched.batches.iter().flat_map(|batch| batch.records_from(next));
            records.extend(read.map(|record| (number(record.key), number(record.value))));
            if fetched.next == next {
                assert!(begun.elapsed() < LONG, "{} has no end at {next} of {end}", topic.name());
                log.wait(seen, Duration::from_millis(50));
            }
            next = fetched.next;
        }
    }
    Ok(records)
}

/// What an input comes to without a crash.
struct Model {
    sums: BTreeMap<u64, Vec<u64>>,
    counts: BTreeMap<u64, u64>,
}

impl Model {
    fn of(input: &[(u64, u64)]) -> Model {
        let mut model = Model { sums: BTreeMap::new(), counts: BTreeMap::new() };
        for (key, value) in input {
            let sums = model.sums.entry(*key).or_default();
            sums.push(sums.last().unwrap_or(&0) + value);
            *model.counts.entry(value % REMAINDERS).or_default() += 1;
        }
        model
    }

    /// Waits until the outputs are as many as they must be.
    fn wait_for_outputs(&self, log: &dyn Log) {
        let (begun, expected) = (Instant::now(), self.sums.values().map(Vec::len).sum::<usize>());
        loop {
            let [sums, counts] = [&SUMS_OUT, &COUNTS_OUT].map(|topic| read(log, topic).len());
            if sums >= expected && counts >= expected {
                return;
            }
            assert!(begun.elapsed() < LONG, "{sums} sums and {counts} counts of {expected}");
            pass(Duration::from_millis(100));
        }
    }

    /// Compares outputs and stores once they are there: nothing is lost, nothing is there twice.
    fn check(&self, broker: &Broker, log: &dyn Log) {
        self.wait_for_outputs(log);
        // Whatever comes twice would come about now.
        pass(Duration::from_millis(500));
        let by_key = |records: Vec<(u64, u64)>| {
            let mut by_key = BTreeMap::<u64, Vec<u64>>::new();
            records.into_iter().for_each(|(key, value)| by_key.entry(key).or_default().push(value));
            by_key
        };
        assert_same("sums", &by_key(read(log, &SUMS_OUT)), &self.sums);
        let counts: BTreeMap<_, _> = self.counts.iter().map(|(key, count)| (*key, (1..=*count).collect())).collect();
        assert_same("counts", &by_key(read(log, &COUNTS_OUT)), &counts);

        let dir = TempDir::new().expect("a directory");
        let config = Config { threads: 0, standbys: Standbys::All, ..Config::shared(dir.path()) };
        let app = App::start_on(topology(), config, Arc::new(open(broker)));
        let app = app.expect("a follower starts");
        let handle = app.handle();
        let last = |sums: &BTreeMap<u64, Vec<u64>>| -> Vec<(u64, u64)> {
            sums.iter().map(|(key, sums)| (*key, *sums.last().expect("a sum"))).collect()
        };
        let expected = [last(&self.sums), last(&counts)];
        let contents = |store: &Store<u64, u64>| {
            let view = handle.view(store.name()).expect("a store of the topology").typed(store);
            view.page(&Range::all(), Direction::Forward, millstream::MAX_PAGE).and_then(Seen::wait).unwrap_or_default()
        };
        let begun = Instant::now();
        while [contents(&SUMS), contents(&COUNTS)] != expected {
            assert!(begun.elapsed() < LONG, "stores hold {:?} and not {expected:?}", [contents(&SUMS), contents(&COUNTS)]);
            pass(Duration::from_millis(50));
        }
        drop(handle);
        assert_eq!(app.stop(), None);
    }
}

/// Each key has the same values in the same order; else it is said where they part.
fn assert_same(what: &str, found: &BTreeMap<u64, Vec<u64>>, expected: &BTreeMap<u64, Vec<u64>>) {
    let none = Vec::new();
    let mut parted = Vec::new();
    for key in found.keys().chain(expected.keys()).collect::<std::collections::BTreeSet<_>>() {
        let [found, expected] = [found, expected].map(|all| all.get(key).unwrap_or(&none));
        if found != expected {
            let same = found.iter().zip(expected).take_while(|(one, other)| one == other).count();
            let around = |all: &[u64]| all[same.saturating_sub(1)..all.len().min(same + 3)].to_vec();
            parted.push(format!(
                "{key} after {same} of {} and {}: {:?}, {:?}",
                found.len(),
                expected.len(),
                around(found),
                around(expected)
            ));
        }
    }
    assert!(parted.is_empty(), "{what}, found and expected, part at key {}", parted.join("\n"));
}

/// Numbers below what is asked for, from a seed that is printed.
fn random() -> impl FnMut(u64) -> u64 {
    let seed = std::env::var("CRASH_SEED").map_or(Clock::System.now().0 as u64, |text| text.parse().expect("a number"));
    println!("CRASH_SEED={seed}");
    let mut random = seed;
    move |n| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % n
    }
}
