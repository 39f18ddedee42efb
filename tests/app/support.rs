//! The application that these tests run, and what they ask of it.

use std::future::Future;
use std::path::Path;
use std::time::{Duration, Instant};

use millstream::log::{EmbeddedLog, Log, embedded};
use millstream::{
    App, Clock, Config, Events, Handle, Headers, Offset, Partition, Process, Record, Scope, Seen, Store, StreamBuilder,
    Timestamp, Topic,
};

pub const IN: Topic<String, i64> = Topic::new("in").partitions(3).keep_forever();
pub const OUT: Topic<String, i64> = Topic::new("out").keep_forever();
pub const SUMS: Store<String, i64> = Store::keyed("sums");
/// Long enough for a machine that is busy with something else; nothing waits as long if all is well.
pub const LONG: Duration = Duration::from_secs(20);

/// Adds up by key into `sums` and writes every sum to `out`; counts how often each sum came about, through a repartition topic.
pub fn sums() -> StreamBuilder {
    let mut builder = StreamBuilder::new("app");
    let process = Process::new("sum", |ctx: &mut Scope<'_, String, i64>, record: Record<String, i64>| {
        let sum = ctx.store(&SUMS).get(&record.key)?.unwrap_or(0) + record.value;
        ctx.store(&SUMS).put(&record.key, &sum)?;
        ctx.forward(record.with_value(sum))
    });
    let sums = builder.stream(&IN).process(process.store(&SUMS));
    sums.to(&OUT);
    sums.group_by("by-sum", |_, sum| *sum).count("counts");
    builder
}

pub fn config(dir: &Path) -> Config {
    Config { threads: 2, ..Config::embedded(dir) }
}

pub fn start(builder: StreamBuilder, dir: &Path) -> App {
    App::start(builder.build().expect("the topology is valid"), config(dir)).expect("the application starts")
}

pub fn record(key: &str, value: i64) -> Record<String, i64> {
    Record { key: key.to_owned(), value, timestamp: Timestamp(1_000), headers: Headers::EMPTY }
}

pub fn events(records: impl IntoIterator<Item = (String, i64)>) -> Events {
    records.into_iter().fold(Events::new(), |events, (key, value)| events.with(&IN, &record(&key, value)))
}

pub fn append(handle: &Handle, key: &str, value: i64) {
    handle.append_blocking(events([(key.to_owned(), value)])).expect("the log takes it");
}

pub fn wait<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(future)
}

/// Waits until everything that was appended so far is in the view.
pub fn catch_up(handle: &Handle, store: &str) {
    wait(handle.caught_up(store, LONG)).expect("the view catches up");
}

pub fn sum(handle: &Handle, key: &str) -> Option<i64> {
    let view = handle.view("sums").expect("a store of the topology").typed(&SUMS);
    view.get(&key.to_owned()).and_then(Seen::wait).expect("the view answers")
}

/// Lets time pass.
#[expect(clippy::disallowed_methods, reason = "for what shows only in time, or is told by no event")]
pub fn pass(time: Duration) {
    std::thread::sleep(time);
}

/// Waits for something that no event tells.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < LONG, "{what}");
        pass(Duration::from_millis(2));
    }
}

/// The records of a topic of a stopped application, in order by partition.
pub fn read<K: 'static, V: 'static>(dir: &Path, topic: &Topic<K, V>) -> Vec<Record<K, V>> {
    let log = EmbeddedLog::open(dir.join("log"), embedded::Options::new(|| Clock::System.now())).expect("the log opens");
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

/// The values of a key in a topic of a stopped application.
pub fn values(dir: &Path, topic: &Topic<String, i64>, key: &str) -> Vec<i64> {
    read(dir, topic).into_iter().filter(|record| record.key == key).map(|record| record.value).collect()
}

/// Runs the test of this name in a process of its own: faults are armed for a whole process, and CPU time is counted for one.
pub fn alone(test: &str, body: impl FnOnce()) {
    const ALONE: &str = "MILLSTREAM_ALONE";
    if std::env::var_os(ALONE).is_some() {
        return body();
    }
    let mut child = std::process::Command::new(std::env::current_exe().expect("a running test has a path"));
    let output = child.args(["--exact", test, "--nocapture"]).env(ALONE, "1").env_remove("MILLSTREAM_FAULT").output();
    let output = output.expect("the test binary starts");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}{}", String::from_utf8_lossy(&output.stderr));
}
