//! Joins of two streams beyond what the recorded cases show: which topologies are refused, keys that have changed, what can be read of the
//! sides, and that a failing record is undone as a whole.

use millstream::codec::{Decimal, List, Utf8};
use millstream::testing::TestDriver;
use millstream::{JoinWindows, Record, Store, StreamBuilder, Timestamp, Topic, Windowed};

use super::topologies::mistakes;

const LEFT: Topic<String, String> = Topic::new("left").partitions(3);
const RIGHT: Topic<String, String> = Topic::new("right").partitions(3);
const OUT: Topic<String, String> = Topic::new("out");
const WITHIN: JoinWindows = JoinWindows::of_ms(10);

fn both(left: Option<String>, right: Option<String>) -> String {
    format!("{}+{}", left.as_deref().unwrap_or("-"), right.as_deref().unwrap_or("-"))
}

fn pipe(driver: &mut TestDriver, topic: &Topic<String, String>, key: &str, value: &str, at: i64) {
    driver.pipe(topic, &Record::new(key.to_owned(), value.to_owned(), Timestamp(at)));
}

fn out(driver: &mut TestDriver) -> Vec<(String, i64)> {
    driver.read(&OUT).into_iter().map(|record| (format!("{}:{}", record.key, record.value), record.timestamp.0)).collect()
}

#[test]
fn joins_that_cannot_be_are_refused() {
    let check = |windows: JoinWindows, mistake: &str| {
        let found = mistakes(|builder| {
            let right = builder.stream(&RIGHT);
            builder.stream(&LEFT).join_stream("join", &right, windows, |left, right| left + &right);
        });
        assert_eq!(found, [mistake]);
    };
    check(
        JoinWindows::between_ms(5, -6),
        "\"join\" joins within windows from 5 ms before to -6 ms after, which ends before it begins",
    );
    check(WITHIN.grace_ms(-1), "\"join\" joins within windows with a grace of -1 ms");
    let partitions = mistakes(|builder| {
        let right = builder.stream(&Topic::<String, String>::new("right").partitions(2));
        builder.stream(&LEFT).outer_join_stream("join", &right, WITHIN, both);
    });
    assert_eq!(
        partitions,
        ["\"join\" joins \"left\" with 3 partitions and \"right\" with 2 partitions; they must have equally many"]
    );
    let codecs = mistakes(|builder| {
        let right = builder.stream(&Topic::<u64, u64>::new("prices"));
        let left = Topic::<u64, u64>::with_codecs("orders", &Decimal, <u64 as millstream::codec::Data>::CODEC);
        builder.stream(&left).join_stream("priced", &right, WITHIN, |order, price| order * price);
    });
    assert_eq!(codecs, ["\"priced\" joins keys that are encoded as decimal with keys that are encoded as u64"]);
    let names = mistakes(|builder| {
        let (left, right) = (builder.stream(&LEFT), builder.stream(&RIGHT));
        left.join_stream("join", &right, WITHIN, |left, right| left + &right);
        left.join_stream("join", &right, WITHIN, |left, right| left + &right);
    });
    for name in ["join-left", "join-right"] {
        assert!(names.contains(&format!("two stores are named {name:?}")), "{names:?}");
        assert!(names.contains(&format!("two nodes are named {name:?}")), "{names:?}");
    }
}

#[test]
fn a_side_whose_key_has_changed_is_repartitioned_like_the_other() {
    // The right side's keys are decimal text in their topic: the left's are written so, too, or they would not meet.
    let numbers: Topic<u64, String> = Topic::with_codecs("numbers", &Decimal, &Utf8).partitions(4);
    let check = |right_changes: bool| {
        let mut builder = StreamBuilder::new("app");
        let mut right = builder.stream(&numbers);
        if right_changes {
            right = right.select_key(|n, _| *n);
        }
        let left = builder.stream(&LEFT).select_key(|_, line| line.len() as u64);
        let joined = left.outer_join_stream("by-length", &right, WITHIN, both);
        joined.select_key(|n, _| n.to_string()).to(&OUT);
        let mut driver = TestDriver::new(builder.build().expect("the topology is valid"));
        for n in 0..20 {
            driver.pipe(&numbers, &Record::new(n, format!("={n}"), Timestamp(5)));
        }
        for n in 0..20usize {
            pipe(&mut driver, &LEFT, "", &"x".repeat(n), 10);
        }
        let mut joined: Vec<String> = driver.read(&OUT).into_iter().map(|record| record.value).collect();
        joined.sort_by_key(String::len);
        let mut expected: Vec<String> = (0..20).map(|n| format!("{}+={n}", "x".repeat(n))).collect();
        expected.sort_by_key(String::len);
        assert_eq!(joined, expected, "the right side's key has changed: {right_changes}");
    };
    check(false);
    check(true);
}

#[test]
fn the_result_can_be_joined_again_and_the_sides_can_be_read() {
    let mut builder = StreamBuilder::new("app");
    let (left, right) = (builder.stream(&LEFT), builder.stream(&RIGHT));
    let once = left.join_stream("once", &right, WITHIN, |left, right| left + &right);
    once.join_stream("twice", &right, WITHIN, |left, right| left + &right).to(&OUT);
    let mut driver = TestDriver::new(builder.build().expect("the topology is valid"));
    pipe(&mut driver, &LEFT, "k", "a", 1);
    pipe(&mut driver, &LEFT, "k", "b", 1);
    pipe(&mut driver, &RIGHT, "k", "c", 2);
    assert_eq!(out(&mut driver), [("k:acc".to_owned(), 2), ("k:bcc".to_owned(), 2)]);
    const SIDE: Store<Windowed<String>, List<String>> = Store::ordered("once-left");
    let key = Windowed { key: "k".to_owned(), start: Timestamp(1), end: Timestamp(1) };
    assert_eq!(driver.rows(&SIDE), [(key, List(vec!["a".to_owned(), "b".to_owned()]))]);
    pipe(&mut driver, &LEFT, "k", "later", 12);
    assert_eq!(driver.rows(&SIDE).len(), 2, "both are within the window of a right record at 11 or 12");
    driver.restart();
    pipe(&mut driver, &LEFT, "k", "latest", 33);
    assert_eq!(driver.rows(&SIDE).len(), 1, "the others are forgotten");
}

#[test]
fn a_failed_record_neither_releases_nor_takes_what_waits() {
    let mut builder = StreamBuilder::new("app");
    let (left, right) = (builder.stream(&LEFT), builder.stream(&RIGHT));
    let joined = left.outer_join_stream("join", &right, WITHIN.grace_ms(5), |left, right| {
        assert_ne!(right.as_deref(), Some("bad"));
        both(left, right)
    });
    joined.to(&OUT);
    let mut driver = TestDriver::new(builder.build().expect("the topology is valid"));
    pipe(&mut driver, &LEFT, "a", "L1", 10);
    pipe(&mut driver, &LEFT, "b", "L2", 11);
    pipe(&mut driver, &RIGHT, "a", "bad", 12);
    pipe(&mut driver, &RIGHT, "a", "good", 13);
    assert_eq!(out(&mut driver), [("a:L1+good".to_owned(), 13)]);
    pipe(&mut driver, &RIGHT, "b", "much later", 100);
    assert_eq!(out(&mut driver), [("b:L2+-".to_owned(), 11)], "a record that was parked is not joined");
    assert_eq!(driver.read(&Topic::<String, String>::new("right.dlq")).len(), 1);
}
