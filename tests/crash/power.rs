//! Power cuts: a child is killed under load, and all is cut off that its last sync had not made durable. What it had acknowledged, shown in a
//! view or told to a watcher must be there afterwards as it was: each number draws a lot in one task and a second one in another, which
//! come out differently each time they are drawn, so that what was lost and is done again shows.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use millstream::{
    Accepted, App, Config, Direction, Events, Process, Range, Record, RequestKey, Scope, Seen, Store, StreamBuilder, Topic,
    Topology, Watched,
};
use uuid::Uuid;

use super::{LONG, random, rounds};
use crate::app::support::read;
use crate::power;

const NUMBERS: Topic<u64, u64> = Topic::new("numbers").partitions(2).keep_forever();
const FIRST: Topic<u64, String> = Topic::new("first").partitions(2).keep_forever();
const SECOND: Topic<u64, String> = Topic::new("second").partitions(2).keep_forever();
const FIRSTS: Store<u64, String> = Store::keyed("firsts");
const SECONDS: Store<u64, String> = Store::keyed("seconds");

/// Draws a lot for each number that has none.
fn draw<V: millstream::codec::Data>(name: &'static str, store: &'static Store<u64, String>) -> Process<u64, V, u64, String> {
    let draw = move |ctx: &mut Scope<'_, u64, String>, record: Record<u64, V>| {
        assert!(ctx.store(store).get(&record.key)?.is_none(), "{name}: number {} comes twice", record.key);
        let lot = Uuid::new_v4().to_string();
        ctx.store(store).put(&record.key, &lot)?;
        ctx.forward(record.with_value(lot))
    };
    Process::new(name, draw).store(store)
}

fn topology() -> Topology {
    let mut builder = StreamBuilder::new("power");
    builder.stream(&NUMBERS).process(draw("first", &FIRSTS)).to(&FIRST);
    builder.stream(&FIRST).process(draw("second", &SECONDS)).to(&SECOND);
    builder.build().expect("the topology is valid")
}

fn config(dir: &Path) -> Config {
    Config { threads: 2, state_flush_interval_ms: 30, commit_interval_ms: 20, ..Config::embedded(dir) }
}

#[test]
#[ignore = "run by the other test of this file, in a process that it kills"]
fn child() {
    let Ok(job) = std::env::var("POWER_JOB") else { return };
    let (from, dir) = job.split_once(' ').expect("from and directory");
    let from: u64 = from.parse().expect("a number");
    power::note_syncs(&Path::new(dir).join("log"));
    let app = App::start(topology(), config(Path::new(dir))).expect("the application starts after any power cut");
    let handle = app.handle();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    for store in ["firsts", "seconds"] {
        let view = handle.view(store).expect("a store of the topology");
        let mut watch = view.watch(Watched::Prefix(Vec::new()));
        let watched = view.clone();
        runtime.spawn(async move {
            while let Some(change) = watch.next().await {
                let lot = watched.changed_value(&change).expect("nothing is deleted");
                say(store, &change.key, &lot);
            }
        });
        runtime.spawn(async move {
            loop {
                let page = view.page(&Range::all(), Direction::Reverse, 5).expect("the view answers");
                for (key, lot) in page.durable().await.expect("it is durable") {
                    say(store, &key, &lot);
                }
                tokio::time::sleep(std::time::Duration::from_micros(300)).await;
            }
        });
    }
    runtime.block_on(async {
        let mut running = tokio::task::JoinSet::new();
        for n in from.. {
            let handle = handle.clone();
            running.spawn(async move {
                let request = RequestKey { key: n.to_be_bytes().to_vec(), fingerprint: [0; 32], keep_ms: 3_600_000 };
                let events = || Events::new().with(&NUMBERS, &Record::new(n, n, handle.now()));
                let accept = async || Ok::<_, ()>(Accepted { events: events(), answer: Vec::new() });
                handle.once(&request, accept).await.expect("nothing but power fails");
                println!("told acknowledged {n} .");
            });
            if running.len() >= 16 {
                running.join_next().await;
            }
        }
    });
}

fn say(store: &str, key: &[u8], lot: &[u8]) {
    let n = u64::from_be_bytes(key.try_into().expect("eight bytes"));
    println!("told {store} {n} {} .", String::from_utf8_lossy(lot));
}

/// What the children have told.
#[derive(Default)]
struct Told {
    acknowledged: Vec<u64>,
    lots: BTreeMap<(String, u64), String>,
}

impl Told {
    fn follow(&mut self, mut child: Child, enough: usize) {
        let mut heard = 0;
        for line in BufReader::new(child.stdout.take().expect("its output is piped")).lines().map_while(Result::ok) {
            // The test harness may have begun the line, and the kill may have cut it.
            let Some(told) = line.split("told ").nth(1).and_then(|told| told.strip_suffix(" .")) else { continue };
            match told.split(' ').collect::<Vec<_>>()[..] {
                ["acknowledged", n] => self.acknowledged.push(n.parse().expect("a number")),
                [store, n, lot] => {
                    let place = (store.to_owned(), n.parse().expect("a number"));
                    let before = self.lots.insert(place, lot.to_owned());
                    assert!(before.is_none_or(|before| before == lot), "{store}: {n} was told otherwise before");
                }
                _ => continue,
            }
            heard += 1;
            if heard == enough {
                child.kill().expect("the child is killed");
            }
        }
        let output = child.wait_with_output().expect("the child ends");
        assert!(output.status.code().is_none(), "it may only be killed: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn a_power_cut_takes_nothing_that_was_told() {
    let mut below = random();
    let dir = tempfile::tempdir().expect("a temporary directory");
    let log = dir.path().join("log");
    let (mut told, mut gone) = (Told::default(), 0);
    for round in 1..=u64::from(rounds()) {
        let mut child = Command::new(std::env::current_exe().expect("a running test has a path"));
        child.args(["--exact", "crash::power::child", "--ignored", "--nocapture"]).stdout(Stdio::piped()).stderr(Stdio::piped());
        // Numbers of a round of its own: what was in flight at a cut may be there or not.
        child.env("POWER_JOB", format!("{} {}", round * 1_000_000, dir.path().display())).env_remove("MILLSTREAM_FAULT");
        told.follow(child.spawn().expect("the child starts"), 1 + below(3_000) as usize);
        gone += power::cut_off(&log).unwrap_or(0);
        check(dir.path(), &told);
    }
    println!("{} acknowledged, {} lots told, {gone} bytes cut off", told.acknowledged.len(), told.lots.len());
    assert!(gone > 0, "nothing was ever written and not synced");
}

/// Goes on without a crash, and compares with what was told and with itself.
fn check(dir: &Path, told: &Told) {
    let app = App::start(topology(), config(dir)).expect("the application starts after any power cut");
    let handle = app.handle();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(handle.caught_up("seconds", LONG)).expect("the views catch up");
    let mut lots = BTreeMap::new();
    for store in [&FIRSTS, &SECONDS] {
        let view = handle.view(store.name()).expect("a store of the topology").typed(store);
        for ((_, n), lot) in told.lots.iter().filter(|((of, _), _)| of == store.name()) {
            let found = view.get(n).and_then(Seen::wait).expect("the view answers");
            assert_eq!(found.as_ref(), Some(lot), "{}: what was told of {n} is no longer so", store.name());
        }
        let mut after = Vec::new();
        loop {
            let range = Range::new(std::ops::Bound::Excluded(&after), std::ops::Bound::Unbounded);
            let rows = view.page(&range, Direction::Forward, 1_000).and_then(Seen::wait).expect("the view answers");
            let Some((last, _)) = rows.last() else { break };
            after = last.to_be_bytes().to_vec();
            lots.extend(rows.into_iter().map(|(n, lot)| ((store.name(), n), lot)));
        }
    }
    drop(handle);
    assert_eq!(app.stop(), None);
    // Each number that is there was drawn once in both tasks, and outputs and stores agree.
    let mut numbers: Vec<u64> = read(dir, &NUMBERS).into_iter().map(|record| record.key).collect();
    numbers.sort_unstable();
    assert!(numbers.is_sorted_by(|a, b| a < b), "each request is in the input once");
    for n in &told.acknowledged {
        assert!(numbers.binary_search(n).is_ok(), "{n} was acknowledged");
    }
    for (topic, store) in [(&FIRST, "firsts"), (&SECOND, "seconds")] {
        let outputs = read(dir, topic);
        assert_eq!(outputs.len(), numbers.len(), "each number is in topic {} once", topic.name());
        for output in outputs {
            assert_eq!(lots.get(&(store, output.key)), Some(&output.value), "number {} in {store}", output.key);
        }
    }
    assert_eq!(lots.len(), 2 * numbers.len());
}
