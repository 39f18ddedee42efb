//! Brokers that die, freeze and come back in the middle of commits: no count changes. Each test has a broker of its own.
//! `KAFKA_TESTS=long` makes it minutes, with freezes beyond every timeout.

use super::broker::Broker;
use super::groups::{Copier, key};
use super::prefix;
use crate::log::support::{SOON, appending_now, read_from, topic};
use millstream::Partition;
use millstream::log::kafka::GroupProtocol;
use millstream::log::{Change, Health, Inputs, KafkaConfig, KafkaLog, Log, Membership, TopicInfo};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

#[test]
fn this_program_leaves_out_what_brokers_tell_of_leaders() {
    assert!(millstream::log::kafka::leaves_out_told_leaders());
}

#[test]
fn a_broker_that_dies_or_freezes_changes_no_count() {
    let long = std::env::var("KAFKA_TESTS").is_ok_and(|length| length == "long");
    let (rounds, freeze) = if long { (6, Duration::from_secs(25)) } else { (1, Duration::from_secs(2)) };
    let patience = Duration::from_secs(if long { 900 } else { 120 });
    let mut broker = Broker::mortal();
    let open = || KafkaLog::open(KafkaConfig::new(broker.address())).expect("the broker answers");
    let (log, writer) = (open(), open());
    let inputs = [topic(&log, "a", 2), topic(&log, "b", 2)];
    let (output, direct) = (topic(&log, "out", 2), topic(&log, "direct", 1));
    let own = inputs.each_ref().map(|topic| writer.topic(&topic.name).unwrap().expect("it exists"));
    let into = writer.topic(&direct.name).unwrap().expect("it exists");
    let (troubled, joined) = (AtomicBool::new(true), AtomicBool::new(false));
    let group = prefix() + "group";

    let deadline = Instant::now() + patience;
    let outcomes = std::thread::scope(|scope| {
        // Writes numbered records, each once: what did not happen is done again, what may have happened is another number's turn.
        let writing = scope.spawn(|| {
            let mut outcomes = BTreeMap::new();
            let mut next = 0;
            while troubled.load(SeqCst) {
                assert!(Instant::now() < deadline);
                let outcome = writer.commit(appending_now(&into, 0, &next.to_string(), "v")).wait();
                match outcome {
                    Ok(_) => drop(outcomes.insert(next, 1..=1)),
                    Err(error) if error.is_outcome_unknown() => drop(outcomes.insert(next, 0..=1)),
                    Err(error) => {
                        assert!(error.is_retriable(), "{error}");
                        outcomes.insert(next, 0..=0);
                        writer.wait(writer.version(), Duration::from_millis(50));
                    }
                }
                next += 1;
            }
            outcomes
        });
        // What is to be copied is written while the broker is there, as what is tested is the copying.
        for i in 0..400 {
            log.commit(appending_now(&inputs[i % 2], (i / 2 % 2) as u32, &i.to_string(), "v")).wait().expect("it is appended");
        }
        scope.spawn(|| {
            let mut copier = Copier::join(&log, &group, 0, &inputs, &output);
            joined.store(true, SeqCst);
            let (mut more, mut quiet_since) = (400, None);
            // Nothing comes for a while both when all is done and while a client has not found the broker again.
            let is_quiet = |since: Option<Instant>| since.is_some_and(|since| since.elapsed() >= Duration::from_millis(500));
            let count = |topic| numbers(&log, topic, deadline).len();
            while !is_quiet(quiet_since) || count(&output) < count(&inputs[0]) + count(&inputs[1]) {
                assert!(Instant::now() < deadline, "{} records were copied", count(&output));
                let copied = copier.turn_over();
                copier.member.wait(Duration::from_millis(5));
                // As long as there is trouble there is more to do.
                if troubled.load(SeqCst) && log.health() == Health::Up {
                    let one = appending_now(&own[more % 2], (more / 2 % 2) as u32, &more.to_string(), "v");
                    match writer.commit(one).wait() {
                        Ok(_) => more += 1,
                        Err(error) if error.is_outcome_unknown() => more += 10_000,
                        Err(_) => {}
                    }
                }
                quiet_since = match (copied, troubled.load(SeqCst)) {
                    (0, false) => quiet_since.or(Some(Instant::now())),
                    _ => None,
                };
            }
        });
        while !joined.load(SeqCst) {
            assert!(Instant::now() < deadline);
            pause(Duration::from_millis(10));
        }
        for _ in 0..rounds {
            pause(Duration::from_secs(2));
            broker.kill();
            pause(Duration::from_millis(500));
            broker.restart();
            pause(Duration::from_secs(2));
            broker.freeze();
            pause(freeze);
            broker.thaw();
        }
        pause(Duration::from_secs(1));
        troubled.store(false, SeqCst);
        writing.join().expect("the writer ends")
    });

    let mut direct_found = BTreeMap::<usize, usize>::new();
    numbers(&log, &direct, deadline).into_iter().for_each(|number| *direct_found.entry(number).or_default() += 1);
    for (number, allowed) in &outcomes {
        let times = direct_found.get(number).copied().unwrap_or(0);
        assert!(allowed.contains(&times), "record {number} is there {times} times, and {allowed:?} was said");
    }
    let mut expected = [numbers(&log, &inputs[0], deadline), numbers(&log, &inputs[1], deadline)].concat();
    expected.sort_unstable();
    let mut found = numbers(&log, &output, deadline);
    found.sort_unstable();
    let unknown = outcomes.values().filter(|allowed| **allowed == (0..=1)).count();
    let refused = outcomes.values().filter(|allowed| **allowed == (0..=0)).count();
    println!("{} copied; {} written, {refused} refused, {unknown} unknown", found.len(), outcomes.len());
    assert!(found == expected, "{} records in, {} out", expected.len(), found.len());
}

#[test]
fn a_log_says_that_its_brokers_are_away_and_comes_back() {
    let mut broker = Broker::mortal();
    let log = KafkaLog::open(KafkaConfig::new(broker.address())).expect("the broker answers");
    let orders = topic(&log, "orders", 1);
    log.commit(appending_now(&orders, 0, "a", "1")).wait().expect("it is appended");
    broker.kill();
    let deadline = Instant::now() + Duration::from_secs(120);
    // Until the log has noticed, it may also try, and not know what came of it; then it refuses at once.
    loop {
        let refused = log.commit(appending_now(&orders, 0, "b", "2")).wait().unwrap_err();
        assert!(refused.is_retriable() || refused.is_outcome_unknown(), "{refused}");
        if refused.to_string().contains("no broker answers at 127.0.0.1") {
            break;
        }
        assert!(Instant::now() < deadline, "nothing was noticed: {refused}");
        pause(Duration::from_millis(20));
    }
    broker.restart();
    while let Err(error) = log.commit(appending_now(&orders, 0, "c", "3")).wait() {
        assert!(error.is_retriable(), "{error}");
        assert!(Instant::now() < deadline, "{error}; {:?}", log.health());
        pause(Duration::from_millis(20));
    }
    // A client that was slower to notice may say once more that it is away.
    while log.health() != Health::Up {
        assert!(Instant::now() < deadline, "{:?}", log.health());
        pause(Duration::from_millis(20));
    }
    let found = crate::log::support::contents(&log, &orders, 0);
    assert!(found == ["a=1", "c=3"], "{found:?}");
}

/// A broker that was taken for dead leads nothing for a moment, and then its partitions in a new epoch: it refuses questions that name the old
/// one. Who had nothing to ask meanwhile kept the connection and heard of nothing; who asked connects anew, and may hear that nobody leads.
/// Nobody ever takes no answer for one.
#[test]
fn ends_are_known_again_after_a_broker_was_taken_for_dead() {
    let broker = Broker::mortal();
    let config = KafkaConfig::new(broker.address());
    let impatient = config.clone().property("socket.timeout.ms", "1000").property("socket.connection.setup.timeout.ms", "1000");
    let logs = [impatient, config].map(|config| KafkaLog::open(config).expect("the broker answers"));
    let orders = topic(&logs[0], "orders", 1);
    logs[0].commit(appending_now(&orders, 0, "a", "1")).wait().expect("it is appended");
    logs[1].topic(&orders.name).expect("the broker answers").expect("it exists");
    let is_known = |log: &KafkaLog| {
        let end = log.open_ends(&[(orders.id, Partition(0))]).map(|ends| ends[0]);
        let bounds = log.bounds(orders.id, Partition(0)).map(|bounds| bounds.end);
        for known in [&end, &bounds].into_iter().flatten() {
            assert_eq!(known.0, 1);
        }
        end.and(bounds).is_ok()
    };
    assert!(logs.iter().all(is_known));

    broker.freeze();
    let thawn_at = Instant::now() + Duration::from_secs(5);
    while Instant::now() < thawn_at {
        is_known(&logs[0]);
        pause(Duration::from_millis(20));
    }
    broker.thaw();
    let enough = Instant::now() + Duration::from_secs(3);
    while Instant::now() < enough {
        let deadline = Instant::now() + SOON;
        while !logs.iter().all(is_known) {
            assert!(Instant::now() < deadline, "nobody leads, or nobody says so");
            pause(Duration::from_millis(20));
        }
    }
}

/// The answer to a heartbeat is lost that says what is to be given up: the broker processes it together with the new member's, after the
/// one who sent it has stopped to wait.
#[test]
fn what_a_member_was_not_told_it_gives_up_all_the_same() {
    const ALL: usize = 4;
    let broker = Broker::start();
    let config = KafkaConfig::new(broker.address()).group_protocol(GroupProtocol::Consumer);
    let log = KafkaLog::open(config).expect("the broker answers");
    let input = topic(&log, "in", ALL as u32);
    let group = prefix() + "group";
    let subs = vec![Inputs { topics: vec![input.id], tasks: input.partitions }];
    let mut member = log.join(Membership { group: group.as_str().into(), worker: 0, subs }).expect("the group is joined");
    let mut newcomer = ClientConfig::new();
    newcomer.set("bootstrap.servers", broker.address()).set("group.id", &group).set("group.protocol", "consumer");
    let newcomer: BaseConsumer = newcomer.create().expect("a consumer");
    let mut held = 0;
    let mut becomes = |wanted: usize| {
        let deadline = Instant::now() + SOON;
        while held != wanted {
            assert!(Instant::now() < deadline, "{held} tasks for {wanted}");
            for change in member.changes().expect("changes") {
                held = if matches!(change, Change::Assigned { .. }) { held + 1 } else { held - 1 };
            }
            newcomer.poll(Duration::from_millis(10));
        }
    };
    becomes(ALL);
    for round in 0..4 {
        // From the second time on its connections stand, so that its request waits at the broker beside the heartbeat.
        if round > 0 {
            broker.freeze();
        }
        newcomer.subscribe(&[&*input.name]).expect("a subscription");
        if round > 0 {
            pause(Duration::from_millis(1_500));
            broker.thaw();
        }
        becomes(ALL / 2);
        newcomer.unsubscribe();
        becomes(ALL);
    }
}

/// The numbers in a topic, read again as long as a client has not found the broker again.
fn numbers(log: &dyn Log, topic: &TopicInfo, deadline: Instant) -> Vec<usize> {
    let partition = |p: u32| loop {
        let start = log.bounds(topic.id, Partition(p)).map(|bounds| bounds.start);
        match start.and_then(|start| read_from(log, topic, p, start.0, 1 << 20)) {
            Ok(records) => return records,
            Err(error) => assert!(error.is_retriable() && Instant::now() < deadline, "{error}"),
        }
        pause(Duration::from_millis(50));
    };
    (0..topic.partitions).flat_map(partition).map(|record| key(&record)).collect()
}

/// Lets time pass: that is what is tested.
fn pause(time: Duration) {
    let until = Instant::now() + time;
    while Instant::now() < until {
        std::thread::park_timeout(until.saturating_duration_since(Instant::now()));
    }
}
