//! The log: topics of partitions of records, to which transactions are appended and from which they are read in order.
//! It is the write-ahead log of all state: what was committed here happened, and nothing else did. The trait says what every
//! home of the log must do; [`embedded`] is the one in this process, `kafka` the one in a cluster. Nothing here knows topologies,
//! tasks or types.

pub mod embedded;
#[cfg(feature = "kafka")]
pub mod kafka;

mod batch;
mod error;
mod limits;
mod member;
mod partitioner;
mod topic;
mod transaction;

pub use batch::{BatchCursor, HeadersRef, Mark, RecordBatch, RecordRef, Records, StoredBatch};
pub use embedded::EmbeddedLog;
pub use error::Error;
#[cfg(feature = "kafka")]
pub use kafka::{KafkaConfig, KafkaLog};
pub use limits::Limits;
pub use member::{Change, Inputs, Member, Membership};
pub use partitioner::partition;
pub use topic::{Cleanup, TopicId, TopicInfo, TopicSpec};
pub(crate) use transaction::AtomicMoment;
pub use transaction::{Append, Committed, GroupOffsets, Moment, Pending, Request, StoredRequest, Transaction};

use crate::{Offset, Partition, Timestamp};
use std::sync::Arc;
use std::time::Duration;

/// Whether a log works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// It does.
    Up,
    /// It failed, refuses to append, and tries to come back.
    Repairing {
        /// What failed.
        cause: Arc<str>,
    },
    /// It failed for good; the process must be started again.
    Failed {
        /// What failed.
        cause: Arc<str>,
    },
}

/// A log. All of it may be called from any thread.
///
/// What must always hold: a transaction is in the log whole or not at all; what a reader has seen is durable (as far as the log's
/// configuration promises) and is never seen changed; offsets of a partition grow by one a record and are never given twice;
/// transactions of one thread are in the order in which it committed them. The [members](Member) of a process may be ahead of what
/// is durable: see [`Moment`].
pub trait Log: Send + Sync + 'static {
    /// Makes a topic, or finds it as it is. New retention times and sizes replace those of an existing topic.
    ///
    /// # Errors
    /// [`Error::TopicDiffers`] if it exists with another number of partitions or cleanup policy, [`Error::InvalidTopic`].
    fn create_topic(&self, spec: &TopicSpec) -> Result<TopicInfo, Error>;

    /// The same for several, which may take no longer than one. The answer is in their order. What was made before an error stays.
    ///
    /// # Errors
    /// As [`Log::create_topic`].
    fn create_topics(&self, specs: &[TopicSpec]) -> Result<Vec<TopicInfo>, Error> {
        specs.iter().map(|spec| self.create_topic(spec)).collect()
    }

    /// The topic of this name, if there is one.
    ///
    /// # Errors
    /// If the log can't be asked.
    fn topic(&self, name: &str) -> Result<Option<TopicInfo>, Error>;

    /// All topics.
    ///
    /// # Errors
    /// If the log can't be asked.
    fn topics(&self) -> Result<Vec<TopicInfo>, Error>;

    /// Durable batches from `from` on, in order, up to about `max_bytes` but at least one if there is one. The first may begin
    /// before `from`: see [`StoredBatch::records_from`]. Nothing new gives no batches, at once: see [`Log::wait`].
    ///
    /// # Errors
    /// [`Error::OutOfRange`] below the start or beyond the end.
    fn fetch(&self, topic: TopicId, partition: Partition, from: Offset, max_bytes: usize) -> Result<Fetched, Error>;

    /// As [`Log::fetch`], for who reads a partition all the time: what has come in since the last call, without asking whether there is more. What
    /// this process has committed may come a moment later, and the end is what is known of it.
    ///
    /// # Errors
    /// As [`Log::fetch`].
    fn follow(&self, topic: TopicId, partition: Partition, from: Offset, max_bytes: usize) -> Result<Fetched, Error> {
        self.fetch(topic, partition, from, max_bytes)
    }

    /// From where to where a partition can be read, by those who see what is durable.
    ///
    /// # Errors
    /// [`Error::UnknownTopic`] or [`Error::UnknownPartition`].
    fn bounds(&self, topic: TopicId, partition: Partition) -> Result<Bounds, Error>;

    /// The end that a reader of each of these partitions comes to once the transactions that are open now have ended, in this order. What a
    /// member committed lies below, also if it died since, and even while [`Log::bounds`] does not show it yet.
    ///
    /// # Errors
    /// As [`Log::bounds`].
    fn open_ends(&self, places: &[(TopicId, Partition)]) -> Result<Vec<Offset>, Error>;

    /// The end of a partition for whoever is to own it: what anybody was told to have been appended lies below, whoever answers. That is more
    /// than [`Log::open_ends`] says where several brokers have the log: one that stood still leads no more, and may answer as it knew it before
    /// it hears of that. So a mark is appended here, which only the one that leads can take: a record of the key `\0` and without a value.
    ///
    /// # Errors
    /// As [`Log::bounds`], or if nothing can be appended there.
    fn owned_end(&self, topic: TopicId, partition: Partition) -> Result<OwnedEnd, Error> {
        self.open_ends(&[(topic, partition)]).map(|ends| OwnedEnd { end: ends[0], next: ends[0] })
    }

    /// Joins the group of an application as one of its worker threads.
    ///
    /// # Errors
    /// If the group can't be joined.
    fn join(&self, membership: Membership) -> Result<Box<dyn Member>, Error>;

    /// What tells this process from others that share the log, and is the same after a restart.
    fn instance(&self) -> &str;

    /// After how long a member of a group that has fallen silent is taken for dead; never, where one process has the log.
    fn session_timeout(&self) -> Duration;

    /// Ends what the members of a dead process left open: the transactions of the first `workers` of that instance are aborted now, and
    /// they can commit nothing any more until they join again. There is nobody to be fenced where one process has the log.
    ///
    /// # Errors
    /// If the log can't be asked.
    fn fence(&self, group: &str, instance: &str, workers: usize) -> Result<(), Error>;

    /// Whether the log works.
    fn health(&self) -> Health;

    /// A number that grows with everything that becomes durable.
    fn version(&self) -> u64;

    /// Waits until the version is no longer `seen`, at most `timeout`, and returns it. Any number of threads may wait.
    fn wait(&self, seen: u64, timeout: Duration) -> u64;

    /// Lets every [`Log::wait`] return, as for a thread that is to stop.
    fn wake(&self);

    /// Queues a transaction, whose outcome comes once it is durable. Never blocks for longer than a queue's lock; what is wrong with the
    /// transaction itself is found at once.
    fn commit(&self, transaction: Transaction) -> Pending;

    /// The moment that has come: all that anybody in this process can have seen of the log lies before it.
    fn written(&self) -> Moment {
        Moment::DURABLE
    }

    /// Done once all before this moment is durable, as far as the log's configuration promises. The outcome is an error if the log fails
    /// before; a retriable one says that it may still come.
    fn durable(&self, _at: Moment) -> Pending<()> {
        Pending::decided(Ok(()))
    }

    /// Returns once everything that was written survives the machine, whatever the configuration says.
    ///
    /// # Errors
    /// If that can't be had.
    fn sync(&self) -> Result<(), Error> {
        self.durable(self.written()).wait()
    }

    /// The members that a group has now, in words for people; none where one process has the log.
    ///
    /// # Errors
    /// If the log can't be asked.
    fn members(&self, group: &str) -> Result<Vec<String>, Error>;

    /// Deletes topics with all their records, for good, and returns when they are gone; those that do not exist are passed over.
    ///
    /// # Errors
    /// If it can't be done now or is not allowed, [`Error::Unsupported`] where one process has the log.
    fn delete_topics(&self, names: &[&str]) -> Result<(), Error>;

    /// Whether every offset of a topic that is not compacted is a record's; else marks of transactions have some.
    fn counts_by_offsets(&self) -> bool;

    /// The offset of the first record of a partition whose timestamp is `at` or later; the end if there is none.
    ///
    /// # Errors
    /// As [`Log::bounds`].
    fn offset_at(&self, topic: TopicId, partition: Partition, at: Timestamp) -> Result<Offset, Error>;

    /// How far a group has read.
    ///
    /// # Errors
    /// If the log can't be asked.
    fn offsets(&self, group: &str) -> Result<Vec<(TopicId, Partition, Offset)>, Error>;

    /// How far a group has read each of these partitions, in this order, 0 where it has read nothing. It has read at least so far: a commit
    /// that has just been decided may not show yet.
    ///
    /// # Errors
    /// As [`Log::bounds`].
    fn read_so_far(&self, group: &str, places: &[(TopicId, Partition)]) -> Result<Vec<Offset>, Error> {
        let known = self.offsets(group)?;
        let of = |place: &(TopicId, Partition)| known.iter().find(|(topic, partition, _)| (*topic, *partition) == *place);
        Ok(places.iter().map(|place| of(place).map_or(Offset(0), |(.., offset)| *offset)).collect())
    }

    /// Moves the start of a partition up to `before`, or to its end if that is lower, for good, and gives back the space of the
    /// batches that lie wholly below.
    ///
    /// # Errors
    /// If it can't be done now; the start then is where it was.
    fn trim(&self, topic: TopicId, partition: Partition, before: Offset) -> Result<(), Error>;

    /// Lets a topic take records of so many bytes, where it takes only smaller ones. The answer is the topic as it is then. A log that has one
    /// limit for all topics keeps to that.
    ///
    /// # Errors
    /// If the log does not allow it, or can't do it now.
    fn widen(&self, topic: TopicId, max_record_bytes: usize) -> Result<TopicInfo, Error>;

    /// What this log refuses to append to topics that were made here.
    fn limits(&self) -> Limits;
}

/// What a fetch found.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// Batches in order.
    pub batches: Vec<StoredBatch>,
    /// Where to fetch from next.
    pub next: Offset,
    /// The end of the partition: at `next == end` everything was read.
    pub end: Offset,
}

/// What [`Log::owned_end`] says of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnedEnd {
    /// Whoever is to own the partition has to know what lies below.
    pub end: Offset,
    /// Whatever comes later lies here or behind. In between there is nothing but the mark.
    pub next: Offset,
}

/// The part of a partition that can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// The first offset kept.
    pub start: Offset,
    /// The offset that the next record gets.
    pub end: Offset,
}
