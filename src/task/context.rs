//! What operators see of their task: stores, the outbox, time and the record's origin. All that one record changes goes through here, so
//! that it can be undone.

use std::cell::Cell;
use std::sync::Arc;

use millstream_state::{Direction, Range, Reader, Row, TaskState, Value};

use super::clocks::Clocks;
use super::dead_letter::{DeadLetter, Event, REJECTED};
use super::global;
use super::meta::{self, TimeDomain, Timers};
use super::outbox::Outbox;
use crate::codec::{Codec, Data, Presence};
use crate::error::ProcessError;
use crate::log::partition;
use crate::record::{Headers, Offset, Partition, Timestamp};
use crate::topology::{ClockIndex, GlobalIndex, NodeId, StoreIndex, TopicIndex, Topology};

/// Where the record that is being processed came from. For a timer or punctuation: the record that moved time, or the last one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Origin {
    pub topic: TopicIndex,
    pub partition: Partition,
    pub offset: Offset,
}

/// A task's mutable world. The stream time is the greatest timestamp of the task's records so far.
pub(crate) struct Context {
    pub(super) state: TaskState,
    pub(super) outbox: Outbox,
    pub(super) timers: Timers,
    pub(super) clocks: Clocks,
    pub(super) wall_clock: Timestamp,
    pub(super) origin: Origin,
    pub(super) dropped: u64,
    pub(super) meta: StoreIndex,
    topology: Arc<Topology>,
    reader: Reader,
    /// That the state failed, whatever user code made of the error.
    state_error: Cell<Option<millstream_state::Error>>,
    node: NodeId,
    buffers: Vec<Vec<u8>>,
}

/// Keys that wait for a time of an operator's, kept with the task's own state.
pub(crate) struct WaitingList {
    /// Named as the operator, of which it is the only one.
    pub(crate) name: String,
    /// A lower bound of the first time; one without a name.
    pub(crate) bound: ClockIndex,
}

/// What to go back to when a record fails.
pub(super) struct Mark {
    timers: Timers,
    dropped: u64,
}

impl Context {
    pub(super) fn new(topology: Arc<Topology>, state: TaskState, meta: StoreIndex, outbox: Outbox) -> Context {
        Context {
            topology,
            reader: state.reader(),
            state,
            outbox,
            timers: Timers::default(),
            clocks: Clocks::default(),
            wall_clock: Timestamp::UNKNOWN,
            origin: Origin::default(),
            dropped: 0,
            meta,
            state_error: Cell::default(),
            node: NodeId::default(),
            buffers: Vec::new(),
        }
    }

    pub(super) fn mark(&mut self) -> Mark {
        self.outbox.mark();
        self.state.savepoint();
        self.clocks.mark();
        Mark { timers: self.timers, dropped: self.dropped }
    }

    pub(super) fn undo_to(&mut self, mark: Mark) {
        self.state.undo();
        self.outbox.undo();
        self.clocks.undo();
        self.timers = mark.timers;
        self.dropped = mark.dropped;
    }

    /// Moves stream time, which the state keeps: by it the rows of stores with time-to-live are written and read.
    pub(super) fn set_stream_time(&mut self, time: Timestamp) {
        self.state.set_stream_time_ms(time.0);
    }

    /// The state's failure since it was asked last.
    pub(super) fn take_state_error(&self) -> Option<millstream_state::Error> {
        self.state_error.take()
    }

    fn noted<T>(&self, result: Result<T, millstream_state::Error>) -> Result<T, ProcessError> {
        result.map_err(|error| {
            self.state_error.set(Some(error.clone()));
            ProcessError::State(error)
        })
    }

    /// How many bytes the running transaction holds in memory.
    pub(super) fn pending_bytes(&self) -> usize {
        self.state.dirty_bytes() + self.outbox.bytes()
    }

    /// Notes whose user code runs from here on: it is named if the record fails.
    pub(crate) fn enter(&mut self, node: NodeId) {
        self.node = node;
    }

    pub(super) fn node(&self) -> NodeId {
        self.node
    }

    pub(crate) fn stream_time(&self) -> Timestamp {
        Timestamp(self.state.stream_time_ms())
    }

    pub(crate) fn wall_clock(&self) -> Timestamp {
        self.wall_clock
    }

    pub(crate) fn origin(&self) -> Origin {
        self.origin
    }

    pub(crate) fn partition(&self) -> Partition {
        self.outbox.home()
    }

    /// The headers of the record that is being processed where the application refuses it: those of a dead letter.
    pub(crate) fn rejection(
        &self,
        application: &str,
        node: &str,
        reason: &str,
        timestamp: Timestamp,
        original: Headers,
    ) -> Headers {
        let Origin { topic, partition, offset } = self.origin;
        let letter = DeadLetter {
            exception: REJECTED.to_owned(),
            message: reason.to_owned(),
            application: application.to_owned(),
            node: node.to_owned(),
            topic: self.outbox.topic(topic).name.to_string(),
            partition,
            offset,
            timestamp,
            original,
            event: Event::Record,
            omitted: None,
        };
        letter.to_headers()
    }

    /// Counts a record that goes no further because its key is null.
    pub(crate) fn drop_record(&mut self) {
        self.dropped += 1;
    }

    /// Lends two empty buffers, which keep their capacity from record to record.
    pub(crate) fn with_buffers<R>(&mut self, f: impl FnOnce(&mut Context, &mut Vec<u8>, &mut Vec<u8>) -> R) -> R {
        let (mut a, mut b) = (self.buffers.pop().unwrap_or_default(), self.buffers.pop().unwrap_or_default());
        a.clear();
        b.clear();
        let result = f(self, &mut a, &mut b);
        self.buffers.push(b);
        self.buffers.push(a);
        result
    }

    /// Lends the key's bytes; `None`, and a drop counted, if the key is null.
    pub(crate) fn with_key<K: Data, R>(
        &mut self,
        key: &K,
        f: impl FnOnce(&mut Context, &[u8]) -> Result<R, ProcessError>,
    ) -> Result<Option<R>, ProcessError> {
        self.with_buffers(|ctx, bytes, _| {
            if encode(K::CODEC, "key", key, bytes)? {
                f(ctx, bytes).map(Some)
            } else {
                ctx.drop_record();
                Ok(None)
            }
        })
    }

    /// What `f` finds for the key's bytes; nothing for a null key.
    pub(crate) fn lookup<K: Data, R>(
        &mut self,
        key: &K,
        f: impl FnOnce(&mut Context, &[u8]) -> Result<Option<R>, ProcessError>,
    ) -> Result<Option<R>, ProcessError> {
        self.with_buffers(|ctx, bytes, _| if encode(K::CODEC, "key", key, bytes)? { f(ctx, bytes) } else { Ok(None) })
    }

    pub(crate) fn get(&self, store: StoreIndex, key: &[u8]) -> Result<Option<Value>, ProcessError> {
        self.noted(self.state.get(store.id(), key))
    }

    /// Rows of a range, with what this transaction wrote.
    pub(crate) fn scan(
        &self,
        store: StoreIndex,
        range: Range,
        direction: Direction,
    ) -> impl Iterator<Item = Result<Row, ProcessError>> + '_ {
        self.state.scan(store.id(), range, direction).map(|row| self.noted(row))
    }

    /// Writes a row, unless its changelog would refuse it.
    pub(crate) fn put(&mut self, store: StoreIndex, key: &[u8], value: &[u8]) -> Result<(), ProcessError> {
        self.check_row(store, key, value)?;
        self.state.put(store.id(), key, value);
        Ok(())
    }

    fn check_row(&self, store: StoreIndex, key: &[u8], value: &[u8]) -> Result<(), ProcessError> {
        self.outbox.check_row(&self.topology.stores[store.0].name, key, value)
    }

    pub(crate) fn delete(&mut self, store: StoreIndex, key: &[u8]) {
        self.state.delete(store.id(), key);
    }

    /// A row of a table's store: the value and the timestamp that it was set with.
    pub(crate) fn table_get<V: Data>(&self, store: StoreIndex, key: &[u8]) -> Result<Option<(V, Timestamp)>, ProcessError> {
        let Some(row) = self.get(store, key)? else { return Ok(None) };
        let (timestamp, value) = split_table_row(&row)?;
        let value = V::CODEC.decode(Some(value)).map_err(|e| ProcessError::failed(format_args!("a stored value {e}")))?;
        Ok(Some((value, timestamp)))
    }

    /// What a global table holds for a key now.
    pub(crate) fn global_get<V: Data>(&self, table: GlobalIndex, key: &[u8]) -> Result<Option<V>, ProcessError> {
        let global = &self.topology.globals[table.0];
        let partitions = self.outbox.partitions(global.topic);
        // Where it hashes to first: elsewhere it is only if whoever wrote it has another way.
        let home = partition(Some(key), partitions, 0).0;
        for partition in (home..partitions).chain(0..home).map(Partition) {
            let task = global::task_id(&self.topology, table.0, partition);
            let row = self.noted(self.reader.read(task, |rows| rows.get(global.store.id(), key)).flatten())?;
            if let Some(row) = row {
                let (_, value) = split_table_row(&row)?;
                let value = V::CODEC.decode(Some(value));
                return value.map(Some).map_err(|e| ProcessError::failed(format_args!("a stored value {e}")));
            }
        }
        Ok(None)
    }

    /// Sets or deletes a row of a table's store. A value that encodes to null deletes, too.
    pub(crate) fn table_set<V: Data>(
        &mut self,
        store: StoreIndex,
        key: &[u8],
        value: Option<&V>,
        timestamp: Timestamp,
    ) -> Result<(), ProcessError> {
        self.set_at(store, key, value, timestamp, self.stream_time())
    }

    /// Sets or deletes a row of a window store, which is read with `table_get`. Either makes the store's time at least the window's `start`, or
    /// whatever else its rows are kept by.
    pub(crate) fn window_set<V: Data>(
        &mut self,
        store: StoreIndex,
        key: &[u8],
        value: Option<&V>,
        timestamp: Timestamp,
        start: Timestamp,
    ) -> Result<(), ProcessError> {
        self.window_written(store, start);
        self.set_at(store, key, value, timestamp, start)
    }

    fn set_at<V: Data>(
        &mut self,
        store: StoreIndex,
        key: &[u8],
        value: Option<&V>,
        timestamp: Timestamp,
        lives_from: Timestamp,
    ) -> Result<(), ProcessError> {
        let Some(value) = value else {
            self.delete(store, key);
            return Ok(());
        };
        self.with_buffers(|ctx, row, _| {
            row.extend_from_slice(&timestamp.0.to_be_bytes());
            if encode(V::CODEC, "value", value, row)? {
                ctx.check_row(store, key, row)?;
                ctx.state.put_at(store.id(), key, row, lives_from.0);
            } else {
                ctx.delete(store, key);
            }
            Ok(())
        })
    }

    /// Writes a row of a store of windows, without a timestamp; as `window_set`.
    pub(crate) fn window_put(
        &mut self,
        store: StoreIndex,
        key: &[u8],
        value: &[u8],
        start: Timestamp,
    ) -> Result<(), ProcessError> {
        self.check_row(store, key, value)?;
        self.window_written(store, start);
        self.state.put_at(store.id(), key, value, start.0);
        Ok(())
    }

    /// The store's time is at least the start of a window that was written to it.
    fn window_written(&mut self, store: StoreIndex, start: Timestamp) {
        if self.state.time_ms(store.id()) < start.0 {
            self.state.set_time_ms(store.id(), start.0);
        }
    }

    /// The time that an operator keeps.
    pub(crate) fn clock(&self, clock: ClockIndex) -> Timestamp {
        self.clocks.get(clock)
    }

    /// Sets a time that an operator keeps.
    pub(crate) fn set_clock(&mut self, clock: ClockIndex, time: Timestamp) {
        self.clocks.set(clock, time);
    }

    /// Moves a time that an operator keeps up to `time`, if that is later, and answers where it stands.
    pub(crate) fn advance_clock(&mut self, clock: ClockIndex, time: Timestamp) -> Timestamp {
        let now = self.clocks.get(clock).max(time);
        self.clocks.set(clock, now);
        now
    }

    /// Adds a key to a list of what waits for a time; nothing changes if it is there for this time.
    pub(crate) fn wait_for(&mut self, list: &WaitingList, at: Timestamp, key: &[u8]) -> Result<(), ProcessError> {
        if at < self.clocks.get(list.bound) {
            self.clocks.set(list.bound, at);
        }
        self.with_buffers(|ctx, row, _| {
            meta::push_waiting(row, &list.name, at, key);
            ctx.put(ctx.meta, row, &[])
        })
    }

    /// Takes the first of what waits out of a list, if it waits for a time before `until`: by time, then key.
    pub(crate) fn take_due(
        &mut self,
        list: &WaitingList,
        until: Timestamp,
    ) -> Result<Option<(Timestamp, Vec<u8>)>, ProcessError> {
        let bound = self.clocks.get(list.bound);
        if bound >= until {
            return Ok(None);
        }
        let first = self.noted_first(list, bound)?;
        self.clocks.set(list.bound, first.as_ref().map_or(Timestamp(i64::MAX), |(at, _)| *at));
        let Some((at, key)) = first.filter(|(at, _)| *at < until) else { return Ok(None) };
        self.with_buffers(|ctx, row, _| {
            meta::push_waiting(row, &list.name, at, &key);
            ctx.delete(ctx.meta, row);
        });
        Ok(Some((at, key)))
    }

    fn noted_first(&self, list: &WaitingList, from: Timestamp) -> Result<Option<(Timestamp, Vec<u8>)>, ProcessError> {
        let first = meta::first_waiting(&self.state, self.meta.id(), &list.name, from);
        if let Err(ProcessError::State(error)) = &first {
            self.state_error.set(Some(error.clone()));
        }
        first
    }

    /// Writes a record to a topic, at the partition of its key; one without a key stays at its task's.
    pub(crate) fn emit(
        &mut self,
        topic: TopicIndex,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        timestamp: Timestamp,
        headers: &Headers,
    ) -> Result<(), ProcessError> {
        self.outbox.push(topic, key, value, timestamp, headers)
    }

    /// Sets a timer of `node` for `key`; it fires once, when time of `domain` reaches `at`, also after a restart.
    pub(crate) fn schedule<K: Data>(
        &mut self,
        node: &str,
        domain: TimeDomain,
        at: Timestamp,
        key: &K,
    ) -> Result<(), ProcessError> {
        self.timer(node, domain, at, key, |ctx, row| {
            ctx.timers.note(domain, at);
            ctx.put(ctx.meta, row, &[])
        })
    }

    /// Takes a timer back; nothing happens if it is not set.
    pub(crate) fn unschedule<K: Data>(
        &mut self,
        node: &str,
        domain: TimeDomain,
        at: Timestamp,
        key: &K,
    ) -> Result<(), ProcessError> {
        self.timer(node, domain, at, key, |ctx, row| {
            ctx.delete(ctx.meta, row);
            Ok(())
        })
    }

    fn timer<K: Data>(
        &mut self,
        node: &str,
        domain: TimeDomain,
        at: Timestamp,
        key: &K,
        f: impl FnOnce(&mut Context, &[u8]) -> Result<(), ProcessError>,
    ) -> Result<(), ProcessError> {
        self.with_buffers(|ctx, row, _| {
            meta::push_timer_prefix(row, domain, at, node);
            match K::CODEC.encode(key, row).map_err(|e| ProcessError::unwritable("a timer's key", &e))? {
                Presence::Present => f(ctx, row),
                Presence::Null => Err(ProcessError::Unwritable("a timer's key is null".into())),
            }
        })
    }
}

/// Appends the bytes of `value`, which is the `part` of a record; whether it is present.
pub(crate) fn encode<T: 'static>(
    codec: &'static dyn Codec<T>,
    part: &str,
    value: &T,
    out: &mut Vec<u8>,
) -> Result<bool, ProcessError> {
    let presence = codec.encode(value, out).map_err(|e| ProcessError::unwritable(part, &e))?;
    Ok(presence == Presence::Present)
}

/// The timestamp and the value's bytes of a table's row.
pub(crate) fn split_table_row(row: &[u8]) -> Result<(Timestamp, &[u8]), ProcessError> {
    let (timestamp, value) =
        row.split_first_chunk().ok_or_else(|| ProcessError::failed("a table's stored row is too short for its timestamp"))?;
    Ok((Timestamp(i64::from_be_bytes(*timestamp)), value))
}
