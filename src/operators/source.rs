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
    pub(crate) out: Arc<Outlet<K, V>>,
}

/// A table's source reads null as a deletion, whatever the codec.
pub(crate) struct TableSource<K: 'static, V: 'static> {
    pub(crate) id: NodeId,
    pub(crate) key: &'static dyn Codec<K>,
    pub(crate) value: &'static dyn Codec<V>,
    pub(crate) out: Arc<Outlet<K, Option<V>>>,
}

fn decode<T: 'static>(codec: &'static dyn Codec<T>, part: &'static str, bytes: Option<&[u8]>) -> Result<T, ProcessError> {
    codec.decode(bytes).map_err(|error| ProcessError::Undecodable { part, error })
}

impl<K: Clone, V: Clone> Source for StreamSource<K, V> {
    fn process(&self, ctx: &mut Context, record: &RecordRef<'_>) -> Result<(), ProcessError> {
        ctx.enter(self.id);
        let key = decode(self.key, "key", record.key)?;
        let value = decode(self.value, "value", record.value)?;
        self.out.forward(ctx, Record { key, value, timestamp: record.timestamp, headers: record.headers.to_headers() })
    }
}

impl<K: Clone, V: Clone> Source for TableSource<K, V> {
    fn process(&self, ctx: &mut Context, record: &RecordRef<'_>) -> Result<(), ProcessError> {
        ctx.enter(self.id);
        let key = decode(self.key, "key", record.key)?;
        let value = record.value.map(|bytes| decode(self.value, "value", Some(bytes))).transpose()?;
        self.out.forward(ctx, Record { key, value, timestamp: record.timestamp, headers: record.headers.to_headers() })
    }
}
