//! A planned stop: how long tasks rest that go to a process that followed them, and that the others never stop. The gaps are those between
//! outputs of a partition as a reader of committed records sees them, with a record every few milliseconds.

use super::groups::PROTOCOLS;
use super::{config, prefix};
use millstream::codec::Data;
use millstream::log::kafka::GroupProtocol;
use millstream::log::{Append, KafkaLog, Log, RecordBatch, Transaction};
use millstream::{App, Clock, Config, Headers, Offset, Partition, Process, Record, Scope, Standbys, Store, StreamBuilder, Topic};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const COUNTS: Store<String, u64> = Store::keyed("counts");
const PARTITIONS: u32 = 8;
/// A record comes to each partition that often.
const EVERY: Duration = Duration::from_millis(5);
/// Far more than the hand-over takes, for machines that do other things too; what it took is printed.
const ENOUGH: Duration = Duration::from_secs(20);

/// When an output was seen, which process made it, and what it counted.
type Seen = Vec<Vec<(Instant, u64, u64)>>;

fn start(name: &'static str, number: u64, protocol: GroupProtocol, dir: &Path) -> App {
    let mut builder = StreamBuilder::new(name);
    let count = Process::new("count", move |ctx: &mut Scope<'_, String, (u64, u64)>, record: Record<String, u64>| {
        let count = ctx.store(&COUNTS).get(&record.key)?.unwrap_or(0) + 1;
        ctx.store(&COUNTS).put(&record.key, &count)?;
        ctx.forward(record.with_value((number, count)))
    });
    builder.stream(&input(name)).process(count.store(&COUNTS)).to(&output(name));
    let config = Config { threads: 2, standbys: Standbys::Each(1), ..Config::shared(dir) };
    let kafka = self::config().group_protocol(protocol).instance(format!("{name}-{number}"));
    let log = Arc::new(KafkaLog::open(kafka).expect("the broker answers"));
    App::start_on(builder.build().expect("a topology"), config, log).expect("it starts")
}

fn input(name: &str) -> Topic<String, u64> {
    Topic::named(format!("{name}-in"), String::CODEC, u64::CODEC).partitions(PARTITIONS)
}

/// The key of a partition, of input and output alike.
fn key_of(wanted: u32) -> String {
    let partition = |key: &String| millstream::log::partition(Some(key.as_bytes()), PARTITIONS, 0) == Partition(wanted);
    (0..).map(|number| format!("key-{number}")).find(partition).expect("every partition has keys")
}

/// Who counted, and the count.
fn output(name: &str) -> Topic<String, (u64, u64)> {
    Topic::named(format!("{name}-out"), String::CODEC, <(u64, u64)>::CODEC).partitions(PARTITIONS)
}

fn pass(time: Duration) {
    let until = Instant::now() + time;
    while let Some(left) = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
        std::thread::park_timeout(left);
    }
}

fn until(what: &str, mut holds: impl FnMut() -> Result<(), String>) {
    let begun = Instant::now();
    while let Err(state) = holds() {
        if begun.elapsed() > Duration::from_secs(60) {
            // The threads beside would be waited for.
            eprintln!("not within a minute: {what}: {state}");
            std::process::abort();
        }
        pass(Duration::from_millis(20));
    }
}

/// Who made the last output of each partition.
fn owners(seen: &Mutex<Seen>) -> Vec<Option<u64>> {
    seen.lock().expect("no panic").iter().map(|outputs| outputs.last().map(|(_, who, _)| *who)).collect()
}

/// The longest time without an output of this partition, in a span of time.
fn longest_gap(outputs: &[(Instant, u64, u64)], from: Instant, until: Instant) -> Duration {
    let times = outputs.iter().map(|(at, ..)| *at).filter(|at| (from..until).contains(at));
    let mut edges = vec![from];
    edges.extend(times);
    edges.push(until);
    edges.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
}

#[test]
fn a_planned_stop_hands_tasks_to_who_followed_them_and_stops_no_other() {
    for protocol in PROTOCOLS {
        let name: &'static str = format!("{}handover{}", prefix(), std::process::id()).leak();
        let dirs = [tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory")];
        let stays = start(name, 0, protocol, dirs[0].path());
        let stops = start(name, 1, protocol, dirs[1].path());
        let seen: Mutex<Seen> = Mutex::new(vec![Vec::new(); PARTITIONS as usize]);
        let (fed, done) = (AtomicBool::new(true), AtomicBool::new(false));
        std::thread::scope(|scope| {
            let (seen, fed, done) = (&seen, &fed, &done);
            scope.spawn(move || feed(name, fed));
            scope.spawn(move || watch(name, seen, done));
            let view = stays.handle().view("counts").expect("a store of the topology").typed(&COUNTS);
            until("each has its share, and follows that of the other", || {
                let owners = owners(seen);
                let share = |who| owners.iter().filter(|owner| **owner == Some(who)).count() == PARTITIONS as usize / 2;
                let readable = |partition: &u32| view.get(&key_of(*partition)).is_ok();
                let all = (0..PARTITIONS).all(|partition| readable(&partition));
                let state = || {
                    format!(
                        "{owners:?}, {:?}, {:?}",
                        (0..PARTITIONS).filter(readable).collect::<Vec<_>>(),
                        stays.handle().health()
                    )
                };
                if share(0) && share(1) && all { Ok(()) } else { Err(state()) }
            });
            // So that what the sharing out held up is behind.
            pass(Duration::from_millis(500));
            let (before, begun) = (owners(seen), Instant::now());
            stops.stop();
            let stopping = begun.elapsed();
            until("the tasks go on elsewhere", || {
                let owners = owners(seen);
                if owners.iter().all(|owner| *owner == Some(0)) { Ok(()) } else { Err(format!("{owners:?}")) }
            });
            pass(Duration::from_millis(500));
            let over = Instant::now();
            fed.store(false, SeqCst);
            let gaps = |who: u64| -> Vec<Duration> {
                let seen = seen.lock().expect("no panic");
                let of_who = seen.iter().zip(&before).filter(|(_, owner)| **owner == Some(who));
                of_who.map(|(outputs, _)| longest_gap(outputs, begun, over)).collect()
            };
            let (moved, untouched) = (gaps(1), gaps(0));
            println!("{protocol:?}: stopping took {stopping:?}; gaps of tasks that moved {moved:?}, of others {untouched:?}");
            assert!(moved.iter().all(|gap| *gap < ENOUGH), "{protocol:?}: {moved:?}");
            assert!(untouched.iter().all(|gap| *gap < ENOUGH), "{protocol:?}: {untouched:?}");
            done.store(true, SeqCst);
        });
        // Each partition has one key: its counts are 1, 2, 3 and so on, whoever counted.
        for outputs in seen.lock().expect("no panic").iter() {
            let counts = outputs.iter().map(|(.., count)| *count);
            assert!(counts.eq(1..=outputs.len() as u64), "{protocol:?}: a count is missing or there twice");
        }
        stays.stop();
    }
}

fn feed(name: &'static str, fed: &AtomicBool) {
    let log = KafkaLog::open(config()).expect("the broker answers");
    let input = log.topic(input(name).name()).expect("it can be asked").expect("it was made");
    let mut value = Vec::new();
    u64::CODEC.encode(&1, &mut value).expect("a number");
    let keys: Vec<String> = (0..PARTITIONS).map(key_of).collect();
    let begun = Instant::now();
    let mut round = 0_u32;
    while fed.load(SeqCst) {
        let appended: Vec<_> = (0..PARTITIONS)
            .map(|partition| {
                let mut batch = RecordBatch::new();
                let key = keys[partition as usize].as_bytes();
                batch.push(Clock::System.now(), Some(key), Some(&value), &Headers::EMPTY);
                let append = Append { topic: input.id, partition: Partition(partition), batch };
                log.commit(Transaction { appends: vec![append], ..Transaction::default() })
            })
            .collect();
        appended.into_iter().for_each(|pending| drop(pending.wait().expect("it is appended")));
        round += 1;
        std::thread::park_timeout((EVERY * round).saturating_sub(begun.elapsed()));
    }
}

fn watch(name: &'static str, seen: &Mutex<Seen>, done: &AtomicBool) {
    let log = KafkaLog::open(config()).expect("the broker answers");
    let output = log.topic(output(name).name()).expect("it can be asked").expect("it was made");
    let mut next = [Offset(0); PARTITIONS as usize];
    while !done.load(SeqCst) {
        let version = log.version();
        let mut moved = false;
        for (partition, next) in next.iter_mut().enumerate() {
            let fetched = log.follow(output.id, Partition(partition as u32), *next, 1 << 20).expect("it can be read");
            let at = Instant::now();
            for record in fetched.batches.iter().flat_map(|batch| batch.records_from(*next)) {
                let (who, count) = <(u64, u64)>::CODEC.decode(record.value).expect("two numbers");
                seen.lock().expect("no panic")[partition].push((at, who, count));
            }
            moved |= fetched.next > *next;
            *next = fetched.next;
        }
        if !moved {
            log.wait(version, Duration::from_millis(20));
        }
    }
}
