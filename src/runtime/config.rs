//! How an application runs: where its data lies, its threads and its budgets.

use std::path::PathBuf;

use super::restoring::RestoreListener;
use crate::clock::Clock;
use crate::log::embedded::Durability;

/// The configuration of an application. Every field has a default that is right for most.
#[derive(Clone, Debug)]
pub struct Config {
    /// The directory of log and state, or of state alone where the log is shared; made where it is missing.
    pub data: PathBuf,
    /// Worker threads; tasks are spread over them. Where processes share a log, 0 makes one that only reads.
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
    /// How long a task waits for the empty ones of its inputs while others have records, in milliseconds of the wall clock, since they became
    /// empty: so that records are joined in the order of their timestamps although one topic's producers lag behind. 0, the default, does not wait,
    /// but looks once more (Kafka Streams' `max.task.idle.ms`, KIP-695).
    pub max_task_idle_ms: u64,
    /// What an acknowledged commit survives.
    pub durability: Durability,
    /// The names of the sub-topologies whose tasks the workers of this process take, where processes share a log; all of them if `None`.
    pub sub_topologies: Option<Vec<String>>,
    /// Which tasks of others are followed here, where processes share a log.
    pub standbys: Standbys,
    /// Whether feeds are followed here, for those who listen. A process that does not is quicker at the start, and asks one that does.
    pub feeds: bool,
    /// Where other processes reach this one's HTTP interface, as `host:port`, if it has one.
    pub advertise: Option<String>,
    /// Hears how the restoring of stores goes.
    pub restore_listener: Option<RestoreListener>,
    /// Wall-clock time.
    pub clock: Clock,
}

/// Which tasks a process follows without owning them: to answer reads of them, and to be quick when one comes to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standbys {
    /// So many processes follow each task, beside its owner.
    Each(usize),
    /// This process follows every task: its views answer for every key. With no worker threads, that is all it does.
    All,
}

impl Config {
    /// An application on a log that it shares with other processes; the directory is for state. See [`App::start_on`](crate::App::start_on).
    #[must_use]
    pub fn shared(data: impl Into<PathBuf>) -> Config {
        Config::embedded(data)
    }

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
            max_task_idle_ms: 0,
            durability: Durability::Synced,
            sub_topologies: None,
            standbys: Standbys::Each(0),
            feeds: true,
            advertise: None,
            restore_listener: None,
            clock: Clock::System,
        }
    }
}
