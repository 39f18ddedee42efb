//! Three processes under load: one at random is killed every few seconds and started again, while brokers die, or stand still and go on.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use millstream::log::Log;

use super::{INPUT, Job, KEYS, LONG, Member, Model, is_long, open, pass, random, read, write};
use crate::log::kafka::broker::Broker;

/// How many records are written at once, and how often.
const PART: u64 = 20;
const WRITE_EVERY: Duration = Duration::from_millis(40);

#[test]
fn processes_that_are_killed_and_a_broker_that_stops_change_no_count() {
    let (time, every, frozen) = match is_long() {
        true => (Duration::from_secs(300), Duration::from_secs(5), Duration::from_secs(35)),
        false => (Duration::from_secs(12), Duration::from_secs(3), Duration::from_secs(3)),
    };
    let mut froze = false;
    under_load(&mut [Broker::start()], time, every, |brokers, _, elapsed| {
        if !froze && elapsed > time / 3 {
            brokers[0].freeze();
            pass(frozen);
            brokers[0].thaw();
            froze = true;
        }
    });
    assert!(froze);
}

/// Leaders of partitions, coordinators of the group and of transactions, and the cluster's controller go with it, each time to the other two.
#[test]
fn brokers_of_a_cluster_that_die_or_stand_still_one_at_a_time_change_no_count() {
    let (time, every) = match is_long() {
        true => (Duration::from_secs(300), Duration::from_secs(5)),
        false => (Duration::from_secs(16), Duration::from_secs(3)),
    };
    // One that stands still for longer than this is taken for dead by its cluster, and does not know of it when it goes on.
    let away = Duration::from_secs(4);
    let mut troubles = 0;
    under_load(&mut Broker::three(), time, every, |brokers, random, _| {
        let broker = &mut brokers[random(3) as usize];
        if troubles % 2 == 0 {
            broker.kill();
            pass(away);
            broker.restart();
        } else {
            broker.freeze();
            pass(away);
            broker.thaw();
        }
        troubles += 1;
    });
    assert!(troubles > 1);
}

/// Lets three processes work for at least this time, and makes trouble after each of their kills.
fn under_load(
    brokers: &mut [Broker],
    time: Duration,
    every: Duration,
    mut trouble: impl FnMut(&mut [Broker], &mut dyn FnMut(u64) -> u64, Duration),
) {
    let log = open(&brokers[0]);
    let mut random = random();
    let job = |number: usize| Job { threads: 1 + number % 2, ..Job::default() };
    let mut members: Vec<_> = (0..3).map(|number| Member::new(&brokers[0], job(number))).collect();
    let ended = AtomicBool::new(false);
    let mut kills = 0;
    std::thread::scope(|scope| {
        scope.spawn(|| load(&log, &ended));
        let begun = Instant::now();
        let mut next = begun + every;
        while next < begun + time || kills < 3 {
            pass(next.saturating_duration_since(Instant::now()));
            let number = random(members.len() as u64) as usize;
            let dir = members.remove(number).kill();
            members.insert(number, Member::start(&brokers[0], &dir, job(number)));
            kills += 1;
            trouble(brokers, &mut random, begun.elapsed());
            next = Instant::now() + every;
        }
        ended.store(true, Ordering::Relaxed);
    });
    let input = read(&log, &INPUT);
    Model::of(&input).check(&brokers[0], &log);
    println!("{} records, {kills} kills", input.len());
    members.into_iter().for_each(Member::stop);
}

/// Writes until it has ended. What the log refuses or does not know of is not asked about: the input is what it is.
fn load(log: &dyn Log, ended: &AtomicBool) {
    let (begun, mut n) = (Instant::now(), 0);
    while !ended.load(Ordering::Relaxed) {
        let part = (n..n + PART).map(|n| (n % KEYS, n));
        match write(log, &INPUT, part) {
            Ok(()) => {}
            Err(error) => assert!(error.is_retriable() || error.is_outcome_unknown(), "{error}"),
        }
        n += PART;
        pass(WRITE_EVERY);
        assert!(begun.elapsed() < 10 * LONG, "it goes on for too long");
    }
}
