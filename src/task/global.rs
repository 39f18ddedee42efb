//! Global tables and feeds: a topic that a process has whole, as a store that everything in it can read. The topic is the store's changelog: what
//! was committed to it is taken in, in order, with the position up to which it was, so a crash costs the tail, and what was not
//! committed is never seen. There is no task: nothing is processed, emitted or retried. A record that does not decode is left out, and said so.
//!
//! Here a partition is kept; who fetches, and when, is said elsewhere.

use std::sync::Arc;

use millstream_state::{Db, DirtyRow, Error, Position, StoreId, TaskId, TaskState, Value, fault};

use crate::error::ProcessError;
use crate::log::{Cleanup, RecordRef, StoredBatch, TopicInfo};
use crate::record::{Offset, Partition, Timestamp};
use crate::topology::{GlobalDef, Topology};

/// What the records of the topic are in the store.
pub(crate) trait GlobalRows: Send + Sync {
    /// Takes in a record. One that was taken in before may come again, with those behind it, for rows reach the disk before the position does.
    fn take_in(&self, record: &RecordRef<'_>, rows: &mut Rows<'_>) -> Result<(), Refused>;
}

/// Why a record was not taken in.
pub(crate) enum Refused {
    /// It is left out.
    Record(ProcessError),
    /// The state cannot be read.
    State(Error),
}

impl From<ProcessError> for Refused {
    fn from(error: ProcessError) -> Refused {
        Refused::Record(error)
    }
}

/// The rows of a partition, for who takes in its records.
pub(crate) struct Rows<'a> {
    state: &'a mut TaskState,
    store: StoreId,
    /// Where the topic began when it was first read: what lay before is not known.
    pub(crate) begin: Offset,
}

impl Rows<'_> {
    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<Value>, Refused> {
        self.state.get(self.store, key).map_err(Refused::State)
    }

    /// Writes a row. A time-to-live counts from now.
    pub(crate) fn put(&mut self, key: &[u8], row: &[u8]) {
        self.state.put(self.store, key, row);
    }

    /// Writes a row that outlives every time-to-live.
    pub(crate) fn put_for_good(&mut self, key: &[u8], row: &[u8]) {
        self.state.put_at(self.store, key, row, i64::MAX);
    }

    pub(crate) fn delete(&mut self, key: &[u8]) {
        self.state.delete(self.store, key);
    }
}

/// How many rows are looked at for each that comes, whether their time has passed.
const SWEPT_PER_RECORD: usize = 4;

/// One partition of a global table or feed, for its one owner.
pub(crate) struct GlobalPart {
    topology: Arc<Topology>,
    index: usize,
    partition: Partition,
    db: Db,
    state: TaskState,
    begin: Offset,
}

impl GlobalPart {
    /// Takes the partition, as it was last seen.
    pub(crate) fn take(db: &Db, topology: &Arc<Topology>, index: usize, partition: Partition) -> Result<GlobalPart, Error> {
        let task = task_id(topology, index, partition);
        let state = db.task(task, &[topology.globals[index].store.id()])?;
        Ok(GlobalPart { topology: Arc::clone(topology), index, partition, db: db.clone(), state, begin: Offset(0) })
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
    /// that deletions may have been forgotten), the store begins anew: the topic has all that it needs.
    pub(crate) fn begin(&mut self, topic: &TopicInfo, start: Offset, end: Offset, now: Timestamp) -> Result<Offset, Error> {
        self.begin = start;
        let oldest = match topic.cleanup {
            Cleanup::Compact { delete_retention_ms } => now.plus_ms(-((delete_retention_ms / 2).min(i64::MAX as u64) as i64)),
            Cleanup::Delete { .. } => Timestamp(i64::MIN),
        };
        let store = self.store();
        let Some(position) = self.state.position(store) else { return Ok(start) };
        let fits = position.topic_id == topic.uuid && (start.0..=end.0).contains(&position.offset);
        if fits && (position.offset == end.0 || oldest.0 <= position.wall_ms) {
            pass(&mut self.state, Timestamp(position.wall_ms), now);
            self.state.commit(&[]);
            return Ok(Offset(position.offset));
        }
        tracing::warn!(
            topic = &*topic.name,
            partition = self.partition.0,
            "a global table or feed is read from the beginning of its topic"
        );
        self.state.clear(store)?;
        Ok(start)
    }

    /// Takes in committed records from `from` on; `next` is the offset after them. `changed` is given the rows that change, before readers see
    /// them.
    pub(crate) fn take_in(
        &mut self,
        topic: &TopicInfo,
        batches: &[StoredBatch],
        (from, next): (Offset, Offset),
        now: Timestamp,
        changed: impl FnMut(DirtyRow<'_>),
    ) -> Result<(), Error> {
        if let Err(error) = self.write(topic, batches, from, now) {
            self.state.abort();
            return Err(error);
        }
        self.state.dirty().for_each(changed);
        let wall_ms = batches.last().map_or(now, StoredBatch::appended_at).0;
        self.state.commit(&[(self.store(), Position { topic_id: topic.uuid, offset: next.0, wall_ms })]);
        fault::point("global:taken-in").map_err(|e| Error::Io { doing: "taken in", cause: e.to_string().into() })?;
        self.db.make_room()
    }

    /// Writes the rows of records, and removes some of those whose time has passed.
    fn write(&mut self, topic: &TopicInfo, batches: &[StoredBatch], from: Offset, now: Timestamp) -> Result<(), Error> {
        let (store, def) = (self.store(), &self.topology.globals[self.index]);
        let mut count = 0;
        for batch in batches {
            pass(&mut self.state, batch.appended_at(), now);
            for record in batch.records_from(from) {
                count += 1;
                let mut rows = Rows { state: &mut self.state, store, begin: self.begin };
                match def.rows.take_in(&record, &mut rows) {
                    Ok(()) => {}
                    Err(Refused::State(error)) => return Err(error),
                    Err(Refused::Record(error)) => {
                        let (topic, partition, offset) = (&*topic.name, self.partition.0, record.offset.0);
                        tracing::error!(topic, partition, offset, %error, "a record is left out of a global table or feed");
                    }
                }
            }
        }
        if self.topology.stores[def.store.0].ttl_ms.is_some() {
            self.state.expire(store, count * SWEPT_PER_RECORD)?;
        }
        Ok(())
    }
}

/// What a partition of a global table or feed is to the database, where it stands behind the tasks.
pub(crate) fn task_id(topology: &Topology, index: usize, partition: Partition) -> TaskId {
    TaskId { sub_topology: (topology.subs.len() + index) as u32, partition: partition.0 }
}

/// Rows with a time-to-live grow old by when records were appended, which nobody can put into the future.
fn pass(state: &mut TaskState, appended_at: Timestamp, now: Timestamp) {
    let time = appended_at.0.min(now.0).max(state.stream_time_ms());
    state.set_stream_time_ms(time);
}
