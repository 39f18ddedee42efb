//! Requests by key: carried out once, however often and from wherever they come.

use crate::log::support::{ManualClock, appending, open, read, topic, with_request};
use millstream::log::embedded::EmbeddedLog;
use millstream::log::{Error, Log, StoredRequest, Transaction};
use millstream::{Offset, Partition, Timestamp};

#[test]
fn a_request_is_carried_out_once() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    let orders = topic(&log, "orders", 1);
    let request = || with_request(appending(&orders, 0, &[("k", "v")]), "r", 2_000_000);
    assert_eq!(log.request(b"r").unwrap(), None);
    // All in one group or not: the second one never gets in.
    let outcomes: Vec<_> = [log.commit(request()), log.commit(request()), log.commit(request())].map(|p| p.wait()).into();
    assert_eq!(outcomes.iter().filter(|o| o.is_ok()).count(), 1);
    assert_eq!(outcomes.iter().filter(|o| **o == Err(Error::RequestExists)).count(), 2);
    assert_eq!(read(&log, &orders, 0), ["0 k=v"]);
    let stored = StoredRequest {
        fingerprint: [7; 32],
        answer: b"answer to r".to_vec(),
        expires_at: Timestamp(2_000_000),
        positions: vec![(orders.id, Partition(0), Offset(0))],
    };
    assert_eq!(log.request(b"r").unwrap(), Some(stored.clone()));
    assert_eq!(log.request(b"").unwrap(), None);

    drop(log);
    let log = open(dir.path());
    assert_eq!(log.request(b"r").unwrap(), Some(stored));
    assert_eq!(log.commit(request()).wait(), Err(Error::RequestExists));
}

#[test]
fn concurrent_requests_of_one_key_append_one_record() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    let orders = topic(&log, "orders", 1);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for i in 0..50 {
                    let key = format!("r{i}");
                    let outcome = log.commit(with_request(appending(&orders, 0, &[(&key, "v")]), &key, 2_000_000)).wait();
                    let stored = log.request(key.as_bytes()).unwrap().expect("whoever is answered finds the request");
                    match outcome {
                        Ok(committed) => assert_eq!(committed.base_offsets[0], stored.positions[0].2),
                        Err(error) => assert_eq!(error, Error::RequestExists),
                    }
                }
            });
        }
    });
    assert_eq!(log.bounds(orders.id, Partition(0)).unwrap().end, Offset(50));
}

#[test]
fn an_expired_request_is_forgotten_and_can_be_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let clock = ManualClock::at(1_000);
    let open = || EmbeddedLog::open(dir.path(), clock.options()).unwrap();
    let log = open();
    let request = |key, expires_at| with_request(Transaction::default(), key, expires_at);
    for (key, expires_at) in [("a", 1_500), ("b", 1_501), ("c", 9_000)] {
        log.commit(request(key, expires_at)).wait().unwrap();
    }
    clock.advance_ms(499);
    log.maintain().unwrap();
    assert!(log.request(b"a").unwrap().is_some());
    clock.advance_ms(1);
    assert_eq!(log.request(b"a").unwrap(), None, "expired, even if not swept yet");
    log.commit(request("a", 5_000)).wait().unwrap();
    log.maintain().unwrap();
    assert!(log.request(b"a").unwrap().is_some(), "its old expiry does not take the new row");

    drop(log);
    let log = open();
    clock.advance_ms(4_000);
    log.maintain().unwrap();
    for (key, kept) in [("a", false), ("b", false), ("c", true)] {
        assert_eq!(log.request(key.as_bytes()).unwrap().is_some(), kept, "{key}");
    }
    // Swept rows are gone, not only hidden: with the clock set back they stay away.
    clock.advance_ms(-4_400);
    assert_eq!(log.request(b"a").unwrap(), None);
    assert!(log.request(b"c").unwrap().is_some());
}
