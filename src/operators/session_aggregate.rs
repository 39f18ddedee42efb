//! One value a key and session, folded from the key's records in it: count, reduce and aggregate over windows that are as long as records follow
//! each other. A record that comes between two sessions merges them. Emits each update, or each session once, when it is closed.
//!
//! ```
//! # use millstream::{SessionWindows, StreamBuilder, Topic, Windowed};
//! # const CLICKS: Topic<String, u64> = Topic::new("clicks");
//! # const VISITS: Topic<Windowed<String>, u64> = Topic::new("visits");
//! let mut builder = StreamBuilder::new("example");
//! let visits = builder.stream(&CLICKS).group_by_key().windowed_by(SessionWindows::gap_ms(30 * 60_000));
//! visits.emit_on_close().count("clicks-per-visit").to_stream().to(&VISITS);
//! # builder.build().unwrap();
//! ```
//!
//! Time is what this operator has seen, as in a windowed aggregate. A session's row has its start and its end, the time of its last record, in
//! its key, so one that grows is deleted and written anew. No two visible sessions of a key are within a gap of each other: the order of their
//! starts is the order of their ends.

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
use crate::windows::{SessionWindows, Window, Windowed};

/// Folds records into a session store. A fold to `None` deletes the row.
pub(crate) struct SessionAggregate<K, A, F, M> {
    pub(crate) id: NodeId,
    pub(crate) store: StoreIndex,
    /// The greatest timestamp of a record with a key.
    pub(crate) clock: ClockIndex,
    pub(crate) windows: SessionWindows,
    pub(crate) emit: Emit,
    pub(crate) fold: F,
    /// Two sessions of a key become one, the earlier one first.
    pub(crate) merge: M,
    pub(crate) out: Arc<Outlet<Windowed<K>, Change<A>>>,
}

/// A session that a record belongs to.
struct Session<A> {
    row: Vec<u8>,
    window: Window,
    value: A,
}

impl<K, V, A, F, M> Node<K, V> for SessionAggregate<K, A, F, M>
where
    K: Data,
    V: Clone + Send + Sync,
    A: Data,
    F: Fn(&K, V, Option<A>) -> Option<A> + Send + Sync,
    M: Fn(&K, Option<A>, A) -> Option<A> + Send + Sync,
{
    fn process(&self, ctx: &mut Context, record: Record<K, V>) -> Result<(), ProcessError> {
        ctx.enter(self.id);
        ctx.with_buffers(|ctx, row, waiting| {
            if !codec::push_key(&record.key, row).map_err(|e| ProcessError::unwritable("key", &e))? {
                ctx.drop_record();
                return Ok(());
            }
            let closed_before = ctx.advance_clock(self.clock, record.timestamp).plus_ms(-self.windows.lifetime_ms());
            // Before the store's time moves, so that a leap in time closes sessions before it lets the store forget them. What this record belongs
            // to is not among them, unless it is late.
            emit_closed(ctx, self.id, self.store, &self.emit, closed_before.plus_ms(-1), |waiting| &waiting[8..], &self.out)?;
            let found = self.sessions(ctx, row, record.timestamp)?;
            let point = Window { start: record.timestamp, end: record.timestamp };
            let session = found
                .iter()
                .fold(point, |all, one| Window { start: all.start.min(one.window.start), end: all.end.max(one.window.end) });
            if session.end < closed_before {
                ctx.drop_record();
                return Ok(());
            }
            let mut so_far = None;
            for Session { row, window, value } in found {
                // A session of one moment that is met again keeps its row.
                if session != point {
                    ctx.delete(self.store, &row);
                    let change = Change { old: Some(value.clone()), new: None };
                    self.update(ctx, &record, window, change)?;
                }
                so_far = (self.merge)(&record.key, so_far, value);
            }
            let new = (self.fold)(&record.key, record.value.clone(), so_far);
            codec::push_window(session, row);
            ctx.window_set(self.store, row, new.as_ref(), session.end, session.end)?;
            match &self.emit {
                Emit::OnUpdate => self.update(ctx, &record, session, Change { old: None, new }),
                Emit::OnClose(open) if new.is_some() => {
                    // Of sessions that close together, the one that began first comes first.
                    waiting.extend_from_slice(&codec::time_bytes(session.start));
                    waiting.extend_from_slice(row);
                    ctx.wait_for(open, session.end, waiting)
                }
                Emit::OnClose(_) => Ok(()),
            }
        })
    }
}

impl<K: Data, A: Data, F, M> SessionAggregate<K, A, F, M> {
    /// The sessions of a key that are at most the gap away from a time, the earliest first.
    fn sessions(&self, ctx: &Context, key: &[u8], time: Timestamp) -> Result<Vec<Session<A>>, ProcessError> {
        let gap_ms = self.windows.gap();
        let (earliest_end, latest_start) = (time.plus_ms(-gap_ms), time.plus_ms(gap_ms));
        let after = [key, &codec::time_bytes(latest_start.plus_ms(1))].concat();
        let mut found = Vec::new();
        for stored in ctx.scan(self.store, Range::new(Bound::Included(key), Bound::Excluded(&after)), Direction::Reverse) {
            let stored = stored?;
            let damaged = || ProcessError::failed("a row of a session is damaged");
            let (_, window) = codec::split_window(stored.key()).ok_or_else(damaged)?;
            if window.end < earliest_end {
                break;
            }
            let (_, value) = split_table_row(stored.value())?;
            let value = A::CODEC.decode(Some(value)).map_err(|e| ProcessError::failed(format_args!("a stored value {e}")))?;
            found.push(Session { row: stored.key().to_vec(), window, value });
        }
        found.reverse();
        Ok(found)
    }

    /// Emits an update, where updates are emitted. Sessions have the time of their end.
    fn update<V>(&self, ctx: &mut Context, record: &Record<K, V>, session: Window, value: Change<A>) -> Result<(), ProcessError> {
        if !matches!(self.emit, Emit::OnUpdate) {
            return Ok(());
        }
        let key = Windowed { key: record.key.clone(), start: session.start, end: session.end };
        self.out.forward(ctx, Record { key, value, timestamp: session.end, headers: record.headers.clone() })?;
        ctx.enter(self.id);
        Ok(())
    }
}
