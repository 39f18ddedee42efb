//! Kafka: the contract, and what only a cluster can do to a log. All on a real broker; one is shared by the tests that leave it alone.

#[path = "../../kafka/broker.rs"]
pub mod broker;
mod brokers;
mod exclusive;
mod failures;
mod floor;
mod groups;
mod handover;
mod java;
mod latency;
mod security;
mod transactions;
mod zombie;

use crate::log::contract::{CHECKS, Home};
use crate::log::support as s;
use broker::Broker;
use millstream::log::{Append, KafkaConfig, KafkaLog, Log, RecordBatch, Transaction};
use millstream::{Clock, Headers, Partition};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// The broker of this run. The operating system ends it with the process.
pub fn shared_broker() -> &'static Broker {
    static BROKER: OnceLock<Broker> = OnceLock::new();
    BROKER.get_or_init(Broker::start)
}

/// A beginning for names that nothing has yet.
pub fn prefix() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("t{}.", NEXT.fetch_add(1, Relaxed))
}

pub fn config() -> KafkaConfig {
    KafkaConfig::new(shared_broker().address())
}

pub fn open() -> KafkaLog {
    KafkaLog::open(config()).expect("the broker answers")
}

#[test]
fn keeps_the_contract() {
    for (name, check) in CHECKS {
        println!("{name}");
        check(&Home { log: Arc::new(open()), prefix: prefix() });
    }
}

/// A producer that finds no broker looks again half a second later, and one that was just made had none, unless it was given one.
#[test]
fn a_new_producer_waits_for_no_timer() {
    let topic = s::topic(&open(), &format!("{}soon", prefix()), 1);
    for records in [1, 2] {
        let took = (0..8).map(|_| {
            let begun = Instant::now();
            let log = open();
            let topic = log.topic(&topic.name).expect("it can be asked").expect("it was made");
            let append = || {
                let mut batch = RecordBatch::new();
                batch.push(Clock::System.now(), Some(b"k"), Some(b"v"), &Headers::EMPTY);
                Append { topic: topic.id, partition: Partition(0), batch }
            };
            let appends = (0..records).map(|_| append()).collect();
            log.commit(Transaction { appends, offsets: None, request: None }).wait().expect("it is appended");
            begun.elapsed()
        });
        let took: Vec<Duration> = took.collect();
        println!("{records}: {took:?}");
        // Other tests may take the machine meanwhile; a timer would be in each.
        assert!(took.iter().min() < Some(&Duration::from_millis(400)), "{records}: {took:?}");
    }
}
