//! Processes that are gone, and those that were only taken for gone.

use std::time::{Duration, Instant};

use super::{INPUT, Job, KEYS, LONG, Member, Model, open, pass, read, write};
use crate::log::kafka::broker::Broker;

/// What a process without telling of itself is taken for dead after, and a group's session timeout by default.
const SESSION: Duration = Duration::from_secs(6);
/// What a broker ends a transaction after that nobody ends.
const TRANSACTION: Duration = Duration::from_secs(300);

/// Each key once.
fn part(number: u64) -> impl Iterator<Item = (u64, u64)> {
    (0..KEYS).map(move |key| (key, number * KEYS + key))
}

#[test]
fn what_a_dead_process_left_open_holds_readers_for_its_session_and_not_for_its_transaction() {
    let broker = Broker::start();
    let log = open(&broker);
    let job = Job { session_timeout: SESSION, transaction_timeout: TRANSACTION, ..Job::default() };
    let heir = Member::new(&broker, job);
    // Its records are in the topics, and its end never came.
    let mut doomed = Member::new(&broker, Job { fault: Some("kafka:commit:before-end:12:abort"), ..job });
    let begun = Instant::now();
    let mut number = 0;
    while doomed.child.try_wait().expect("its state can be asked").is_none() {
        write(&log, &INPUT, part(number)).expect("the broker takes it");
        number += 1;
        pass(Duration::from_millis(50));
        assert!(begun.elapsed() < LONG, "it was to die in a commit");
    }
    let died = Instant::now();
    write(&log, &INPUT, part(number)).expect("the broker takes it");
    let model = Model::of(&read(&log, &INPUT));
    model.wait_for_outputs(&log);
    let waited = died.elapsed();
    println!("readers waited for {waited:?} after {number} parts");
    assert!(waited < TRANSACTION / 3, "readers waited for {waited:?}");
    model.check(&broker, &log);
    heir.stop();
}

#[test]
fn a_process_that_was_frozen_beyond_its_session_commits_nothing_and_works_on() {
    let broker = Broker::start();
    let log = open(&broker);
    let heir = Member::new(&broker, Job::default());
    let mut frozen = Member::new(&broker, Job::default());
    let begun = Instant::now();
    let mut number = 0;
    let mut next = || {
        write(&log, &INPUT, part(number)).expect("the broker takes it");
        number += 1;
        pass(Duration::from_millis(20));
        assert!(begun.elapsed() < LONG);
    };
    while frozen.has().expect("it runs").tasks == 0 {
        next();
    }
    (0..10).for_each(|_| next());
    frozen.signal(libc::SIGSTOP);
    // The heir has everything, also what the frozen one had in hand.
    let stopped = Instant::now();
    while stopped.elapsed() < super::SESSION + Duration::from_secs(1) {
        next();
    }
    Model::of(&read(&log, &INPUT)).check(&broker, &log);
    frozen.signal(libc::SIGCONT);
    (0..10).for_each(|_| next());
    while frozen.has().expect("it works on").tasks == 0 {
        next();
    }
    Model::of(&read(&log, &INPUT)).check(&broker, &log);
    let lag =
        broker.tool("org.apache.kafka.tools.consumer.group.ConsumerGroupCommand", &["--describe", "--group", "cluster"], "");
    println!("{lag}");
    assert!(lag.contains("LAG") && lag.lines().any(|line| line.split_whitespace().nth(1) == Some("input")), "{lag}");
    frozen.stop();
    heir.stop();
}
