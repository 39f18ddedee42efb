//! One value a key and window, folded from the key's records in it: count, reduce and aggregate over tumbling, hopping and unlimited
//! windows. Emits each update, or each window once, when it closes.
//!
//! Time is what this operator has seen: a record without a key does not move it, and one that is too late for a window is dropped for it.
//!
//! ```
//! # use millstream::{StreamBuilder, TimeWindows, Topic, Windowed};
//! # const CLICKS: Topic<String, u64> = Topic::new("clicks");
//! # const PER_MINUTE: Topic<Windowed<String>, u64> = Topic::new("clicks-per-minute");
//! let mut builder = StreamBuilder::new("example");
//! let windows = TimeWindows::tumbling_ms(60_000).grace_ms(5_000);
//! builder.stream(&CLICKS).group_by_key().windowed_by(windows).count("clicks-per-minute").to_stream().to(&PER_MINUTE);
//! # builder.build().unwrap();
//! ```

use std::sync::Arc;

use super::{Change, Node, Outlet};
use crate::codec::{self, Data};
use crate::error::ProcessError;
use crate::record::{Headers, Record, Timestamp};
use crate::task::context::{Context, WaitingList};
use crate::topology::{ClockIndex, NodeId, StoreIndex};
use crate::windows::{TimeWindows, Windowed};

/// When results leave.
pub(crate) enum Emit {
    OnUpdate,
    /// The list has the windows that are open, by their end.
    OnClose(WaitingList),
}

/// Folds records into a window store. A fold to `None` deletes the row.
pub(crate) struct WindowedAggregate<K, A, F> {
    pub(crate) id: NodeId,
    pub(crate) store: StoreIndex,
    /// The greatest timestamp of a record with a key.
    pub(crate) clock: ClockIndex,
    pub(crate) windows: TimeWindows,
    pub(crate) emit: Emit,
    pub(crate) fold: F,
    pub(crate) out: Arc<Outlet<Windowed<K>, Change<A>>>,
}

impl<K, V, A, F> Node<K, V> for WindowedAggregate<K, A, F>
where
    K: Data,
    V: Clone + Send + Sync,
    A: Data,
    F: Fn(&K, V, Option<A>) -> Option<A> + Send + Sync,
{
    fn process(&self, ctx: &mut Context, record: Record<K, V>) -> Result<(), ProcessError> {
        ctx.enter(self.id);
        ctx.with_buffers(|ctx, row, _| {
            if !codec::push_key(&record.key, row).map_err(|e| ProcessError::unwritable("key", &e))? {
                ctx.drop_record();
                return Ok(());
            }
            let closed_to = ctx.advance_clock(self.clock, record.timestamp).plus_ms(-self.windows.grace());
            // Before the store's time moves, so that a leap in time closes windows before it lets the store forget them.
            emit_closed(ctx, self.id, self.store, &self.emit, closed_to, |row| row, &self.out)?;
            let key_len = row.len();
            for window in self.windows.of(record.timestamp) {
                if window.end <= closed_to {
                    ctx.drop_record();
                    continue;
                }
                row.truncate(key_len);
                codec::push_window(window, row);
                let (old, timestamp) = match ctx.table_get::<A>(self.store, row)? {
                    Some((old, at)) => (Some(old), record.timestamp.max(at)),
                    None => (None, record.timestamp),
                };
                let new = (self.fold)(&record.key, record.value.clone(), old.clone());
                ctx.window_set(self.store, row, new.as_ref(), timestamp, window.start)?;
                match &self.emit {
                    Emit::OnUpdate => {
                        let key = Windowed { key: record.key.clone(), start: window.start, end: window.end };
                        let (value, headers) = (Change { old, new }, record.headers.clone());
                        self.out.forward(ctx, Record { key, value, timestamp, headers })?;
                        ctx.enter(self.id);
                    }
                    Emit::OnClose(open) if old.is_none() && new.is_some() => ctx.wait_for(open, window.end, row)?,
                    Emit::OnClose(_) => {}
                }
            }
            Ok(())
        })
    }
}

/// Emits the windows that end at or before `closed_to`, in the order of their end and of what waits for it, which has the row's key as `row_key`
/// gives it; not those whose row was deleted.
pub(super) fn emit_closed<K: Data, A: Data>(
    ctx: &mut Context,
    id: NodeId,
    store: StoreIndex,
    emit: &Emit,
    closed_to: Timestamp,
    row_key: fn(&[u8]) -> &[u8],
    out: &Outlet<Windowed<K>, Change<A>>,
) -> Result<(), ProcessError> {
    let Emit::OnClose(open) = emit else { return Ok(()) };
    while let Some((_, waiting)) = ctx.take_due(open, closed_to.plus_ms(1))? {
        let row = row_key(&waiting);
        if let Some((value, timestamp)) = ctx.table_get::<A>(store, row)? {
            let key = Windowed::<K>::CODEC.decode(Some(row));
            let key = key.map_err(|e| ProcessError::failed(format_args!("a stored key {e}")))?;
            let value = Change { old: None, new: Some(value) };
            out.forward(ctx, Record { key, value, timestamp, headers: Headers::EMPTY })?;
            ctx.enter(id);
        }
    }
    Ok(())
}
