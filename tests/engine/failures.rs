//! A record that fails is undone as a whole, tried again, then parked with its cause, and the partition goes on.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use millstream::testing::TestDriver;
use millstream::{Headers, Process, ProcessError, Record, Scope, Store, StreamBuilder, Timestamp, Topic};

const IN: Topic<String, i64> = Topic::new("in");
const OUT: Topic<String, i64> = Topic::new("out");
const PARKED: Topic<Option<Vec<u8>>, Option<Vec<u8>>> = Topic::new("in.dlq");
const SUMS: Store<String, i64> = Store::keyed("sums");

/// Adds up; fails in the manner of `fail` after it has written and forwarded, so that there is something to undo.
fn driver(fail: impl Fn(&Record<String, i64>) -> Result<(), ProcessError> + Send + Sync + 'static) -> TestDriver {
    let mut builder = StreamBuilder::new("app");
    let process = Process::new("sum", move |ctx: &mut Scope<'_, String, i64>, record: Record<String, i64>| {
        let sum = ctx.store(&SUMS).get(&record.key)?.unwrap_or(0) + record.value;
        ctx.store(&SUMS).put(&record.key, &sum)?;
        ctx.forward(Record::new(record.key.clone(), sum, record.timestamp))?;
        fail(&record)
    });
    builder.stream(&IN).process(process.store(&SUMS)).to(&OUT);
    TestDriver::new(builder.build().expect("the topology is valid"))
}

fn record(value: i64) -> Record<String, i64> {
    let headers = Headers::EMPTY.with("origin", "test");
    Record { headers, ..Record::new("k".to_owned(), value, Timestamp(value)) }
}

fn outputs(driver: &mut TestDriver) -> Vec<i64> {
    driver.read(&OUT).into_iter().map(|record| record.value).collect()
}

fn text(headers: &Headers, name: &str) -> String {
    String::from_utf8(headers.get(name).unwrap_or_else(|| panic!("header {name}")).to_vec()).expect("text")
}

/// Pipes 1, 2, 3 of which 2 fails for good: its write and its output are undone, it is parked, 3 goes on from 1.
fn check_parked(mut driver: TestDriver, exception: &str, message: &str) {
    for value in [1, 2, 3] {
        driver.pipe(&IN, &record(value));
    }
    assert_eq!(outputs(&mut driver), [1, 4]);
    assert_eq!(driver.get(&SUMS, &"k".to_owned()), Some(4));
    let parked = driver.read(&PARKED);
    assert_eq!(parked.len(), 1);
    let Record { key, value, headers, .. } = &parked[0];
    assert_eq!(key.as_deref(), Some(&b"k"[..]));
    assert_eq!(value.as_deref(), Some(&2i64.wrapping_add(i64::MIN).to_be_bytes()[..]), "the value as it was");
    for (name, expected) in [
        ("__streams.errors.exception", exception),
        ("__streams.errors.message", message),
        ("__streams.errors.application", "app"),
        ("__streams.errors.node", "sum"),
        ("__streams.errors.topic", "in"),
        ("__streams.errors.partition", "0"),
        ("__streams.errors.offset", "1"),
        ("__streams.errors.timestamp", "2"),
        ("origin", "test"),
    ] {
        assert_eq!(text(headers, name), expected, "{name}");
    }
}

#[test]
fn a_record_that_fails_is_undone_retried_and_parked() {
    let attempts = Arc::new(AtomicU32::new(0));
    let counter = Arc::clone(&attempts);
    let driver = driver(move |record| {
        if record.value != 2 {
            return Ok(());
        }
        counter.fetch_add(1, Ordering::Relaxed);
        Err(ProcessError::failed("two is refused"))
    });
    check_parked(driver, "Failed", "two is refused");
    assert_eq!(attempts.load(Ordering::Relaxed), 4, "one attempt and three retries");
}

#[test]
fn a_panic_is_a_failure_like_any_other() {
    check_parked(
        driver(|record| {
            assert!(record.value != 2, "two again");
            Ok(())
        }),
        "Failed",
        "panicked: two again",
    );
}

#[test]
fn a_record_that_succeeds_when_tried_again_leaves_one_result() {
    let attempts = AtomicU32::new(0);
    let mut driver = driver(move |_| match attempts.fetch_add(1, Ordering::Relaxed) {
        0 | 1 => Err(ProcessError::failed("not yet")),
        _ => Ok(()),
    });
    driver.pipe(&IN, &record(5));
    assert_eq!(outputs(&mut driver), [5]);
    assert!(driver.read(&PARKED).is_empty());
}

#[test]
fn bytes_that_do_not_decode_are_parked_at_once() {
    let mut driver = driver(|_| Ok(()));
    driver.pipe_bytes("in", Some(b"k"), Some(b"short"), Timestamp(1), &Headers::EMPTY);
    driver.pipe_bytes("in", Some(b"k"), None, Timestamp(2), &Headers::EMPTY);
    driver.pipe(&IN, &record(7));
    assert_eq!(outputs(&mut driver), [7]);
    let parked = driver.read(&PARKED);
    let causes: Vec<String> = parked.iter().map(|record| text(&record.headers, "__streams.errors.message")).collect();
    assert_eq!(causes, ["value is not valid i64: 5 bytes", "value is null, where i64 is needed"]);
    assert_eq!(parked[0].value.as_deref(), Some(&b"short"[..]));
}

#[test]
fn an_output_that_the_log_would_refuse_is_parked_instead() {
    let mut builder = StreamBuilder::new("app");
    let huge: Topic<String, String> = Topic::new("huge");
    builder.stream(&IN).map_values(|n| "x".repeat(n as usize)).to(&huge);
    let mut driver = TestDriver::new(builder.build().expect("the topology is valid"));
    driver.pipe(&IN, &record(3));
    driver.pipe(&IN, &record(2 << 20));
    driver.pipe(&IN, &record(4));
    let lengths: Vec<usize> = driver.read(&huge).into_iter().map(|record| record.value.len()).collect();
    assert_eq!(lengths, [3, 4]);
    assert_eq!(text(&driver.read(&PARKED)[0].headers, "__streams.errors.exception"), "Unwritable");
}

#[test]
fn a_failing_record_holds_back_the_later_ones_of_its_partition() {
    let mut driver = driver(|record| if record.value == 1 { Err(ProcessError::failed("no")) } else { Ok(()) });
    driver.pipe(&IN, &record(1));
    driver.pipe(&IN, &record(2));
    assert_eq!(outputs(&mut driver), [2], "1 was parked before 2 was processed");
}
