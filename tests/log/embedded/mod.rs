//! The embedded log: the contract, and what only it has.

mod ahead;
mod child;
mod crash;
mod disk;
mod faults;
mod forgetting;
mod grouping;
mod model;
mod opening;
mod requests;

use crate::log::contract::{CHECKS, Home};
use crate::log::support::{ManualClock, open};
use millstream::log::embedded::{Durability, EmbeddedLog};
use std::sync::Arc;

#[test]
fn keeps_the_contract() {
    for (name, check) in CHECKS {
        println!("{name}");
        let dir = tempfile::tempdir().unwrap();
        check(&Home { log: Arc::new(open(dir.path())), prefix: String::new() });
    }
}

#[test]
fn keeps_the_contract_without_tail_and_sync() {
    for (name, check) in CHECKS {
        println!("{name}");
        let dir = tempfile::tempdir().unwrap();
        let mut options = ManualClock::at(1_000_000).options();
        (options.tail_cache_bytes, options.durability) = (0, Durability::Buffered);
        let log = Arc::new(EmbeddedLog::open(dir.path(), options).unwrap());
        check(&Home { log, prefix: String::new() });
    }
}
