//! Why the log said no, and what that means for what was asked. Classified by what happened, never by message text.

use crate::{Offset, Partition};
use std::path::PathBuf;
use std::sync::Arc;

/// A failure of the log. One that is neither retriable nor fatal is the request's own fault, and repeating it repeats the error,
/// but for [`Error::OutcomeUnknown`]: there the request may have been carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The topic was never created.
    #[error("topic {topic} does not exist")]
    UnknownTopic {
        /// Its name, or its number where no name is known.
        topic: String,
    },
    /// The topic exists and is not what was asked for.
    #[error("topic {topic} exists with {found} and not with {wanted}")]
    TopicDiffers {
        /// Its name.
        topic: Arc<str>,
        /// What it has.
        found: String,
        /// What was asked for.
        wanted: String,
    },
    /// No topic can have this name or number of partitions.
    #[error("topic {topic:?} can't be created: {reason}")]
    InvalidTopic {
        /// The name.
        topic: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// A consumer group can't have this name.
    #[error("group name of {bytes} bytes is not between 1 and 65535 bytes long")]
    InvalidGroup {
        /// Its length.
        bytes: usize,
    },
    /// The topic has no such partition.
    #[error("topic {topic} has {partitions} partitions and no partition {partition}")]
    UnknownPartition {
        /// The topic.
        topic: Arc<str>,
        /// The partition asked for.
        partition: Partition,
        /// How many there are.
        partitions: u32,
    },
    /// There is nothing to read at this offset: it was dropped, or was never written.
    #[error("offset {offset} of {topic}-{partition} is outside of what is kept, {start} to {end}")]
    OutOfRange {
        /// The topic.
        topic: Arc<str>,
        /// The partition.
        partition: Partition,
        /// The offset asked for.
        offset: Offset,
        /// The first offset kept.
        start: Offset,
        /// The offset after the last.
        end: Offset,
    },
    /// Key, value and headers of a record are too long.
    #[error("record of {bytes} bytes for topic {topic} is larger than the {max} allowed")]
    RecordTooLarge {
        /// The topic.
        topic: Arc<str>,
        /// Its size.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// A transaction holds too much.
    #[error("transaction of {bytes} bytes is larger than the {max} allowed")]
    TransactionTooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// A record's timestamp is before 1970.
    #[error("record for topic {topic} has the negative timestamp {timestamp}")]
    NegativeTimestamp {
        /// The topic.
        topic: Arc<str>,
        /// The timestamp.
        timestamp: i64,
    },
    /// A record for a compacted topic has no key.
    #[error("record for the compacted topic {topic} has no key")]
    KeyMissing {
        /// The topic.
        topic: Arc<str>,
    },
    /// A request of this key was committed before; this transaction was not.
    #[error("request was already carried out")]
    RequestExists,
    /// Too much waits to be written; nothing was appended.
    #[error("log has {queued_bytes} bytes waiting to be written")]
    Busy {
        /// How much waits.
        queued_bytes: usize,
    },
    /// The log can't be used now and repairs itself; nothing was appended.
    #[error("log is unavailable: {cause}")]
    Unavailable {
        /// What failed.
        cause: Arc<str>,
    },
    /// A write or sync failed: what was asked may or may not have been carried out.
    #[error("log can't tell whether the transaction was committed: {cause}")]
    OutcomeUnknown {
        /// What failed.
        cause: Arc<str>,
    },
    /// The transaction was aborted, by the group, because it lasted for too long or because another producer took over; nothing was appended.
    /// What was read for it may be somebody else's by now.
    #[error("transaction was aborted: {cause}")]
    Aborted {
        /// Why.
        cause: Arc<str>,
    },
    /// Somebody else writes with this transactional id now, and only one may; nothing was appended.
    #[error("another process has taken over as {id}")]
    Fenced {
        /// The transactional id.
        id: Arc<str>,
    },
    /// The cluster does not allow it; nothing was appended.
    #[error("not allowed by the cluster: {what}")]
    Denied {
        /// What was tried, and the right that is missing.
        what: String,
    },
    /// The cluster does not know who this is.
    #[error("the cluster refused the login: {cause}")]
    Unauthenticated {
        /// What it said.
        cause: String,
    },
    /// The cluster, or this log, can't do it, now or later; nothing was appended.
    #[error("not possible: {what}")]
    Unsupported {
        /// What.
        what: String,
    },
    /// The cluster looked at it and said no; nothing was appended.
    #[error("refused by the cluster: {cause}")]
    Rejected {
        /// What it said.
        cause: String,
    },
    /// The log can't be used with this configuration.
    #[error("configuration of Kafka: {reason}")]
    Misconfigured {
        /// What is wrong with it.
        reason: String,
    },
    /// The log was closed; nothing was appended.
    #[error("log is closed")]
    Closed,
    /// Another process has the directory open.
    #[error("log directory {} is in use by another process", dir.display())]
    Locked {
        /// The directory.
        dir: PathBuf,
    },
    /// The directory holds something else.
    #[error("directory {} is not a log: {reason}", dir.display())]
    NotALog {
        /// The directory.
        dir: PathBuf,
        /// What was found.
        reason: String,
    },
    /// What was written can't be read back.
    #[error("log directory {} is damaged: {cause}", dir.display())]
    Damaged {
        /// The directory.
        dir: PathBuf,
        /// What was found.
        cause: String,
    },
    /// The disk failed and lost what had been written and not synced. Nobody outside of the process was told of it, but its tasks have
    /// gone on from it.
    #[error("log directory {}: the disk failed and lost what the tasks had read and nobody was told of yet: start again", dir.display())]
    Lost {
        /// The directory.
        dir: PathBuf,
    },
    /// The directory can't be opened or read.
    #[error("log directory {} can't be used: {cause}", dir.display())]
    Io {
        /// The directory.
        dir: PathBuf,
        /// What the system said.
        cause: String,
    },
}

impl Error {
    /// Whether the same request may succeed later, and can be repeated without doing it twice.
    #[must_use]
    pub fn is_retriable(&self) -> bool {
        matches!(self, Error::Busy { .. } | Error::Unavailable { .. } | Error::Aborted { .. } | Error::Io { .. })
    }

    /// Whether no request to this log will succeed any more.
    #[must_use]
    pub fn is_fatal(&self) -> bool {
        matches!(
            self,
            Error::Closed
                | Error::Locked { .. }
                | Error::NotALog { .. }
                | Error::Damaged { .. }
                | Error::Lost { .. }
                | Error::Fenced { .. }
        )
    }

    /// Whether the transaction may have been committed all the same.
    #[must_use]
    pub fn is_outcome_unknown(&self) -> bool {
        matches!(self, Error::OutcomeUnknown { .. })
    }
}
