//! Processes of two versions of an application: one takes over from the other, and meanwhile both run.

use std::path::Path;
use std::sync::Arc;

use millstream::serve::application_routes;
use millstream::{App, Config, Process, Record, Scope, Seen, Store, StreamBuilder, Topic};

use super::{
    Names, SUMS, await_rounds, catch_up, check_each_once, kafka_config, log_with, refusal, running, start, sum, under_load,
};
use crate::app::support::eventually;
use crate::serve::Running;

const LARGEST: Store<String, i64> = Store::keyed("largest");

impl Names {
    /// The next version: one store more where there was one, and a sub-topology more.
    fn next_version(self) -> StreamBuilder {
        let mut builder = StreamBuilder::new(self.app);
        let process = Process::new("sum", |ctx: &mut Scope<'_, String, i64>, record: Record<String, i64>| {
            let sum = ctx.store(&SUMS).get(&record.key)?.unwrap_or(0) + record.value;
            ctx.store(&SUMS).put(&record.key, &sum)?;
            let largest = ctx.store(&LARGEST).get(&record.key)?.unwrap_or(0).max(sum);
            ctx.store(&LARGEST).put(&record.key, &largest)?;
            ctx.forward(record.with_value(sum))
        });
        // In front of what was there, so that every number of the old version means something else now.
        builder.stream(&Topic::<String, i64>::new(self.more).partitions(2)).group_by_key().count("more");
        let sums = builder.stream(&self.input()).process(process.store(&LARGEST).store(&SUMS));
        sums.to(&self.output());
        sums.group_by("by-sum", |_, sum| *sum).count("counts");
        builder
    }
}

#[test]
fn a_version_with_more_takes_over_one_process_after_the_other_and_one_that_differs_is_refused() {
    const KEYS: usize = 8;
    let names = Names::new();
    let dirs = [(); 3].map(|()| tempfile::tempdir().expect("a temporary directory"));
    let [first, second] = [0, 1].map(|i| start(names.sums(), dirs[i].path(), 1));
    let mut after = None;
    let rounds = under_load(names, KEYS, |rounds| {
        await_rounds(rounds, 5);
        // One that keeps sums otherwise, and one whose input is shared out otherwise.
        let mut retyped = StreamBuilder::new(names.app);
        retyped.stream(&names.input()).group_by("by-sum", |_, sum| sum.to_string()).count("counts");
        let said = refusal(retyped, dirs[2].path());
        assert!(said.contains("format of store counts was") && said.contains("i64 -> u64"), "{said}");
        assert!(said.contains("and is now") && said.contains("utf-8 -> u64"), "{said}");
        await_rounds(rounds, 3);
        assert_eq!(first.handle().health(), millstream::Health::Up);

        assert_eq!(first.stop(), None);
        let third = start(names.next_version(), dirs[0].path(), 1);
        await_rounds(rounds, 5);
        assert_eq!(second.stop(), None);
        let fourth = start(names.next_version(), dirs[1].path(), 1);
        await_rounds(rounds, 5);
        after = Some([third, fourth]);
    });
    let [third, fourth] = after.expect("both run");
    // The last of a key's sums is its largest, in the store that the new version brought.
    let log = log_with(kafka_config());
    eventually("all is processed", || names.written(&log, "0").len() == rounds);
    // The group may have given the tasks of a topic to one of them: with all at one, it has every store whole.
    assert_eq!(fourth.stop(), None);
    running(&third.handle());
    let largest = third.handle().view("largest").expect("a store").typed(&LARGEST);
    let largest = largest.get(&"0".to_owned()).and_then(Seen::wait).expect("it is here");
    assert_eq!(largest, Some(rounds as i64));
    // A process of the old version that comes back is welcome while others are there.
    let old = start(names.sums(), dirs[2].path(), 1);
    for app in [third, old] {
        assert_eq!(app.stop(), None);
    }
    check_each_once(names, KEYS, rounds);
}

#[test]
fn a_store_that_another_process_had_first_is_restored_from_before_the_others() {
    let names = Names::new();
    let dirs = [(); 2].map(|()| tempfile::tempdir().expect("a temporary directory"));
    let run = |builder, dir: &tempfile::TempDir, key: &str, value| {
        let app = start(builder, dir.path(), 1);
        names.append(&app.handle(), key, value);
        catch_up(&app.handle());
        let largest = app
            .handle()
            .view("largest")
            .map(|view| view.typed(&LARGEST).get(&"a".to_owned()).and_then(Seen::wait).expect("the view answers"));
        let sums = ["a", "b"].map(|key| sum(&app.handle(), key));
        assert_eq!(app.stop(), None);
        (sums, largest.flatten())
    };
    run(names.sums(), &dirs[0], "a", 5);
    assert_eq!(run(names.next_version(), &dirs[1], "a", 1), ([Some(6), None], Some(6)));
    // The old version goes on from there: its state now stands beyond rows of a store that it does not know.
    assert_eq!(run(names.sums(), &dirs[0], "b", 1), ([Some(6), Some(1)], None));
    assert_eq!(run(names.next_version(), &dirs[0], "b", 1), ([Some(6), Some(2)], Some(6)));
}

/// A process of a version with its views over HTTP, where others find it.
fn serving(builder: StreamBuilder, dir: &Path) -> (App, Running) {
    let port = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("an address");
    let topology = builder.build().expect("the topology is valid");
    let config = Config { threads: 1, advertise: Some(port.to_string()), ..Config::shared(dir) };
    let app = App::start_on(topology, config, Arc::new(log_with(kafka_config()))).expect("the application starts");
    let server = Running::start(millstream::serve::Config::listen(port), application_routes(&app.handle()));
    (app, server)
}

#[test]
fn processes_of_two_versions_ask_each_other_for_what_both_know() {
    let names = Names::new();
    let dirs = [(); 2].map(|()| tempfile::tempdir().expect("a temporary directory"));
    let (old, old_server) = serving(names.sums(), dirs[0].path());
    let (new, new_server) = serving(names.next_version(), dirs[1].path());
    let keys: Vec<String> = (0..16).map(|key| key.to_string()).collect();
    old.handle().append_blocking(names.events(keys.iter().map(|key| (key.clone(), 7)))).expect("the log takes it");
    // Whoever of the two the group has given a task to; so each key is with one of them, and the other must ask.
    let has = |app: &App, key: &String| {
        let view = app.handle().view("sums").expect("a store").typed(&SUMS);
        view.get(key).and_then(Seen::wait).is_ok_and(|sum| sum == Some(7))
    };
    eventually("all is processed", || keys.iter().all(|key| has(&old, key) || has(&new, key)));
    assert!(keys.iter().any(|key| !has(&old, key) || !has(&new, key)), "nobody has to ask");
    for server in [&old_server, &new_server] {
        for key in &keys {
            eventually("it is found", || {
                let answer = server.connect().get(&format!("/views/sums/{key}"));
                let found = answer.status == 200 && answer.json()["value"] == 7;
                // Until all is processed it may not be there, and until the group has shared out the tasks nobody may have it.
                assert!(found || matches!(answer.status, 404 | 503), "{answer:?}");
                found
            });
        }
        let mut watch = server.connect();
        watch.subscribe(&format!("/views/sums/{}", keys[0]), "");
        let shows = |blocks: Vec<String>| blocks.iter().any(|block| block.contains(r#""key":"0","value":7"#));
        while !shows(watch.events().expect("the stream goes on")) {}
    }
    drop((old_server, new_server));
    for app in [old, new] {
        assert_eq!(app.stop(), None);
    }
}
