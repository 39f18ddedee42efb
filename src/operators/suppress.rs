//! Updates of a table, held back: of a windowed table until its windows close, each window's last one; of any table for a time, the last
//! one of a key then.
//!
//! ```
//! # use millstream::{StreamBuilder, TimeWindows, Topic, Windowed};
//! # const CLICKS: Topic<String, u64> = Topic::new("clicks");
//! # const FINAL: Topic<Windowed<String>, u64> = Topic::new("clicks-per-minute");
//! let mut builder = StreamBuilder::new("example");
//! let per_minute = builder.stream(&CLICKS).group_by_key().windowed_by(TimeWindows::tumbling_ms(60_000)).count("per-minute");
//! per_minute.suppress_until_close("final").to(&FINAL);
//! # builder.build().unwrap();
//! ```
//!
//! Time is what this operator has seen, the greatest timestamp of an update that reached it (KIP-328). A key that is held back keeps its turn
//! when it is updated. What is held back is in a store of its own, by key, and its turn in the task's list of what waits.

use std::sync::Arc;

use super::{Change, Node, Outlet};
use crate::codec::Data;
use crate::error::ProcessError;
use crate::record::{Headers, Record, Timestamp};
use crate::task::context::{Context, WaitingList, encode};
use crate::topology::{ClockIndex, NodeId, StoreIndex};

pub(crate) struct Suppress<K, V, R> {
    pub(crate) id: NodeId,
    pub(crate) store: StoreIndex,
    pub(crate) clock: ClockIndex,
    pub(crate) waiting: WaitingList,
    /// From which time on the delay counts, for the first update of a key.
    pub(crate) from: fn(&K, Timestamp) -> Timestamp,
    pub(crate) delay_ms: i64,
    /// With more keys than this the first leave early.
    pub(crate) max_records: Option<u64>,
    /// What leaves; a deletion may be nothing.
    pub(crate) emit: fn(Option<V>) -> Option<R>,
    pub(crate) out: Arc<Outlet<K, R>>,
}

/// The row that has how many keys are held back, where that is bounded. Rows of keys begin with another byte.
const COUNT: &[u8] = &[0];
const KEY: u8 = 1;

impl<K: Data, V: Data, R: Clone + Send + Sync> Node<K, Change<V>> for Suppress<K, V, R> {
    fn process(&self, ctx: &mut Context, record: Record<K, Change<V>>) -> Result<(), ProcessError> {
        ctx.enter(self.id);
        let time = ctx.advance_clock(self.clock, record.timestamp);
        ctx.with_buffers(|ctx, key, row| {
            key.push(KEY);
            encode(K::CODEC, "key", &record.key, key)?;
            if ctx.get(self.store, key)?.is_none() {
                ctx.wait_for(&self.waiting, (self.from)(&record.key, record.timestamp), key)?;
                self.count(ctx, 1)?;
            }
            // The update: its timestamp, and its value unless it is a deletion, as is one that encodes to null.
            row.extend_from_slice(&record.timestamp.0.to_be_bytes());
            if let Some(value) = &record.value.new {
                row.push(1);
                if !encode(V::CODEC, "value", value, row)? {
                    row.pop();
                }
            }
            ctx.put(self.store, key, row)
        })?;
        while let Some((_, key)) = ctx.take_due(&self.waiting, time.plus_ms(-self.delay_ms).plus_ms(1))? {
            self.release(ctx, &key)?;
        }
        let Some(max_records) = self.max_records else { return Ok(()) };
        while self.held_back(ctx)? > max_records {
            let (_, key) = ctx.take_due(&self.waiting, Timestamp(i64::MAX))?.ok_or_else(damaged)?;
            self.release(ctx, &key)?;
        }
        Ok(())
    }
}

impl<K: Data, V: Data, R: Clone + Send + Sync> Suppress<K, V, R> {
    fn held_back(&self, ctx: &Context) -> Result<u64, ProcessError> {
        let row = ctx.get(self.store, COUNT)?;
        row.map_or(Ok(0), |row| u64::CODEC.decode(Some(&row)).map_err(|_| damaged()))
    }

    fn count(&self, ctx: &mut Context, by: i64) -> Result<(), ProcessError> {
        if self.max_records.is_none() {
            return Ok(());
        }
        let held = self.held_back(ctx)?.saturating_add_signed(by);
        ctx.put(self.store, COUNT, &held.to_be_bytes())
    }

    /// Lets the update of a key go, whose turn it is.
    fn release(&self, ctx: &mut Context, row_key: &[u8]) -> Result<(), ProcessError> {
        let row = ctx.get(self.store, row_key)?.ok_or_else(damaged)?;
        ctx.delete(self.store, row_key);
        self.count(ctx, -1)?;
        let (timestamp, value) = row.split_first_chunk().ok_or_else(damaged)?;
        let timestamp = Timestamp(i64::from_be_bytes(*timestamp));
        let stored = |e| ProcessError::failed(format_args!("what is held back {e}"));
        let value = match value.split_first() {
            Some((_, value)) => Some(V::CODEC.decode(Some(value)).map_err(stored)?),
            None => None,
        };
        let key = K::CODEC.decode(Some(&row_key[1..])).map_err(stored)?;
        if let Some(value) = (self.emit)(value) {
            self.out.forward(ctx, Record { key, value, timestamp, headers: Headers::EMPTY })?;
            ctx.enter(self.id);
        }
        Ok(())
    }
}

fn damaged() -> ProcessError {
    ProcessError::failed("a row of what is held back is damaged")
}
