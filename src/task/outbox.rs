//! The records that the running transaction will append, encoded, one batch for each partition they go to.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::changelog;
use crate::error::ProcessError;
use crate::log::{Limits, Mark, RecordBatch, TopicInfo, partition};
use crate::record::{Headers, Partition, Timestamp};
use crate::topology::TopicIndex;

/// What a store with time-to-live adds to a row.
const ROW_TIME_BYTES: usize = 8;

/// Records for one partition of one topic.
#[derive(Debug, Default)]
pub(crate) struct Outgoing {
    pub topic: TopicIndex,
    pub partition: Partition,
    pub batch: RecordBatch,
}

/// Invariant: `touched` holds, for each batch that grew since `mark`, its length at that time, once.
pub(crate) struct Outbox {
    home: Partition,
    topics: Arc<[TopicInfo]>,
    limits: Limits,
    batches: Vec<Outgoing>,
    slots: FxHashMap<(TopicIndex, Partition), usize>,
    touched: Vec<(usize, Mark)>,
}

impl Outbox {
    /// `topics` are the topology's, by index; `home` is the task's own partition.
    pub(super) fn new(home: Partition, topics: Arc<[TopicInfo]>, limits: Limits) -> Outbox {
        Outbox { home, topics, limits, batches: Vec::new(), slots: FxHashMap::default(), touched: Vec::new() }
    }

    pub(super) fn home(&self) -> Partition {
        self.home
    }

    pub(super) fn partitions(&self, topic: TopicIndex) -> u32 {
        self.topics[topic.0].partitions
    }

    pub(super) fn topic(&self, topic: TopicIndex) -> &TopicInfo {
        &self.topics[topic.0]
    }

    /// From here on a record's outputs can be undone.
    pub(super) fn mark(&mut self) {
        self.touched.clear();
    }

    /// Takes back what was pushed since the mark.
    pub(super) fn undo(&mut self) {
        for (slot, mark) in self.touched.drain(..) {
            self.batches[slot].batch.truncate(mark);
        }
    }

    /// Adds a record, at the partition of its key.
    pub(super) fn push(
        &mut self,
        topic: TopicIndex,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        timestamp: Timestamp,
        headers: &Headers,
    ) -> Result<(), ProcessError> {
        let info = &self.topics[topic.0];
        let partition = partition(key, info.partitions, self.home.0);
        self.limits
            .check(info, partition, timestamp, key, value, headers)
            .map_err(|e| ProcessError::Unwritable(e.to_string()))?;
        self.push_to(topic, partition, key, value, timestamp, headers);
        Ok(())
    }

    /// Whether the changelog takes a row of the store of this name.
    pub(super) fn check_row(&self, store: &str, key: &[u8], value: &[u8]) -> Result<(), ProcessError> {
        let bytes = changelog::added_bytes(store) + key.len() + ROW_TIME_BYTES + value.len();
        let max = self.limits.max_record_bytes;
        if bytes > max {
            return Err(ProcessError::Unwritable(format!(
                "a row of {bytes} bytes is larger than the {max} that a changelog takes"
            )));
        }
        Ok(())
    }

    /// Adds a record at a given partition, unchecked: a dead letter, which is written as its topic takes it. The log has room for its headers: see
    /// [`super::dead_letter::ROOM`].
    pub(super) fn push_to(
        &mut self,
        topic: TopicIndex,
        partition: Partition,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        timestamp: Timestamp,
        headers: &Headers,
    ) {
        let slot = *self.slots.entry((topic, partition)).or_insert_with(|| {
            self.batches.push(Outgoing { topic, partition, batch: RecordBatch::default() });
            self.batches.len() - 1
        });
        let batch = &mut self.batches[slot].batch;
        if !self.touched.iter().any(|(touched, _)| *touched == slot) {
            self.touched.push((slot, batch.mark()));
        }
        batch.push(timestamp, key, value, headers);
    }

    /// Takes the batches that have records.
    pub(super) fn take(&mut self) -> Vec<Outgoing> {
        self.slots.clear();
        self.touched.clear();
        std::mem::take(&mut self.batches).into_iter().filter(|outgoing| !outgoing.batch.is_empty()).collect()
    }

    pub(super) fn bytes(&self) -> usize {
        self.batches.iter().map(|outgoing| outgoing.batch.bytes().len()).sum()
    }
}
