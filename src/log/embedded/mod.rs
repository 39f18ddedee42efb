//! The log in this process: a RocksDB of its own, with a write-ahead log. One process has it, any number of threads use it.
//!
//! What must always hold: a transaction is one write batch, so it is there whole or not at all; it is synced before anybody is
//! told of it or can read it; one thread alone appends ([`writer`]), one at a time takes away ([`maintenance`]).
//! A record lies in a batch with all others that its partition got in the same group commit, one RocksDB value a batch.

mod compaction;
mod group;
mod layout;
mod maintenance;
mod partition;
mod queue;
mod store;
mod writer;

use super::{Bounds, Error, Fetched, Limits, Log, Pending, StoredRequest, TopicId, TopicInfo, TopicSpec, Transaction};
use crate::{Offset, Partition, Timestamp};
use layout::{KeptRow, Place};
use maintenance::Maintenance;
use parking_lot::{Condvar, MappedRwLockReadGuard, Mutex, RwLock, RwLockReadGuard};
use partition::{Topic, Topics};
use queue::Queue;
use rocksdb::WriteBatch;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use store::{Home, Store};

/// A transaction larger than this is refused, in bytes; RocksDB's write batches end at 4 GiB.
const MAX_TRANSACTION_BYTES: usize = 1 << 30;

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
    /// How much may wait to be written before [`Error::Busy`], in bytes.
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
    /// The machine: a commit is synced before it is answered.
    Synced,
    /// The process only, unless [`Log::sync`] is called.
    Buffered,
}

/// Whether the log works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// It does.
    Up,
    /// It failed, refuses to append, and tries to read back what it has.
    Repairing {
        /// What failed.
        cause: Arc<str>,
    },
}

/// What the log has done since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Transactions, whatever their answer.
    pub transactions: u64,
    /// Writes to RocksDB, and so syncs, that carried them.
    pub writes: u64,
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

/// What the threads of a log share.
///
/// Locks are taken in this order: `maintenance`, `topics`, `store`, a partition's.
struct Shared {
    dir: PathBuf,
    options: Options,
    /// Empty while it is repaired.
    store: RwLock<Option<Store>>,
    /// Its lock goes when the database is closed: after `store`.
    home: Mutex<Home>,
    topics: RwLock<Topics>,
    queue: Queue,
    progress: Progress,
    maintenance: Mutex<Maintenance>,
    counters: Counters,
}

#[derive(Default)]
struct Counters {
    transactions: AtomicU64,
    writes: AtomicU64,
    records: AtomicU64,
    bytes: AtomicU64,
}

/// The version, and those who wait for it to grow.
#[derive(Default)]
struct Progress {
    version: Mutex<u64>,
    grown: Condvar,
}

impl Progress {
    fn advance(&self) {
        *self.version.lock() += 1;
        self.grown.notify_all();
    }

    fn wait(&self, seen: u64, timeout: Duration) -> u64 {
        let deadline = Instant::now() + timeout;
        let mut version = self.version.lock();
        while *version == seen && !self.grown.wait_until(&mut version, deadline).timed_out() {}
        *version
    }
}

/// A point at which crash tests stop the process.
fn fault(_point: &'static str) {}

impl EmbeddedLog {
    /// Opens the log in `dir`, or makes one if the directory is empty or missing. The directory above it must exist or be allowed to be made.
    ///
    /// # Errors
    /// [`Error::Locked`], [`Error::NotALog`], [`Error::Damaged`] or [`Error::Io`], all naming the directory.
    pub fn open(dir: impl AsRef<Path>, options: Options) -> Result<EmbeddedLog, Error> {
        let dir = dir.as_ref().to_owned();
        let shared = Arc::new(Shared {
            home: Mutex::new(Home::lock(&dir)?),
            dir,
            options,
            store: RwLock::default(),
            topics: RwLock::default(),
            queue: Queue::default(),
            progress: Progress::default(),
            maintenance: Mutex::default(),
            counters: Counters::default(),
        });
        shared.reopen()?;
        let mut log = EmbeddedLog { shared, threads: Vec::new() };
        log.spawn("log-writer", writer::run)?;
        log.spawn("log-maintenance", maintenance::run)?;
        Ok(log)
    }

    fn spawn(&mut self, name: &str, run: fn(&Shared)) -> Result<(), Error> {
        let shared = Arc::clone(&self.shared);
        let run = move || {
            if catch_unwind(AssertUnwindSafe(|| run(&shared))).is_err() {
                // Whoever waits for an answer gets it now, and nobody waits for one that can't come.
                shared.queue.stop_accepting(&"a thread of the log panicked".into());
            }
        };
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(run);
        self.threads.push(thread.map_err(|e| Error::Io { dir: self.shared.dir.clone(), cause: e.to_string() })?);
        Ok(())
    }

    /// Whether the log works.
    #[must_use]
    pub fn health(&self) -> Health {
        self.shared.queue.broken().map_or(Health::Up, |cause| Health::Repairing { cause })
    }

    /// What the log has done since it was opened.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let Counters { transactions, writes, records, bytes } = &self.shared.counters;
        let [transactions, writes, records, bytes] = [transactions, writes, records, bytes].map(|n| n.load(Relaxed));
        Stats { transactions, writes, records, bytes }
    }

    /// The request of this key, if it was carried out and has not expired.
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
        self.shared.progress.advance();
        for thread in self.threads.drain(..) {
            // The writer ends first, for then maintenance need not end what it does.
            thread.join().expect("a thread of the log catches its panics");
            if let Ok(store) = self.shared.store() {
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
        self.shared.fetch((topic, partition), from, max_bytes)
    }

    fn bounds(&self, topic: TopicId, partition: Partition) -> Result<Bounds, Error> {
        let topic = self.shared.find((topic, partition))?;
        Ok(topic.partitions[partition.0 as usize].lock().bounds())
    }

    fn version(&self) -> u64 {
        *self.shared.progress.version.lock()
    }

    fn wait(&self, seen: u64, timeout: Duration) -> u64 {
        self.shared.progress.wait(seen, timeout)
    }

    fn wake(&self) {
        self.shared.progress.advance();
    }

    fn commit(&self, transaction: Transaction) -> Pending {
        match self.shared.check(&transaction) {
            Ok(bytes) => self.shared.queue.push(transaction, bytes, self.shared.options.max_queued_bytes),
            Err(error) => Pending::refused(error),
        }
    }

    fn sync(&self) -> Result<(), Error> {
        if self.shared.options.durability == Durability::Synced {
            return Ok(());
        }
        let synced = self.shared.store()?.sync();
        synced.map_err(|e| self.shared.failed(&e))
    }

    fn offsets(&self, group: &str) -> Result<Vec<(TopicId, Partition, Offset)>, Error> {
        let mut offsets = Vec::new();
        let prefix = layout::group_prefix(group);
        self.shared.store()?.scan("default", &prefix, &prefix, |key, row| {
            let (topic, partition) = layout::place_of(key)?;
            offsets.push((topic, partition, Offset(u64::from_le_bytes(row.try_into().ok()?))));
            Some(true)
        })?;
        Ok(offsets)
    }

    fn trim(&self, topic: TopicId, partition: Partition, before: Offset) -> Result<(), Error> {
        self.shared.find((topic, partition))?;
        let _one_at_a_time = self.shared.maintenance.lock();
        self.shared.trim((topic, partition), before, None)
    }

    fn limits(&self) -> Limits {
        self.shared.options.limits
    }
}

impl Shared {
    /// The database, unless it is being repaired.
    fn store(&self) -> Result<MappedRwLockReadGuard<'_, Store>, Error> {
        RwLockReadGuard::try_map(self.store.read(), Option::as_ref).map_err(|_| Error::Unavailable {
            cause: self.queue.broken().unwrap_or_else(|| "the log was read back just now".into()),
        })
    }

    /// Opens the database and reads back where everything stands. Nothing that could be read before may be gone.
    fn reopen(&self) -> Result<(), Error> {
        let store = self.home.lock().open(&self.options)?;
        let mut topics = self.topics.write();
        for info in store.topics()? {
            topics.put(info);
        }
        for (place, end) in store.ends()? {
            let mut state = self.known(&topics, &store, place)?.lock();
            if end.end < state.end.end {
                return Err(store.damaged(format!("records of topic {} were lost", place.0.0)));
            }
            state.end = end;
        }
        for (place, kept) in store.kept()? {
            let mut state = self.known(&topics, &store, place)?.lock();
            let start = kept.start.max(state.kept.start);
            state.set_kept(KeptRow { start, ..kept });
        }
        *self.store.write() = Some(store);
        Ok(())
    }

    fn known<'a>(&self, topics: &'a Topics, store: &Store, place: Place) -> Result<&'a Mutex<partition::PartitionState>, Error> {
        topics.state(place).ok_or_else(|| store.damaged(format!("topic {} partition {} is not known", place.0.0, place.1)))
    }

    /// Something other than the writer's commit failed on the database: whether it was done is unknown, and it must be read back.
    fn failed(&self, e: &rocksdb::Error) -> Error {
        let cause: Arc<str> = e.to_string().into();
        self.queue.ask_for_repair(&cause);
        Error::OutcomeUnknown { cause }
    }

    fn find(&self, (topic, partition): Place) -> Result<Topic, Error> {
        let topics = self.topics.read();
        let topic = topics.get(topic).ok_or_else(|| Error::UnknownTopic { topic: format!("number {}", topic.0) })?;
        match topic.partitions.get(partition.0 as usize) {
            Some(_) => Ok(topic.clone()),
            None => {
                Err(Error::UnknownPartition { topic: Arc::clone(&topic.info.name), partition, partitions: topic.info.partitions })
            }
        }
    }

    fn create_topic(&self, spec: &TopicSpec) -> Result<TopicInfo, Error> {
        let invalid = |reason| Error::InvalidTopic { topic: spec.name.clone(), reason };
        if !super::topic::is_topic_name(&spec.name) {
            return Err(invalid("a name has 1 to 249 letters, digits, '.', '_' or '-'"));
        }
        if spec.partitions == 0 {
            return Err(invalid("it needs a partition"));
        }
        let mut topics = self.topics.write();
        let info = match topics.named(&spec.name) {
            Some(Topic { info, .. }) => {
                let terms = |partitions, cleanup| format!("{partitions} partitions and cleanup by {cleanup}");
                if info.partitions != spec.partitions || !info.cleanup.same_policy(spec.cleanup) {
                    return Err(Error::TopicDiffers {
                        topic: Arc::clone(&info.name),
                        found: terms(info.partitions, info.cleanup),
                        wanted: terms(spec.partitions, spec.cleanup),
                    });
                }
                if info.cleanup == spec.cleanup {
                    return Ok(info.clone());
                }
                TopicInfo { cleanup: spec.cleanup, ..info.clone() }
            }
            None => TopicInfo {
                name: Arc::from(spec.name.as_str()),
                id: topics.next_id(),
                uuid: uuid::Uuid::new_v4().into_bytes(),
                partitions: spec.partitions,
                cleanup: spec.cleanup,
            },
        };
        let mut write = WriteBatch::default();
        write.put(layout::topic_key(&info.name), layout::topic_row(&info));
        let written = self.store()?.write(write, true);
        written.map_err(|e| self.failed(&e))?;
        topics.put(info.clone());
        Ok(info)
    }

    fn fetch(&self, place: Place, from: Offset, max_bytes: usize) -> Result<Fetched, Error> {
        let topic = self.find(place)?;
        let state = &topic.partitions[place.1.0 as usize];
        let out_of_range = |Bounds { start, end }| Error::OutOfRange {
            topic: Arc::clone(&topic.info.name),
            partition: place.1,
            offset: from,
            start,
            end,
        };
        let (bounds, tail) = {
            let state = state.lock();
            (state.bounds(), state.read_tail(from, max_bytes))
        };
        if from < bounds.start || from > bounds.end {
            return Err(out_of_range(bounds));
        }
        let batches = match tail {
            Some(batches) => batches,
            None if from == bounds.end => Vec::new(),
            None => {
                let (mut batches, mut bytes) = (Vec::new(), 0);
                self.store()?.batches(place, topic.info.cleanup, from, bounds.end, |batch| {
                    bytes += batch.stored_bytes();
                    batches.push(batch);
                    bytes < max_bytes
                })?;
                // What was trimmed meanwhile may be missing from what was read.
                let now = state.lock().bounds();
                if from < now.start {
                    return Err(out_of_range(now));
                }
                batches
            }
        };
        let next = batches.last().map_or(bounds.end, super::StoredBatch::next_offset);
        Ok(Fetched { batches, next, end: bounds.end })
    }

    /// Checks all that can be known of a transaction before it is queued, and returns its size in bytes.
    fn check(&self, transaction: &Transaction) -> Result<usize, Error> {
        let topics = self.topics.read();
        let unknown = |topic: TopicId| Error::UnknownTopic { topic: format!("number {}", topic.0) };
        let mut bytes = 0;
        for append in &transaction.appends {
            let topic = &topics.get(append.topic).ok_or_else(|| unknown(append.topic))?.info;
            let facts = append.batch.facts();
            let limits = &self.options.limits;
            limits.check_facts(topic, append.partition, facts.largest, facts.earliest, facts.unkeyed)?;
            bytes += append.batch.bytes().len();
        }
        if let Some(read) = &transaction.offsets {
            if read.group.is_empty() || read.group.len() > usize::from(u16::MAX) {
                return Err(Error::InvalidGroup { bytes: read.group.len() });
            }
            for (topic, partition, _) in &read.offsets {
                let topic = &topics.get(*topic).ok_or_else(|| unknown(*topic))?.info;
                self.options.limits.check_facts(topic, *partition, 0, 0, false)?;
            }
        }
        bytes += transaction.request.as_ref().map_or(0, |request| request.key.len() + request.answer.len());
        if bytes > MAX_TRANSACTION_BYTES {
            return Err(Error::TransactionTooLarge { bytes, max: MAX_TRANSACTION_BYTES });
        }
        Ok(bytes)
    }

    /// Moves the start of a partition up. It may go back if the machine fails before the next sync, with nothing lost: what lies
    /// below is deleted only after one. Called under the maintenance lock.
    fn trim(&self, place: Place, before: Offset, dropped_bytes: Option<u64>) -> Result<(), Error> {
        let topic = self.find(place)?;
        let state = &topic.partitions[place.1.0 as usize];
        let (kept, gone) = {
            let state = state.lock();
            let Bounds { start, end } = state.bounds();
            let before = before.min(end);
            if before <= start {
                return Ok(());
            }
            // By share, where nobody counted: to read what is dropped only to count it would cost more than it tells.
            let share = || (u128::from(state.live_bytes()) * u128::from(before.0 - start.0) / u128::from(end.0 - start.0)) as u64;
            let gone = dropped_bytes.unwrap_or_else(share);
            (KeptRow { start: before.0, dropped: state.kept.dropped + gone, ..state.kept }, gone)
        };
        self.write_kept(place, kept)?;
        let mut state = state.lock();
        state.set_kept(kept);
        state.unreclaimed += gone;
        Ok(())
    }

    fn write_kept(&self, place: Place, kept: KeptRow) -> Result<(), Error> {
        let mut write = WriteBatch::default();
        write.put(layout::place_key(layout::KEPT, place), kept.encode());
        let written = self.store()?.write(write, false);
        written.map_err(|e| self.failed(&e))
    }
}
