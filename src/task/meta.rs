//! What a task knows about itself, kept as rows of a store of its own and so committed, restored and flushed like any other state:
//! the next offset of each input, stream time, when each punctuator is due, and the timers.
//!
//! Rows, by their first byte: `1` topic name -> next offset; `2` -> stream time; `3` punctuator -> due;
//! `4` time domain, time, node, key -> nothing, so that a domain's rows lie in the order in which they fire; `5` operator -> the time that
//! it keeps; `6` window store -> its time; `7` operator, time, key -> nothing, for what waits for a time of the operator's.

use std::ops::Bound;

use millstream_state::{Direction, Range, StoreId, TaskState, Value};

use crate::codec::{Data, time_bytes};
use crate::error::ProcessError;
use crate::record::{Offset, Timestamp};

const OFFSET: u8 = 1;
const STREAM_TIME: u8 = 2;
const PUNCTUATOR: u8 = 3;
const TIMER: u8 = 4;
const CLOCK: u8 = 5;
const STORE_TIME: u8 = 6;
const WAITING: u8 = 7;

/// Which clock a timer or a punctuator follows.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum TimeDomain {
    /// The greatest timestamp that the task has seen.
    Stream,
    /// The machine's clock.
    WallClock,
}

impl TimeDomain {
    pub(super) const ALL: [TimeDomain; 2] = [TimeDomain::Stream, TimeDomain::WallClock];

    fn byte(self) -> u8 {
        match self {
            TimeDomain::Stream => 0,
            TimeDomain::WallClock => 1,
        }
    }
}

/// A lower bound of when the next timer of each domain fires, so that most records need no look into the store.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timers([Timestamp; 2]);

impl Default for Timers {
    fn default() -> Self {
        Timers([Timestamp(i64::MIN); 2])
    }
}

impl Timers {
    pub(super) fn next(&self, domain: TimeDomain) -> Timestamp {
        self.0[usize::from(domain.byte())]
    }

    pub(super) fn note(&mut self, domain: TimeDomain, at: Timestamp) {
        let next = &mut self.0[usize::from(domain.byte())];
        *next = at.min(*next);
    }

    pub(super) fn set(&mut self, domain: TimeDomain, at: Option<Timestamp>) {
        self.0[usize::from(domain.byte())] = at.unwrap_or(Timestamp(i64::MAX));
    }
}

/// A timer's row: when it fires, whose it is, and its key's bytes.
pub(super) struct TimerRow {
    pub(super) row: Vec<u8>,
    pub(super) at: Timestamp,
    pub(super) node: String,
    key_start: usize,
}

impl TimerRow {
    pub(super) fn key(&self) -> &[u8] {
        &self.row[self.key_start..]
    }
}

pub(super) fn push_timer_prefix(row: &mut Vec<u8>, domain: TimeDomain, at: Timestamp, node: &str) {
    row.extend_from_slice(&[TIMER, domain.byte()]);
    row.extend_from_slice(&time_bytes(at));
    row.extend_from_slice(node.as_bytes());
    row.push(0);
}

/// The first timer of a domain, where none is before `from`: so that the search does not pass all those that have fired lately.
pub(super) fn first_timer(
    state: &TaskState,
    store: StoreId,
    domain: TimeDomain,
    from: Timestamp,
) -> Result<Option<TimerRow>, ProcessError> {
    let prefix = [TIMER, domain.byte()];
    let first = [&prefix[..], &time_bytes(from)].concat();
    let rest = Range::new(Bound::Included(&first), Range::prefix(&prefix).bounds().1);
    let Some(entry) = state.scan(store, rest, Direction::Forward).next() else { return Ok(None) };
    let row = entry?.key().to_vec();
    let damaged = || ProcessError::failed("a timer's row is damaged");
    let (at, rest) = row[prefix.len()..].split_first_chunk::<8>().ok_or_else(damaged)?;
    let node_len = rest.iter().position(|byte| *byte == 0).ok_or_else(damaged)?;
    let node = String::from_utf8(rest[..node_len].to_vec()).map_err(|_| damaged())?;
    let at = Timestamp(i64::CODEC.decode(Some(at)).map_err(|_| damaged())?);
    let key_start = prefix.len() + 8 + node_len + 1;
    Ok(Some(TimerRow { row, at, node, key_start }))
}

/// The row of what waits in an operator's list for a time.
pub(super) fn push_waiting(row: &mut Vec<u8>, list: &str, at: Timestamp, key: &[u8]) {
    push_list(row, list);
    row.extend_from_slice(&time_bytes(at));
    row.extend_from_slice(key);
}

fn push_list(row: &mut Vec<u8>, list: &str) {
    row.push(WAITING);
    row.extend_from_slice(list.as_bytes());
    row.push(0);
}

/// The first of what waits in an operator's list: for which time, and its key's bytes. None is before `from`.
pub(super) fn first_waiting(
    state: &TaskState,
    store: StoreId,
    list: &str,
    from: Timestamp,
) -> Result<Option<(Timestamp, Vec<u8>)>, ProcessError> {
    let mut prefix = Vec::new();
    push_list(&mut prefix, list);
    let first = [&prefix[..], &time_bytes(from)].concat();
    let rest = Range::new(Bound::Included(&first), Range::prefix(&prefix).bounds().1);
    let Some(entry) = state.scan(store, rest, Direction::Forward).next() else { return Ok(None) };
    let entry = entry?;
    let damaged = || ProcessError::failed("a row of what waits is damaged");
    let (at, key) = entry.key()[prefix.len()..].split_first_chunk::<8>().ok_or_else(damaged)?;
    let at = Timestamp(i64::CODEC.decode(Some(at)).map_err(|_| damaged())?);
    Ok(Some((at, key.to_vec())))
}

fn number(value: &Value) -> Result<u64, ProcessError> {
    let bytes = <[u8; 8]>::try_from(&value[..]).map_err(|_| ProcessError::failed("a row of the task's own state is damaged"))?;
    Ok(u64::from_be_bytes(bytes))
}

fn named(tag: u8, name: &str) -> Vec<u8> {
    [&[tag], name.as_bytes()].concat()
}

/// The next offset of an input topic; 0 where nothing was processed yet.
pub(crate) fn offset(state: &TaskState, store: StoreId, topic: &str) -> Result<Offset, ProcessError> {
    let value = state.get(store, &named(OFFSET, topic))?;
    value.as_ref().map_or(Ok(Offset(0)), |value| number(value).map(Offset))
}

/// The row that says the next offset of an input topic.
pub(crate) fn offset_row(topic: &str, next: Offset) -> (Vec<u8>, Vec<u8>) {
    (named(OFFSET, topic), next.0.to_be_bytes().to_vec())
}

pub(super) fn set_offset(state: &mut TaskState, store: StoreId, topic: &str, next: Offset) {
    let (row, value) = offset_row(topic, next);
    state.put(store, &row, &value);
}

pub(crate) fn stream_time(state: &TaskState, store: StoreId) -> Result<Timestamp, ProcessError> {
    time(state, store, &[STREAM_TIME])
}

/// A time that only grows; unknown before it was first set.
fn time(state: &TaskState, store: StoreId, row: &[u8]) -> Result<Timestamp, ProcessError> {
    let value = state.get(store, row)?;
    value.as_ref().map_or(Ok(Timestamp::UNKNOWN), |value| Ok(Timestamp(number(value)? as i64)))
}

pub(super) fn set_stream_time(state: &mut TaskState, store: StoreId, time: Timestamp) {
    state.put(store, &[STREAM_TIME], &time.0.to_be_bytes());
}

pub(super) fn punctuator_due(state: &TaskState, store: StoreId, name: &str) -> Result<Option<Timestamp>, ProcessError> {
    let value = state.get(store, &named(PUNCTUATOR, name))?;
    value.as_ref().map(|value| Ok(Timestamp(number(value)? as i64))).transpose()
}

pub(super) fn set_punctuator_due(state: &mut TaskState, store: StoreId, name: &str, due: Timestamp) {
    state.put(store, &named(PUNCTUATOR, name), &due.0.to_be_bytes());
}

/// The time that an operator keeps under this name.
pub(super) fn clock(state: &TaskState, store: StoreId, name: &str) -> Result<Timestamp, ProcessError> {
    time(state, store, &named(CLOCK, name))
}

pub(super) fn set_clock(state: &mut TaskState, store: StoreId, name: &str, time: Timestamp) {
    state.put(store, &named(CLOCK, name), &time.0.to_be_bytes());
}

/// The time of a window store.
pub(crate) fn store_time(state: &TaskState, store: StoreId, name: &str) -> Result<Timestamp, ProcessError> {
    time(state, store, &named(STORE_TIME, name))
}

pub(super) fn set_store_time(state: &mut TaskState, store: StoreId, name: &str, time: Timestamp) {
    state.put(store, &named(STORE_TIME, name), &time.0.to_be_bytes());
}
