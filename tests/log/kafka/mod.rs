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
mod leaders;
mod security;
pub mod transactions;
mod zombie;

use crate::log::contract::{CHECKS, Home};
use broker::Broker;
use millstream::log::{KafkaConfig, KafkaLog, Log};
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

/// A producer that finds no broker looks again half a second later, and a new one has none in the moment between the first answer and the
/// connection to a broker that it names. Made without being given one, about every second pair of them waited.
#[test]
#[ignore = "measures: run it where nothing else runs"]
fn a_new_producer_waits_for_no_timer() {
    let log = open();
    let begin = |number: usize| {
        let begun = Instant::now();
        log.fence("soon", &format!("{}{number}", prefix()), 1).expect("nobody is there to be fenced");
        begun.elapsed()
    };
    let took: Vec<Duration> = (0..16).map(begin).collect();
    println!("{took:?}");
    let late = took.iter().filter(|took| **took >= Duration::from_millis(450)).count();
    assert!(late <= 2, "{took:?}");
}
