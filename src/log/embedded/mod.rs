//! The log in this process: a RocksDB of its own, with a write-ahead log. One process has it, any number of threads use it.
//!
//! What must always hold: a transaction is one write batch, so it is there whole or not at all; it is synced before anybody outside of the
//! process is told of it or can read it ([`horizon`]); what lies behind it in the log is never there without it; one thread alone appends
//! ([`writer`]), one at a time takes away ([`maintenance`]).
//! A record lies in a batch with all others that its partition got in the same group commit, one RocksDB value a batch.

mod compaction;
mod group;
mod horizon;
mod layout;
mod maintenance;
mod member;
mod options;
mod partition;
mod queue;
mod shared;
mod store;
mod writer;

pub use options::{Durability, Options};

use super::{
    Bounds, Committed, Error, Fetched, Health, Limits, Log, Member, Membership, Moment, Pending, StoredRequest, TopicId,
    TopicInfo, TopicSpec, Transaction,
};
use crate::{Offset, Partition, Timestamp};
use partition::Reader;
use queue::Told;
use shared::{Counters, Shared};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::JoinHandle;
use std::time::Duration;

/// What the log has done since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Transactions, whatever their answer.
    pub transactions: u64,
    /// Writes to RocksDB that carried them.
    pub writes: u64,
    /// Syncs that made them durable.
    pub syncs: u64,
    /// Records appended.
    pub records: u64,
    /// Bytes appended.
    pub bytes: u64,
}

/// A log in a directory of this process.
pub struct EmbeddedLog {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl EmbeddedLog {
    /// Opens the log in `dir`, or makes one if the directory is empty or missing. The directory above it must exist or be allowed to be made.
    ///
    /// # Errors
    /// [`Error::Locked`], [`Error::NotALog`], [`Error::Damaged`] or [`Error::Io`], all naming the directory.
    pub fn open(dir: impl AsRef<Path>, options: Options) -> Result<EmbeddedLog, Error> {
        let shared = Arc::new(Shared::open(dir.as_ref(), options)?);
        let mut log = EmbeddedLog { shared, threads: Vec::new() };
        log.spawn("log-writer", writer::run)?;
        log.spawn("log-sync", horizon::run)?;
        log.spawn("log-maintenance", maintenance::run)?;
        Ok(log)
    }

    fn spawn(&mut self, name: &str, run: fn(&Shared)) -> Result<(), Error> {
        let shared = Arc::clone(&self.shared);
        let run = move || {
            if catch_unwind(AssertUnwindSafe(|| run(&shared))).is_err() {
                // Whoever waits for an answer gets it now, and nobody waits for one that can't come.
                let error = Error::Unavailable { cause: "a thread of the log panicked".into() };
                shared.queue.stop_accepting(&error);
                shared.horizon.abandon(&error);
                shared.horizon.close();
            }
        };
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(run);
        self.threads.push(thread.map_err(|e| Error::Io { dir: self.shared.dir.clone(), cause: e.to_string() })?);
        Ok(())
    }

    fn queue(shared: &Shared, transaction: Transaction, told: Told) -> Pending {
        match shared.check(&transaction) {
            Ok(bytes) => shared.queue.push(transaction, bytes, told, shared.options.max_queued_bytes),
            Err(error) => Pending::refused(error),
        }
    }

    /// What the log has done since it was opened.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let Counters { transactions, writes, syncs, records, bytes } = &self.shared.counters;
        let [transactions, writes, syncs, records, bytes] =
            [transactions, writes, syncs, records, bytes].map(|n| n.load(Relaxed));
        Stats { transactions, writes, syncs, records, bytes }
    }

    /// The request of this key, if it was carried out and has not expired. It may not be durable yet: see [`Log::written`].
    ///
    /// # Errors
    /// If the log can't be asked.
    pub fn request(&self, key: &[u8]) -> Result<Option<StoredRequest>, Error> {
        let store = self.shared.store()?;
        let Some(row) = store.get(layout::REQUESTS, &layout::request_key(key))? else { return Ok(None) };
        let request = layout::request_from_row(&row)
            .ok_or_else(|| store.damaged(format!("request {} can't be read", key.escape_ascii())))?;
        Ok((request.expires_at > (self.shared.options.clock)()).then_some(request))
    }

    /// Does all maintenance that is due, as the log's own thread does from time to time: retention, compaction, expiry, and
    /// giving back space.
    ///
    /// # Errors
    /// If the database fails; the log then repairs itself.
    pub fn maintain(&self) -> Result<(), Error> {
        while self.shared.maintain_slice()? {}
        Ok(())
    }
}

impl Drop for EmbeddedLog {
    /// Commits what waits, and closes the database.
    fn drop(&mut self) {
        self.shared.queue.close();
        self.shared.wake();
        for (n, thread) in self.threads.drain(..).enumerate() {
            thread.join().expect("a thread of the log catches its panics");
            // The writer has ended, and what it wrote is synced: maintenance need not end what it does.
            if n == 1
                && let Ok(store) = self.shared.store()
            {
                store.stop_background_work();
            }
        }
    }
}

impl fmt::Debug for EmbeddedLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddedLog").field("dir", &self.shared.dir).field("health", &self.health()).finish_non_exhaustive()
    }
}

impl Log for EmbeddedLog {
    fn create_topic(&self, spec: &TopicSpec) -> Result<TopicInfo, Error> {
        self.shared.create_topic(spec)
    }

    fn topic(&self, name: &str) -> Result<Option<TopicInfo>, Error> {
        Ok(self.shared.topics.read().named(name).map(|topic| topic.info.clone()))
    }

    fn topics(&self) -> Result<Vec<TopicInfo>, Error> {
        Ok(self.shared.topics.read().all().iter().map(|topic| topic.info.clone()).collect())
    }

    fn fetch(&self, topic: TopicId, partition: Partition, from: Offset, max_bytes: usize) -> Result<Fetched, Error> {
        self.shared.fetch(Reader::Outside, (topic, partition), from, max_bytes)
    }

    fn bounds(&self, topic: TopicId, partition: Partition) -> Result<Bounds, Error> {
        let topic = self.shared.find((topic, partition))?;
        Ok(topic.partitions[partition.0 as usize].lock().bounds())
    }

    fn open_ends(&self, places: &[(TopicId, Partition)]) -> Result<Vec<Offset>, Error> {
        let end = |(topic, partition): &(TopicId, Partition)| {
            let topic = self.shared.find((*topic, *partition))?;
            Ok(topic.partitions[partition.0 as usize].lock().bounds_for(Reader::Member).end)
        };
        places.iter().map(end).collect()
    }

    fn join(&self, _: Membership) -> Result<Box<dyn Member>, Error> {
        Ok(Box::new(member::SoleMember::new(Arc::clone(&self.shared))))
    }

    fn instance(&self) -> &str {
        "embedded"
    }

    fn session_timeout(&self) -> Duration {
        Duration::MAX
    }

    fn fence(&self, _: &str, _: &str, _: usize) -> Result<(), Error> {
        Ok(())
    }

    fn health(&self) -> Health {
        match self.shared.queue.broken() {
            None => Health::Up,
            Some(Error::Unavailable { cause }) => Health::Repairing { cause },
            Some(error) => Health::Failed { cause: error.to_string().into() },
        }
    }

    fn version(&self) -> u64 {
        *self.shared.durable.version.lock()
    }

    fn wait(&self, seen: u64, timeout: Duration) -> u64 {
        self.shared.durable.wait(seen, timeout)
    }

    fn wake(&self) {
        self.shared.wake();
    }

    fn commit(&self, transaction: Transaction) -> Pending {
        EmbeddedLog::queue(&self.shared, transaction, Told::Durable)
    }

    fn written(&self) -> Moment {
        self.shared.horizon.begun()
    }

    fn durable(&self, at: Moment) -> Pending<()> {
        self.shared.horizon.when(at)
    }

    fn sync(&self) -> Result<(), Error> {
        match self.shared.options.durability {
            Durability::Synced => self.durable(self.written()).wait(),
            Durability::Buffered => {
                let synced = self.shared.store()?.sync();
                synced.map_err(|e| self.shared.failed(&e))
            }
        }
    }

    fn members(&self, _: &str) -> Result<Vec<String>, Error> {
        Ok(Vec::new())
    }

    fn delete_topics(&self, _: &[&str]) -> Result<(), Error> {
        Err(Error::Unsupported { what: "deleting topics of an embedded log".into() })
    }

    fn counts_by_offsets(&self) -> bool {
        true
    }

    fn offset_at(&self, topic: TopicId, partition: Partition, at: Timestamp) -> Result<Offset, Error> {
        const FETCH_BYTES: usize = 4 << 20;
        let Bounds { start: mut next, end } = self.bounds(topic, partition)?;
        while next < end {
            let fetched = self.fetch(topic, partition, next, FETCH_BYTES)?;
            let mut records = fetched.batches.iter().flat_map(|batch| batch.records_from(next));
            if let Some(found) = records.find(|record| record.timestamp >= at) {
                return Ok(found.offset);
            }
            next = fetched.next;
        }
        Ok(end)
    }

    fn offsets(&self, group: &str) -> Result<Vec<(TopicId, Partition, Offset)>, Error> {
        let mut offsets = Vec::new();
        let prefix = layout::group_prefix(group);
        self.shared.store()?.scan("default", &prefix, &prefix, |key, row| {
            let (topic, partition) = layout::place_of(key)?;
            offsets.push((topic, partition, Offset(u64::from_le_bytes(row.try_into().ok()?))));
            Some(true)
        })?;
        self.durable(self.written()).wait()?;
        Ok(offsets)
    }

    fn trim(&self, topic: TopicId, partition: Partition, before: Offset) -> Result<(), Error> {
        self.shared.find((topic, partition))?;
        let _one_at_a_time = self.shared.maintenance.lock();
        self.shared.trim((topic, partition), before, None)
    }

    fn widen(&self, topic: TopicId, _max_record_bytes: usize) -> Result<TopicInfo, Error> {
        Ok(self.shared.find((topic, Partition(0)))?.info.clone())
    }

    fn limits(&self) -> Limits {
        self.shared.options.limits
    }
}
