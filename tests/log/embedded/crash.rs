//! Killed at any moment: what was acknowledged is there, in order and once, and nothing is half there.
//!
//! A child appends from several threads and prints each acknowledgement; it is killed with SIGKILL after a random number of them
//! and started again on the same directory. Each thread numbers its transactions and goes on where the log says it was, first
//! repeating its last request, of which it does not know the outcome.

use super::child;
use crate::log::support::{Random, append, open, read, topic, with_offset, with_request};
use crate::power;
use millstream::log::{Error, Log, TopicInfo, Transaction};
use millstream::{Offset, Partition};
use std::collections::{HashMap, HashSet};
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;

const WRITERS: u64 = 4;
const ROUNDS: u64 = 12;

/// Offset in partition 0 of what the child said is in the log.
type Acknowledged = HashMap<u64, String>;

#[test]
fn what_was_acknowledged_survives_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let seed = std::env::var("SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(|| u64::from(std::process::id()));
    println!("SEED={seed}");
    let mut random = Random::new(seed);
    let mut acknowledged = Acknowledged::new();
    for _ in 0..ROUNDS {
        run_child(dir.path(), "", Some(1 + random.below(150)), &mut acknowledged);
    }
    check(&open(dir.path()), &acknowledged);
    println!("{} acknowledged", acknowledged.len());
}

#[test]
fn what_was_acknowledged_survives_a_crash_at_each_step_of_a_commit() {
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged = Acknowledged::new();
    for point in ["before-write", "after-write", "after-publish"] {
        for visit in [1, 2, 40] {
            run_child(dir.path(), &format!("log:commit:{point}:{visit}:abort"), None, &mut acknowledged);
            check(&open(dir.path()), &acknowledged);
        }
    }
}

/// The same where the machine dies: what was not synced goes with it, and is more than what nobody was told of.
#[test]
fn what_was_acknowledged_survives_a_power_cut() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let seed = std::env::var("SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(|| u64::from(std::process::id()));
    println!("SEED={seed}");
    let mut random = Random::new(seed);
    let mut acknowledged = Acknowledged::new();
    let mut gone = 0;
    for _ in 0..ROUNDS {
        run_child(&log, NOTE_SYNCS, Some(1 + random.below(150)), &mut acknowledged);
        gone += power::cut_off(&log).unwrap_or(0);
        check(&open(&log), &acknowledged);
    }
    println!("{} acknowledged, {gone} bytes cut off", acknowledged.len());
    assert!(gone > 0, "nothing was ever written and not synced");
}

/// In place of a fault: the child notes what its syncs make durable.
const NOTE_SYNCS: &str = "note:syncs:1:fail";

/// Lets a child append until it was heard to so often, or until it dies by itself.
fn run_child(dir: &Path, faults: &str, kill_after: Option<u64>, acknowledged: &mut Acknowledged) {
    let (mut process, lines) = child::start("log::embedded::crash::child_that_is_killed", dir, faults);
    let mut heard = 0;
    for line in lines {
        let Ok(line) = line else { break };
        let Some(ack) = line.strip_prefix("ack ") else { continue };
        let Some((offset, transaction)) = ack.strip_suffix(" .").and_then(|ack| ack.split_once(' ')) else { continue };
        let before = acknowledged.insert(offset.parse().unwrap(), transaction.to_owned());
        assert!(before.is_none_or(|before| before == transaction), "offset {offset} was given twice");
        heard += 1;
        if Some(heard) == kill_after {
            process.kill().unwrap();
        }
    }
    let status = process.wait().unwrap();
    assert!(status.signal().is_some(), "the child was to be killed, and ended with {status}");
}

/// What must hold of a log after crashes.
fn check(log: &dyn Log, acknowledged: &Acknowledged) {
    let events = topic(log, "events", 2);
    let first = transactions(log, &events, 0);
    for (offset, transaction) in acknowledged {
        assert_eq!(first.get(*offset as usize), Some(transaction), "offset {offset}");
    }
    // Both halves of each transaction, once.
    let mut next = HashMap::new();
    let mut halves: HashSet<_> = transactions(log, &events, 1).into_iter().collect();
    for transaction in &first {
        assert!(halves.remove(transaction), "{transaction} is half there or twice");
        let (writer, number) = transaction.split_once('=').unwrap();
        let expected = next.entry(writer.to_owned()).or_insert(0u64);
        assert_eq!(number.parse(), Ok(*expected), "transactions of writer {writer} without hole");
        *expected += 1;
    }
    assert_eq!(halves.len(), 0, "{halves:?}");
    for (writer, count) in next {
        assert_eq!(log.offsets(&writer).unwrap(), [(events.id, Partition(0), Offset(count))]);
    }
}

/// All records of a partition without their offsets, which must have no hole.
fn transactions(log: &dyn Log, events: &TopicInfo, partition: u32) -> Vec<String> {
    let records = read(log, events, partition);
    let without_offset = |(i, record): (usize, &String)| {
        let (offset, transaction) = record.split_once(' ').unwrap();
        assert_eq!(offset.parse(), Ok(i), "offsets without hole");
        transaction.to_owned()
    };
    records.iter().enumerate().map(without_offset).collect()
}

#[test]
#[ignore = "runs in the child process of what_was_acknowledged_survives_a_kill"]
fn child_that_is_killed() {
    let Some(dir) = child::dir() else { return };
    if std::env::var("MILLSTREAM_FAULT").as_deref() == Ok(NOTE_SYNCS) {
        power::note_syncs(dir.as_ref());
    }
    let log = open(dir.as_ref());
    let events = topic(&log, "events", 2);
    let known = transactions(&log, &events, 0);
    std::thread::scope(|scope| {
        for writer in (0..WRITERS).map(|writer| writer.to_string()) {
            let (log, events, known) = (&log, &events, &known);
            scope.spawn(move || {
                let done = known.iter().filter(|transaction| transaction.split_once('=').unwrap().0 == writer).count() as u64;
                for number in done.saturating_sub(1).. {
                    let text = number.to_string();
                    let appends = vec![append(events, 0, &[(&writer, &text)]), append(events, 1, &[(&writer, &text)])];
                    let transaction = Transaction { appends, ..Transaction::default() };
                    let key = format!("{writer}={number}");
                    let transaction = with_request(with_offset(transaction, &writer, events, 0, number + 1), &key, i64::MAX);
                    match log.commit(transaction).wait() {
                        Ok(committed) => {
                            assert!(number >= done, "{key} was there and is appended again");
                            let line = format!("ack {} {key} .\n", committed.base_offsets[0]);
                            std::io::stdout().write_all(line.as_bytes()).unwrap();
                        }
                        Err(error) => {
                            assert!(error == Error::RequestExists && number < done, "{key}: {error}");
                            assert_eq!(log.request(key.as_bytes()).unwrap().unwrap().positions.len(), 2);
                        }
                    }
                }
            });
        }
    });
}
