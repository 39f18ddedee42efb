//! What a transaction is worth on a cluster: nothing before its commit, all of it after, also when producers die or are replaced.

use super::{broker, config, open, prefix, shared_broker};
use crate::log::support::{appending, contents, put, topic};
use millstream::log::{Error, KafkaLog, Log};
use millstream::{Offset, Partition};

#[test]
fn a_fenced_writer_is_told_and_appends_nothing() {
    let name = prefix() + "relay";
    let exclusive = || KafkaLog::open(config().exclusive_writer(name.clone())).expect("the broker answers");
    let first = exclusive();
    let relayed = topic(&first, &name, 1);
    put(&first, &relayed, 0, &[("a", "1")]);

    let second = exclusive();
    let seen = topic(&second, &name, 1);
    put(&second, &seen, 0, &[("b", "2")]);
    for _ in 0..2 {
        let refused = first.commit(appending(&relayed, 0, &[("c", "3")])).wait().unwrap_err();
        assert!(matches!(&refused, Error::Fenced { .. }) && refused.is_fatal(), "{refused}");
        assert_eq!(refused.to_string(), format!("another process has taken over as {name}"));
    }
    put(&second, &seen, 0, &[("d", "4")]);
    assert_eq!(contents(&second, &seen, 0), ["a=1", "b=2", "d=4"]);
}

#[test]
fn offsets_have_gaps_and_readers_pass_them() {
    let log = open();
    let orders = topic(&log, &(prefix() + "orders"), 1);
    for i in 0..5 {
        put(&log, &orders, 0, &[("k", &i.to_string())]);
    }
    let end = log.bounds(orders.id, Partition(0)).unwrap().end;
    assert_eq!(end, Offset(10), "each of the five transactions has its mark");
    let mut at = Offset(0);
    while at < end {
        let fetched = log.fetch(orders.id, Partition(0), at, 1).unwrap();
        assert!(fetched.next > at, "a fetch goes on");
        at = fetched.next;
    }
    assert_eq!(at, end);
    // From a mark one reads on as from a record.
    assert_eq!(log.fetch(orders.id, Partition(0), Offset(1), 1 << 20).unwrap().batches[0].base_offset(), Offset(2));
}

#[test]
fn kafkas_own_tools_see_what_was_committed() {
    let log = open();
    let name = prefix() + "orders";
    let orders = topic(&log, &name, 1);
    put(&log, &orders, 0, &[("a", "1"), ("b", "2")]);
    let broker: &broker::Broker = shared_broker();
    let offsets = broker.tool("org.apache.kafka.tools.GetOffsetShell", &["--topic", &name]);
    assert_eq!(offsets.trim(), format!("{name}:0:3"));
}
