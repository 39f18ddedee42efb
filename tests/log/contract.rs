//! What every log must do, whatever its home. Each check gets a log and a beginning for its names under which nothing exists yet.
//! Offsets grow, but not always by one: on Kafka the end of a transaction takes one too.

use crate::log::support::{self as s, SOON, append, appending, contents, put, read, read_from, with_offset};
use millstream::log::{Bounds, Cleanup, Error, Log, RecordBatch, TopicId, TopicInfo, TopicSpec, Transaction};
use millstream::{Headers, Offset, Partition, Timestamp};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

type Check = fn(&Home);

/// Where a check runs.
pub struct Home {
    pub log: Arc<dyn Log>,
    /// What all names of topics and groups of the check begin with.
    pub prefix: String,
}

impl Home {
    fn name(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    fn spec(&self, name: &str, partitions: u32, cleanup: Cleanup) -> TopicSpec {
        s::spec(&self.name(name), partitions, cleanup)
    }

    /// A topic that keeps everything.
    fn topic(&self, name: &str, partitions: u32) -> TopicInfo {
        self.log.create_topic(&self.spec(name, partitions, Cleanup::KEEP)).expect("the topic is made")
    }

    /// The topics of this check, by name.
    fn topics(&self) -> Vec<TopicInfo> {
        let mut topics = self.log.topics().expect("the log can be asked");
        topics.retain(|topic| topic.name.starts_with(&self.prefix));
        topics.sort_by(|a, b| a.name.cmp(&b.name));
        topics
    }
}

/// A number that no topic has.
const NOWHERE: TopicId = TopicId(77_777);

/// All checks by name. A home of the log runs each on a log of its own.
pub const CHECKS: &[(&str, Check)] = &[
    ("topics are made once", topics_are_made_once),
    ("topics are made together", topics_are_made_together),
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

fn topics_are_made_once(home: &Home) {
    let log = &*home.log;
    let spec = home.spec("orders", 3, Cleanup::Compact { delete_retention_ms: 5 });
    let made = log.create_topic(&spec).unwrap();
    assert_eq!((&*made.name, made.partitions, made.cleanup), (&*spec.name, 3, spec.cleanup));
    assert_eq!(log.create_topic(&spec).unwrap(), made);
    assert_eq!(log.topic(&spec.name).unwrap(), Some(made.clone()));
    assert_eq!(log.topic(&home.name("order")).unwrap(), None);
    assert_eq!(log.topic("no name/at all").unwrap(), None);

    let other = home.topic("payments", 1);
    assert_ne!((other.id, other.uuid), (made.id, made.uuid));
    assert_eq!(home.topics(), [made.clone(), other]);

    let wider = log.create_topic(&home.spec("orders", 4, spec.cleanup)).unwrap_err();
    assert!(matches!(wider, Error::TopicDiffers { .. }), "{wider}");
    assert_eq!(
        wider.to_string(),
        format!(
            "topic {} exists with 3 partitions and cleanup by compact and not with 4 partitions and cleanup by compact",
            spec.name
        )
    );
    let deleting = log.create_topic(&home.spec("orders", 3, Cleanup::KEEP)).unwrap_err();
    assert!(matches!(deleting, Error::TopicDiffers { .. }), "{deleting}");

    let longer = Cleanup::Compact { delete_retention_ms: 50 };
    assert_eq!(log.create_topic(&home.spec("orders", 3, longer)).unwrap().cleanup, longer);
    assert_eq!(log.topic(&spec.name).unwrap().unwrap().cleanup, longer);
}

fn topics_are_made_together(home: &Home) {
    let log = &*home.log;
    assert_eq!(log.create_topics(&[]).unwrap(), []);
    let there = home.topic("b", 2);
    let compacted = Cleanup::Compact { delete_retention_ms: 5 };
    let specs = [home.spec("c", 3, compacted), home.spec("b", 2, Cleanup::KEEP), home.spec("a", 1, Cleanup::KEEP)];
    let made = log.create_topics(&specs).unwrap();
    let is = |topic: &TopicInfo| (topic.name.to_string(), topic.partitions, topic.cleanup);
    let wanted = |spec: &TopicSpec| (spec.name.clone(), spec.partitions, spec.cleanup);
    assert_eq!(made.iter().map(is).collect::<Vec<_>>(), specs.iter().map(wanted).collect::<Vec<_>>());
    assert_eq!(made[1], there);
    assert_eq!(log.create_topics(&specs).unwrap(), made);
    assert_eq!(home.topics(), [made[2].clone(), there, made[0].clone()]);

    let wider = log.create_topics(&[home.spec("b", 3, Cleanup::KEEP), home.spec("d", 1, Cleanup::KEEP)]).unwrap_err();
    assert!(matches!(wider, Error::TopicDiffers { .. }), "{wider}");
    assert_eq!(home.topics().len(), 3);
}

fn impossible_topics_are_refused(home: &Home) {
    let log = &*home.log;
    for (name, partitions) in [("", 1), ("a/b", 1), ("..", 1), ("é", 1), ("no-partitions", 0), (&*"x".repeat(250), 1)] {
        let error = log.create_topic(&s::spec(name, partitions, Cleanup::KEEP)).unwrap_err();
        assert!(matches!(error, Error::InvalidTopic { .. }), "{name}: {error}");
    }
    assert_eq!(home.topics(), []);
}

fn records_are_read_as_written(home: &Home) {
    let log = &*home.log;
    let orders = home.topic("orders", 2);
    let headers = Headers::EMPTY.with("id", "7").with("id", "8").with("empty", "");
    let mut batch = RecordBatch::new();
    batch.push(Timestamp(1_700_000_000_000), Some(b"k"), Some(b"v"), &headers);
    batch.push(Timestamp(0), None, Some(b""), &Headers::EMPTY);
    batch.push(Timestamp(i64::MAX), Some(b""), None, &Headers::EMPTY);
    let appends = vec![millstream::log::Append { topic: orders.id, partition: Partition(1), batch }];
    assert_eq!(s::only(log.commit(Transaction { appends, ..Transaction::default() }).wait()), 0);

    let fetched = log.fetch(orders.id, Partition(1), Offset(0), 1 << 20).unwrap();
    assert_eq!(fetched.next, fetched.end);
    assert!(fetched.next >= Offset(3));
    let records: Vec<_> = fetched.batches.iter().flat_map(|batch| batch.records()).collect();
    let found: Vec<_> = records.iter().map(|r| (r.offset.0, r.timestamp.0, r.key, r.value)).collect();
    assert_eq!(found[0], (0, 1_700_000_000_000, Some(&b"k"[..]), Some(&b"v"[..])));
    assert_eq!(found[1], (1, 0, None, Some(&b""[..])));
    assert_eq!(found[2], (2, i64::MAX, Some(&b""[..]), None));
    assert_eq!(records[0].headers.to_headers(), headers);
    assert_eq!(records[0].headers.get("id"), Some(&b"8"[..]));
    assert!(records[1].headers.is_empty());
    assert_eq!(read(log, &orders, 0), [""; 0]);
}

fn a_transaction_spans_partitions(home: &Home) {
    let log = &*home.log;
    let (orders, stock) = (home.topic("orders", 2), home.topic("stock", 1));
    put(log, &stock, 0, &[("s", "0")]);
    let appends = vec![
        append(&orders, 0, &[("a", "1"), ("b", "2")]),
        append(&stock, 0, &[("c", "3")]),
        append(&orders, 1, &[]),
        append(&orders, 0, &[("d", "4")]),
    ];
    let committed = log.commit(Transaction { appends, ..Transaction::default() }).wait().unwrap();
    let [a, c, _, d] = committed.base_offsets[..] else { panic!("one offset an append: {committed:?}") };
    assert_eq!(read(log, &orders, 0), [format!("{a} a=1"), format!("{} b=2", a.0 + 1), format!("{d} d=4")]);
    assert_eq!(read(log, &orders, 1), [""; 0]);
    assert_eq!(read(log, &stock, 0), ["0 s=0".into(), format!("{c} c=3")]);
    assert_eq!(log.commit(Transaction::default()).wait().unwrap().base_offsets, []);
}

fn offsets_and_records_are_one(home: &Home) {
    let log = &*home.log;
    let (input, output, app) = (home.topic("input", 2), home.topic("output", 1), home.name("app"));
    assert_eq!(log.offsets(&app).unwrap(), []);
    log.commit(with_offset(appending(&output, 0, &[("a", "1")]), &app, &input, 1, 7)).wait().unwrap();
    log.commit(with_offset(Transaction::default(), &app, &input, 0, 3)).wait().unwrap();
    let offsets = [(input.id, Partition(0), Offset(3)), (input.id, Partition(1), Offset(7))];
    assert_eq!(log.offsets(&app).unwrap(), offsets);

    let refused = with_offset(appending(&output, 9, &[("b", "2")]), &app, &input, 1, 8);
    log.commit(refused).wait().unwrap_err();
    assert_eq!(log.offsets(&app).unwrap(), offsets);
    assert_eq!(read(log, &output, 0), ["0 a=1"]);
}

fn groups_do_not_share_offsets(home: &Home) {
    let log = &*home.log;
    let input = home.topic("input", 1);
    for (group, offset) in [("a", 1), ("ab", 2), ("b", 3)] {
        log.commit(with_offset(Transaction::default(), &home.name(group), &input, 0, offset)).wait().unwrap();
    }
    for (group, offset) in [("a", 1), ("ab", 2), ("b", 3)] {
        assert_eq!(log.offsets(&home.name(group)).unwrap(), [(input.id, Partition(0), Offset(offset))]);
    }
    let nameless = with_offset(Transaction::default(), "", &input, 0, 1);
    assert!(matches!(log.commit(nameless).wait(), Err(Error::InvalidGroup { .. })));
}

fn fetch_respects_bounds(home: &Home) {
    let log = &*home.log;
    let orders = home.topic("orders", 1);
    let empty = log.fetch(orders.id, Partition(0), Offset(0), 100).unwrap();
    assert_eq!((empty.batches.len(), empty.next, empty.end), (0, Offset(0), Offset(0)));
    put(log, &orders, 0, &[("a", "1"), ("b", "2"), ("c", "3")]);
    let Bounds { start, end } = log.bounds(orders.id, Partition(0)).unwrap();
    assert!(start == Offset(0) && end >= Offset(3), "{start} to {end}");
    assert_eq!(log.open_ends(&[(orders.id, Partition(0))]).unwrap(), [end]);
    assert_eq!(read_from(log, &orders, 0, 1, 1).unwrap(), ["1 b=2", "2 c=3"]);
    assert_eq!(read_from(log, &orders, 0, end.0, 1).unwrap(), [""; 0]);

    let beyond = read_from(log, &orders, 0, end.0 + 1, 1).unwrap_err();
    let (orders_name, after) = (&orders.name, end.0 + 1);
    assert_eq!(beyond.to_string(), format!("offset {after} of {orders_name}-0 is outside of what is kept, 0 to {end}"));
    let nowhere = log.fetch(orders.id, Partition(1), Offset(0), 1).unwrap_err();
    assert_eq!(nowhere.to_string(), format!("topic {orders_name} has 1 partitions and no partition 1"));
    assert!(matches!(log.fetch(NOWHERE, Partition(0), Offset(0), 1), Err(Error::UnknownTopic { .. })));

    assert_eq!(log.owned_end(orders.id, Partition(0)).unwrap().end, end);
    put(log, &orders, 0, &[("d", "4")]);
    let later = read_from(log, &orders, 0, end.0, 1).unwrap();
    assert!(later.last().is_some_and(|last| last.ends_with(" d=4")), "{later:?}");
    assert!(matches!(log.bounds(NOWHERE, Partition(0)), Err(Error::UnknownTopic { .. })));
}

fn fetch_reads_in_pieces(home: &Home) {
    let log = &*home.log;
    let orders = home.topic("orders", 1);
    let value = "x".repeat(1000);
    let records: Vec<_> = (0..50).map(|i| (i.to_string(), value.as_str())).collect();
    for pair in records.chunks(2) {
        put(log, &orders, 0, &pair.iter().map(|(key, value)| (key.as_str(), *value)).collect::<Vec<_>>());
    }
    let fetched = log.fetch(orders.id, Partition(0), Offset(10), 5_000).unwrap();
    let found: usize = fetched.batches.iter().map(|batch| batch.records_from(Offset(10)).count()).sum();
    assert!((1..=7).contains(&found) && fetched.next < fetched.end, "{found} records, then {:?}", fetched.next);
    let all = read_from(log, &orders, 0, 0, usize::MAX).unwrap();
    assert_eq!(all.len(), 50);
    assert_eq!(read_from(log, &orders, 0, 0, 0).unwrap(), all);
    assert_eq!(read_from(log, &orders, 0, 0, 3_000).unwrap(), all);
}

fn refused_transactions_append_nothing(home: &Home) {
    let log = &*home.log;
    let orders = home.topic("orders", 1);
    let table = log.create_topic(&home.spec("table", 1, Cleanup::Compact { delete_retention_ms: 5 })).unwrap();
    let max = log.limits().max_record_bytes;
    let value = vec![b'x'; max];
    let unknown = TopicInfo { id: NOWHERE, ..orders.clone() };
    let unkeyed = format!("compacted topic {} has no key", table.name);
    let missing = format!("topic number {} does not exist", NOWHERE.0);
    let too_large = format!("is larger than the {max} allowed");
    // Where, what, and what is said of it; the check of one record says the same.
    type Case<'a> = (&'a TopicInfo, u32, i64, Option<&'a [u8]>, &'a [u8], Headers, Option<&'a str>);
    let cases: [Case<'_>; 8] = [
        (&orders, 0, 0, None, b"fine", Headers::EMPTY, None),
        (&orders, 0, 0, None, &value, Headers::EMPTY, None),
        (&orders, 1, 0, None, b"v", Headers::EMPTY, Some("no partition 1")),
        (&orders, 0, -1, None, b"v", Headers::EMPTY, Some("negative timestamp -1")),
        (&orders, 0, 0, Some(b"k"), &value, Headers::EMPTY, Some(&too_large)),
        (&orders, 0, 0, None, &value, Headers::EMPTY.with("h", ""), Some(&too_large)),
        (&table, 0, 0, None, b"v", Headers::EMPTY, Some(&unkeyed)),
        (&unknown, 0, 0, None, b"v", Headers::EMPTY, Some(&missing)),
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
    assert_eq!(contents(log, &orders, 0).len(), accepted);
    assert_eq!(contents(log, &table, 0), [""; 0]);
}

fn transactions_of_a_thread_keep_their_order(home: &Home) {
    let log = &*home.log;
    let orders = home.topic("orders", 1);
    let pending: Vec<_> = (0..500).map(|i| log.commit(appending(&orders, 0, &[("k", &i.to_string())]))).collect();
    let offsets: Vec<_> = pending.into_iter().map(|pending| s::only(pending.wait())).collect();
    assert!(offsets.is_sorted_by(|a, b| a < b), "{offsets:?}");
    let expected: Vec<_> = offsets.iter().enumerate().map(|(i, at)| format!("{at} k={i}")).collect();
    assert_eq!(read(log, &orders, 0), expected);
}

fn writers_do_not_mix(home: &Home) {
    let log = &*home.log;
    let orders = home.topic("orders", 2);
    std::thread::scope(|scope| {
        for writer in ["a", "b", "c", "d"] {
            let orders = &orders;
            scope.spawn(move || {
                for i in 0..50 {
                    let (first, second) = (format!("{i}.1"), format!("{i}.2"));
                    let appends =
                        vec![append(orders, 0, &[(writer, &first), (writer, &second)]), append(orders, 1, &[(writer, &first)])];
                    let committed = log.commit(Transaction { appends, ..Transaction::default() }).wait().unwrap();
                    // What is acknowledged is readable at once.
                    let found = read_from(log, orders, 0, committed.base_offsets[0].0, 1).unwrap();
                    let at = committed.base_offsets[0].0;
                    assert_eq!(found[..2], [format!("{at} {writer}={first}"), format!("{} {writer}={second}", at + 1)]);
                }
            });
        }
    });
    assert_eq!(contents(log, &orders, 0).len(), 400);
    for writer in ["a", "b", "c", "d"] {
        let of = |partition| -> Vec<_> {
            let all = read(log, &orders, partition);
            all.iter().filter_map(|r| r.split_once(' ')?.1.strip_prefix(writer)?.strip_prefix('=').map(str::to_owned)).collect()
        };
        assert_eq!(of(1), (0..50).map(|i| format!("{i}.1")).collect::<Vec<_>>());
        assert_eq!(of(0), (0..50).flat_map(|i| [format!("{i}.1"), format!("{i}.2")]).collect::<Vec<_>>());
    }
}

fn a_commit_wakes_who_waits(home: &Home) {
    let log = &*home.log;
    let orders = home.topic("orders", 1);
    let seen = log.version();
    assert_eq!(log.wait(seen, Duration::from_millis(5)), seen);
    let (ready, begun) = (AtomicUsize::new(0), Instant::now());
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                ready.fetch_add(1, SeqCst);
                assert_ne!(log.wait(seen, SOON), seen);
                assert_eq!(read(log, &orders, 0), ["0 k=v"]);
            });
        }
        while ready.load(SeqCst) < 3 {
            std::thread::yield_now();
        }
        put(log, &orders, 0, &[("k", "v")]);
    });
    assert!(begun.elapsed() < SOON / 2, "woken, not timed out");

    let seen = log.version();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| log.wait(seen, SOON));
        log.wake();
        assert_ne!(waiting.join().unwrap(), seen);
    });
    assert!(begun.elapsed() < SOON / 2, "woken, not timed out");
}

fn an_outcome_can_be_awaited(home: &Home) {
    let log = &*home.log;
    let orders = home.topic("orders", 1);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let pending: Vec<_> = (0..10).map(|_| log.commit(appending(&orders, 0, &[("k", "v")]))).collect();
        let mut before = None;
        for pending in pending {
            let at = Some(s::only(pending.await));
            assert!(at > before, "{at:?} after {before:?}");
            before = at;
        }
        let refused = log.commit(appending(&orders, 1, &[("k", "v")])).await;
        assert!(matches!(refused, Err(Error::UnknownPartition { .. })));
    });
}

fn trim_moves_the_start(home: &Home) {
    let log = &*home.log;
    let orders = home.topic("orders", 2);
    put(log, &orders, 0, &[("a", "0"), ("b", "1")]);
    let d = put(log, &orders, 0, &[("c", "2"), ("d", "3")]) + 1;
    put(log, &orders, 1, &[("e", "0")]);
    let bounds = |partition| log.bounds(orders.id, Partition(partition)).map(|Bounds { start, end }| (start.0, end.0)).unwrap();
    let end = bounds(0).1;

    log.trim(orders.id, Partition(0), Offset(d)).unwrap();
    assert_eq!(bounds(0), (d, end));
    assert_eq!(read(log, &orders, 0), [format!("{d} d=3")]);
    let below = read_from(log, &orders, 0, 2, 1).unwrap_err();
    assert_eq!(below.to_string(), format!("offset 2 of {}-0 is outside of what is kept, {d} to {end}", orders.name));

    log.trim(orders.id, Partition(0), Offset(1)).unwrap();
    assert_eq!(bounds(0), (d, end), "a start never goes back");
    log.trim(orders.id, Partition(0), Offset(99)).unwrap();
    assert_eq!(bounds(0), (end, end), "nor beyond the end");
    assert_eq!(read(log, &orders, 0), [""; 0]);
    assert_eq!(put(log, &orders, 0, &[("f", "4")]), end, "offsets are not given twice");
    assert_eq!(read(log, &orders, 0), [format!("{end} f=4")]);
    assert_eq!(read(log, &orders, 1), ["0 e=0"]);
}
