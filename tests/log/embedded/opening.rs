//! What is found when a log is opened: what was there, or one sentence why not.

use crate::log::support::{ManualClock, append, open, put, read, topic, with_offset, with_request};
use millstream::log::Health;
use millstream::log::embedded::EmbeddedLog;
use millstream::log::{Error, Log, Transaction};
use millstream::{Offset, Partition};
use std::path::Path;

#[test]
fn everything_is_there_again() {
    let dir = tempfile::tempdir().unwrap();
    let (orders, stock) = {
        let log = open(dir.path());
        let (orders, stock) = (topic(&log, "orders", 2), topic(&log, "stock", 1));
        put(&log, &orders, 0, &[("a", "0"), ("b", "1")]);
        let appends = vec![append(&orders, 0, &[("c", "2")]), append(&stock, 0, &[("d", "0")])];
        let transaction = Transaction { appends, ..Transaction::default() };
        log.commit(with_request(with_offset(transaction, "app", &orders, 0, 2), "r", i64::MAX)).wait().unwrap();
        log.trim(orders.id, Partition(0), Offset(1)).unwrap();
        (orders, stock)
    };
    let log = open(dir.path());
    assert_eq!(log.health(), Health::Up);
    assert_eq!(log.topics().unwrap(), [orders.clone(), stock.clone()]);
    assert_eq!(read(&log, &orders, 0), ["1 b=1", "2 c=2"]);
    assert_eq!(read(&log, &stock, 0), ["0 d=0"]);
    assert_eq!(log.offsets("app").unwrap(), [(orders.id, Partition(0), Offset(2))]);
    let positions = log.request(b"r").unwrap().unwrap().positions;
    assert_eq!(positions, [(orders.id, Partition(0), Offset(2)), (stock.id, Partition(0), Offset(0))]);
    assert_eq!(put(&log, &orders, 0, &[("e", "3")]), 3);
    assert_eq!(put(&log, &orders, 1, &[("f", "0")]), 0);
}

#[test]
fn what_waits_is_committed_before_closing() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    let orders = topic(&log, "orders", 1);
    let pending: Vec<_> = (0..100)
        .map(|_| log.commit(Transaction { appends: vec![append(&orders, 0, &[("k", "v")])], ..Transaction::default() }))
        .collect();
    drop(log);
    assert!(pending.into_iter().all(|pending| pending.wait().is_ok()));
    assert_eq!(read(&open(dir.path()), &orders, 0).len(), 100);
}

fn check_refused(dir: &Path, expected: impl Fn(&Error) -> bool) {
    let error = EmbeddedLog::open(dir, ManualClock::at(0).options()).unwrap_err();
    let text = error.to_string();
    assert!(expected(&error), "{error:?}");
    assert!(text.contains(&dir.display().to_string()), "{text} names the directory");
    assert!(text.starts_with(char::is_lowercase) && !text.ends_with('.') && !text.contains('\n'), "{text}");
}

#[test]
fn a_locked_directory_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let _first = open(dir.path());
    check_refused(dir.path(), |e| matches!(e, Error::Locked { .. }));
}

#[test]
fn what_is_not_a_log_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("photo.jpg"), "x").unwrap();
    check_refused(dir.path(), |e| matches!(e, Error::NotALog { .. }));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    check_refused(&dir.path().join("photo.jpg"), |e| matches!(e, Error::NotALog { .. }));

    let other = tempfile::tempdir().unwrap();
    std::fs::write(other.path().join("LOG-FORMAT"), "millstream log 99\n").unwrap();
    check_refused(other.path(), |e| matches!(e, Error::NotALog { .. }));
}

#[test]
fn a_database_that_is_gone_is_damage_and_not_a_new_log() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    std::fs::remove_dir_all(dir.path().join("db")).unwrap();
    check_refused(dir.path(), |e| matches!(e, Error::Damaged { .. }));
}

#[test]
fn a_damaged_file_is_told() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    std::fs::write(dir.path().join("db").join("CURRENT"), "nonsense").unwrap();
    check_refused(dir.path(), |e| matches!(e, Error::Damaged { .. }));
}

#[test]
fn a_damaged_batch_is_told_to_who_reads_it() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    let orders = topic(&log, "orders", 1);
    let value: String = (0..20_000u32).map(|i| char::from(b'a' + (i.wrapping_mul(2_654_435_761) >> 27) as u8 % 26)).collect();
    put(&log, &orders, 0, &[("k", &value)]);
    drop(log);
    // Opening moves what the write-ahead log holds into files.
    drop(open(dir.path()));
    let files = std::fs::read_dir(dir.path().join("db")).unwrap().map(|entry| entry.unwrap().path());
    let blobs: Vec<_> = files.filter(|path| path.extension().is_some_and(|extension| extension == "blob")).collect();
    assert_eq!(blobs.len(), 1);
    let mut bytes = std::fs::read(&blobs[0]).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&blobs[0], bytes).unwrap();

    let log = open(dir.path());
    let error = log.fetch(orders.id, Partition(0), Offset(0), 1).unwrap_err();
    assert!(matches!(error, Error::Damaged { .. }) && error.is_fatal(), "{error}");
}

#[test]
fn a_log_whose_making_was_interrupted_is_made() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("LOG-FORMAT"), "").unwrap();
    std::fs::create_dir(dir.path().join("db")).unwrap();
    let log = open(dir.path());
    put(&log, &topic(&log, "orders", 1), 0, &[("k", "v")]);
}
