//! A processor that writes to several topics, and one that refuses records for a reason of its own.

use millstream::testing::TestDriver;
use millstream::{Headers, Process, ProcessError, Record, Scope, Store, StreamBuilder, TimeDomain, Timestamp, Topic};

const PAID: Topic<String, i64> = Topic::new("paid");
const BALANCES: Topic<String, i64> = Topic::new("balances").partitions(3);
const LARGE: Topic<i64, String> = Topic::new("large").partitions(2);
const REFUSED: Topic<String, i64> = Topic::new("paid.rejected").partitions(2);
const PARKED: Topic<Option<Vec<u8>>, Option<Vec<u8>>> = Topic::new("paid.dlq");
const TOTALS: Store<String, i64> = Store::keyed("totals");

/// Adds up what is paid. More than 100 goes to `large` as well, less than 0 is refused and counted, and 13 fails after all was written.
/// A minute after every payment the total goes to `balances`.
fn driver() -> TestDriver {
    let mut builder = StreamBuilder::new("app");
    let process = Process::new("account", |ctx, record: Record<String, i64>| {
        let Record { key, value, timestamp, .. } = record.clone();
        if value < 0 {
            let refused = ctx.store(&TOTALS).get(&"refused".to_owned())?.unwrap_or(0);
            ctx.store(&TOTALS).put(&"refused".to_owned(), &(refused + 1))?;
            return ctx.reject(&REFUSED, record, "less than nothing");
        }
        let total = ctx.store(&TOTALS).get(&key)?.unwrap_or(0) + value;
        ctx.store(&TOTALS).put(&key, &total)?;
        if value > 100 {
            ctx.send(&LARGE, Record::new(value, key.clone(), timestamp))?;
        }
        ctx.schedule(TimeDomain::Stream, timestamp.plus_ms(60_000), &key)?;
        ctx.forward(Record::new(key, total, timestamp))?;
        if value == 13 { Err(ProcessError::failed("thirteen")) } else { Ok(()) }
    });
    let process = process
        .on_timer(|ctx, key: String, at| {
            let total = ctx.store(&TOTALS).get(&key)?.unwrap_or(0);
            ctx.send(&BALANCES, Record::new(key, total, at))
        })
        .store(&TOTALS)
        .sink(&BALANCES)
        .sink(&LARGE)
        .sink(&REFUSED);
    builder.stream(&PAID).process(process).to(&Topic::<String, i64>::new("running"));
    TestDriver::new(builder.build().expect("the topology is valid"))
}

fn pay(driver: &mut TestDriver, payments: &[(&str, i64, i64)]) {
    for (key, value, at) in payments {
        let headers = Headers::EMPTY.with("id", key.as_bytes());
        driver.pipe(&PAID, &Record { headers, ..Record::new((*key).to_owned(), *value, Timestamp(*at)) });
    }
}

#[test]
fn a_processor_writes_to_each_of_its_sinks_and_downstream() {
    let mut driver = driver();
    pay(&mut driver, &[("a", 5, 0), ("b", 101, 1), ("a", 200, 2), ("c", 1, 60_001)]);
    let running = driver.read(&Topic::<String, i64>::new("running"));
    assert_eq!(running.len(), 4, "what is forwarded goes on beside what is sent");
    let mut large: Vec<(i64, String)> = driver.read(&LARGE).into_iter().map(|r| (r.key, r.value)).collect();
    large.sort();
    assert_eq!(large, [(101, "b".to_owned()), (200, "a".to_owned())]);
    let mut balances: Vec<(String, i64, i64)> =
        driver.read(&BALANCES).into_iter().map(|r| (r.key, r.value, r.timestamp.0)).collect();
    balances.sort();
    assert_eq!(
        balances,
        [("a".into(), 205, 60_000), ("b".into(), 101, 60_001)],
        "a timer sends, too, at the time it was set for"
    );
}

#[test]
fn what_a_failed_record_sent_is_undone_with_it() {
    let mut driver = driver();
    pay(&mut driver, &[("a", 200, 0), ("a", 13, 1), ("a", 300, 2)]);
    let mut large: Vec<i64> = driver.read(&LARGE).into_iter().map(|r| r.key).collect();
    large.sort_unstable();
    assert_eq!(large, [200, 300]);
    assert_eq!(driver.get(&TOTALS, &"a".to_owned()), Some(500));
    assert_eq!(driver.read(&PARKED).len(), 1);
}

#[test]
fn a_refused_record_is_kept_with_the_reason_and_what_was_done_for_it_stays() {
    let mut driver = driver();
    pay(&mut driver, &[("a", -7, 42)]);
    assert_eq!(driver.get(&TOTALS, &"refused".to_owned()), Some(1));
    assert!(driver.read(&PARKED).is_empty(), "a refusal is no failure");
    let refused = driver.read(&REFUSED);
    assert_eq!(refused.len(), 1);
    let Record { key, value, timestamp, headers } = &refused[0];
    assert_eq!((key.as_str(), *value, *timestamp), ("a", -7, Timestamp(42)));
    for (name, expected) in [
        ("id", "a"),
        ("__streams.errors.exception", "Rejected"),
        ("__streams.errors.message", "less than nothing"),
        ("__streams.errors.application", "app"),
        ("__streams.errors.node", "account"),
        ("__streams.errors.topic", "paid"),
        ("__streams.errors.partition", "0"),
        ("__streams.errors.offset", "0"),
        ("__streams.errors.timestamp", "42"),
    ] {
        assert_eq!(headers.get(name).map(|text| String::from_utf8_lossy(text).into_owned()).as_deref(), Some(expected), "{name}");
    }
}

#[test]
fn a_topic_that_was_not_named_is_a_failure_that_names_it() {
    let mut builder = StreamBuilder::new("app");
    let process = Process::new("stray", |ctx: &mut Scope<'_, String, i64>, record| ctx.send(&BALANCES, record));
    builder.stream(&PAID).process(process).to(&Topic::new("running"));
    let mut driver = TestDriver::new(builder.build().expect("the topology is valid"));
    pay(&mut driver, &[("a", 1, 0)]);
    let parked = driver.read(&PARKED);
    let cause = String::from_utf8_lossy(parked[0].headers.get("__streams.errors.message").expect("a cause")).into_owned();
    assert_eq!(cause, "panicked: processor \"stray\" did not name topic \"balances\"");
}
