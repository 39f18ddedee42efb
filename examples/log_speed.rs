//! How fast the embedded log writes and reads, and what it costs: `cargo run --release --example log_speed [bulk|commits|all] [dir]`.
//! Linux only: CPU time comes from `/proc`.

use millstream::log::embedded::{EmbeddedLog, Options};
use millstream::log::{Append, Cleanup, Log, RecordBatch, Request, TopicInfo, TopicSpec, Transaction, partition};
use millstream::{Headers, Offset, Partition, Timestamp};
use std::path::Path;
use std::time::{Duration, Instant};

type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

fn main() -> Outcome {
    let mut arguments = std::env::args().skip(1);
    let what = arguments.next().unwrap_or_else(|| "all".to_owned());
    let parent = arguments.next().map_or_else(std::env::temp_dir, Into::into);
    let dir = tempfile::tempdir_in(parent)?;
    if what != "commits" {
        bulk(&dir.path().join("bulk"))?;
    }
    if what != "bulk" {
        for (producers, with_requests) in [(1, false), (64, false), (64, true), (256, false)] {
            commits(&dir.path().join(format!("{producers}-{with_requests}")), producers, with_requests)?;
        }
    }
    Ok(())
}

fn open(dir: &Path) -> Outcome<EmbeddedLog> {
    Ok(EmbeddedLog::open(dir, Options::new(|| Timestamp(1_760_000_000_000)))?)
}

fn topic(log: &EmbeddedLog, name: &str, partitions: u32, cleanup: Cleanup) -> Outcome<TopicInfo> {
    Ok(log.create_topic(&TopicSpec { name: name.to_owned(), partitions, cleanup })?)
}

/// 2,000,000 outputs and 1,000,000 changelog records of 22 bytes, 30,000 records a transaction, then all of it read.
fn bulk(dir: &Path) -> Outcome {
    const TRANSACTIONS: u64 = 100;
    let log = open(dir)?;
    let output = topic(&log, "output", 4, Cleanup::KEEP)?;
    let changelog = topic(&log, "changelog", 4, Cleanup::Compact { delete_retention_ms: 1 << 40 })?;
    let begun = Measure::begin();
    for transaction in 0..TRANSACTIONS {
        let mut appends = Vec::new();
        for (topic, records) in [(&output, 20_000), (&changelog, 10_000)] {
            let mut batches = vec![RecordBatch::with_capacity(256 << 10); 4];
            for i in 0..records {
                let n = transaction * records + i;
                let key = format!("coupon-{:07}", n.wrapping_mul(0x9E37_79B9_7F4A_7C15) % 1_000_000);
                let at = partition(Some(key.as_bytes()), 4, 0);
                batches[at.0 as usize].push(
                    Timestamp(1_760_000_000_000 + n as i64),
                    Some(key.as_bytes()),
                    Some(&n.to_be_bytes()),
                    &Headers::EMPTY,
                );
            }
            let partitions = (0..).map(Partition).zip(batches);
            appends.extend(partitions.map(|(partition, batch)| Append { topic: topic.id, partition, batch }));
        }
        log.commit(Transaction { appends, ..Transaction::default() }).wait()?;
    }
    begun.report("written", TRANSACTIONS * 30_000);
    drop(log);

    let log = open(dir)?;
    let begun = Measure::begin();
    let (mut records, mut bytes) = (0, 0);
    for topic in [&output, &changelog] {
        for partition in (0..4).map(Partition) {
            let mut at = Offset(0);
            loop {
                let fetched = log.fetch(topic.id, partition, at, 1 << 20)?;
                for record in fetched.batches.iter().flat_map(|batch| batch.records()) {
                    records += 1;
                    bytes += record.key.map_or(0, <[u8]>::len) + record.value.map_or(0, <[u8]>::len);
                }
                at = fetched.next;
                if at == fetched.end {
                    break;
                }
            }
        }
    }
    assert_eq!((records, bytes as u64), (TRANSACTIONS * 30_000, TRANSACTIONS * 30_000 * 22));
    begun.report("read", records);
    Ok(())
}

/// So many threads, each committing one record of 120 bytes after the other for some seconds, as HTTP handlers do; also with the
/// row that makes a request idempotent.
fn commits(dir: &Path, producers: u64, with_requests: bool) -> Outcome {
    let log = open(dir)?;
    let events = topic(&log, "events", 3, Cleanup::KEEP)?;
    let begun = Measure::begin();
    let until = Instant::now() + Duration::from_secs(5);
    let commits: u64 = std::thread::scope(|scope| -> Outcome<u64> {
        let threads: Vec<_> = (0..producers)
            .map(|producer| {
                let (log, events) = (&log, &events);
                scope.spawn(move || {
                    let mut commits = 0;
                    while Instant::now() < until {
                        let mut batch = RecordBatch::new();
                        let key = format!("{producer}-{commits}");
                        batch.push(Timestamp(1_760_000_000_000), Some(key.as_bytes()), Some(&[b'x'; 100]), &Headers::EMPTY);
                        let append = Append { topic: events.id, partition: partition(Some(key.as_bytes()), 3, 0), batch };
                        let request = with_requests.then(|| Request {
                            key: format!("somebody:{key}").into_bytes(),
                            fingerprint: [7; 32],
                            answer: vec![b'x'; 100],
                            expires_at: Timestamp(1_760_086_400_000),
                        });
                        log.commit(Transaction { appends: vec![append], request, ..Transaction::default() }).wait()?;
                        commits += 1;
                    }
                    Ok::<u64, millstream::log::Error>(commits)
                })
            })
            .collect();
        let mut commits = 0;
        for thread in threads {
            commits += thread.join().map_err(|_| "a producer panicked")??;
        }
        Ok(commits)
    })?;
    let requests = if with_requests { " with requests" } else { "" };
    begun.report(&format!("{producers} producers, commits{requests}"), commits);
    println!("  {:.0} syncs/s", log.stats().syncs as f64 / 5.0);
    Ok(())
}

struct Measure {
    wall: Instant,
    cpu: f64,
}

impl Measure {
    fn begin() -> Measure {
        Measure { wall: Instant::now(), cpu: cpu_seconds() }
    }

    fn report(&self, what: &str, count: u64) {
        let (wall, cpu) = (self.wall.elapsed().as_secs_f64(), cpu_seconds() - self.cpu);
        let per_million = 1e6 / count as f64;
        println!("{what}: {count} in {wall:.2} s, {:.0}/s, {:.3} CPU s per million", count as f64 / wall, cpu * per_million);
    }
}

/// User and system time of this process so far.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("Linux has /proc");
    let fields = stat.rsplit(')').next().expect("rsplit gives something").split_whitespace();
    let ticks: f64 = fields.skip(11).take(2).map(|field| field.parse::<f64>().expect("ticks are numbers")).sum();
    ticks / 100.0
}
