//! How long a record takes from the append to the committed output of an application that counts by key. For whoever measures.

use super::{open, prefix};
use millstream::codec::Data;
use millstream::log::{KafkaConfig, KafkaLog, Log};
use millstream::{
    App, Config, Events, Headers, Offset, Partition, Process, Record, Scope, Store, StreamBuilder, Timestamp, Topic,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

const COUNTS: Store<String, u64> = Store::keyed("counts");
const PARTITIONS: u32 = 4;

/// `LATENCY_RATE` (2,000) records a second for `LATENCY_SECONDS` (10), after as many of warm-up as fit into 3 s; `FLOOR_BROKERS` names a broker
/// that is not shared with other tests. The keys and the shape are those of a counter by key over four partitions, by two threads.
#[test]
#[ignore = "a measurement: run it alone, with --nocapture"]
fn one_hop_takes() {
    let setting = |name: &str, default: u64| std::env::var(name).map_or(default, |text| text.parse().expect("a number"));
    let (rate, seconds) = (setting("LATENCY_RATE", 2_000), setting("LATENCY_SECONDS", 10));
    let kafka = || match std::env::var("FLOOR_BROKERS") {
        Ok(brokers) => KafkaLog::open(KafkaConfig::new(brokers)).expect("the broker answers"),
        Err(_) => open(),
    };
    let name = format!("{}latency{}", prefix(), std::process::id());
    let [input, output] =
        ["in", "out"].map(|topic| Topic::named(format!("{name}-{topic}"), String::CODEC, u64::CODEC).partitions(PARTITIONS));

    let mut builder = StreamBuilder::new(&name);
    let count = Process::new("count", |ctx: &mut Scope<'_, String, u64>, record: Record<String, u64>| {
        let count = ctx.store(&COUNTS).get(&record.key)?.unwrap_or(0) + 1;
        ctx.store(&COUNTS).put(&record.key, &count)?;
        ctx.forward(record)
    });
    builder.stream(&input).process(count.store(&COUNTS)).to(&output);
    let dir = tempfile::tempdir().expect("a directory");
    let config = Config { threads: 2, ..Config::shared(dir.path()) };
    let app = App::start_on(builder.build().expect("a topology"), config, Arc::new(kafka())).expect("it starts");
    let handle = app.handle();

    let (warm, all) = (3 * rate, (3 + seconds) * rate);
    let sent: Arc<Vec<AtomicU64>> = Arc::new((0..all).map(|_| AtomicU64::new(0)).collect());
    let begun = Instant::now();
    let micros = move || begun.elapsed().as_micros() as u64;

    let log = kafka();
    let topic = log.topic(output.name()).expect("it can be asked").expect("it was made");
    let seen = Arc::clone(&sent);
    let reader = std::thread::spawn(move || {
        let mut next = [Offset(0); PARTITIONS as usize];
        let mut took = Vec::new();
        let mut left = all;
        while left > 0 {
            let version = log.version();
            let mut moved = false;
            for (partition, next) in next.iter_mut().enumerate() {
                let fetched = log.follow(topic.id, Partition(partition as u32), *next, 1 << 20).expect("it can be read");
                for record in fetched.batches.iter().flat_map(|batch| batch.records_from(*next)) {
                    let number = u64::CODEC.decode(record.value).expect("a number");
                    left -= 1;
                    if number >= warm {
                        took.push(micros() - seen[number as usize].load(Relaxed));
                    }
                }
                moved |= fetched.next > *next;
                *next = fetched.next;
            }
            if !moved {
                log.wait(version, Duration::from_millis(100));
            }
        }
        took
    });

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let mut random = 4_u64;
    let mut acks = runtime.block_on(async {
        // Whatever there is to be set up is set up with the first.
        let mut answers = Vec::new();
        for number in 0..all {
            let due = Duration::from_micros(number * 1_000_000 / rate);
            let wait = due.saturating_sub(begun.elapsed());
            if wait > Duration::from_micros(300) {
                tokio::time::sleep(wait).await;
            }
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let key = format!("coupon-{:07}", (random >> 33) % 1_000_000);
            let record = Record { key, value: number, timestamp: Timestamp(handle.now().0), headers: Headers::EMPTY };
            sent[number as usize].store(micros(), Relaxed);
            let at = micros();
            let (handle, events) = (handle.clone(), Events::new().with(&input, &record));
            answers.push(tokio::spawn(async move {
                handle.append(events).await.expect("it is appended");
                micros() - at
            }));
        }
        let mut acks = Vec::new();
        for answer in answers {
            acks.push(answer.await.expect("it is appended"));
        }
        acks.split_off(warm as usize)
    });
    let mut took = reader.join().expect("everything is seen");
    for (what, times) in [("append", &mut acks), ("append to committed output", &mut took)] {
        times.sort_unstable();
        let [p50, p95, p99] = [50, 95, 99].map(|p| times[times.len() * p / 100] as f64 / 1e3);
        let max = times.last().map_or(0.0, |max| *max as f64 / 1e3);
        println!("{what}: p50 {p50:.1} ms, p95 {p95:.1}, p99 {p99:.1}, max {max:.1} of {} at {rate}/s", times.len());
    }
    app.stop();
}
