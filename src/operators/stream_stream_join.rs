//! Records of two streams with the same key, each with those of the other that lie within a window of time around it; in left and outer
//! joins also those that found none, once it is certain that none will come.
//!
//! ```
//! # use millstream::{JoinWindows, StreamBuilder, Topic};
//! # const ORDERS: Topic<u64, String> = Topic::new("orders");
//! # const PAYMENTS: Topic<u64, i64> = Topic::new("payments");
//! # const PAID: Topic<u64, String> = Topic::new("paid-orders");
//! let mut builder = StreamBuilder::new("example");
//! let payments = builder.stream(&PAYMENTS);
//! let within = JoinWindows::of_ms(15 * 60_000).grace_ms(60_000);
//! let orders = builder.stream(&ORDERS);
//! orders.left_join_stream("payment", &payments, within, |order, paid| format!("{order}: {paid:?}")).to(&PAID);
//! # builder.build().unwrap();
//! ```
//!
//! Each side keeps its records in a store, in which the other looks for them: by key, time and, for several of the same time, arrival. In
//! a third store wait those that found none, in the order in which Kafka Streams lets them go (KAFKA-10847): by time, the right side's
//! before the left's, by key. As there, they are looked through when a record of either side moves the join's time, or stands at it, and only
//! if the earliest that may wait is old enough; how early that is, is known to the entry that the last look stopped at. So a record
//! may leave later than it could, but no look goes over the same entries again and again.

use std::marker::PhantomData;
use std::sync::Arc;

use millstream_state::{Direction, Range};

use super::{Node, Outlet};
use crate::codec::{self, Data, List};
use crate::error::ProcessError;
use crate::record::{Headers, Record, Timestamp};
use crate::task::context::{Context, encode};
use crate::topology::{ClockIndex, NodeId, StoreIndex};
use crate::windows::{JoinWindows, Window};

/// A side's byte in a waiting row: the right one is first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Side {
    Right = 0,
    Left = 1,
}

impl Side {
    fn other(self) -> Side {
        match self {
            Side::Left => Side::Right,
            Side::Right => Side::Left,
        }
    }
}

/// What records of a side are to the join.
pub(crate) struct SideDraft {
    pub(crate) id: NodeId,
    pub(crate) store: StoreIndex,
    /// Whether a record that finds none is handed on without.
    pub(crate) is_outer: bool,
}

/// Where records wait that have found none.
pub(crate) struct Waiting {
    pub(crate) store: StoreIndex,
    /// The time that Kafka Streams calls `minTime`.
    pub(crate) earliest: ClockIndex,
}

impl Waiting {
    fn earliest(&self, ctx: &Context) -> Timestamp {
        match ctx.clock(self.earliest) {
            Timestamp::UNKNOWN => Timestamp(i64::MAX),
            earliest => earliest,
        }
    }
}

/// Both sides. The function decides by `None` that nothing is emitted.
pub(crate) struct StreamStreamJoin<K, V, W, R, F> {
    pub(crate) left: SideDraft,
    pub(crate) right: SideDraft,
    /// In left and outer joins.
    pub(crate) waiting: Option<Waiting>,
    pub(crate) windows: JoinWindows,
    /// The greatest timestamp of either side, also of records that are dropped.
    pub(crate) time: ClockIndex,
    pub(crate) function: F,
    pub(crate) out: Arc<Outlet<K, R>>,
    pub(crate) types: PhantomData<fn(V, W)>,
}

pub(crate) struct LeftSide<J>(pub(crate) Arc<J>);
pub(crate) struct RightSide<J>(pub(crate) Arc<J>);

impl<K, V, W, R, F> Node<K, V> for LeftSide<StreamStreamJoin<K, V, W, R, F>>
where
    K: Data,
    V: Data,
    W: Data,
    R: Clone + Send + Sync,
    F: Fn(Option<V>, Option<W>) -> Option<R> + Send + Sync,
{
    fn process(&self, ctx: &mut Context, record: Record<K, V>) -> Result<(), ProcessError> {
        self.0.arrive::<V, W>(ctx, Side::Left, record, |this, other| (self.0.function)(Some(this), other))
    }
}

impl<K, V, W, R, F> Node<K, W> for RightSide<StreamStreamJoin<K, V, W, R, F>>
where
    K: Data,
    V: Data,
    W: Data,
    R: Clone + Send + Sync,
    F: Fn(Option<V>, Option<W>) -> Option<R> + Send + Sync,
{
    fn process(&self, ctx: &mut Context, record: Record<K, W>) -> Result<(), ProcessError> {
        self.0.arrive::<W, V>(ctx, Side::Right, record, |this, other| (self.0.function)(other, Some(this)))
    }
}

impl<K, V, W, R, F> StreamStreamJoin<K, V, W, R, F>
where
    K: Data,
    V: Data,
    W: Data,
    R: Clone + Send + Sync,
    F: Fn(Option<V>, Option<W>) -> Option<R> + Send + Sync,
{
    fn side(&self, side: Side) -> &SideDraft {
        match side {
            Side::Left => &self.left,
            Side::Right => &self.right,
        }
    }

    /// How long before and after its own time a record of this side finds those of the other.
    fn reach(&self, side: Side) -> (i64, i64) {
        let (before_ms, after_ms, _) = self.windows.parts();
        match side {
            Side::Left => (before_ms, after_ms),
            Side::Right => (after_ms, before_ms),
        }
    }

    fn arrive<T: Data, O: Data>(
        &self,
        ctx: &mut Context,
        side: Side,
        record: Record<K, T>,
        join: impl Fn(T, Option<O>) -> Option<R>,
    ) -> Result<(), ProcessError> {
        let this = self.side(side);
        ctx.enter(this.id);
        let time = ctx.advance_clock(self.time, record.timestamp);
        ctx.with_buffers(|ctx, row, value| {
            if !encode(T::CODEC, "value", &record.value, value)? {
                ctx.drop_record();
                return Ok(());
            }
            if !codec::push_key(&record.key, row).map_err(|e| ProcessError::unwritable("key", &e))? {
                if this.is_outer {
                    return self.forward(ctx, this.id, record, |value| join(value, None));
                }
                ctx.drop_record();
                return Ok(());
            }
            if record.timestamp == time {
                self.release(ctx, side, time)?;
            }
            let at = record.timestamp;
            let mut matches = self.matches::<O>(ctx, side, row, at)?;
            match (matches.pop(), &self.waiting) {
                (Some(last), _) => {
                    for other in matches {
                        self.meet(ctx, side, record.clone(), other, &join)?;
                    }
                    self.meet(ctx, side, record, last, &join)?;
                }
                (None, _) if !this.is_outer => {}
                // As none that comes could be within its window, but for late ones.
                (None, Some(waiting)) if at.plus_ms(self.reach(side).1).max(Timestamp(0)) >= time => {
                    self.wait(ctx, waiting, side, &record, value)?;
                }
                (None, _) => self.forward(ctx, this.id, record, |value| join(value, None))?,
            }
            codec::push_window(Window { start: at, end: at }, row);
            append(ctx, this.store, row, value, Some(at))
        })
    }

    /// Joins a record of `side` with one of the other.
    fn meet<T: Data, O: Data>(
        &self,
        ctx: &mut Context,
        side: Side,
        record: Record<K, T>,
        (at, other): (Timestamp, O),
        join: impl Fn(T, Option<O>) -> Option<R>,
    ) -> Result<(), ProcessError> {
        self.stop_waiting(ctx, side.other(), at, &record.key)?;
        let joined = Record { timestamp: record.timestamp.max(at), ..record };
        self.forward(ctx, self.side(side).id, joined, |value| join(value, Some(other)))
    }

    /// Hands a record on with what the function makes of its value.
    fn forward<T: Data>(
        &self,
        ctx: &mut Context,
        node: NodeId,
        record: Record<K, T>,
        join: impl FnOnce(T) -> Option<R>,
    ) -> Result<(), ProcessError> {
        let Record { key, value, timestamp, headers } = record;
        if let Some(value) = join(value) {
            self.out.forward(ctx, Record { key, value, timestamp, headers })?;
            ctx.enter(node);
        }
        Ok(())
    }

    /// The records of the other side within the window, by time; `key` is the key's part of a row.
    fn matches<O: Data>(
        &self,
        ctx: &Context,
        side: Side,
        key: &[u8],
        at: Timestamp,
    ) -> Result<Vec<(Timestamp, O)>, ProcessError> {
        let (before_ms, after_ms) = self.reach(side);
        let bound = |ms| codec::time_bytes(at.plus_ms(ms).max(Timestamp(0)));
        let range = Range::within(key, &bound(-before_ms), &bound(after_ms));
        let mut matches = Vec::new();
        for row in ctx.scan(self.side(side.other()).store, range, Direction::Forward) {
            let row = row?;
            let (_, window) = codec::split_window(row.key()).ok_or_else(damaged)?;
            matches.extend(values(row.value())?.into_iter().map(|value| (window.start, value)));
        }
        Ok(matches)
    }

    fn waiting_row(&self, row: &mut Vec<u8>, side: Side, at: Timestamp, key: &K) -> Result<(), ProcessError> {
        row.extend_from_slice(&codec::time_bytes(at));
        row.push(side as u8);
        encode(K::CODEC, "key", key, row).map(drop)
    }

    fn wait<T: Data>(
        &self,
        ctx: &mut Context,
        waiting: &Waiting,
        side: Side,
        record: &Record<K, T>,
        value: &[u8],
    ) -> Result<(), ProcessError> {
        let earliest = waiting.earliest(ctx).min(record.timestamp);
        ctx.set_clock(waiting.earliest, earliest);
        ctx.with_buffers(|ctx, row, _| {
            self.waiting_row(row, side, record.timestamp, &record.key)?;
            append(ctx, waiting.store, row, value, None)
        })
    }

    fn stop_waiting(&self, ctx: &mut Context, side: Side, at: Timestamp, key: &K) -> Result<(), ProcessError> {
        let Some(waiting) = &self.waiting else { return Ok(()) };
        ctx.with_buffers(|ctx, row, _| {
            self.waiting_row(row, side, at, key)?;
            if ctx.get(waiting.store, row)?.is_some() {
                ctx.delete(waiting.store, row);
            }
            Ok(())
        })
    }

    /// Lets records go that have waited long enough, when a record of `side` stands at the join's time.
    fn release(&self, ctx: &mut Context, side: Side, time: Timestamp) -> Result<(), ProcessError> {
        let Some(waiting) = &self.waiting else { return Ok(()) };
        let grace_ms = self.windows.parts().2;
        let is_open = |at: Timestamp, side: Side| at.plus_ms(self.reach(side).1).plus_ms(grace_ms) >= time;
        if is_open(waiting.earliest(ctx), side) {
            return Ok(());
        }
        let (mut released, mut earliest) = (Vec::new(), Timestamp(i64::MAX));
        let (mut left_open, mut right_open) = (false, false);
        for row in ctx.scan(waiting.store, Range::all(), Direction::Forward) {
            let row = row?;
            let (at, side, _) = split_waiting(row.key())?;
            earliest = at;
            if left_open && right_open {
                break;
            }
            match side {
                _ if !is_open(at, side) => {
                    released.push(row);
                    continue;
                }
                Side::Left => left_open = true,
                Side::Right => right_open = true,
            }
            // Kafka Streams looks at each value by itself: a second one of this row is where its look ends.
            if left_open && right_open && codec::has_second(row.value()) {
                break;
            }
        }
        ctx.set_clock(waiting.earliest, earliest);
        for row in released {
            let (timestamp, side, key) = split_waiting(row.key())?;
            let key = K::CODEC.decode(Some(key)).map_err(|e| ProcessError::failed(format_args!("a stored key {e}")))?;
            ctx.delete(waiting.store, row.key());
            let id = self.side(side).id;
            let record = Record { key, value: (), timestamp, headers: Headers::EMPTY };
            match side {
                Side::Left => {
                    for value in values::<V>(row.value())? {
                        self.forward(ctx, id, record.clone().with_value(value), |value| (self.function)(Some(value), None))?;
                    }
                }
                Side::Right => {
                    for value in values::<W>(row.value())? {
                        self.forward(ctx, id, record.clone().with_value(value), |value| (self.function)(None, Some(value)))?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// Adds a value to the list that a row holds; of a window store with its time.
fn append(ctx: &mut Context, store: StoreIndex, row: &[u8], value: &[u8], start: Option<Timestamp>) -> Result<(), ProcessError> {
    let list = ctx.get(store, row)?;
    ctx.with_buffers(|ctx, bytes, _| {
        bytes.extend_from_slice(list.as_deref().unwrap_or_default());
        codec::push_item(value, bytes);
        match start {
            Some(start) => ctx.window_put(store, row, bytes, start),
            None => ctx.put(store, row, bytes),
        }
    })
}

fn values<T: Data>(bytes: &[u8]) -> Result<Vec<T>, ProcessError> {
    let list = List::<T>::CODEC.decode(Some(bytes));
    Ok(list.map_err(|e| ProcessError::failed(format_args!("a stored value {e}")))?.0)
}

fn split_waiting(row: &[u8]) -> Result<(Timestamp, Side, &[u8]), ProcessError> {
    let (time, rest) = row.split_at_checked(8).ok_or_else(damaged)?;
    let time = codec::time_of(time).ok_or_else(damaged)?;
    match rest.split_first() {
        Some((0, key)) => Ok((time, Side::Right, key)),
        Some((1, key)) => Ok((time, Side::Left, key)),
        _ => Err(damaged()),
    }
}

fn damaged() -> ProcessError {
    ProcessError::failed("a stored key of a join is damaged")
}
