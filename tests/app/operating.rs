//! What operators do with a running application: pause it, watch its state and how it is restored, give it more threads or fewer. Here on the
//! embedded log; `kafka.rs` has what a group changes about it.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::mpsc;
use std::time::Duration;

use millstream::{
    App, AppState, Config, Partition, Reset, ResetError, ResetTo, RestoreListener, RestoreStep, StartError, ThreadError,
    Timestamp,
};

use super::support::{IN, OUT, append, catch_up, config, events, eventually, pass, read, start, sum, sums, values, wait};

#[test]
fn what_is_paused_processes_nothing_until_it_is_resumed() {
    let dir = tempfile::tempdir().expect("a directory");
    let app = start(sums(), dir.path());
    let handle = app.handle();
    append(&handle, "a", 1);
    catch_up(&handle, "counts");
    handle.pause();
    assert_eq!(handle.state(), AppState::Paused);
    append(&handle, "a", 10);
    // It answers, also that it has not come further.
    let early = wait(handle.caught_up("sums", Duration::from_millis(300)));
    assert!(early.is_err() && sum(&handle, "a") == Some(1), "{early:?}");
    handle.resume();
    catch_up(&handle, "counts");
    assert_eq!((sum(&handle, "a"), handle.state()), (Some(11), AppState::Running));
    handle.pause();
    drop(handle);
    assert_eq!(app.stop(), None, "what is paused stops in order");
    let app = start(sums(), dir.path());
    assert_eq!(app.handle().state(), AppState::Running, "a restart is not paused");
}

#[test]
fn every_change_of_state_is_told() {
    let dir = tempfile::tempdir().expect("a directory");
    let app = start(sums(), dir.path());
    let handle = app.handle();
    let mut states = handle.states();
    let (told, heard) = mpsc::channel();
    let listener = std::thread::spawn(move || {
        wait(async move {
            loop {
                let state = *states.borrow_and_update();
                // The test may have heard enough.
                let _ = told.send(state);
                if state == AppState::NotRunning || states.changed().await.is_err() {
                    return;
                }
            }
        });
    });
    let next = || heard.recv_timeout(super::support::LONG).expect("the next state is told");
    assert_eq!(next(), AppState::Running);
    handle.pause();
    assert_eq!(next(), AppState::Paused);
    handle.resume();
    assert_eq!(next(), AppState::Running);
    assert_eq!(app.stop(), None);
    let last: Vec<AppState> = std::iter::from_fn(|| heard.recv().ok()).collect();
    assert!(matches!(last[..], [AppState::NotRunning] | [AppState::PendingShutdown, AppState::NotRunning]), "{last:?}");
    listener.join().expect("the listener ends");
}

#[test]
fn restoring_is_told_task_by_task() {
    const KEYS: i64 = 500;
    let dir = tempfile::tempdir().expect("a directory");
    let app = start(sums(), dir.path());
    let handle = app.handle();
    handle.append_blocking(events((0..KEYS).map(|key| (key.to_string(), 1)))).expect("the log takes it");
    catch_up(&handle, "counts");
    drop(handle);
    app.stop();
    // What is flushed at the end is not trimmed, so the next start can read it all.
    std::fs::remove_dir_all(dir.path().join("state")).expect("the state can be removed");

    let (told, steps) = mpsc::channel();
    let listener = RestoreListener::new(move |restoration| {
        let stores = restoration.stores.join(" ");
        drop(told.send((stores, restoration.changelog.to_owned(), restoration.partition, restoration.step)));
    });
    let config = Config { restore_listener: Some(listener), ..config(dir.path()) };
    let app = App::start(sums().build().expect("the topology is valid"), config).expect("the application starts");
    let steps: Vec<_> = steps.try_iter().collect();
    let mut restored = 0;
    for partition in (0..3).map(Partition) {
        let of = steps.iter().filter(|(stores, _, p, _)| stores == "sums meta.in" && *p == partition);
        let of: Vec<RestoreStep> = of.map(|(.., step)| *step).collect();
        let [RestoreStep::Start { from, end }, ref batches @ .., RestoreStep::End { records }] = of[..] else { panic!("{of:?}") };
        let batches = batches.iter().map(|step| match step {
            RestoreStep::Batch { records, next, end: to } => {
                assert!(*next > from && *to == end);
                *records
            }
            other => panic!("{other:?}"),
        });
        assert_eq!(batches.sum::<u64>(), records, "{of:?}");
        restored += records;
    }
    assert!(restored > KEYS as u64, "a row for each key, and the tasks' own");
    let named = [("sums meta.in", "app-in-changelog"), ("counts meta.by-sum", "app-by-sum-changelog")];
    assert!(steps.iter().all(|(stores, changelog, ..)| named.contains(&(stores, changelog))), "{steps:?}");
    assert_eq!(sum(&app.handle(), "7"), Some(1));
}

#[test]
fn threads_come_and_go_under_load_and_nothing_is_lost_or_done_twice() {
    const KEYS: i64 = 50;
    let dir = tempfile::tempdir().expect("a directory");
    let app = start(sums(), dir.path());
    let handle = app.handle();
    let done = AtomicBool::new(false);
    let rounds = std::thread::scope(|scope| {
        let writing = scope.spawn(|| {
            let mut rounds = 0;
            while !done.load(SeqCst) {
                handle.append_blocking(events((0..KEYS).map(|key| (key.to_string(), 1)))).expect("the log takes it");
                rounds += 1;
            }
            rounds
        });
        for _ in 0..6 {
            for count in [3, 4] {
                handle.add_thread().expect("a thread more");
                assert_eq!(handle.threads(), count);
                pass(Duration::from_millis(20));
            }
            for count in [3, 2] {
                handle.remove_thread().expect("a thread less");
                assert_eq!(handle.threads(), count);
                pass(Duration::from_millis(20));
            }
        }
        done.store(true, SeqCst);
        writing.join().expect("the writer ends")
    });
    catch_up(&handle, "counts");
    drop(handle);
    assert_eq!(app.stop(), None);
    let sums = read(dir.path(), &OUT);
    for key in 0..KEYS {
        let of: Vec<i64> = sums.iter().filter(|record| record.key == key.to_string()).map(|record| record.value).collect();
        assert_eq!(of, (1..=rounds).collect::<Vec<i64>>(), "of {key}");
    }
    assert!(rounds > 10 && read(dir.path(), &IN).len() as i64 == rounds * KEYS);
}

#[test]
fn there_is_a_thread_at_least_and_none_without_a_task() {
    let dir = tempfile::tempdir().expect("a directory");
    let app = start(sums(), dir.path());
    let handle = app.handle();
    handle.remove_thread().expect("one of two");
    assert!(matches!(handle.remove_thread(), Err(ThreadError::Last)));
    let refused = std::iter::repeat_with(|| handle.add_thread()).find_map(Result::err).expect("tasks run out");
    // Three partitions of `in`, and as many of the topic between.
    assert!(matches!(refused, ThreadError::NoTaskLeft { tasks: 6 }), "{refused}");
    append(&handle, "a", 1);
    catch_up(&handle, "counts");
    eventually("it is as it was", || handle.threads() == 6 && handle.state() == AppState::Running);
    assert_eq!(app.stop(), None);
    assert!(matches!(handle.add_thread(), Err(ThreadError::NotRunning)));
}

#[test]
fn a_reset_forgets_and_begins_anew() {
    let dir = tempfile::tempdir().expect("a directory");
    let topology = || sums().build().expect("the topology is valid");
    let app = start(sums(), dir.path());
    for value in 1..=3 {
        append(&app.handle(), "a", value);
    }
    catch_up(&app.handle(), "counts");
    let reset = |to| Reset { to, ..Reset::default() }.run_embedded(&topology(), &config(dir.path()));
    let running = reset(ResetTo::Earliest).expect_err("it runs");
    assert!(matches!(&running, ResetError::Start(StartError::Log(_))) && running.to_string().contains("in use"), "{running}");
    app.stop();

    let planned = Reset { dry_run: true, ..Reset::default() }.run_embedded(&topology(), &config(dir.path()));
    let planned = planned.expect("nothing runs");
    assert!(planned.begins.iter().all(|begin| begin.topic == IN.name() && begin.offset.0 == 0), "{planned:?}");
    let check = |expected| {
        let app = start(sums(), dir.path());
        catch_up(&app.handle(), "counts");
        assert_eq!(sum(&app.handle(), "a"), expected);
        app.stop();
    };
    check(Some(6));
    assert_eq!(reset(ResetTo::Earliest).expect("nothing runs"), planned);
    check(Some(6));
    assert_eq!(values(dir.path(), &OUT, "a"), [1, 3, 6, 1, 3, 6]);
    reset(ResetTo::Latest).expect("nothing runs");
    check(None);
    let app = start(sums(), dir.path());
    append(&app.handle(), "a", 5);
    catch_up(&app.handle(), "counts");
    assert_eq!(sum(&app.handle(), "a"), Some(5));
    app.stop();
    // All records have this time, and none a later one.
    reset(ResetTo::Time(Timestamp(1_000))).expect("nothing runs");
    check(Some(11));
    reset(ResetTo::Time(Timestamp(1_001))).expect("nothing runs");
    check(None);
}
