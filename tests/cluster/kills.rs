//! Three processes under load: one at random is killed every few seconds and started again, and the broker is stopped once and goes on.

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
    let broker = Broker::start();
    let log = open(&broker);
    let mut random = random();
    let job = |number: usize| Job { threads: 1 + number % 2, ..Job::default() };
    let mut members: Vec<_> = (0..3).map(|number| Member::new(&broker, job(number))).collect();
    let ended = AtomicBool::new(false);
    let (mut kills, mut froze) = (0, false);
    std::thread::scope(|scope| {
        scope.spawn(|| load(&log, &ended));
        let begun = Instant::now();
        let mut next = begun + every;
        while next < begun + time || kills < 3 {
            pass(next.saturating_duration_since(Instant::now()));
            let number = random(members.len() as u64) as usize;
            let dir = members.remove(number).kill();
            members.insert(number, Member::start(&broker, &dir, job(number)));
            kills += 1;
            if !froze && begun.elapsed() > time / 3 {
                broker.freeze();
                pass(frozen);
                broker.thaw();
                froze = true;
            }
            next = Instant::now() + every;
        }
        ended.store(true, Ordering::Relaxed);
    });
    let input = read(&log, &INPUT);
    Model::of(&input).check(&broker, &log);
    println!("{} records, {kills} kills, and a broker that stood still for {frozen:?}", input.len());
    assert!(froze && kills >= 3);
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
