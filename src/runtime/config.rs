//! How an application runs: where its data lies, its threads and its budgets.

use std::path::PathBuf;

use crate::clock::Clock;
use crate::log::embedded::Durability;

/// The configuration of an application. Every field has a default that is right for most.
#[derive(Clone, Debug)]
pub struct Config {
    /// The directory of log and state; made where it is missing.
    pub data: PathBuf,
    /// Worker threads; tasks are spread over them.
    pub threads: usize,
    /// The longest time between a record's processing and its commit under load, in milliseconds.
    pub commit_interval_ms: u64,
    /// A transaction is committed at the latest when it holds this many bytes in memory.
    pub commit_bytes: usize,
    /// Memory for state: hot layer, block cache and write buffers of all stores, in bytes.
    pub state_memory_bytes: usize,
    /// The longest that committed state waits in memory before it is written to disk under load, in milliseconds. A crash costs the
    /// replay of what was not written.
    pub state_flush_interval_ms: u64,
    /// What an acknowledged commit survives.
    pub durability: Durability,
    /// Wall-clock time.
    pub clock: Clock,
}

impl Config {
    /// An application on an embedded log in this directory.
    #[must_use]
    pub fn embedded(data: impl Into<PathBuf>) -> Config {
        Config {
            data: data.into(),
            threads: std::thread::available_parallelism().map_or(1, |n| n.get().min(4)),
            commit_interval_ms: 100,
            commit_bytes: 8 << 20,
            state_memory_bytes: 256 << 20,
            state_flush_interval_ms: 30_000,
            durability: Durability::Synced,
            clock: Clock::System,
        }
    }
}
