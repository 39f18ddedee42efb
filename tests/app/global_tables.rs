//! A global table in a running application: it is whole before anything is processed, follows its topic, is shown, and is found again after a
//! restart, with what was written to its topic meanwhile.

use std::path::Path;

use millstream::codec::{Data, Decimal, Utf8};
use millstream::log::{Append, EmbeddedLog, Log, RecordBatch, Transaction, embedded, partition};
use millstream::{
    App, Clock, Direction, Events, Headers, Health, Range, Record, Seen, Store, StreamBuilder, Timestamp, Topic, Watched,
};
use millstream_state::fault::{self, Action};

use super::support::{LONG, alone, catch_up, eventually, start, wait};

const RATES: Topic<u64, String> = Topic::with_codecs("rates", &Decimal, &Utf8).partitions(3).compacted();
const ORDERS: Topic<String, u64> = Topic::new("orders").partitions(4);
const TABLE: Store<u64, String> = Store::keyed("rates");
const PRICED: Store<String, String> = Store::keyed("priced");

fn builder() -> StreamBuilder {
    let mut builder = StreamBuilder::new("app");
    let rates = builder.global_table(&RATES, "rates");
    let orders = builder.stream(&ORDERS);
    orders.join_global("with-rate", &rates, |_, currency| *currency, |_, rate: String| rate).to_table("priced");
    builder
}

fn rate(currency: u64, rate: &str) -> Record<u64, String> {
    Record::new(currency, rate.to_owned(), Timestamp(7))
}

fn order(name: &str, currency: u64) -> Record<String, u64> {
    Record::new(name.to_owned(), currency, Timestamp(1))
}

fn priced(app: &App, order: &str) -> Option<String> {
    catch_up(&app.handle(), "priced");
    let view = app.handle().view("priced").expect("a store of the topology").typed(&PRICED);
    view.get(&order.to_owned()).and_then(Seen::wait).expect("the view answers")
}

/// Appends while no application runs.
fn append<K: 'static, V: 'static>(log: &EmbeddedLog, topic: &Topic<K, V>, record: &Record<K, V>) -> Append {
    let info = log.topic(topic.name()).expect("the log answers").expect("the topic exists");
    let (mut key, mut value) = (Vec::new(), Vec::new());
    topic.key_codec().encode(&record.key, &mut key).expect("the key encodes");
    topic.value_codec().encode(&record.value, &mut value).expect("the value encodes");
    let mut batch = RecordBatch::new();
    batch.push(record.timestamp, Some(&key), Some(&value), &Headers::EMPTY);
    Append { topic: info.id, partition: partition(Some(&key), info.partitions, 0), batch }
}

fn while_away(dir: &Path, appends: impl FnOnce(&EmbeddedLog) -> Vec<Append>) {
    let log = EmbeddedLog::open(dir.join("log"), embedded::Options::new(|| Clock::System.now())).expect("the log opens");
    let appends = appends(&log);
    log.commit(Transaction { appends, offsets: None, request: None }).wait().expect("the log takes it");
}

#[test]
fn it_is_whole_before_anything_is_processed_and_found_again_after_a_restart() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let app = start(builder(), dir.path());
    let handle = app.handle();
    let rates = (0..1_000).fold(Events::new(), |events, n| events.with(&RATES, &rate(n, &format!("r{n}"))));
    let token = handle.append_blocking(rates).expect("they are appended");
    wait(handle.at_least(&token, "rates", LONG)).expect("the table follows its topic");
    let view = handle.view("rates").expect("it has a view").typed(&TABLE);
    assert_eq!(view.get(&999).and_then(Seen::wait).expect("it can be read").as_deref(), Some("r999"));
    let status =
        handle.stores().wait().expect("it is durable").into_iter().find(|store| store.name == "rates").expect("it is listed");
    assert_eq!((status.kind, status.partitions, status.entries), ("global-table", 3, 1_000));
    let mut watch = view.untyped().watch(Watched::Prefix(Vec::new()));
    handle.append_blocking(Events::new().with(&RATES, &rate(5, "watched"))).expect("it is appended");
    let change = wait(watch.next()).expect("the watch goes on");
    assert_eq!(view.untyped().changed_value(&change).as_deref(), Some(&b"watched"[..]));
    handle.append_blocking(Events::new().with(&ORDERS, &order("first", 5))).expect("it is appended");
    assert_eq!(priced(&app, "first").as_deref(), Some("watched"));
    drop((handle, view, watch));
    assert_eq!(app.stop(), None);

    // Orders that lie before the rates that they need: the table is brought to its topic's end before any is processed.
    while_away(dir.path(), |log| {
        let orders = (0..50).map(|n| append(log, &ORDERS, &order(&format!("later-{n}"), 2_000 + n)));
        orders.chain((0..50).map(|n| append(log, &RATES, &rate(2_000 + n, &format!("away-{n}"))))).collect()
    });
    let app = start(builder(), dir.path());
    for n in 0..50 {
        assert_eq!(priced(&app, &format!("later-{n}")), Some(format!("away-{n}")));
    }
    let view = app.handle().view("rates").expect("it has a view").typed(&TABLE);
    let page = view.page(&Range::all(), Direction::Forward, 3).and_then(Seen::wait).expect("it can be read");
    assert_eq!(page, [(0, "r0".to_owned()), (1, "r1".to_owned()), (2, "r2".to_owned())]);
    assert_eq!(
        view.page(&Range::all(), Direction::Reverse, 1).and_then(Seen::wait).expect("it can be read"),
        [(2_049, "away-49".to_owned())]
    );
    drop(view);
    assert_eq!(app.stop(), None);
}

#[test]
fn a_table_whose_state_is_lost_is_read_again_from_its_topic() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    // A topology whose only state is the table and what the tasks know of themselves.
    let builder = || {
        let mut builder = StreamBuilder::new("app");
        let rates = builder.global_table(&RATES, "rates");
        let out: Topic<String, String> = Topic::new("out");
        builder.stream(&ORDERS).join_global("with-rate", &rates, |_, currency| *currency, |_, rate: String| rate).to(&out);
        builder
    };
    let app = start(builder(), dir.path());
    let handle = app.handle();
    let rates = (0..100).fold(Events::new(), |events, n| events.with(&RATES, &rate(n, "r")));
    let token = handle.append_blocking(rates).expect("they are appended");
    wait(handle.at_least(&token, "rates", LONG)).expect("the table follows its topic");
    drop(handle);
    assert_eq!(app.stop(), None);
    std::fs::remove_dir_all(dir.path().join("state")).expect("the state is removed");
    let app = start(builder(), dir.path());
    let view = app.handle().view("rates").expect("it has a view");
    let mut key = Vec::new();
    <u64 as Data>::CODEC.encode(&42, &mut key).expect("the key encodes");
    assert_eq!(view.get(&key).and_then(Seen::wait).expect("it can be read").as_deref(), Some(&b"r"[..]));
    drop(view);
    assert_eq!(app.stop(), None);
}

#[test]
fn a_table_that_cannot_follow_its_topic_says_so_and_goes_on() {
    alone("app::global_tables::a_table_that_cannot_follow_its_topic_says_so_and_goes_on", || {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let app = start(builder(), dir.path());
        let handle = app.handle();
        fault::arm("global:taken-in", 1, Action::Fail);
        let token = handle.append_blocking(Events::new().with(&RATES, &rate(1, "r"))).expect("it is appended");
        eventually("it says so", || matches!(handle.health(), Health::Degraded(why) if why.contains("global table")));
        fault::disarm("global:taken-in");
        wait(handle.at_least(&token, "rates", LONG)).expect("the table follows its topic");
        eventually("it is well again", || handle.health() == Health::Up);
        let view = handle.view("rates").expect("it has a view").typed(&TABLE);
        assert_eq!(view.get(&1).and_then(Seen::wait).expect("it can be read").as_deref(), Some("r"));
        drop((handle, view));
        assert_eq!(app.stop(), None);
    });
}
