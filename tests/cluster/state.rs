//! A killed worker's state is not wiped: it replays the tail of its changelogs, however large the state is.

use std::time::{Duration, Instant};

use millstream::Partition;
use millstream::log::Log;

use super::{APPLICATION, FILL, Has, Job, LONG, Member, ROW_BYTES, SESSION, is_long, open, pass, write};
use crate::log::kafka::broker::Broker;

/// How many rows are written since the state was on disk.
const TAIL: u64 = 10_000;
/// Rows for each input record.
const STEP: u64 = 1_000;

#[test]
fn a_killed_worker_replays_the_tail_and_not_its_state() {
    let sizes: &[u64] = if is_long() { &[100, 1_000] } else { &[20] };
    let found: Vec<Has> = sizes.iter().map(|megabytes| after_a_kill(megabytes * 1_000_000 / ROW_BYTES as u64)).collect();
    for (megabytes, has) in sizes.iter().zip(&found) {
        println!("{megabytes} MB: at work {:?} after its start, {} records replayed", has.all_after, has.restored);
    }
    if let [small, large] = found[..] {
        assert!(large.all_after < 2 * small.all_after + Duration::from_secs(1), "the figure grows with the state");
    }
}

/// Makes so many rows, and a tail; kills the only process, and starts it again.
fn after_a_kill(rows: u64) -> Has {
    let broker = Broker::start();
    let log = open(&broker);
    let mut worker = Member::new(&broker, Job::default());
    worker.wait_for_all();
    let begun = Instant::now();
    for from in (0..rows).step_by(STEP as usize) {
        write(&log, &FILL, [(from, STEP)]).expect("the broker takes it");
    }
    until_processed(&log);
    println!("{rows} rows in {:?}", begun.elapsed());
    loop {
        // What is in memory alone would be lost with it: the kill is to come between two flushes.
        let flushing = Instant::now();
        while worker.has().expect("it runs").dirty > 0 {
            assert!(flushing.elapsed() < LONG, "the state is not flushed");
            pass(Duration::from_millis(50));
        }
        let tail = (0..TAIL / STEP).map(|n| (n * STEP, STEP));
        write(&log, &FILL, tail).expect("the broker takes it");
        until_processed(&log);
        let dirty = worker.has().expect("it runs").dirty;
        let dir = worker.kill();
        pass(SESSION + Duration::from_secs(1));
        worker = Member::start(&broker, &dir, Job::default());
        let has = worker.wait_for_all();
        // A flush that came first took the tail with it: again.
        if dirty > TAIL * ROW_BYTES as u64 / 2 && has.restored >= TAIL {
            assert!(has.restored < TAIL + 2_000, "{} records were replayed", has.restored);
            worker.stop();
            return has;
        }
        println!("the tail was flushed before the kill: {has:?}");
        assert!(begun.elapsed() < 4 * LONG, "each tail was flushed");
    }
}

/// Waits until the group has committed all that is in the input.
fn until_processed(log: &dyn Log) {
    let begun = Instant::now();
    let topic = log.topic(FILL.name()).expect("the broker answers").expect("it exists");
    let end = log.bounds(topic.id, Partition(0)).expect("the broker answers").end;
    loop {
        let offsets = log.offsets(APPLICATION).expect("the broker answers");
        if offsets.iter().any(|(id, _, at)| *id == topic.id && *at >= end) {
            return;
        }
        assert!(begun.elapsed() < 4 * LONG, "{offsets:?} of {end}");
        pass(Duration::from_millis(10));
    }
}
