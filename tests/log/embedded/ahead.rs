//! What is written and not yet durable: the members of the process go on from it, and nobody else hears of it before the sync.

use super::child;
use crate::log::support::{
    ManualClock, SOON, append, appending, open, put, read, topic, wait_until_up, with_offset, with_request,
};
use crate::power;
use millstream::log::embedded::{EmbeddedLog, Options};
use millstream::log::{Error, Health, Inputs, Log, Member, Membership, Pending, TopicInfo, Transaction};
use millstream::{Offset, Partition};
use millstream_state::fault::{self, Action};
use std::future::Future;
use std::path::Path;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

fn join(log: &EmbeddedLog, topic: &TopicInfo) -> Box<dyn Member> {
    let subs = vec![Inputs { topics: vec![topic.id], tasks: topic.partitions }];
    log.join(Membership { group: "app".into(), worker: 0, subs }).expect("a log of one process lets anybody join")
}

/// What a member can read of partition 0.
fn read_ahead(member: &mut dyn Member, topic: &TopicInfo) -> u64 {
    let fetched = member.fetch(topic.id, Partition(0), Offset(0), 1 << 20).expect("a member reads");
    assert_eq!(fetched.next, fetched.end);
    fetched.batches.iter().map(|batch| batch.records().count() as u64).sum()
}

fn is_pending<T: Unpin>(pending: &mut Pending<T>) -> bool {
    matches!(pin!(pending).poll(&mut Context::from_waker(Waker::noop())), Poll::Pending)
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < SOON, "{what}");
        std::thread::park_timeout(Duration::from_millis(1));
    }
}

/// Runs an ignored test of this file in a process of its own: faults are armed for a whole process.
fn alone(test: &str) {
    let dir = tempfile::tempdir().unwrap();
    let (mut process, lines) = child::start(&format!("log::embedded::ahead::{test}"), dir.path(), "");
    let lines: Vec<_> = lines.map_while(Result::ok).collect();
    assert!(process.wait().unwrap().success() && lines.iter().any(|line| line.contains("held")), "{}", lines.join("\n"));
}

#[test]
fn only_members_see_what_is_not_durable() {
    alone("child_whose_sync_is_held");
}

#[test]
#[ignore = "runs in the child process of only_members_see_what_is_not_durable"]
fn child_whose_sync_is_held() {
    let Some(dir) = child::dir() else { return };
    let log = open(dir.as_ref());
    let orders = topic(&log, "orders", 1);
    let mut member = join(&log, &orders);
    put(&log, &orders, 0, &[("a", "0")]);
    let gate = power::hold_syncs();
    let committed = member.commit(with_offset(appending(&orders, 0, &[("b", "1")]), "app", &orders, 0, 1)).unwrap();
    assert_eq!(committed.base_offsets, [Offset(1)]);
    let request = || with_request(appending(&orders, 0, &[("c", "2")]), "r", i64::MAX);
    let (mut first, mut again) = (log.commit(request()), log.commit(request()));
    eventually("it is written", || read_ahead(&mut *member, &orders) == 3);
    assert_eq!(log.open_ends(&[(orders.id, Partition(0))]).unwrap(), [Offset(3)]);
    assert_eq!(read(&log, &orders, 0), ["0 a=0"], "nobody outside sees more");
    // It is found, and says that it must not be told yet.
    assert!(log.request(b"r").unwrap().is_some());
    let mut settled = [log.durable(log.written()), log.durable(committed.at)];
    log.trim(orders.id, Partition(0), Offset(3)).unwrap();
    assert_eq!(log.bounds(orders.id, Partition(0)).unwrap().start, Offset(1), "only what is durable is dropped");
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| log.offsets("app").unwrap());
        for _ in 0..20 {
            assert!(is_pending(&mut first) && is_pending(&mut again) && settled.iter_mut().all(is_pending));
            assert!(!asked.is_finished());
            std::thread::park_timeout(Duration::from_millis(2));
        }
        gate.open();
        assert_eq!(asked.join().unwrap(), [(orders.id, Partition(0), Offset(1))]);
    });
    settled.into_iter().for_each(|settled| settled.wait().unwrap());
    assert_eq!(first.wait().unwrap().base_offsets, [Offset(2)]);
    assert_eq!(again.wait(), Err(Error::RequestExists));
    assert_eq!(read(&log, &orders, 0), ["1 b=1", "2 c=2"]);
    println!("held");
}

#[test]
fn what_is_not_durable_is_bounded() {
    alone("child_with_little_room");
}

#[test]
#[ignore = "runs in the child process of what_is_not_durable_is_bounded"]
fn child_with_little_room() {
    let Some(dir) = child::dir() else { return };
    let options = Options { max_queued_bytes: 10_000, ..ManualClock::at(0).options() };
    let log = EmbeddedLog::open(Path::new(&dir), options).unwrap();
    let orders = topic(&log, "orders", 1);
    let mut member = join(&log, &orders);
    let gate = power::hold_syncs();
    let written = AtomicU64::new(0);
    let value = "x".repeat(1_000);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..100 {
                member.commit(appending(&orders, 0, &[("k", &value)])).unwrap();
                written.fetch_add(1, SeqCst);
            }
        });
        eventually("some are written", || written.load(SeqCst) >= 7);
        std::thread::park_timeout(Duration::from_millis(50));
        assert!(written.load(SeqCst) < 12, "{} KB are written and not durable", written.load(SeqCst));
        gate.open();
    });
    assert_eq!(written.into_inner(), 100);
    log.sync().unwrap();
    assert_eq!(read(&log, &orders, 0).len(), 100);
    println!("held");
}

#[test]
fn after_a_sync_that_fails_what_is_found_again_is_durable() {
    alone("child_whose_sync_fails");
}

#[test]
#[ignore = "runs in the child process of after_a_sync_that_fails_what_is_found_again_is_durable"]
fn child_whose_sync_fails() {
    let Some(dir) = child::dir() else { return };
    let log = open(dir.as_ref());
    let orders = topic(&log, "orders", 1);
    let mut member = join(&log, &orders);
    let mut expected = Vec::new();
    for (round, point) in ["log:sync:begin", "log:sync:done"].into_iter().enumerate() {
        let gate = power::hold_syncs();
        member.commit(appending(&orders, 0, &[("a", point)])).unwrap();
        let committed = member.commit(appending(&orders, 0, &[("b", point)])).unwrap();
        let posted = log.commit(appending(&orders, 0, &[("c", point)]));
        eventually("it is written", || read_ahead(&mut *member, &orders) == 3 * (round as u64 + 1));
        let waiting = log.durable(committed.at);
        fault::arm(point, 1, Action::Fail);
        gate.open();
        // Where it can be read back at once, everybody hears what was found.
        assert_eq!(posted.wait().unwrap().base_offsets, [Offset(3 * round as u64 + 2)]);
        waiting.wait().expect("all that was found is durable");
        fault::disarm(point);
        wait_until_up(&log);
        for key in ["a", "b", "c"] {
            expected.push(format!("{} {key}={point}", expected.len()));
        }
        assert_eq!(read(&log, &orders, 0), expected);
    }
    let committed = member.commit(appending(&orders, 0, &[("d", "0")])).unwrap();
    assert_eq!(committed.base_offsets, [Offset(6)]);
    log.durable(committed.at).wait().unwrap();
    println!("held");
}

#[test]
fn a_log_that_lost_what_its_members_had_read_stops_and_starts_again_without_it() {
    alone("child_that_loses_what_it_had_read");
}

#[test]
#[ignore = "runs in the child process of a_log_that_lost_what_its_members_had_read_stops_and_starts_again_without_it"]
fn child_that_loses_what_it_had_read() {
    let Some(dir) = child::dir() else { return };
    let log = open(dir.as_ref());
    let orders = topic(&log, "orders", 2);
    let mut member = join(&log, &orders);
    put(&log, &orders, 0, &[("a", "0")]);
    let durable = power::lengths(Path::new(&dir));
    let lose = dir.clone();
    fault::on_visit("log:repair", move || power::cut(Path::new(&lose), &durable));
    fault::arm("log:sync:begin", 1, Action::Fail);
    // Once in a partition that had something before, once in one that had not.
    let appends = vec![append(&orders, 0, &[("b", "1")]), append(&orders, 1, &[("b", "1")])];
    let committed = member.commit(Transaction { appends, ..Transaction::default() }).unwrap();
    eventually("it gives up", || matches!(log.health(), Health::Failed { .. }));
    let Health::Failed { cause } = log.health() else { unreachable!("it was just so") };
    assert!(cause.contains("start again"), "{cause}");
    let error = log.durable(committed.at).wait().unwrap_err();
    assert!(matches!(error, Error::Lost { .. }) && error.is_fatal(), "{error}");
    assert_eq!(member.commit(appending(&orders, 0, &[("c", "2")])), Err(error.clone()));
    assert_eq!(log.commit(appending(&orders, 0, &[("c", "2")])).wait(), Err(error));
    drop((member, log));
    for point in ["log:repair", "log:sync:begin"] {
        fault::disarm(point);
    }
    let log = open(dir.as_ref());
    assert_eq!((read(&log, &orders, 0), read(&log, &orders, 1)), (vec!["0 a=0".to_owned()], vec![]));
    println!("held");
}

/// What is behind a hole is not there: whoever wrote it had read what is missing. The cut is where a transaction ends, so the file itself
/// does not tell that it was longer.
#[test]
fn a_write_ahead_log_whose_predecessor_lost_its_end_is_not_read() {
    let mut opened = 0;
    for lost in 1..=6 {
        let dir = tempfile::tempdir().unwrap();
        let (mut process, lines) = child::start("log::embedded::ahead::child_that_dies_at_a_new_file", dir.path(), "");
        let lines: Vec<_> = lines.map_while(Result::ok).collect();
        assert!(!process.wait().unwrap().success(), "{}", lines.join("\n"));
        let ends: Vec<u64> = lines.iter().filter_map(|line| line.split("ends at ").nth(1)?.parse().ok()).collect();
        let files: Vec<_> = power::lengths(dir.path()).into_iter().collect();
        let [.., (older, length), (_, newer)] = &files[..] else { panic!("the child has two: {files:?}") };
        assert!(ends.last() == Some(length) && *newer > 0, "{length} and {newer} bytes, {ends:?}");
        let file = std::fs::File::options().write(true).open(dir.path().join("db").join(older)).unwrap();
        file.set_len(ends[ends.len() - 1 - lost]).unwrap();
        drop(file);
        let options = Options { write_buffer_bytes: 64 << 10, ..ManualClock::at(0).options() };
        match EmbeddedLog::open(dir.path(), options) {
            Ok(log) => {
                let events = topic(&log, "events", 1);
                assert_eq!(read(&log, &events, 0).len(), ends.len() - lost, "up to the cut, and nothing beyond");
                opened += 1;
            }
            // It had been synced already, so losing it is damage.
            Err(error) => assert!(matches!(error, Error::Damaged { .. }), "{error}"),
        }
    }
    println!("{opened} of 6 could be opened");
}

#[test]
#[ignore = "runs in the child process of a_write_ahead_log_whose_predecessor_lost_its_end_is_not_read"]
fn child_that_dies_at_a_new_file() {
    let Some(dir) = child::dir() else { return };
    let options = Options { write_buffer_bytes: 64 << 10, ..ManualClock::at(0).options() };
    let log = EmbeddedLog::open(Path::new(&dir), options).unwrap();
    let events = topic(&log, "events", 1);
    let _gate = power::hold_syncs();
    let mut member = join(&log, &events);
    let before = power::lengths(Path::new(&dir)).len();
    let value = "x".repeat(1_000);
    for number in 0..10_000 {
        member.commit(appending(&events, 0, &[(&number.to_string(), &value)])).unwrap();
        let files = power::lengths(Path::new(&dir));
        if files.len() > before {
            std::process::abort();
        }
        println!("\nends at {}", files.values().last().unwrap());
    }
    println!("no second file after 10 MB");
}
