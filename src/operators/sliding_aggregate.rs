//! One value a key and sliding window, folded from the key's records in it: count, reduce and aggregate over every set of records that lie
//! within the windows' size. Emits each update, or each window once, when it is closed.
//!
//! ```
//! # use millstream::{SlidingWindows, StreamBuilder, Topic, Windowed};
//! # const LOGINS: Topic<String, u64> = Topic::new("logins");
//! # const TRIES: Topic<Windowed<String>, u64> = Topic::new("tries");
//! let mut builder = StreamBuilder::new("example");
//! let within = SlidingWindows::of_ms(60_000).grace_ms(5_000);
//! builder.stream(&LOGINS).group_by_key().windowed_by(within).count("tries-within-a-minute").to_stream().to(&TRIES);
//! # builder.build().unwrap();
//! ```
//!
//! A record at `t` belongs to a window that ends at `t`, its **left** one, and to all that are there and contain `t`. A **right** window begins
//! right after a record, once another falls into it. So a window's row, with its aggregate and the time of its last record, tells whatever a new one
//! needs: the left window begins with what the last window before it came to, as far as that is near enough, the right one with what the windows
//! around it have after `t` (KIP-450). Before the first full size of time there is one window from 0 for all.

use std::ops::Bound;
use std::sync::Arc;

use millstream_state::{Direction, Range};

use super::windowed_aggregate::{Emit, emit_closed};
use super::{Change, Node, Outlet};
use crate::codec::{self, Data};
use crate::error::ProcessError;
use crate::record::{Record, Timestamp};
use crate::task::context::{Context, split_table_row};
use crate::topology::{ClockIndex, NodeId, StoreIndex};
use crate::windows::{SlidingWindows, Windowed};

/// Folds records into a window store. A fold to `None` deletes the row.
pub(crate) struct SlidingAggregate<K, A, F> {
    pub(crate) id: NodeId,
    pub(crate) store: StoreIndex,
    /// The greatest timestamp of a record with a key.
    pub(crate) clock: ClockIndex,
    pub(crate) windows: SlidingWindows,
    pub(crate) emit: Emit,
    pub(crate) fold: F,
    pub(crate) out: Arc<Outlet<Windowed<K>, Change<A>>>,
}

/// What a window came to, and the time of its last record.
#[derive(Clone)]
struct Folded<A> {
    value: A,
    last: Timestamp,
}

/// What the windows around a record say.
struct Around<A> {
    /// Where windows begin that were looked at.
    starts: Vec<Timestamp>,
    /// What the last window before the record's left one came to.
    before: Option<Folded<A>>,
    /// Likewise the last of those that contain the record and go beyond it.
    beyond: Option<Folded<A>>,
    /// The time of the last record before this one, where it is known and matters.
    previous: Option<Timestamp>,
}

/// A record on its way through the windows of its key.
struct Arrival<'a, K, V> {
    record: &'a Record<K, V>,
    /// What rows of the key begin with.
    key: &'a [u8],
    /// Windows that end before it are closed.
    closed_before: Timestamp,
}

impl<K, V, A, F> Node<K, V> for SlidingAggregate<K, A, F>
where
    K: Data,
    V: Clone + Send + Sync,
    A: Data,
    F: Fn(&K, V, Option<A>) -> Option<A> + Send + Sync,
{
    fn process(&self, ctx: &mut Context, record: Record<K, V>) -> Result<(), ProcessError> {
        ctx.enter(self.id);
        ctx.with_buffers(|ctx, key, _| {
            if !codec::push_key(&record.key, key).map_err(|e| ProcessError::unwritable("key", &e))? {
                ctx.drop_record();
                return Ok(());
            }
            let closed_before = ctx.advance_clock(self.clock, record.timestamp).plus_ms(-self.windows.grace());
            // Before the store's time moves, so that a leap in time closes windows before it lets the store forget them.
            emit_closed(ctx, self.id, self.store, &self.emit, closed_before.plus_ms(-1), |row| row, &self.out)?;
            if self.windows.from(record.timestamp.plus_ms(1)).end <= closed_before {
                ctx.drop_record();
                return Ok(());
            }
            let arrival = Arrival { record: &record, key, closed_before };
            if record.timestamp.0 < self.windows.difference() {
                self.early(ctx, &arrival)
            } else {
                self.late_enough(ctx, &arrival)
            }
        })
    }
}

impl<K, A, F> SlidingAggregate<K, A, F>
where
    K: Data,
    A: Data,
{
    /// A record whose left window is a full one.
    fn late_enough<V>(&self, ctx: &mut Context, arrival: &Arrival<'_, K, V>) -> Result<(), ProcessError>
    where
        V: Clone + Send + Sync,
        F: Fn(&K, V, Option<A>) -> Option<A> + Send + Sync,
    {
        let (time, size_ms) = (arrival.record.timestamp, self.windows.difference());
        let mut around = Around { starts: Vec::new(), before: None, beyond: None, previous: None };
        let mut has_left = false;
        for (start, folded) in self.windows_of(ctx, arrival, time.plus_ms(-size_ms).plus_ms(-size_ms), Direction::Reverse)? {
            let end = self.windows.from(start).end;
            around.starts.push(start);
            if start > time {
                continue; // its right window
            }
            if end < time {
                around.previous = Some(folded.last);
                around.before = Some(folded);
                break;
            }
            if end == time {
                has_left = true;
                around.previous = Some(folded.last).filter(|last| *last < time);
            } else if around.beyond.is_none() {
                around.beyond = Some(folded.clone());
            }
            self.update(ctx, arrival, start, Some(folded))?;
        }
        self.add_right_of_previous(ctx, arrival, &around)?;
        if !has_left {
            let left = time.plus_ms(-size_ms);
            let reaches = around.previous.is_some_and(|previous| left <= previous);
            let begins_with = around.before.take().filter(|_| reaches).map(|before| Folded { last: time, ..before });
            self.update(ctx, arrival, left, begins_with)?;
        }
        self.add_right(ctx, arrival, &around)
    }

    /// A record from before the first full size of time: its left window is the one from 0.
    fn early<V>(&self, ctx: &mut Context, arrival: &Arrival<'_, K, V>) -> Result<(), ProcessError>
    where
        V: Clone + Send + Sync,
        F: Fn(&K, V, Option<A>) -> Option<A> + Send + Sync,
    {
        let time = arrival.record.timestamp;
        let mut around = Around { starts: Vec::new(), before: None, beyond: None, previous: None };
        let mut first = None;
        for (start, folded) in self.windows_of(ctx, arrival, Timestamp(0), Direction::Forward)? {
            around.starts.push(start);
            if start == Timestamp(0) {
                around.previous = Some(folded.last).filter(|last| *last < time);
                first = Some(folded);
            } else if start <= time {
                around.beyond = Some(folded.clone());
                self.update(ctx, arrival, start, Some(folded))?;
            }
        }
        // Where no window lies between, all that the first one has from later on comes after this record.
        if around.beyond.is_none() {
            around.beyond = first.clone().filter(|first| first.last > time);
        }
        self.add_right_of_previous(ctx, arrival, &around)?;
        self.add_right(ctx, arrival, &around)?;
        self.update(ctx, arrival, Timestamp(0), first)
    }

    /// The windows of the record's key that begin at `from` or later, and at the record's right one at last.
    fn windows_of<V>(
        &self,
        ctx: &Context,
        arrival: &Arrival<'_, K, V>,
        from: Timestamp,
        direction: Direction,
    ) -> Result<Vec<(Timestamp, Folded<A>)>, ProcessError> {
        let bound = |time: Timestamp| [arrival.key, &codec::time_bytes(time)].concat();
        let (first, after) = (bound(from.max(Timestamp(0))), bound(arrival.record.timestamp.plus_ms(2)));
        let rows = ctx.scan(self.store, Range::new(Bound::Included(&first), Bound::Excluded(&after)), direction);
        let decoded = rows.map(|row| {
            let row = row?;
            let damaged = || ProcessError::failed("a row of a window is damaged");
            let (_, window) = codec::split_window(row.key()).ok_or_else(damaged)?;
            let (last, value) = split_table_row(row.value())?;
            let value = A::CODEC.decode(Some(value)).map_err(|e| ProcessError::failed(format_args!("a stored value {e}")))?;
            Ok((window.start, Folded { value, last }))
        });
        decoded.collect()
    }

    /// The right window of the record before, if this one is the first that falls into it.
    fn add_right_of_previous<V>(
        &self,
        ctx: &mut Context,
        arrival: &Arrival<'_, K, V>,
        around: &Around<A>,
    ) -> Result<(), ProcessError>
    where
        V: Clone + Send + Sync,
        F: Fn(&K, V, Option<A>) -> Option<A> + Send + Sync,
    {
        let Some(start) = around.previous.map(|previous| previous.plus_ms(1)) else { return Ok(()) };
        if around.starts.contains(&start) || self.windows.from(start).end < arrival.record.timestamp {
            return Ok(());
        }
        self.update(ctx, arrival, start, None)
    }

    /// The record's own right window, if it is not there and other records fall into it: with what these came to.
    fn add_right<V>(&self, ctx: &mut Context, arrival: &Arrival<'_, K, V>, around: &Around<A>) -> Result<(), ProcessError> {
        let time = arrival.record.timestamp;
        let start = time.plus_ms(1);
        match &around.beyond {
            Some(beyond) if beyond.last > time && !around.starts.contains(&start) => {
                self.set(ctx, arrival, start, None, Some(beyond.value.clone()), beyond.last)
            }
            _ => Ok(()),
        }
    }

    /// Folds the record into a window that came to `old` so far, if it is not closed.
    fn update<V>(
        &self,
        ctx: &mut Context,
        arrival: &Arrival<'_, K, V>,
        start: Timestamp,
        old: Option<Folded<A>>,
    ) -> Result<(), ProcessError>
    where
        V: Clone + Send + Sync,
        F: Fn(&K, V, Option<A>) -> Option<A> + Send + Sync,
    {
        if self.windows.from(start).end < arrival.closed_before {
            ctx.drop_record();
            return Ok(());
        }
        let record = arrival.record;
        let last = old.as_ref().map_or(record.timestamp, |old| old.last.max(record.timestamp));
        let old = old.map(|old| old.value);
        let new = (self.fold)(&record.key, record.value.clone(), old.clone());
        self.set(ctx, arrival, start, old, new, last)
    }

    fn set<V>(
        &self,
        ctx: &mut Context,
        arrival: &Arrival<'_, K, V>,
        start: Timestamp,
        old: Option<A>,
        new: Option<A>,
        last: Timestamp,
    ) -> Result<(), ProcessError> {
        let window = self.windows.from(start);
        let mut row = arrival.key.to_vec();
        codec::push_window(window, &mut row);
        ctx.window_set(self.store, &row, new.as_ref(), last, start)?;
        match &self.emit {
            Emit::OnUpdate => {
                let key = Windowed { key: arrival.record.key.clone(), start: window.start, end: window.end };
                let (value, headers) = (Change { old, new }, arrival.record.headers.clone());
                self.out.forward(ctx, Record { key, value, timestamp: last, headers })?;
                ctx.enter(self.id);
                Ok(())
            }
            Emit::OnClose(open) if new.is_some() => ctx.wait_for(open, window.end, &row),
            Emit::OnClose(_) => Ok(()),
        }
    }
}
