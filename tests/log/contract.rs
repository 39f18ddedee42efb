//! What every log must do, whatever its home. Each check gets a fresh log without topics.

use crate::log::support::{self as s, SOON, append, appending, put, read, read_from, topic, with_offset};
use millstream::log::{Bounds, Cleanup, Error, Log, RecordBatch, Transaction};
use millstream::{Headers, Offset, Partition, Timestamp};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

type Check = fn(Arc<dyn Log>);

/// All checks by name. A home of the log runs each on a log of its own.
pub const CHECKS: &[(&str, Check)] = &[
    ("topics are made once", topics_are_made_once),
    ("topics that can't be are refused", impossible_topics_are_refused),
    ("records are read as written", records_are_read_as_written),
    ("a transaction spans partitions", a_transaction_spans_partitions),
    ("offsets and records are one", offsets_and_records_are_one),
    ("groups do not share offsets", groups_do_not_share_offsets),
    ("fetch respects bounds", fetch_respects_bounds),
    ("fetch reads in pieces", fetch_reads_in_pieces),
    ("nothing is appended by a refused transaction", refused_transactions_append_nothing),
    ("a thread's transactions keep their order", transactions_of_a_thread_keep_their_order),
    ("writers do not mix", writers_do_not_mix),
    ("a commit wakes who waits", a_commit_wakes_who_waits),
    ("an outcome can be awaited", an_outcome_can_be_awaited),
    ("trim moves the start", trim_moves_the_start),
];

fn topics_are_made_once(log: Arc<dyn Log>) {
    let spec = s::spec("orders", 3, Cleanup::Compact { delete_retention_ms: 5 });
    let made = log.create_topic(&spec).unwrap();
    assert_eq!((&*made.name, made.partitions, made.cleanup), ("orders", 3, spec.cleanup));
    assert_eq!(log.create_topic(&spec).unwrap(), made);
    assert_eq!(log.topic("orders").unwrap(), Some(made.clone()));
    assert_eq!(log.topic("order").unwrap(), None);

    let other = topic(&*log, "payments", 1);
    assert_ne!((other.id, other.uuid), (made.id, made.uuid));
    assert_eq!(log.topics().unwrap(), [made.clone(), other]);

    let wider = log.create_topic(&s::spec("orders", 4, spec.cleanup)).unwrap_err();
    assert!(matches!(wider, Error::TopicDiffers { .. }), "{wider}");
    assert_eq!(
        wider.to_string(),
        "topic orders exists with 3 partitions and cleanup by compact and not with 4 partitions and cleanup by compact"
    );
    let deleting = log.create_topic(&s::spec("orders", 3, Cleanup::KEEP)).unwrap_err();
    assert!(matches!(deleting, Error::TopicDiffers { .. }), "{deleting}");

    let longer = Cleanup::Compact { delete_retention_ms: 50 };
    assert_eq!(log.create_topic(&s::spec("orders", 3, longer)).unwrap().cleanup, longer);
    assert_eq!(log.topic("orders").unwrap().unwrap().cleanup, longer);
}

fn impossible_topics_are_refused(log: Arc<dyn Log>) {
    for (name, partitions) in [("", 1), ("a/b", 1), ("..", 1), ("é", 1), ("no-partitions", 0), (&*"x".repeat(250), 1)] {
        let error = log.create_topic(&s::spec(name, partitions, Cleanup::KEEP)).unwrap_err();
        assert!(matches!(error, Error::InvalidTopic { .. }), "{name}: {error}");
    }
    assert_eq!(log.topics().unwrap(), []);
}

fn records_are_read_as_written(log: Arc<dyn Log>) {
    let orders = topic(&*log, "orders", 2);
    let headers = Headers::EMPTY.with("id", "7").with("id", "8").with("empty", "");
    let mut batch = RecordBatch::new();
    batch.push(Timestamp(1_700_000_000_000), Some(b"k"), Some(b"v"), &headers);
    batch.push(Timestamp(0), None, Some(b""), &Headers::EMPTY);
    batch.push(Timestamp(i64::MAX), Some(b""), None, &Headers::EMPTY);
    let appends = vec![millstream::log::Append { topic: orders.id, partition: Partition(1), batch }];
    assert_eq!(s::only(log.commit(Transaction { appends, ..Transaction::default() }).wait()), 0);

    let fetched = log.fetch(orders.id, Partition(1), Offset(0), 1 << 20).unwrap();
    assert_eq!((fetched.next, fetched.end), (Offset(3), Offset(3)));
    let records: Vec<_> = fetched.batches.iter().flat_map(|batch| batch.records()).collect();
    let found: Vec<_> = records.iter().map(|r| (r.offset.0, r.timestamp.0, r.key, r.value)).collect();
    assert_eq!(found[0], (0, 1_700_000_000_000, Some(&b"k"[..]), Some(&b"v"[..])));
    assert_eq!(found[1], (1, 0, None, Some(&b""[..])));
    assert_eq!(found[2], (2, i64::MAX, Some(&b""[..]), None));
    assert_eq!(records[0].headers.to_headers(), headers);
    assert_eq!(records[0].headers.get("id"), Some(&b"8"[..]));
    assert!(records[1].headers.is_empty());
    assert_eq!(read(&*log, &orders, 0), [""; 0]);
}

fn a_transaction_spans_partitions(log: Arc<dyn Log>) {
    let (orders, stock) = (topic(&*log, "orders", 2), topic(&*log, "stock", 1));
    put(&*log, &stock, 0, &[("s", "0")]);
    let appends = vec![
        append(&orders, 0, &[("a", "1"), ("b", "2")]),
        append(&stock, 0, &[("c", "3")]),
        append(&orders, 1, &[]),
        append(&orders, 0, &[("d", "4")]),
    ];
    let committed = log.commit(Transaction { appends, ..Transaction::default() }).wait().unwrap();
    assert_eq!(committed.base_offsets, [Offset(0), Offset(1), Offset(0), Offset(2)]);
    assert_eq!(read(&*log, &orders, 0), ["0 a=1", "1 b=2", "2 d=4"]);
    assert_eq!(read(&*log, &orders, 1), [""; 0]);
    assert_eq!(read(&*log, &stock, 0), ["0 s=0", "1 c=3"]);
    assert_eq!(log.commit(Transaction::default()).wait().unwrap().base_offsets, []);
}

fn offsets_and_records_are_one(log: Arc<dyn Log>) {
    let (input, output) = (topic(&*log, "input", 2), topic(&*log, "output", 1));
    assert_eq!(log.offsets("app").unwrap(), []);
    log.commit(with_offset(appending(&output, 0, &[("a", "1")]), "app", &input, 1, 7)).wait().unwrap();
    log.commit(with_offset(Transaction::default(), "app", &input, 0, 3)).wait().unwrap();
    let offsets = [(input.id, Partition(0), Offset(3)), (input.id, Partition(1), Offset(7))];
    assert_eq!(log.offsets("app").unwrap(), offsets);

    let refused = with_offset(appending(&output, 9, &[("b", "2")]), "app", &input, 1, 8);
    log.commit(refused).wait().unwrap_err();
    assert_eq!(log.offsets("app").unwrap(), offsets);
    assert_eq!(read(&*log, &output, 0), ["0 a=1"]);
}

fn groups_do_not_share_offsets(log: Arc<dyn Log>) {
    let input = topic(&*log, "input", 1);
    for (group, offset) in [("a", 1), ("ab", 2), ("b", 3)] {
        log.commit(with_offset(Transaction::default(), group, &input, 0, offset)).wait().unwrap();
    }
    for (group, offset) in [("a", 1), ("ab", 2), ("b", 3)] {
        assert_eq!(log.offsets(group).unwrap(), [(input.id, Partition(0), Offset(offset))]);
    }
    let nameless = with_offset(Transaction::default(), "", &input, 0, 1);
    assert!(matches!(log.commit(nameless).wait(), Err(Error::InvalidGroup { .. })));
}

fn fetch_respects_bounds(log: Arc<dyn Log>) {
    let orders = topic(&*log, "orders", 1);
    let empty = log.fetch(orders.id, Partition(0), Offset(0), 100).unwrap();
    assert_eq!((empty.batches.len(), empty.next, empty.end), (0, Offset(0), Offset(0)));
    put(&*log, &orders, 0, &[("a", "1"), ("b", "2"), ("c", "3")]);
    assert_eq!(log.bounds(orders.id, Partition(0)).unwrap(), Bounds { start: Offset(0), end: Offset(3) });
    assert_eq!(read_from(&*log, &orders, 0, 1, 1).unwrap(), ["1 b=2", "2 c=3"]);
    assert_eq!(read_from(&*log, &orders, 0, 3, 1).unwrap(), [""; 0]);

    let beyond = read_from(&*log, &orders, 0, 4, 1).unwrap_err();
    assert_eq!(beyond.to_string(), "offset 4 of orders-0 is outside of what is kept, 0 to 3");
    let nowhere = log.fetch(orders.id, Partition(1), Offset(0), 1).unwrap_err();
    assert_eq!(nowhere.to_string(), "topic orders has 1 partitions and no partition 1");
    let unknown = millstream::log::TopicId(77);
    assert!(matches!(log.fetch(unknown, Partition(0), Offset(0), 1), Err(Error::UnknownTopic { .. })));
    assert!(matches!(log.bounds(unknown, Partition(0)), Err(Error::UnknownTopic { .. })));
}

fn fetch_reads_in_pieces(log: Arc<dyn Log>) {
    let orders = topic(&*log, "orders", 1);
    let value = "x".repeat(1000);
    for i in 0..50 {
        put(&*log, &orders, 0, &[(&i.to_string(), &value)]);
    }
    let fetched = log.fetch(orders.id, Partition(0), Offset(10), 5_000).unwrap();
    assert!((10..=16).contains(&fetched.next.0), "{:?}", fetched.next);
    let all = read_from(&*log, &orders, 0, 0, usize::MAX).unwrap();
    assert_eq!(all.len(), 50);
    assert_eq!(read_from(&*log, &orders, 0, 0, 0).unwrap(), all);
    assert_eq!(read_from(&*log, &orders, 0, 0, 3_000).unwrap(), all);
}

fn refused_transactions_append_nothing(log: Arc<dyn Log>) {
    let orders = topic(&*log, "orders", 1);
    let table = log.create_topic(&s::spec("table", 1, Cleanup::Compact { delete_retention_ms: 5 })).unwrap();
    let max = log.limits().max_record_bytes;
    let value = vec![b'x'; max];
    let unknown = millstream::log::TopicInfo { id: millstream::log::TopicId(9), ..orders.clone() };
    // Where, what, and what is said of it; the check of one record says the same.
    type Case<'a> = (&'a millstream::log::TopicInfo, u32, i64, Option<&'a [u8]>, &'a [u8], Headers, Option<&'a str>);
    let cases: [Case<'_>; 8] = [
        (&orders, 0, 0, None, b"fine", Headers::EMPTY, None),
        (&orders, 0, 0, None, &value, Headers::EMPTY, None),
        (&orders, 1, 0, None, b"v", Headers::EMPTY, Some("no partition 1")),
        (&orders, 0, -1, None, b"v", Headers::EMPTY, Some("negative timestamp -1")),
        (&orders, 0, 0, Some(b"k"), &value, Headers::EMPTY, Some("is larger than the 1048576 allowed")),
        (&orders, 0, 0, None, &value, Headers::EMPTY.with("h", ""), Some("is larger than the 1048576 allowed")),
        (&table, 0, 0, None, b"v", Headers::EMPTY, Some("compacted topic table has no key")),
        (&unknown, 0, 0, None, b"v", Headers::EMPTY, Some("topic number 9 does not exist")),
    ];
    let mut accepted = 0;
    for (topic, partition, timestamp, key, value, headers, refusal) in cases {
        let mut refused = RecordBatch::new();
        refused.push(Timestamp(timestamp), key, Some(value), &headers);
        let append = millstream::log::Append { topic: topic.id, partition: Partition(partition), batch: refused };
        let appends = vec![s::append(&orders, 0, &[("before", "1")]), append];
        let outcome = log.commit(Transaction { appends, ..Transaction::default() }).wait();
        let checked = log.limits().check(topic, Partition(partition), Timestamp(timestamp), key, Some(value), &headers);
        match refusal {
            None => {
                accepted += 2;
                outcome.unwrap();
                checked.unwrap();
            }
            Some(reason) => {
                let error = outcome.unwrap_err();
                assert!(error.to_string().contains(reason), "{error}");
                assert!(!error.is_retriable() && !error.is_fatal() && !error.is_outcome_unknown());
                assert!(topic.id == unknown.id || checked == Err(error), "the check of one record says the same");
            }
        }
    }
    assert_eq!(log.bounds(orders.id, Partition(0)).unwrap().end, Offset(accepted));
    assert_eq!(log.bounds(table.id, Partition(0)).unwrap().end, Offset(0));
}

fn transactions_of_a_thread_keep_their_order(log: Arc<dyn Log>) {
    let orders = topic(&*log, "orders", 1);
    let pending: Vec<_> = (0..500).map(|i| log.commit(appending(&orders, 0, &[("k", &i.to_string())]))).collect();
    for (i, pending) in pending.into_iter().enumerate() {
        assert_eq!(s::only(pending.wait()), i as u64);
    }
    let expected: Vec<_> = (0..500).map(|i| format!("{i} k={i}")).collect();
    assert_eq!(read(&*log, &orders, 0), expected);
}

fn writers_do_not_mix(log: Arc<dyn Log>) {
    let orders = topic(&*log, "orders", 2);
    std::thread::scope(|scope| {
        for writer in ["a", "b", "c", "d"] {
            let (log, orders) = (&log, &orders);
            scope.spawn(move || {
                for i in 0..50 {
                    let (first, second) = (format!("{i}.1"), format!("{i}.2"));
                    let appends =
                        vec![append(orders, 0, &[(writer, &first), (writer, &second)]), append(orders, 1, &[(writer, &first)])];
                    let committed = log.commit(Transaction { appends, ..Transaction::default() }).wait().unwrap();
                    // What is acknowledged is readable at once.
                    let found = read_from(&**log, orders, 0, committed.base_offsets[0].0, 1).unwrap();
                    let at = committed.base_offsets[0].0;
                    assert_eq!(found[..2], [format!("{at} {writer}={first}"), format!("{} {writer}={second}", at + 1)]);
                }
            });
        }
    });
    assert_eq!(log.bounds(orders.id, Partition(0)).unwrap().end, Offset(400));
    for writer in ["a", "b", "c", "d"] {
        let of = |partition| -> Vec<_> {
            let all = read(&*log, &orders, partition);
            all.iter().filter_map(|r| r.split_once(' ')?.1.strip_prefix(writer)?.strip_prefix('=').map(str::to_owned)).collect()
        };
        assert_eq!(of(1), (0..50).map(|i| format!("{i}.1")).collect::<Vec<_>>());
        assert_eq!(of(0), (0..50).flat_map(|i| [format!("{i}.1"), format!("{i}.2")]).collect::<Vec<_>>());
    }
}

fn a_commit_wakes_who_waits(log: Arc<dyn Log>) {
    let orders = topic(&*log, "orders", 1);
    let seen = log.version();
    let (ready, begun) = (AtomicUsize::new(0), Instant::now());
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                ready.fetch_add(1, SeqCst);
                assert_ne!(log.wait(seen, SOON), seen);
                assert_eq!(read(&*log, &orders, 0), ["0 k=v"]);
            });
        }
        while ready.load(SeqCst) < 3 {
            std::thread::yield_now();
        }
        put(&*log, &orders, 0, &[("k", "v")]);
    });
    assert!(begun.elapsed() < SOON / 2, "woken, not timed out");

    let seen = log.version();
    assert_eq!(log.wait(seen, Duration::from_millis(5)), seen);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| log.wait(seen, SOON));
        log.wake();
        assert_ne!(waiting.join().unwrap(), seen);
    });
    assert!(begun.elapsed() < SOON / 2, "woken, not timed out");
}

fn an_outcome_can_be_awaited(log: Arc<dyn Log>) {
    let orders = topic(&*log, "orders", 1);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let pending: Vec<_> = (0..10).map(|_| log.commit(appending(&orders, 0, &[("k", "v")]))).collect();
        for (i, pending) in pending.into_iter().enumerate() {
            assert_eq!(s::only(pending.await), i as u64);
        }
        let refused = log.commit(appending(&orders, 1, &[("k", "v")])).await;
        assert!(matches!(refused, Err(Error::UnknownPartition { .. })));
    });
}

fn trim_moves_the_start(log: Arc<dyn Log>) {
    let orders = topic(&*log, "orders", 2);
    put(&*log, &orders, 0, &[("a", "0"), ("b", "1")]);
    put(&*log, &orders, 0, &[("c", "2"), ("d", "3")]);
    put(&*log, &orders, 1, &[("e", "0")]);
    let bounds = |partition| log.bounds(orders.id, Partition(partition)).map(|Bounds { start, end }| (start.0, end.0)).unwrap();

    log.trim(orders.id, Partition(0), Offset(3)).unwrap();
    assert_eq!(bounds(0), (3, 4));
    assert_eq!(read(&*log, &orders, 0), ["3 d=3"]);
    let below = read_from(&*log, &orders, 0, 2, 1).unwrap_err();
    assert_eq!(below.to_string(), "offset 2 of orders-0 is outside of what is kept, 3 to 4");

    log.trim(orders.id, Partition(0), Offset(1)).unwrap();
    assert_eq!(bounds(0), (3, 4), "a start never goes back");
    log.trim(orders.id, Partition(0), Offset(99)).unwrap();
    assert_eq!(bounds(0), (4, 4), "nor beyond the end");
    assert_eq!(read(&*log, &orders, 0), [""; 0]);
    assert_eq!(put(&*log, &orders, 0, &[("f", "4")]), 4, "offsets are not given twice");
    assert_eq!(read(&*log, &orders, 0), ["4 f=4"]);
    assert_eq!(read(&*log, &orders, 1), ["0 e=0"]);
}
