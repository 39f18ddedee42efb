//! Starting and stopping: a restart loses nothing and repeats nothing; a directory that does not fit is refused in one sentence.

use std::path::Path;
use std::time::{Duration, Instant};

use millstream::log::{EmbeddedLog, Log, embedded};
use millstream::{App, Clock, Health, Partition, Process, Record, Scope, Seen, Store, StreamBuilder, Topic};

use super::support::{IN, OUT, SUMS, append, catch_up, config, start, sum, sums, values};

#[test]
fn a_restart_keeps_state_and_processes_nothing_again() {
    let dir = tempfile::tempdir().expect("a directory");
    for round in 1..=3 {
        let app = start(sums(), dir.path());
        append(&app.handle(), "a", 1);
        catch_up(&app.handle(), "counts");
        assert_eq!(sum(&app.handle(), "a"), Some(round));
        assert_eq!(app.stop(), None);
    }
    assert_eq!(values(dir.path(), &OUT, "a"), [1, 2, 3]);
}

#[test]
fn an_application_is_ready_once_it_has_processed_what_was_there_at_the_start() {
    let dir = tempfile::tempdir().expect("a directory");
    let app = start(sums(), dir.path());
    assert!(app.handle().ready(), "nothing was there");
    append(&app.handle(), "a", 1);
    assert!(app.handle().ready(), "what came later does not count");
    app.stop();
    let app = start(sums(), dir.path());
    super::support::eventually("it becomes ready", || app.handle().ready());
    assert_eq!(sum(&app.handle(), "a"), Some(1));
}

#[test]
fn an_idle_application_stops_at_once() {
    let dir = tempfile::tempdir().expect("a directory");
    let app = start(sums(), dir.path());
    append(&app.handle(), "a", 1);
    catch_up(&app.handle(), "counts");
    let begun = Instant::now();
    assert_eq!(app.stop(), None);
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
}

/// Why the topology does not start on this directory.
fn refusal(builder: StreamBuilder, dir: &Path) -> String {
    match App::start(builder.build().expect("the topology is valid"), config(dir)) {
        Ok(_) => panic!("it started"),
        Err(error) => error.to_string(),
    }
}

fn check_refused(builder: StreamBuilder, dir: &Path, parts: &[&str]) {
    let sentence = refusal(builder, dir);
    for part in parts {
        assert!(sentence.contains(part), "{part:?} is not in: {sentence}");
    }
    assert!(!sentence.contains('\n'), "one sentence: {sentence}");
}

#[test]
fn a_directory_has_one_application_at_a_time() {
    let dir = tempfile::tempdir().expect("a directory");
    let app = start(sums(), dir.path());
    check_refused(sums(), dir.path(), &["in use by another process", &dir.path().display().to_string()]);
    append(&app.handle(), "a", 1);
    catch_up(&app.handle(), "sums");
}

fn topics(dir: &Path) -> Vec<String> {
    let log = EmbeddedLog::open(dir.join("log"), embedded::Options::new(|| Clock::System.now())).expect("the log opens");
    log.topics().expect("the log answers").into_iter().map(|topic| topic.name.to_string()).collect()
}

#[test]
fn another_topology_is_refused_by_what_differs_and_leaves_no_trace() {
    let dir = tempfile::tempdir().expect("a directory");
    start(sums(), dir.path()).stop();
    let before = topics(dir.path());

    let mut other = StreamBuilder::new("other");
    other.stream(&IN).group_by_key().count("seen");
    check_refused(other, dir.path(), &["application was app, and is now other"]);

    let mut retyped = StreamBuilder::new("app");
    let read = retyped.stream(&IN).process(
        Process::new("sum", |ctx: &mut Scope<'_, String, i64>, record: Record<String, i64>| ctx.forward(record)).store(&SUMS),
    );
    read.group_by("by-sum", |_, sum| sum.to_string()).count("counts");
    check_refused(retyped, dir.path(), &["format of store counts was", "i64 -> u64", "and is now", "utf-8 -> u64"]);
    assert_eq!(topics(dir.path()), before);

    let app = start(sums(), dir.path());
    assert_eq!(app.handle().health(), Health::Up);
}

#[test]
fn a_store_and_a_sub_topology_can_be_added() {
    let dir = tempfile::tempdir().expect("a directory");
    let app = start(sums(), dir.path());
    append(&app.handle(), "a", 5);
    catch_up(&app.handle(), "counts");
    app.stop();

    let mut more = sums();
    let added: Topic<String, i64> = Topic::new("added");
    more.stream(&added).group_by_key().count("added-counts");
    let app = start(more, dir.path());
    append(&app.handle(), "a", 2);
    catch_up(&app.handle(), "counts");
    catch_up(&app.handle(), "added-counts");
    assert_eq!(sum(&app.handle(), "a"), Some(7));
}

/// A stopped application that has read a 5 for `a`, and whose changelog of the tasks that read `in` is trimmed, as it is behind state that was flushed.
fn trimmed() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    let app = start(sums(), dir.path());
    append(&app.handle(), "a", 5);
    catch_up(&app.handle(), "counts");
    app.stop();
    let log = EmbeddedLog::open(dir.path().join("log"), embedded::Options::new(|| Clock::System.now())).expect("the log opens");
    let changelog = log.topic("app-in-changelog").expect("the log answers").expect("there is one");
    for partition in (0..changelog.partitions).map(Partition) {
        let end = log.bounds(changelog.id, partition).expect("the log answers").end;
        log.trim(changelog.id, partition, end).expect("it is trimmed");
    }
    dir
}

#[test]
fn a_store_can_be_added_to_a_task_whose_changelog_was_trimmed() {
    let dir = trimmed();
    const LAST: Store<String, i64> = Store::keyed("last");
    let more = || {
        let mut more = StreamBuilder::new("app");
        let process = Process::new("sum", |ctx: &mut Scope<'_, String, i64>, record: Record<String, i64>| {
            let sum = ctx.store(&SUMS).get(&record.key)?.unwrap_or(0) + record.value;
            ctx.store(&SUMS).put(&record.key, &sum)?;
            ctx.store(&LAST).put(&record.key, &record.value)?;
            ctx.forward(record.with_value(sum))
        });
        let sums = more.stream(&IN).process(process.store(&SUMS).store(&LAST));
        sums.to(&OUT);
        sums.group_by("by-sum", |_, sum| *sum).count("counts");
        more
    };
    let last = |app: &App, key: &str| {
        let view = app.handle().view("last").expect("a store").typed(&LAST);
        view.get(&key.to_owned()).and_then(Seen::wait).expect("the view answers")
    };
    let (state, before) = (dir.path().join("state"), dir.path().join("before"));
    copy(&state, &before);
    let app = start(more(), dir.path());
    assert_eq!((sum(&app.handle(), "a"), last(&app, "a")), (Some(5), None));
    append(&app.handle(), "b", 2);
    catch_up(&app.handle(), "counts");
    app.stop();
    // As after a crash before the first flush: the new store has no position, and its rows are in the changelog alone.
    std::fs::remove_dir_all(&state).expect("the state can be removed");
    std::fs::rename(&before, &state).expect("it can be what it was");
    let app = start(more(), dir.path());
    assert_eq!((sum(&app.handle(), "a"), sum(&app.handle(), "b"), last(&app, "b")), (Some(5), Some(2), Some(2)));
}

#[test]
fn a_state_that_is_gone_is_refused_where_its_changelog_was_trimmed() {
    let dir = trimmed();
    std::fs::remove_dir_all(dir.path().join("state")).expect("the state can be removed");
    check_refused(sums(), dir.path(), &["is missing, and its changelog \"app-in-changelog\" begins only at offset"]);
}

/// Copies all files below a directory, as they are.
fn copy(from: &Path, to: &Path) {
    for path in walk(from) {
        let target = to.join(path.strip_prefix(from).expect("it lies below"));
        std::fs::create_dir_all(target.parent().expect("it lies in one")).expect("a directory can be made");
        std::fs::copy(&path, target).expect("a file can be copied");
    }
}

#[test]
fn a_damaged_directory_is_refused_by_name() {
    for part in ["log/db", "state"] {
        let dir = tempfile::tempdir().expect("a directory");
        let app = start(sums(), dir.path());
        append(&app.handle(), "a", 1);
        catch_up(&app.handle(), "sums");
        app.stop();
        let current = walk(&dir.path().join(part)).into_iter().find(|path| path.ends_with("CURRENT")).expect("a database");
        std::fs::write(current, "nonsense\n").expect("the file can be written");
        check_refused(sums(), dir.path(), &["damaged", &dir.path().display().to_string()]);
    }
}

#[test]
fn state_and_log_of_different_origin_are_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let app = start(sums(), dir.path());
    append(&app.handle(), "a", 1);
    catch_up(&app.handle(), "counts");
    app.stop();
    std::fs::remove_dir_all(dir.path().join("log")).expect("the log can be removed");
    check_refused(sums(), dir.path(), &["belongs to another log", "restore both from one backup"]);
}

/// All files below a directory.
fn walk(dir: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(dir).expect("a directory").map(|entry| entry.expect("an entry").path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}
