//! What the threads of a log share, and what callers' threads do with it themselves: make topics, fetch, check, and move starts.
//! Nothing here appends.

use super::horizon::Horizon;
use super::layout::{self, KeptRow, Place};
use super::maintenance::Maintenance;
use super::options::Options;
use super::partition::{PartitionState, Reader, Topic, Topics};
use super::queue::Queue;
use super::store::{Home, Store};
use crate::Offset;
use crate::log::topic::is_topic_name;
use crate::log::{Bounds, Error, Fetched, StoredBatch, TopicId, TopicInfo, TopicSpec, Transaction};
use parking_lot::{Condvar, MappedRwLockReadGuard, Mutex, RwLock, RwLockReadGuard};
use rocksdb::WriteBatch;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

/// A transaction larger than this is refused, in bytes; RocksDB's write batches end at 4 GiB.
const MAX_TRANSACTION_BYTES: usize = 1 << 30;

/// What the threads of a log share.
///
/// Locks are taken in this order: `maintenance`, `topics`, `store`, a partition's.
pub(super) struct Shared {
    pub(super) dir: PathBuf,
    pub(super) options: Options,
    /// Empty while it is repaired.
    pub(super) store: RwLock<Option<Store>>,
    /// Its lock goes when the database is closed: after `store`.
    pub(super) home: Mutex<Home>,
    pub(super) topics: RwLock<Topics>,
    pub(super) queue: Queue,
    pub(super) horizon: Horizon,
    /// What members wait for.
    pub(super) written: Progress,
    /// What everybody else waits for.
    pub(super) durable: Progress,
    pub(super) maintenance: Mutex<Maintenance>,
    pub(super) counters: Counters,
}

#[derive(Default)]
pub(super) struct Counters {
    pub(super) transactions: AtomicU64,
    pub(super) writes: AtomicU64,
    pub(super) syncs: AtomicU64,
    pub(super) records: AtomicU64,
    pub(super) bytes: AtomicU64,
}

/// The version, and those who wait for it to grow.
#[derive(Default)]
pub(super) struct Progress {
    pub(super) version: Mutex<u64>,
    grown: Condvar,
}

impl Progress {
    pub(super) fn advance(&self) {
        *self.version.lock() += 1;
        self.grown.notify_all();
    }

    pub(super) fn wait(&self, seen: u64, timeout: Duration) -> u64 {
        let mut version = self.version.lock();
        if *version == seen {
            self.grown.wait_for(&mut version, timeout);
        }
        *version
    }
}

impl Shared {
    /// Locks the directory and reads back what is there.
    pub(super) fn open(dir: &Path, options: Options) -> Result<Shared, Error> {
        let shared = Shared {
            home: Mutex::new(Home::lock(dir)?),
            dir: dir.to_owned(),
            options,
            store: RwLock::default(),
            topics: RwLock::default(),
            queue: Queue::default(),
            horizon: Horizon::default(),
            written: Progress::default(),
            durable: Progress::default(),
            maintenance: Mutex::default(),
            counters: Counters::default(),
        };
        shared.reopen()?;
        Ok(shared)
    }

    /// The database, unless it is being repaired.
    pub(super) fn store(&self) -> Result<MappedRwLockReadGuard<'_, Store>, Error> {
        let just_now = || Error::Unavailable { cause: "the log was read back just now".into() };
        RwLockReadGuard::try_map(self.store.read(), Option::as_ref).map_err(|_| self.queue.broken().unwrap_or_else(just_now))
    }

    /// Lets all who wait for something new look.
    pub(super) fn wake(&self) {
        self.written.advance();
        self.durable.advance();
    }

    /// Opens the database and reads back where everything stands. All that is found is durable: RocksDB has written what it found in the
    /// write-ahead log to files of their own. Nothing that could be read before may be gone.
    pub(super) fn reopen(&self) -> Result<(), Error> {
        let store = self.home.lock().open(&self.options)?;
        let (found, (read, durable)) = (store.last_group()?, self.horizon.read());
        if found < durable {
            return Err(store.damaged("what was synced is gone".to_owned()));
        }
        if found < read {
            return Err(Error::Lost { dir: self.dir.clone() });
        }
        self.horizon.found(found);
        let mut topics = self.topics.write();
        for info in store.topics()? {
            topics.put(info);
        }
        for (place, end) in store.ends()? {
            let mut state = self.known(&topics, &store, place)?.lock();
            if end.end < state.end.end {
                return Err(store.damaged(format!("records of topic {} were lost", place.0.0)));
            }
            (state.end, state.durable) = (end, end.end);
        }
        for (place, kept) in store.kept()? {
            let mut state = self.known(&topics, &store, place)?.lock();
            let start = kept.start.max(state.kept.start);
            state.set_kept(KeptRow { start, ..kept });
        }
        *self.store.write() = Some(store);
        Ok(())
    }

    fn known<'a>(&self, topics: &'a Topics, store: &Store, place: Place) -> Result<&'a Mutex<PartitionState>, Error> {
        topics.state(place).ok_or_else(|| store.damaged(format!("topic {} partition {} is not known", place.0.0, place.1)))
    }

    /// Something other than the writer's commit failed on the database: whether it was done is unknown, and it must be read back.
    pub(super) fn failed(&self, e: &rocksdb::Error) -> Error {
        let cause: Arc<str> = e.to_string().into();
        self.queue.ask_for_repair(&cause);
        Error::OutcomeUnknown { cause }
    }

    pub(super) fn find(&self, (topic, partition): Place) -> Result<Topic, Error> {
        let topics = self.topics.read();
        let topic = topics.get(topic).ok_or_else(|| Error::UnknownTopic { topic: format!("number {}", topic.0) })?;
        match topic.partitions.get(partition.0 as usize) {
            Some(_) => Ok(topic.clone()),
            None => {
                Err(Error::UnknownPartition { topic: Arc::clone(&topic.info.name), partition, partitions: topic.info.partitions })
            }
        }
    }

    pub(super) fn create_topic(&self, spec: &TopicSpec) -> Result<TopicInfo, Error> {
        let invalid = |reason| Error::InvalidTopic { topic: spec.name.clone(), reason };
        if !is_topic_name(&spec.name) {
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
                max_record_bytes: usize::MAX,
            },
        };
        let mut write = WriteBatch::default();
        write.put(layout::topic_key(&info.name), layout::topic_row(&info));
        let written = self.store()?.write(write, true);
        written.map_err(|e| self.failed(&e))?;
        topics.put(info.clone());
        Ok(info)
    }

    pub(super) fn fetch(&self, reader: Reader, place: Place, from: Offset, max_bytes: usize) -> Result<Fetched, Error> {
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
            let bounds = state.bounds_for(reader);
            (bounds, state.read_tail(from, bounds.end, max_bytes))
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
                let now = state.lock().bounds_for(reader);
                if from < now.start {
                    return Err(out_of_range(now));
                }
                batches
            }
        };
        let next = batches.last().map_or(bounds.end, StoredBatch::next_offset);
        Ok(Fetched { batches, next, end: bounds.end })
    }

    /// Checks all that can be known of a transaction before it is queued, and returns its size in bytes.
    pub(super) fn check(&self, transaction: &Transaction) -> Result<usize, Error> {
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
    pub(super) fn trim(&self, place: Place, before: Offset, dropped_bytes: Option<u64>) -> Result<(), Error> {
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
