//! Windowed aggregates beyond what the recorded cases show: what topologies are refused, what a store forgets, what can be done with
//! windowed keys, and that a failing record is undone as a whole. And the same in a running application, read by its views.

use std::time::Duration;

use millstream::testing::TestDriver;
use millstream::{
    App, Config, Direction, Events, Record, Seen, Store, StreamBuilder, TimeWindows, Timestamp, Topic, Windowed, WindowedStream,
};

use super::topologies::mistakes;

const IN: Topic<String, i64> = Topic::new("in").partitions(2);
const OUT: Topic<Windowed<String>, u64> = Topic::new("out");
const COUNTS: Store<Windowed<String>, u64> = Store::ordered("counts");

fn windowed(builder: &mut StreamBuilder, windows: TimeWindows) -> WindowedStream<String, i64, TimeWindows> {
    builder.stream(&IN).group_by_key().windowed_by(windows)
}

fn pipe(driver: &mut TestDriver, key: &str, value: i64, at: i64) {
    driver.pipe(&IN, &Record::new(key.to_owned(), value, Timestamp(at)));
}

fn window(key: &str, start: i64, end: i64) -> Windowed<String> {
    Windowed { key: key.to_owned(), start: Timestamp(start), end: Timestamp(end) }
}

#[test]
fn windows_that_cannot_be_are_refused() {
    let check = |windows: TimeWindows, mistake: &str| {
        let found = mistakes(|builder| drop(windowed(builder, windows).count("counts")));
        assert_eq!(found, [format!("store \"counts\" is of {mistake}")]);
    };
    check(TimeWindows::tumbling_ms(0), "windows of 0 ms");
    check(TimeWindows::tumbling_ms(-5), "windows of -5 ms");
    check(TimeWindows::hopping_ms(10, 0), "windows of 10 ms that advance by 0 ms, which is to be from 1 to the size");
    check(TimeWindows::hopping_ms(10, 11), "windows of 10 ms that advance by 11 ms, which is to be from 1 to the size");
    check(TimeWindows::tumbling_ms(10).grace_ms(-1), "windows with a grace of -1 ms");
    let retention = mistakes(|builder| {
        drop(windowed(builder, TimeWindows::tumbling_ms(10).grace_ms(5)).retention_ms(14).count("counts"));
    });
    let expected = "store \"counts\" keeps windows for 14 ms, but they may change for 15 ms: their size or gap, and grace";
    assert_eq!(retention, [expected]);
    let never = mistakes(|builder| {
        drop(windowed(builder, TimeWindows::unlimited_from(Timestamp(0))).emit_on_close().count("counts"));
    });
    assert_eq!(never, ["store \"counts\" is emitted when its windows close, which never end"]);
    let twice = mistakes(|builder| {
        let stream = windowed(builder, TimeWindows::tumbling_ms(10));
        stream.count("counts");
        stream.count("counts");
    });
    assert_eq!(twice, ["two stores are named \"counts\"", "two nodes are named \"counts\""]);
}

#[test]
fn a_leap_in_time_closes_every_window_before_it_is_forgotten() {
    let mut builder = StreamBuilder::new("app");
    windowed(&mut builder, TimeWindows::tumbling_ms(10)).emit_on_close().count("counts").to_stream().to(&OUT);
    let mut driver = TestDriver::new(builder.build().expect("the topology is valid"));
    pipe(&mut driver, "a", 1, 3);
    pipe(&mut driver, "a", 1, 1_000_000);
    let out: Vec<_> = driver.read(&OUT).into_iter().map(|record| (record.key, record.value)).collect();
    assert_eq!(out, [(window("a", 0, 10), 1)]);
    assert_eq!(driver.rows(&COUNTS).len(), 1, "the first is forgotten");
}

#[test]
fn windowed_keys_can_be_grouped_again() {
    let mut builder = StreamBuilder::new("app");
    let per_key = windowed(&mut builder, TimeWindows::tumbling_ms(10)).count("counts");
    let updates = per_key.to_stream().map_values(|count| count.unwrap_or(0) as i64);
    updates.group_by("by-window", |window, _| window.start.0).count("updates");
    updates.group_by_key().count("again");
    let mut driver = TestDriver::new(builder.build().expect("the topology is valid"));
    for (key, at) in [("a", 1), ("b", 2), ("a", 3), ("a", 11)] {
        pipe(&mut driver, key, 1, at);
    }
    let mut updates: Vec<_> = driver.table::<i64, u64>("updates").into_iter().map(|(start, n, _)| (start, n)).collect();
    updates.sort_unstable();
    assert_eq!(updates, [(0, 3), (10, 1)]);
    let again: Vec<_> = driver.table::<Windowed<String>, u64>("again").into_iter().map(|(key, n, _)| (key, n)).collect();
    assert_eq!(again, [(window("a", 0, 10), 2), (window("a", 10, 20), 1), (window("b", 0, 10), 1)]);
}

#[test]
fn a_failed_record_moves_no_time_and_opens_no_window() {
    let mut builder = StreamBuilder::new("app");
    let stream = windowed(&mut builder, TimeWindows::tumbling_ms(10).grace_ms(5)).emit_on_close();
    let sum = stream.aggregate(
        "sums",
        || 0,
        |_, value, sum| {
            assert!(value >= 0, "a negative value");
            sum + value as u64
        },
    );
    sum.to_stream().to(&OUT);
    let mut driver = TestDriver::new(builder.build().expect("the topology is valid"));
    pipe(&mut driver, "a", 1, 1);
    pipe(&mut driver, "a", -1, 1_000);
    assert!(driver.read(&OUT).is_empty(), "the record that would have closed the window failed");
    pipe(&mut driver, "a", 2, 9);
    pipe(&mut driver, "a", 0, 15);
    let out: Vec<_> = driver.read(&OUT).into_iter().map(|record| (record.key, record.value, record.timestamp.0)).collect();
    assert_eq!(out, [(window("a", 0, 10), 3, 9)]);
    let parked = driver.read(&Topic::<String, i64>::new("in.dlq"));
    assert_eq!(parked.len(), 1);
}

#[test]
fn a_running_application_shows_windows_by_key_and_time() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let start = || {
        let mut builder = StreamBuilder::new("app");
        windowed(&mut builder, TimeWindows::tumbling_ms(10)).retention_ms(100).count("counts");
        App::start(builder.build().expect("the topology is valid"), Config::embedded(dir.path())).expect("the application starts")
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let app = start();
    let handle = app.handle();
    let record = |key: &str, at: i64| Record::new(key.to_owned(), 1, Timestamp(at));
    let records = (0..20).flat_map(|n| [record("a", 10 * n), record("b", 10 * n + 1)]);
    let token = handle.append_blocking(records.fold(Events::new(), |events, record| events.with(&IN, &record)));
    let token = token.expect("the records are appended");
    runtime.block_on(handle.at_least(&token, "counts", Duration::from_secs(60))).expect("the view is up to date");
    let check = |app: &App| {
        let view = app.handle().view("counts").expect("the store has a view").typed(&COUNTS);
        let starts = |key: &str, from, to, direction, limit| {
            let rows = view
                .windows(&key.to_owned(), (Timestamp(from), Timestamp(to)), direction, limit)
                .and_then(Seen::wait)
                .expect("it can be read");
            rows.into_iter().map(|(key, _)| key.start.0).collect::<Vec<_>>()
        };
        assert_eq!(starts("a", 150, 171, Direction::Forward, 10), [150, 160, 170]);
        assert_eq!(starts("a", 0, 120, Direction::Forward, 10), [100, 110], "the others are forgotten");
        assert_eq!(starts("b", 0, i64::MAX, Direction::Reverse, 2), [190, 180]);
        assert_eq!(starts("c", 0, i64::MAX, Direction::Forward, 10), [0; 0]);
        let all = view
            .all_windows((Timestamp(185), Timestamp(i64::MAX)), Direction::Forward, 10)
            .and_then(Seen::wait)
            .expect("it can be read");
        assert_eq!(all, [(window("a", 190, 200), 1), (window("b", 190, 200), 1)]);
    };
    check(&app);
    drop(handle);
    assert_eq!(app.stop(), None);
    check(&start());
}
