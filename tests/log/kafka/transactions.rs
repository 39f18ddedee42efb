//! What a transaction is worth on a cluster: nothing before its commit, all of it after, also when producers die or are replaced.

use super::{open, prefix, shared_broker};
use crate::app::support::alone;
use crate::log::support::{SOON, appending, appending_now, contents, put, topic, with_offset};
use millstream::log::{Error, Log};
use millstream::{Offset, Partition};
use millstream_state::fault;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{ClientConfig, TopicPartitionList};
use std::time::Instant;

#[test]
fn offsets_have_gaps_and_readers_pass_them() {
    let log = open();
    let orders = topic(&log, &(prefix() + "orders"), 1);
    for i in 0..5 {
        put(&log, &orders, 0, &[("k", &i.to_string()), ("l", &i.to_string())]);
    }
    let end = log.bounds(orders.id, Partition(0)).unwrap().end;
    assert_eq!(end, Offset(15), "each of the five transactions has its mark");
    let mut at = Offset(0);
    while at < end {
        let fetched = log.fetch(orders.id, Partition(0), at, 1).unwrap();
        assert!(fetched.next > at, "a fetch goes on");
        at = fetched.next;
    }
    assert_eq!(at, end);
    // From a mark one reads on as from a record.
    assert_eq!(log.fetch(orders.id, Partition(0), Offset(2), 1 << 20).unwrap().batches[0].base_offset(), Offset(3));
}

#[test]
fn a_record_alone_needs_no_transaction_and_is_answered_for_by_itself() {
    let log = open();
    let orders = topic(&log, &(prefix() + "orders"), 1);
    let pending: Vec<_> = (0..50).map(|i| log.commit(appending_now(&orders, 0, "k", &i.to_string()))).collect();
    let offsets: Vec<_> = pending.into_iter().map(|pending| pending.wait().unwrap().base_offsets[0]).collect();
    assert!(offsets.iter().copied().eq((0..50).map(Offset)), "{offsets:?}: in order, without gaps and marks");
    // What goes with others is whole, and right after those.
    put(&log, &orders, 0, &[("k", "50"), ("k", "51")]);
    assert_eq!(contents(&log, &orders, 0), (0..52).map(|i| format!("k={i}")).collect::<Vec<_>>());
    assert_eq!(log.bounds(orders.id, Partition(0)).unwrap().end, Offset(53));
}

#[test]
fn what_is_not_committed_is_not_read() {
    let log = open();
    let orders = topic(&log, &(prefix() + "orders"), 1);
    let end = || log.bounds(orders.id, Partition(0)).unwrap().end;
    let producer = producer(&(prefix() + "other"));
    let send = |value: &str| {
        producer.begin_transaction().unwrap();
        producer.send(BaseRecord::to(&orders.name).key("k").payload(value).partition(0)).unwrap();
        producer.flush(SOON).unwrap();
    };
    put(&log, &orders, 0, &[("k", "before")]);
    let before = end();

    send("aborted");
    assert_eq!(end(), before);
    assert_eq!(contents(&log, &orders, 0), ["k=before"]);
    assert_eq!(log.open_ends(&[(orders.id, Partition(0))]).unwrap()[0], Offset(before.0 + 1));
    producer.abort_transaction(SOON).unwrap();
    until(|| end() == Offset(before.0 + 2));
    assert_eq!(contents(&log, &orders, 0), ["k=before"]);

    send("committed");
    assert_eq!(contents(&log, &orders, 0), ["k=before"]);
    producer.commit_transaction(SOON).unwrap();
    until(|| end() == Offset(before.0 + 4));
    assert_eq!(contents(&log, &orders, 0), ["k=before", "k=committed"]);
}

#[test]
fn offsets_that_are_held_back_are_not_known_and_what_showed_before_is() {
    let log = open();
    let orders = topic(&log, &(prefix() + "orders"), 1);
    let (group, place) = (prefix() + "held", (orders.id, Partition(0)));
    log.commit(with_offset(appending(&orders, 0, &[("k", "1")]), &group, &orders, 0, 1)).wait().unwrap();
    let consumer: BaseConsumer = {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", shared_broker().address()).set("group.id", &group);
        config.create().unwrap()
    };
    let mut offsets = TopicPartitionList::new();
    offsets.add_partition_offset(&orders.name, 0, rdkafka::Offset::Offset(5)).unwrap();
    let producer = producer(&(prefix() + "other"));
    producer.begin_transaction().unwrap();
    producer.send_offsets_to_transaction(&offsets, &consumer.group_metadata().unwrap(), SOON).unwrap();
    let unknown = log.offsets(&group).unwrap_err();
    assert!(matches!(unknown, Error::Unavailable { .. }), "{unknown}");
    assert_eq!(log.read_so_far(&group, &[place]).unwrap(), [Offset(1)]);
    producer.commit_transaction(SOON).unwrap();
    assert_eq!(log.offsets(&group).unwrap(), [(orders.id, Partition(0), Offset(5))]);
}

#[test]
fn what_a_dead_worker_left_open_is_aborted_by_a_fence() {
    let log = open();
    let orders = topic(&log, &(prefix() + "orders"), 1);
    put(&log, &orders, 0, &[("k", "before")]);
    let (group, instance) = (prefix() + "group", "dead");
    let dead = producer(&format!("{group}-{instance}-1b"));
    dead.begin_transaction().unwrap();
    dead.send(BaseRecord::to(&orders.name).key("k").payload("never").partition(0)).unwrap();
    dead.flush(SOON).unwrap();

    let open_end = log.open_ends(&[(orders.id, Partition(0))]).unwrap()[0];
    assert!(log.bounds(orders.id, Partition(0)).unwrap().end < open_end);
    let begun = Instant::now();
    log.fence(&group, instance, 2).unwrap();
    until(|| log.bounds(orders.id, Partition(0)).unwrap().end > open_end);
    println!("ended after {:?}", begun.elapsed());
    assert_eq!(contents(&log, &orders, 0), ["k=before"]);
    dead.commit_transaction(SOON).unwrap_err();
    assert_eq!(contents(&log, &orders, 0), ["k=before"]);
}

/// Who has lost its tasks puts no offsets into a transaction any more, and who has them now waits for the transactions that have: so nothing of
/// those may come to the log later.
#[test]
fn offsets_go_into_a_transaction_when_its_records_are_in_the_log() {
    alone("log::kafka::transactions::offsets_go_into_a_transaction_when_its_records_are_in_the_log", || {
        const POINT: &str = "kafka:commit:before-offsets";
        let (log, name) = (open(), prefix());
        let group = name.clone() + "group";
        let topics = ["a", "b", "c"].map(|topic_name| topic(&log, &(name.clone() + topic_name), 1));
        put(&log, &topics[0], 0, &[("k", "v")]);
        let (told, seen) = std::sync::mpsc::channel();
        let (heir, there, of) = (open(), topics.clone().map(|topic| topic.name), group.clone());
        fault::on_visit(POINT, move || {
            fault::disarm(POINT);
            let places = there.each_ref().map(|name| (heir.topic(name).unwrap().expect("it was made").id, Partition(0)));
            told.send((heir.open_ends(&places).unwrap(), heir.offsets(&of))).expect("the test waits");
        });
        let mut both = appending_now(&topics[1], 0, "k", "v");
        both.appends.extend(appending_now(&topics[2], 0, "k", "v").appends);
        log.commit(with_offset(both, &group, &topics[0], 0, 1)).wait().unwrap();
        let (ends, offsets) = seen.recv().expect("it came by");
        assert_eq!(ends[1..], [Offset(1); 2], "each record is in the log");
        assert_eq!(offsets.expect("no transaction has offsets of this group"), []);
        assert_eq!(log.offsets(&group).unwrap(), [(topics[0].id, Partition(0), Offset(1))]);
    });
}

/// A producer of somebody else's, whose transactions time out late.
pub fn producer(id: &str) -> BaseProducer {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", shared_broker().address());
    config.set("transactional.id", id).set("transaction.timeout.ms", "120000");
    let producer: BaseProducer = config.create().unwrap();
    producer.init_transactions(SOON).unwrap();
    producer
}

pub fn until(mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !done() {
        assert!(Instant::now() < deadline, "not after {SOON:?}");
    }
}
