//! Global tables: a topic that every process has whole, as a table that all of its tasks can read. The topic is the table's changelog: what
//! was committed to it is taken in, in order, with the position up to which it was, so a crash costs the tail, and what was not
//! committed is never seen. There is no task: nothing is processed, emitted or retried. A record that does not decode is left out, and said so.
//!
//! Here a partition is kept; who fetches, and when, is said elsewhere.

use std::sync::Arc;

use millstream_state::{Db, Error, Position, StoreId, TaskId, TaskState};

use crate::error::ProcessError;
use crate::log::{Cleanup, RecordRef, StoredBatch, TopicInfo};
use crate::record::{Offset, Partition, Timestamp};
use crate::topology::{GlobalDef, Topology};

/// A record of the topic as a row of the table.
pub(crate) trait GlobalRows: Send + Sync {
    /// Appends the bytes of the row's key and, after its timestamp, value; `Some(false)` if the key is deleted, `None` without a key.
    fn row(&self, record: &RecordRef<'_>, key: &mut Vec<u8>, row: &mut Vec<u8>) -> Result<Option<bool>, ProcessError>;
}

/// A row that has changed: its key, the row if it is there, and the offset after the record.
pub(crate) type ChangedRow = (Vec<u8>, Option<Vec<u8>>, Offset);

/// One partition of a global table, for its one owner.
pub(crate) struct GlobalPart {
    topology: Arc<Topology>,
    index: usize,
    partition: Partition,
    state: TaskState,
}

impl GlobalPart {
    /// Takes the partition, as it was last seen.
    pub(crate) fn take(db: &Db, topology: &Arc<Topology>, index: usize, partition: Partition) -> Result<GlobalPart, Error> {
        let task = task_id(topology, index, partition);
        let state = db.task(task, &[topology.globals[index].store.id()])?;
        Ok(GlobalPart { topology: Arc::clone(topology), index, partition, state })
    }

    pub(crate) fn def(&self) -> &GlobalDef {
        &self.topology.globals[self.index]
    }

    pub(crate) fn partition(&self) -> Partition {
        self.partition
    }

    /// Its rows, for reading.
    pub(crate) fn state(&self) -> &TaskState {
        &self.state
    }

    fn store(&self) -> StoreId {
        self.def().store.id()
    }

    /// Where to read the topic from. Where that does not go on from the rows (another topic of the name, records that are gone, or so long ago
    /// that deletions may have been forgotten), the table begins anew: the topic has all that it needs.
    pub(crate) fn begin(&mut self, topic: &TopicInfo, start: Offset, end: Offset, now: Timestamp) -> Result<Offset, Error> {
        let oldest = match topic.cleanup {
            Cleanup::Compact { delete_retention_ms } => now.plus_ms(-((delete_retention_ms / 2).min(i64::MAX as u64) as i64)),
            Cleanup::Delete { .. } => Timestamp(i64::MIN),
        };
        let store = self.store();
        let Some(position) = self.state.position(store) else { return Ok(start) };
        let fits = position.topic_id == topic.uuid && (start.0..=end.0).contains(&position.offset);
        if fits && (position.offset == end.0 || oldest.0 <= position.wall_ms) {
            return Ok(Offset(position.offset));
        }
        tracing::warn!(
            topic = &*topic.name,
            partition = self.partition.0,
            "a global table is read from the beginning of its topic"
        );
        self.state.clear(store)?;
        Ok(start)
    }

    /// Takes in committed records from `from` on; `next` is the offset after them. The answer is the rows that have changed.
    pub(crate) fn apply(
        &mut self,
        topic: &TopicInfo,
        batches: &[StoredBatch],
        (from, next): (Offset, Offset),
        now: Timestamp,
    ) -> Result<Vec<ChangedRow>, Error> {
        let mut rows = Vec::new();
        for record in batches.iter().flat_map(|batch| batch.records_from(from)) {
            let (mut key, mut row) = (Vec::new(), Vec::new());
            match self.def().rows.row(&record, &mut key, &mut row) {
                Ok(Some(has_value)) => rows.push((key, has_value.then_some(row), record.offset.next())),
                Ok(None) => {}
                Err(error) => {
                    let (topic, partition, offset) = (&*topic.name, self.partition.0, record.offset.0);
                    tracing::error!(topic, partition, offset, %error, "a record is left out of a global table");
                }
            }
        }
        let wall_ms = batches.last().map_or(now, StoredBatch::appended_at).0;
        let until = Position { topic_id: topic.uuid, offset: next.0, wall_ms };
        let store = self.store();
        let changed = rows.iter().map(|(key, row, _)| (store, &key[..], row.as_deref()));
        self.state.restore(changed, &[(store, until)])?;
        Ok(rows)
    }
}

/// What a partition of a global table is to the database, where it stands behind the tasks.
pub(crate) fn task_id(topology: &Topology, index: usize, partition: Partition) -> TaskId {
    TaskId { sub_topology: (topology.subs.len() + index) as u32, partition: partition.0 }
}
