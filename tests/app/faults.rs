//! A log or a disk that fails for a while: nothing acknowledged is lost, nothing happens twice, and the application goes on by itself.

use std::collections::BTreeMap;
use std::path::Path;

use millstream::{App, Config, Health, Process, Record, Scope, Seen, Store, StreamBuilder, Timestamp};
use millstream_state::fault::{self, Action};

use super::support::{IN, OUT, alone, append, catch_up, config, events, eventually, pass, read, record, start, sum, sums};

/// Sums up `value`s that are all 1: each output is one more than the one before it, or something was lost or done twice.
fn check_exactly_once(dir: &Path, expected: &BTreeMap<String, i64>) {
    let mut last: BTreeMap<String, i64> = BTreeMap::new();
    for output in read(dir, &OUT) {
        let before = last.insert(output.key.clone(), output.value).unwrap_or(0);
        assert_eq!(output.value, before + 1, "key {}", output.key);
    }
    assert_eq!(&last, expected);
    let app = start(sums(), dir);
    catch_up(&app.handle(), "counts");
    for (key, count) in expected {
        assert_eq!(sum(&app.handle(), key), Some(*count));
    }
}

/// Appends while every few commits fail at `point`, and compares the end with what was acknowledged.
fn check_failing_commits(point: &str) {
    let dir = tempfile::tempdir().expect("a directory");
    let app = start(sums(), dir.path());
    let handle = app.handle();
    let mut acknowledged = 0;
    for round in 0..30 {
        let armed = round % 3 != 2;
        if armed {
            // The first commit after it is the append, the second most likely the worker's.
            fault::arm(point, 2 + round % 2, Action::Fail);
        }
        let appended = handle.append_blocking(events((0..5).map(|n| (format!("key-{n}"), 1))));
        appended.expect("the append is not the one that fails");
        acknowledged += 1;
        if armed {
            eventually("a worker's commit fails", || handle.health() != Health::Up);
            fault::disarm(point);
        }
        // What was in the way is committed now, so that in the next round the append is the first commit.
        catch_up(&handle, "counts");
        eventually("it works again", || handle.health() == Health::Up);
    }
    assert_eq!(sum(&handle, "key-0"), Some(acknowledged));
    drop(handle);
    assert_eq!(app.stop(), None);
    check_exactly_once(dir.path(), &(0..5).map(|n| (format!("key-{n}"), acknowledged)).collect());
}

#[test]
fn commits_that_fail_before_they_are_written_are_repeated() {
    alone("app::faults::commits_that_fail_before_they_are_written_are_repeated", || {
        check_failing_commits("log:commit:before-write")
    });
}

#[test]
fn commits_that_are_written_and_reported_as_failed_are_not_repeated() {
    let name = "app::faults::commits_that_are_written_and_reported_as_failed_are_not_repeated";
    alone(name, || check_failing_commits("log:commit:after-write"));
}

#[test]
fn a_full_disk_refuses_writes_loses_nothing_and_is_survived() {
    alone("app::faults::a_full_disk_refuses_writes_loses_nothing_and_is_survived", || {
        let dir = tempfile::tempdir().expect("a directory");
        let app = start(sums(), dir.path());
        let handle = app.handle();
        append(&handle, "a", 1);
        catch_up(&handle, "counts");
        fault::arm("log:commit:before-write", 1, Action::Fail);
        for _ in 0..20 {
            assert!(handle.append_blocking(events([("a".to_owned(), 1)])).is_err());
        }
        eventually("it says so", || matches!(handle.health(), Health::Degraded(_)));
        assert_eq!(sum(&handle, "a"), Some(1), "views go on answering");
        fault::disarm("log:commit:before-write");
        eventually("it works again", || handle.health() == Health::Up);
        append(&handle, "a", 1);
        catch_up(&handle, "counts");
        assert_eq!(sum(&handle, "a"), Some(2));
        drop(handle);
        app.stop();
        check_exactly_once(dir.path(), &BTreeMap::from([("a".to_owned(), 2)]));
    });
}

#[test]
fn an_application_that_is_stopped_while_the_log_fails_loses_nothing() {
    alone("app::faults::an_application_that_is_stopped_while_the_log_fails_loses_nothing", || {
        let dir = tempfile::tempdir().expect("a directory");
        let mut expected = 0;
        for round in 0..10 {
            let app = start(sums(), dir.path());
            let handle = app.handle();
            // What the last round left undone is committed first, so that the append is the next commit.
            catch_up(&handle, "counts");
            fault::arm("log:commit:before-write", 2, Action::Fail);
            append(&handle, "a", 1);
            expected += 1;
            eventually("the worker's commit fails", || handle.health() != Health::Up);
            if round % 2 == 0 {
                fault::disarm("log:commit:before-write");
            }
            drop(handle);
            let begun = std::time::Instant::now();
            app.stop();
            assert!(begun.elapsed() < std::time::Duration::from_secs(5), "{:?}", begun.elapsed());
            fault::disarm("log:commit:before-write");
        }
        let app = start(sums(), dir.path());
        catch_up(&app.handle(), "counts");
        app.stop();
        check_exactly_once(dir.path(), &BTreeMap::from([("a".to_owned(), expected)]));
    });
}

#[test]
fn a_state_that_cannot_be_written_waits_for_space() {
    alone("app::faults::a_state_that_cannot_be_written_waits_for_space", || {
        let dir = tempfile::tempdir().expect("a directory");
        let config = Config { state_memory_bytes: 2 << 20, ..config(dir.path()) };
        let app = App::start(sums().build().expect("the topology is valid"), config).expect("the application starts");
        let handle = app.handle();
        fault::arm("state:flush:frozen", 1, Action::Fail);
        let mut expected = BTreeMap::new();
        for round in 0..20 {
            let keys = || (0..2_000).map(|n| (format!("key-{round}-{n}-{}", "x".repeat(100)), 1));
            handle.append_blocking(events(keys())).expect("the log takes it");
            expected.extend(keys());
        }
        eventually("it says so", || matches!(handle.health(), Health::Degraded(_)));
        pass(std::time::Duration::from_millis(300));
        assert!(matches!(handle.health(), Health::Degraded(_)), "{:?}", handle.health());
        fault::disarm("state:flush:frozen");
        catch_up(&handle, "counts");
        eventually("it works again", || handle.health() == Health::Up);
        drop(handle);
        assert_eq!(app.stop(), None);
        check_exactly_once(dir.path(), &expected);
    });
}

const LIVED: Store<String, i64> = Store::keyed("lived").ttl_ms(1_000);

/// Notes keys with a time-to-live.
fn lived() -> StreamBuilder {
    let mut builder = StreamBuilder::new("app");
    let process = Process::new("note", |ctx: &mut Scope<'_, String, i64>, record: Record<String, i64>| {
        ctx.store(&LIVED).put(&record.key, &record.value)
    });
    builder.stream(&IN).process(process.store(&LIVED));
    builder
}

#[test]
fn rows_with_a_time_to_live_keep_their_time_over_restarts_and_failed_commits() {
    alone("app::faults::rows_with_a_time_to_live_keep_their_time_over_restarts_and_failed_commits", || {
        let dir = tempfile::tempdir().expect("a directory");
        let at = |ms: i64, key: &str| {
            let record = Record { timestamp: Timestamp(ms), ..record(key, 1) };
            millstream::Events::new().with(&IN, &record)
        };
        let get = |app: &App, key: &str| {
            let view = app.handle().view("lived").expect("a store").typed(&LIVED);
            view.get(&key.to_owned()).and_then(Seen::wait).expect("the view answers")
        };
        let app = start(lived(), dir.path());
        app.handle().append_blocking(at(5_000, "k")).expect("the log takes it");
        catch_up(&app.handle(), "lived");
        assert_eq!(get(&app, "k"), Some(1));
        app.stop();

        // Stream time does not move in the transaction that fails; what is written again still has it.
        let app = start(lived(), dir.path());
        catch_up(&app.handle(), "lived");
        fault::arm("log:commit:before-write", 2, Action::Fail);
        app.handle().append_blocking(at(4_000, "k")).expect("the log takes it");
        eventually("the worker's commit fails", || app.handle().health() != Health::Up);
        fault::disarm("log:commit:before-write");
        catch_up(&app.handle(), "lived");
        // Enough keys to move stream time in every partition.
        for n in 0..20 {
            app.handle().append_blocking(at(5_500, &format!("k{n}"))).expect("the log takes it");
        }
        catch_up(&app.handle(), "lived");
        assert_eq!(get(&app, "k"), Some(1), "written at stream time 5000, it lives until 6000");
        app.stop();
    });
}

#[test]
fn readers_after_a_restart_do_not_see_what_had_expired() {
    let dir = tempfile::tempdir().expect("a directory");
    let start = || start(lived(), dir.path());
    let keys: Vec<String> = (0..30_000).map(|n| format!("key-{n}")).collect();
    let app = start();
    let write = |app: &App, keys: &[String], ms: i64| {
        let events = keys.iter().fold(millstream::Events::new(), |events, key| {
            events.with(&IN, &Record { timestamp: Timestamp(ms), ..record(key, 1) })
        });
        app.handle().append_blocking(events).expect("the log takes it");
        catch_up(&app.handle(), "lived");
    };
    let visible = |app: &App| {
        let view = app.handle().view("lived").expect("a store").typed(&LIVED);
        keys.iter().filter(|key| view.get(key).and_then(Seen::wait).expect("the view answers").is_some()).count()
    };
    write(&app, &keys, 1_000);
    assert_eq!(visible(&app), keys.len());
    // All partitions hear of the later time; a sweep deletes only some of the rows with the same commit.
    write(&app, &keys[..30], 10_000);
    assert_eq!(visible(&app), 30);
    app.stop();
    let app = start();
    assert_eq!(visible(&app), 30, "before anything else is committed");
    app.stop();
}
