//! What can be set of an embedded log. Where these come from, a file or a flag, is not known here.

use crate::Timestamp;
use crate::log::Limits;
use std::sync::Arc;
use std::time::Duration;

/// How an embedded log is to work.
#[derive(Clone)]
pub struct Options {
    /// What a commit survives.
    pub durability: Durability,
    /// What is refused.
    pub limits: Limits,
    /// How much of the last batches is kept in memory for those who follow the end, in bytes.
    pub tail_cache_bytes: usize,
    /// How much RocksDB collects in memory, for deletion and for compacted topics each, before it writes a file, in bytes.
    pub write_buffer_bytes: usize,
    /// How much may wait to be written before [`Error::Busy`], in bytes, and how much of what is written may wait to be synced.
    pub max_queued_bytes: usize,
    /// How much a partition of a compacted topic gets before it is compacted again, in bytes.
    pub compact_bytes: u64,
    /// How long maintenance rests when there is nothing to do.
    pub maintenance_interval: Duration,
    /// The wall clock, for retention and expiry.
    pub clock: Arc<dyn Fn() -> Timestamp + Send + Sync>,
}

impl Options {
    /// The usual ones: synced, 16 MiB of tail and as much for each write buffer. Twice the buffer costs a few percent less CPU time,
    /// and doubles memory and the time to open after a crash.
    pub fn new(clock: impl Fn() -> Timestamp + Send + Sync + 'static) -> Options {
        Options {
            durability: Durability::Synced,
            limits: Limits::default(),
            tail_cache_bytes: 16 << 20,
            write_buffer_bytes: 16 << 20,
            max_queued_bytes: 64 << 20,
            compact_bytes: 16 << 20,
            maintenance_interval: Duration::from_secs(10),
            clock: Arc::new(clock),
        }
    }
}

/// What a commit survives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// The machine: what is committed is synced before anybody outside of the process hears of it.
    Synced,
    /// The process only, unless [`Log::sync`] is called.
    Buffered,
}
