//! A disk that takes no more: nobody is lied to, nothing is lost, and the log goes on by itself when there is space again.
//! The failures are real ones of real writes: the child may not write files beyond a size (`RLIMIT_FSIZE`), and on request the
//! disk is really full.

use super::child;
use crate::log::support::{ManualClock, put, read, topic, wait_until_up};
use millstream::log::Health;
use millstream::log::embedded::{EmbeddedLog, Options};
use millstream::log::{Append, Error, Log, RecordBatch, TopicInfo, Transaction};
use millstream::{Headers, Offset, Partition, Timestamp};
use std::path::Path;

#[test]
fn a_disk_that_takes_no_more_is_survived() {
    let dir = tempfile::tempdir().unwrap();
    let (mut process, lines) = child::start("log::embedded::disk::child_with_little_disk", dir.path(), "");
    let lines: Vec<_> = lines.map_while(Result::ok).collect();
    assert!(process.wait().unwrap().success(), "{}", lines.join("\n"));
    assert!(lines.iter().any(|line| line.contains("survived")), "{}", lines.join("\n"));
}

#[test]
#[ignore = "runs in the child process of a_disk_that_takes_no_more_is_survived"]
fn child_with_little_disk() {
    let Some(dir) = child::dir() else { return };
    fill_and_go_on(dir.as_ref(), || limit_files(Some(300_000)), || limit_files(None));
}

/// `FULL_DISK=/mnt/small cargo test --release -- --ignored a_full_disk` on a file system of some 100 MB.
#[test]
#[ignore = "needs FULL_DISK to name a directory on a small file system"]
fn a_full_disk_is_survived() {
    let dir = std::env::var_os("FULL_DISK").expect("FULL_DISK names a directory on a small file system");
    let ballast = Path::new(&dir).join("ballast");
    let fill = || {
        let mut file = std::fs::File::create(&ballast).unwrap();
        while std::io::Write::write_all(&mut file, &[7; 4096]).is_ok() {}
    };
    let log = Path::new(&dir).join("log");
    fill_and_go_on(&log, fill, || std::fs::remove_file(&ballast).unwrap());
}

/// Appends until the disk takes no more, and goes on when it does again.
fn fill_and_go_on(dir: &Path, fill: impl Fn(), free: impl Fn()) {
    let options = || Options { write_buffer_bytes: 1 << 20, ..ManualClock::at(0).options() };
    let log = EmbeddedLog::open(dir, options()).unwrap();
    let events = topic(&log, "events", 1);
    // By offset, what is known of it: acknowledged, or of unknown outcome.
    let mut acknowledged = vec![put(&log, &events, 0, &[("-1", "x")])];
    let mut unknown = Vec::new();
    for round in 0..3 {
        fill();
        let mut number = round * 1_000;
        let error = loop {
            number += 1;
            match append_large(&log, &events, number) {
                Ok(offset) => acknowledged.push(offset),
                Err(error) => break error,
            }
        };
        assert!(error.is_outcome_unknown() && !error.is_retriable(), "{error}");
        unknown.push(number);
        // From now on it says so before anything is tried.
        let refused = append_large(&log, &events, number + 1).unwrap_err();
        assert!(matches!(refused, Error::Unavailable { .. }) && refused.is_retriable(), "{refused}");
        assert!(matches!(log.health(), Health::Repairing { .. }));
        free();
        wait_until_up(&log);
        // All that was acknowledged can be read, and what can be read stays.
        check_kept(&log, &events, &acknowledged, &unknown);
    }
    let records = read(&log, &events, 0);
    drop(log);
    let log = EmbeddedLog::open(dir, options()).unwrap();
    assert_eq!(read(&log, &events, 0), records);
    println!("survived: {} acknowledged, {} unknown", acknowledged.len(), unknown.len());
}

fn append_large(log: &dyn Log, events: &TopicInfo, number: u64) -> Result<u64, Error> {
    let mut batch = RecordBatch::new();
    batch.push(Timestamp(0), Some(number.to_string().as_bytes()), Some(&[number as u8; 20_000]), &Headers::EMPTY);
    let appends = vec![Append { topic: events.id, partition: Partition(0), batch }];
    Ok(log.commit(Transaction { appends, ..Transaction::default() }).wait()?.base_offsets[0].0)
}

fn check_kept(log: &dyn Log, events: &TopicInfo, acknowledged: &[u64], unknown: &[u64]) {
    let records = read(log, events, 0);
    assert_eq!(log.bounds(events.id, Partition(0)).unwrap().end, Offset(records.len() as u64));
    let number = |record: &String| record.split_once(' ').unwrap().1.split_once('=').unwrap().0.to_owned();
    for offset in acknowledged {
        assert!(records[*offset as usize].starts_with(&format!("{offset} ")), "offset {offset} without hole");
    }
    let beyond = records.len() - acknowledged.len();
    let found = unknown.iter().filter(|n| records.iter().any(|record| number(record) == n.to_string())).count();
    assert_eq!(beyond, found, "nothing is there but what was acknowledged or of unknown outcome");
}

/// Lets no file of this process grow beyond so many bytes.
fn limit_files(bytes: Option<u64>) {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the limit is a valid place to write to and to read from, and ignoring a signal needs no handler.
    unsafe {
        assert_ne!(libc::signal(libc::SIGXFSZ, libc::SIG_IGN), libc::SIG_ERR);
        assert_eq!(libc::getrlimit(libc::RLIMIT_FSIZE, &mut limit), 0);
        limit.rlim_cur = bytes.unwrap_or(limit.rlim_max).min(limit.rlim_max);
        assert_eq!(libc::setrlimit(libc::RLIMIT_FSIZE, &limit), 0);
    }
}
