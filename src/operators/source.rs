//! Where a topic's records enter: bytes become typed records. The only place besides stores where types begin.

use std::sync::Arc;

use super::Outlet;
use crate::codec::Codec;
use crate::error::ProcessError;
use crate::record::Record;
use crate::task::context::Context;
use crate::task::{RecordRef, Source};
use crate::topology::NodeId;

pub(crate) struct StreamSource<K: 'static, V: 'static> {
    pub(crate) id: NodeId,
    pub(crate) key: &'static dyn Codec<K>,
    pub(crate) value: &'static dyn Codec<V>,
    /// How far ahead of the clock a record's timestamp may be.
    pub(crate) max_ahead_ms: Option<u64>,
    pub(crate) out: Arc<Outlet<K, V>>,
}

/// A table's source reads null as a deletion, whatever the codec.
pub(crate) struct TableSource<K: 'static, V: 'static> {
    pub(crate) id: NodeId,
    pub(crate) key: &'static dyn Codec<K>,
    pub(crate) value: &'static dyn Codec<V>,
    /// How far ahead of the clock a record's timestamp may be.
    pub(crate) max_ahead_ms: Option<u64>,
    pub(crate) out: Arc<Outlet<K, Option<V>>>,
}

/// Refuses a record that claims to be from the future. What its timestamp has done to stream time is undone with it.
fn check_time(max_ahead_ms: Option<u64>, ctx: &Context, record: &RecordRef<'_>) -> Result<(), ProcessError> {
    let ahead_ms = record.timestamp.0.saturating_sub(ctx.wall_clock().0);
    match max_ahead_ms {
        Some(most_ms) if ahead_ms > 0 && ahead_ms.unsigned_abs() > most_ms => {
            Err(ProcessError::TooFarAhead { ahead_ms, most_ms })
        }
        _ => Ok(()),
    }
}

fn decode<T: 'static>(codec: &'static dyn Codec<T>, part: &'static str, bytes: Option<&[u8]>) -> Result<T, ProcessError> {
    codec.decode(bytes).map_err(|error| ProcessError::Undecodable { part, error })
}

impl<K: Clone, V: Clone> Source for StreamSource<K, V> {
    fn process(&self, ctx: &mut Context, record: &RecordRef<'_>) -> Result<(), ProcessError> {
        ctx.enter(self.id);
        check_time(self.max_ahead_ms, ctx, record)?;
        let key = decode(self.key, "key", record.key)?;
        let value = decode(self.value, "value", record.value)?;
        self.out.forward(ctx, Record { key, value, timestamp: record.timestamp, headers: record.headers.to_headers() })
    }
}

impl<K: Clone, V: Clone> Source for TableSource<K, V> {
    fn process(&self, ctx: &mut Context, record: &RecordRef<'_>) -> Result<(), ProcessError> {
        ctx.enter(self.id);
        check_time(self.max_ahead_ms, ctx, record)?;
        let key = decode(self.key, "key", record.key)?;
        let value = record.value.map(|bytes| decode(self.value, "value", Some(bytes))).transpose()?;
        self.out.forward(ctx, Record { key, value, timestamp: record.timestamp, headers: record.headers.to_headers() })
    }
}
