//! The workloads of `peers/kafka-streams/README.md` as an application of Millstream on Kafka, written as its user would: typed topics, the
//! DSL, JSON parsed and written by serde. What it must do, what it is told by the environment and what it says on standard output is that
//! README's contract. Nothing here measures.

use std::error::Error;
use std::sync::Arc;
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use millstream::codec::{Json, Utf8};
use millstream::log::kafka::{KafkaConfig, KafkaLog};
use millstream::{
    App, Clock, Config, Direction, Handle, Health, Partition, Process, Range, Record, Store, StreamBuilder, Topic, Topology,
};
use millstream_benches::contract::{self, Said, Task};
use millstream_benches::join::{self, Order, Payment};
use prometheus_client::encoding::text::encode_registry;
use serde::Serialize;
use tracing_subscriber::filter::LevelFilter;

const COUNTS: Store<String, u64> = Store::keyed("counts");
const SEEN: Store<String, i64> = Store::keyed("seen");

/// How often many claims there were of each coupon, each time there is one more.
fn count(builder: &mut StreamBuilder, input: &Topic<String, String>, output: &Topic<String, String>, said: Said) {
    let claims = builder.stream(input).peek(move |_, _| said.first());
    let counts = claims.group_by_key().count(COUNTS.name()).to_stream();
    counts.map_values(|count| count.map(|count| count.to_string())).to(output);
}

/// Orders with their payments.
fn paid_orders(builder: &mut StreamBuilder, orders: &str, payments: &str, output: &str, said: Said) {
    let orders = builder.stream(&json::<Order>(orders)).peek(move |_, _| said.first());
    let payments = builder.stream(&json::<Payment>(payments)).peek(move |_, _| said.first());
    join::paid(&orders, &payments).to(&json(output));
}

/// Each event once, whatever comes again.
fn dedup(builder: &mut StreamBuilder, input: &Topic<String, String>, output: &Topic<String, String>, said: Said) {
    let first = Process::new("dedup", |ctx, event: Record<String, String>| {
        if ctx.store(&SEEN).get(&event.key)?.is_none() {
            ctx.store(&SEEN).put(&event.key, &event.timestamp.0)?;
            ctx.forward(event)?;
        }
        Ok(())
    });
    builder.stream(input).peek(move |_, _| said.first()).process(first.store(&SEEN)).to(output);
}

fn plain(name: &str) -> Topic<String, String> {
    Topic::named(name, &Utf8, &Utf8).partitions(contract::PARTITIONS).keep_forever()
}

fn json<V: Serialize + serde::de::DeserializeOwned + 'static>(name: &str) -> Topic<String, V> {
    Topic::named(name, &Utf8, &Json).partitions(contract::PARTITIONS).keep_forever()
}

fn topology(task: &Task, said: Said) -> Result<(Topology, &'static str), Box<dyn Error>> {
    let mut builder = StreamBuilder::new(&task.application);
    let store = match (task.workload.as_str(), &task.inputs[..]) {
        ("count", [input]) => {
            count(&mut builder, &plain(input), &plain(&task.output), said);
            COUNTS.name()
        }
        ("join", [orders, payments]) => {
            paid_orders(&mut builder, orders, payments, &task.output, said);
            "paid-left"
        }
        ("dedup", [input]) => {
            dedup(&mut builder, &plain(input), &plain(&task.output), said);
            SEEN.name()
        }
        (other, inputs) => return Err(format!("there is no workload {other:?} with {} inputs", inputs.len()).into()),
    };
    Ok((builder.build()?, store))
}

fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_max_level(LevelFilter::WARN).init();
    let task = Task::of_environment()?;
    let said = Said::new(Clock::System);
    let (topology, store) = topology(&task, said)?;
    let termination = contract::termination()?;
    let config = Config { threads: task.threads, commit_interval_ms: task.commit_ms, ..Config::shared(&task.state) };
    said.at("start");
    let log = KafkaLog::open(KafkaConfig::new(&task.brokers).replication_factor(1))?;
    let app = App::start_on(topology, config, Arc::new(log))?;
    let handle = app.handle();
    let mut look_every = Duration::from_millis(2);
    let mut announced = false;
    while termination.recv_timeout(look_every) == Err(RecvTimeoutError::Timeout) {
        if let Health::Failed(reason) = handle.health() {
            said.error();
            return Err(reason.into());
        }
        if !announced && runs(&handle, store) {
            (announced, look_every) = (true, Duration::from_millis(100));
            let at = said.at("running");
            said.restored(at, restored(&handle)?);
            if task.verify {
                let (entries, sum) = contents(&handle)?;
                said.store(entries, sum);
            }
        }
    }
    drop(handle);
    let failed = app.stop();
    said.at("stopped");
    failed.map_or(Ok(()), |reason| Err(reason.into()))
}

/// Whether all tasks are here, restored.
fn runs(handle: &Handle, store: &str) -> bool {
    let view = handle.view(store).expect("a store of the topology");
    (0..contract::PARTITIONS).all(|partition| view.get_in(Partition(partition), b"").is_ok())
}

/// How many changelog records were applied, as operators see it.
fn restored(handle: &Handle) -> Result<u64, Box<dyn Error>> {
    let mut metrics = String::new();
    encode_registry(&mut metrics, &handle.registry().read())?;
    let line = metrics.lines().find_map(|line| line.strip_prefix("millstream_restored_records_total "));
    Ok(line.ok_or("the metric is not there")?.trim().parse()?)
}

/// How many counts there are, and their sum.
fn contents(handle: &Handle) -> Result<(u64, u64), Box<dyn Error>> {
    let counts = handle.view(COUNTS.name()).expect("a store of the topology").typed(&COUNTS);
    let (mut entries, mut sum, mut range) = (0, 0, Range::all());
    loop {
        let page = counts.page(&range, Direction::Forward, millstream::MAX_PAGE)?.wait()?;
        let Some((last, _)) = page.last() else { return Ok((entries, sum)) };
        range = Range::new(std::ops::Bound::Excluded(last.as_bytes()), std::ops::Bound::Unbounded);
        entries += page.len() as u64;
        sum += page.iter().map(|(_, count)| count).sum::<u64>();
    }
}
