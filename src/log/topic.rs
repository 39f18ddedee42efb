//! What a topic is to the log: a name, a number of partitions and a rule for what may be forgotten.
//! The types of its keys and values are not known here.

use std::fmt;
use std::sync::Arc;

/// A topic to be created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicSpec {
    /// 1 to 249 letters, digits, `.`, `_` or `-`, as in Kafka.
    pub name: String,
    /// How many partitions, at least 1.
    pub partitions: u32,
    /// What may be forgotten.
    pub cleanup: Cleanup,
}

/// What a topic may forget, and when. Times count from the append, by the log's clock, not from the record's timestamp: input
/// that is old when it arrives is kept as long as any other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cleanup {
    /// Whole batches from the front.
    Delete {
        /// Those appended longer ago than this, in milliseconds.
        retention_ms: Option<u64>,
        /// Those in front of the last so many bytes of a partition.
        retention_bytes: Option<u64>,
    },
    /// Every record that has a later one of the same key.
    Compact {
        /// How long a record without a value, which deletes its key, stays at least, in milliseconds.
        delete_retention_ms: u64,
    },
}

impl Cleanup {
    /// Keeps everything; what is to go is trimmed.
    pub const KEEP: Cleanup = Cleanup::Delete { retention_ms: None, retention_bytes: None };

    /// Whether both are of one kind; the times and sizes of a kind may change, the kind may not.
    #[must_use]
    pub fn same_policy(self, other: Cleanup) -> bool {
        std::mem::discriminant(&self) == std::mem::discriminant(&other)
    }
}

impl fmt::Display for Cleanup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Cleanup::Delete { .. } => "delete",
            Cleanup::Compact { .. } => "compact",
        })
    }
}

/// The number of a topic in this process; never kept across a start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicId(pub u32);

/// A topic that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicInfo {
    /// Its name.
    pub name: Arc<str>,
    /// Its number in this process.
    pub id: TopicId,
    /// What tells this topic from one of the same name created before or after it.
    pub uuid: [u8; 16],
    /// How many partitions it has.
    pub partitions: u32,
    /// What it may forget.
    pub cleanup: Cleanup,
    /// What key, value and headers of a record may have together, in bytes; `usize::MAX` where the log has one limit for all topics.
    pub max_record_bytes: usize,
}

/// Whether a topic may have this name.
pub(super) fn is_topic_name(name: &str) -> bool {
    let allowed = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'-');
    (1..=249).contains(&name.len()) && name.bytes().all(allowed) && name != "." && name != ".."
}
