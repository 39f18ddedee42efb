//! What reading and committing costs at the least, without any processing: a member that copies its input. For whoever measures.

use super::{config, prefix};
use crate::log::support::topic;
use millstream::log::{Append, Change, GroupOffsets, Inputs, KafkaConfig, KafkaLog, Log, Membership, RecordBatch, Transaction};
use millstream::{Headers, Offset, Partition};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// `FLOOR_RECORDS` (default 1,000,000) records of 150 bytes in four partitions, copied by one member, committed every 100 ms. `FLOOR_BROKERS`
/// names a broker that is not shared with other tests.
#[test]
#[ignore = "a measurement: run it alone, with --nocapture"]
fn copying_costs() {
    let setting = |name: &str| std::env::var(name).ok();
    let records: usize = setting("FLOOR_RECORDS").map_or(1_000_000, |number| number.parse().expect("a number"));
    let log = KafkaLog::open(setting("FLOOR_BROKERS").map_or_else(config, KafkaConfig::new)).expect("the broker answers");
    let name = format!("{}{}", prefix(), std::process::id());
    let (input, output) = (topic(&log, &format!("{name}in"), 4), topic(&log, &format!("{name}out"), 4));
    let value = [b'x'; 150];
    for at in (0..records).step_by(10_000) {
        let appends = (0..4).map(|partition| {
            let mut batch = RecordBatch::new();
            for i in (at..at + 10_000).filter(|i| i % 4 == partition) {
                batch.push(
                    millstream::Timestamp(1_760_000_000_000 + i as i64),
                    Some(format!("coupon-{i:07}").as_bytes()),
                    Some(&value),
                    &Headers::EMPTY,
                );
            }
            Append { topic: input.id, partition: Partition(partition as u32), batch }
        });
        log.commit(Transaction { appends: appends.collect(), ..Transaction::default() }).wait().expect("it is committed");
    }

    let group: Arc<str> = format!("{name}group").into();
    let subs = vec![Inputs { topics: vec![input.id], tasks: 4 }];
    let mut member = log.join(Membership { group: Arc::clone(&group), worker: 0, subs }).expect("the group is joined");
    let mut next = BTreeMap::<u32, Offset>::new();
    let (mut copied, mut commits) = (0, 0);
    let (mut begun, mut cpu) = (Instant::now(), cpu());
    while copied < records {
        for change in member.changes().expect("the group can be asked") {
            if let Change::Assigned { partition, .. } = change {
                member.begin(0, partition, &[(input.id, Offset(0))]).expect("it begins");
                next.insert(partition.0, Offset(0));
                (begun, cpu) = (Instant::now(), self::cpu());
            }
        }
        let (mut appends, mut count) = (BTreeMap::<u32, RecordBatch>::new(), 0);
        let since = Instant::now();
        while since.elapsed() < Duration::from_millis(100) && copied + count < records {
            let before = count;
            for (partition, next) in &mut next {
                let fetched = member.fetch(input.id, Partition(*partition), *next, 1 << 20).expect("it can be read");
                let into = appends.entry(*partition).or_default();
                for record in fetched.batches.iter().flat_map(|batch| batch.records_from(*next)) {
                    into.push(record.timestamp, record.key, record.value, &Headers::EMPTY);
                    count += 1;
                }
                *next = fetched.next;
            }
            if count == before {
                member.wait(Duration::from_millis(10));
            }
        }
        if count > 0 {
            let offsets = next.iter().map(|(partition, next)| (input.id, Partition(*partition), *next)).collect();
            let appends =
                appends.into_iter().map(|(p, batch)| Append { topic: output.id, partition: Partition(p), batch }).collect();
            let offsets = Some(GroupOffsets { group: Arc::clone(&group), offsets });
            member.commit(Transaction { appends, offsets, request: None }).expect("it is committed");
            copied += count;
            commits += 1;
        }
    }
    let (wall, used) = (begun.elapsed().as_secs_f64(), self::cpu() - cpu);
    let millions = records as f64 / 1e6;
    println!("floor: {:.0} records/s, {:.2} CPU s per million, {commits} commits", records as f64 / wall, used / millions);
}

/// Seconds of CPU that this process has used.
fn cpu() -> f64 {
    // SAFETY: getrusage fills what it is given, and all zeros is a value of it.
    let used = unsafe {
        let mut used: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &raw mut used);
        used
    };
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    seconds(used.ru_utime) + seconds(used.ru_stime)
}
