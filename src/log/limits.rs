//! What the log refuses to append. It is checked before a transaction is queued, and can be checked for one record by whoever
//! must know earlier, as a task does inside the record's savepoint.

use super::batch::headers_len;
use super::{Cleanup, Error, TopicInfo};
use crate::{Headers, Partition, Timestamp};
use std::sync::Arc;

/// The limits of a log, beside those of a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The most that key, value and headers of a record may have together, in bytes as they lie in the log.
    pub max_record_bytes: usize,
}

impl Default for Limits {
    /// 1 MiB a record, as Kafka.
    fn default() -> Self {
        Limits { max_record_bytes: 1 << 20 }
    }
}

impl Limits {
    /// Checks that this record can be appended there.
    ///
    /// # Errors
    /// [`Error::UnknownPartition`], [`Error::RecordTooLarge`], [`Error::NegativeTimestamp`] or [`Error::KeyMissing`].
    pub fn check(
        &self,
        topic: &TopicInfo,
        partition: Partition,
        timestamp: Timestamp,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &Headers,
    ) -> Result<(), Error> {
        let bytes = key.map_or(0, <[u8]>::len) + value.map_or(0, <[u8]>::len) + headers_len(headers);
        self.check_facts(topic, partition, bytes, timestamp.0, key.is_none())
    }

    /// The same by the largest record, the smallest timestamp and whether a key is missing.
    pub(super) fn check_facts(
        &self,
        topic: &TopicInfo,
        partition: Partition,
        largest: usize,
        earliest: i64,
        unkeyed: bool,
    ) -> Result<(), Error> {
        let name = || Arc::clone(&topic.name);
        if partition.0 >= topic.partitions {
            return Err(Error::UnknownPartition { topic: name(), partition, partitions: topic.partitions });
        }
        let max = self.max_record_bytes.min(topic.max_record_bytes);
        if largest > max {
            return Err(Error::RecordTooLarge { topic: name(), bytes: largest, max });
        }
        if earliest < 0 {
            return Err(Error::NegativeTimestamp { topic: name(), timestamp: earliest });
        }
        if unkeyed && matches!(topic.cleanup, Cleanup::Compact { .. }) {
            return Err(Error::KeyMissing { topic: name() });
        }
        Ok(())
    }
}
