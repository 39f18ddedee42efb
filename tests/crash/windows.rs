//! The same for what keeps time: windowed counts, emitted on update and on close, over windows of each kind, a cogroup, an outer join of two streams
//! and a join with a global table. The child is killed at random moments; in the end outputs and stores are what the test driver, which never crashes, makes of the
//! same input.

use millstream::testing::TestDriver;
use millstream::{
    App, Direction, Events, Handle, Headers, JoinWindows, Range, Record, Seen, SessionWindows, SlidingWindows, Store,
    StreamBuilder, TimeWindows, Timestamp, Topic, Topology, Windowed,
};

use super::{LONG, Life, config, live};
use crate::app::support::read;

const INPUT: Topic<u64, u64> = Topic::new("clicks").partitions(2).keep_forever();
const NAMES: Topic<u64, String> = Topic::new("names").partitions(2).compacted();
const CLOSED: Topic<Windowed<u64>, u64> = Topic::new("closed").keep_forever();
const VISITS: Topic<Windowed<u64>, u64> = Topic::new("visits").keep_forever();
const NEAR: Topic<Windowed<u64>, u64> = Topic::new("near").keep_forever();
/// As many partitions as the input has, so that the records of one task lie in order.
const JOINED: Topic<u64, String> = Topic::new("joined").partitions(2).keep_forever();
/// Stores that are compared in the end.
const STORES: [Store<Windowed<u64>, u64>; 4] =
    [Store::ordered("counts"), Store::ordered("visits"), Store::ordered("near"), Store::ordered("evens-less-odds")];
const KEYS: u64 = 20;

fn topology() -> Topology {
    let mut builder = StreamBuilder::new("crash-windows");
    let names = builder.global_table(&NAMES, "names");
    let input = builder.stream(&INPUT);
    let windows = TimeWindows::hopping_ms(200, 100).grace_ms(50);
    input.group_by_key().windowed_by(windows).retention_ms(2_000).count("counts");
    input
        .group_by_key()
        .windowed_by(windows)
        .emit_on_close()
        .count("closed")
        .to_stream()
        .flat_map_values(|count| count)
        .to(&CLOSED);
    let visits = input.group_by_key().windowed_by(SessionWindows::gap_ms(40).grace_ms(60)).emit_on_close();
    visits.count("visits").to_stream().flat_map_values(|count| count).to(&VISITS);
    let near = input.group_by_key().windowed_by(SlidingWindows::of_ms(60).grace_ms(60)).emit_on_close();
    near.count("near").to_stream().flat_map_values(|count| count).to(&NEAR);
    let (even, odd) = input.branch(|_, n| n % 2 == 0);
    even.group_by_key()
        .cogroup(|_, n, so_far: u64| so_far.wrapping_add(n))
        .with(&odd.group_by_key(), |_, n, so_far| so_far.wrapping_sub(n))
        .windowed_by(windows)
        .retention_ms(2_000)
        .aggregate("evens-less-odds", || 0);
    let within = JoinWindows::of_ms(60).grace_ms(30);
    let show = |n: Option<u64>| n.map_or_else(|| "-".to_owned(), |n| n.to_string());
    let joined = even.outer_join_stream("pairs", &odd, within, move |even, odd| format!("{}+{}", show(even), show(odd)));
    joined.join_global("named", &names, |key, _| *key, |pair, name: String| format!("{name} {pair}")).to(&JOINED);
    builder.build().expect("the topology is valid")
}

/// Times that grow with the numbers, one in four out of order, now and then with a leap.
fn input(n: u64) -> Record<u64, u64> {
    let mixed = n.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40;
    let back = if mixed.is_multiple_of(4) { mixed % 130 } else { 0 };
    let at = (n * 7 + n / 150 * 500).saturating_sub(back);
    Record::new(mixed % KEYS, n, Timestamp(at as i64))
}

#[test]
#[ignore = "run by the other tests of this file, in a process that they kill"]
fn child() {
    // The names are there before the first click: what a join with a global table sees is what the table holds at that moment.
    let names = async |handle: &Handle| {
        let names = (0..KEYS)
            .fold(Events::new(), |events, key| events.with(&NAMES, &Record::new(key, format!("name-{key}"), Timestamp(0))));
        let token = handle.append(names).await.expect("the names are appended");
        handle.at_least(&token, "names", LONG).await.expect("the table has the names");
    };
    live(topology(), "counts", names, |_, n| Events::new().with(&INPUT, &input(n)), async |_| {});
}

#[test]
fn a_kill_at_any_moment_loses_no_window_and_no_pair() {
    let mut life = Life::new("crash::windows::child");
    let total = life.die_at_random(300);
    life.finish(total);

    let inputs = read(life.dir.path(), &INPUT);
    let joined = read(life.dir.path(), &JOINED);
    let closed = [CLOSED, VISITS, NEAR].map(|topic| (read(life.dir.path(), &topic), topic));
    let mut numbers: Vec<u64> = inputs.iter().map(|record| record.value).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (0..total).collect::<Vec<_>>(), "each request is in the input once");

    let mut driver = TestDriver::new(topology());
    (0..KEYS).for_each(|key| driver.pipe(&NAMES, &Record::new(key, format!("name-{key}"), Timestamp(0))));
    inputs.iter().for_each(|record| driver.pipe(&INPUT, record));
    assert_eq!(joined, driver.read(&JOINED), "pairs");
    assert!(joined.iter().any(|pair| pair.value.contains('-')), "some found no other");
    let by_window = |mut records: Vec<Record<Windowed<u64>, u64>>| {
        records.iter_mut().for_each(|record| record.headers = Headers::EMPTY);
        records.sort_by(|a, b| (&a.key, a.value, a.timestamp).cmp(&(&b.key, b.value, b.timestamp)));
        records
    };
    for (closed, topic) in closed {
        let (closed, expected) = (by_window(closed), by_window(driver.read(&topic)));
        assert!(closed.len() > 10, "{}", topic.name());
        assert_eq!(closed, expected, "each window of {} closed once", topic.name());
    }

    let app = App::start(topology(), config(life.dir.path())).expect("the application starts");
    for store in STORES {
        let view = app.handle().view(store.name()).expect("a store of the topology").typed(&store);
        let mut rows = driver.rows(&store);
        rows.sort();
        assert!(!rows.is_empty(), "{}", store.name());
        let page = view.page(&Range::all(), Direction::Forward, 1_000).and_then(Seen::wait).expect("the view answers");
        assert_eq!(page, rows, "{}", store.name());
    }
}
