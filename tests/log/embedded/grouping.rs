//! Group commit: many transactions, few syncs.

use crate::log::support::{append, appending, open, read, topic, with_request};
use millstream::log::{Error, Log, Transaction};
use millstream::{Offset, Partition};

#[test]
fn concurrent_commits_share_syncs() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    let orders = topic(&log, "orders", 3);
    std::thread::scope(|scope| {
        for writer in 0..32u32 {
            let (log, orders) = (&log, &orders);
            scope.spawn(move || {
                // Queued before any is waited for: else a machine that runs one thread at a time would have nothing to share.
                let commit = |i: u32| log.commit(appending(orders, writer % 3, &[("k", &i.to_string())]));
                let pending: Vec<_> = (0..50).map(commit).collect();
                for pending in pending {
                    pending.wait().unwrap();
                }
            });
        }
    });
    let stats = log.stats();
    assert_eq!((stats.transactions, stats.records), (1_600, 1_600));
    assert!(stats.writes <= 1_600 && stats.syncs <= 400, "{stats:?}");
    let fetched = log.fetch(orders.id, Partition(0), Offset(0), usize::MAX).unwrap();
    assert!(fetched.batches.len() as u64 <= stats.writes, "one batch per partition and write");
}

#[test]
fn one_write_holds_what_waits_and_each_hears_its_own_outcome() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    let orders = topic(&log, "orders", 2);
    let fine = |value: &str| appending(&orders, 0, &[("k", value)]);
    let pending = vec![
        log.commit(fine("0")),
        log.commit(with_request(fine("1"), "r", i64::MAX)),
        log.commit(with_request(fine("never"), "r", i64::MAX)),
        log.commit(appending(&orders, 2, &[("k", "never")])),
        log.commit(Transaction {
            appends: vec![append(&orders, 1, &[("k", "0")]), append(&orders, 0, &[("k", "2")])],
            ..Transaction::default()
        }),
    ];
    let outcomes: Vec<_> = pending.into_iter().map(|pending| pending.wait().map(|c| c.base_offsets)).collect();
    assert_eq!(outcomes[0], Ok(vec![Offset(0)]));
    assert_eq!(outcomes[1], Ok(vec![Offset(1)]));
    assert_eq!(outcomes[2], Err(Error::RequestExists));
    assert!(matches!(outcomes[3], Err(Error::UnknownPartition { .. })));
    assert_eq!(outcomes[4], Ok(vec![Offset(0), Offset(2)]));
    assert_eq!(read(&log, &orders, 0), ["0 k=0", "1 k=1", "2 k=2"]);
}

#[test]
fn too_much_waiting_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = crate::log::support::ManualClock::at(0).options();
    options.max_queued_bytes = 1_000;
    let log = millstream::log::EmbeddedLog::open(dir.path(), options).unwrap();
    let orders = topic(&log, "orders", 1);
    let value = "x".repeat(900);
    let outcomes: Vec<_> = (0..200).map(|_| log.commit(appending(&orders, 0, &[("k", &value)]))).collect();
    let outcomes: Vec<_> = outcomes.into_iter().map(|pending| pending.wait()).collect();
    let refused = outcomes.iter().filter(|o| matches!(o, Err(e @ Error::Busy { .. }) if e.is_retriable())).count();
    assert!(refused > 0, "200 at once do not fit");
    assert_eq!(log.bounds(orders.id, Partition(0)).unwrap().end.0 as usize, 200 - refused, "refused is not appended");
    let large = "x".repeat(5_000);
    log.commit(appending(&orders, 0, &[("k", &large)])).wait().expect("one alone is never too much");
}
