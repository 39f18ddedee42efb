//! Each record of a stream with what a global table holds at that moment for a key that is chosen from the record. The table is whole in every
//! process, so the records stay where they are. Updates of the table emit nothing.
//!
//! ```
//! # use millstream::{StreamBuilder, Topic};
//! # const ORDERS: Topic<u64, String> = Topic::new("orders");
//! # const RATES: Topic<String, u64> = Topic::new("rates").compacted();
//! # const OUT: Topic<u64, String> = Topic::new("priced-orders");
//! let mut builder = StreamBuilder::new("example");
//! let rates = builder.global_table(&RATES, "rates");
//! let orders = builder.stream(&ORDERS);
//! orders.join_global("priced", &rates, |_, currency| currency.clone(), |order, rate| format!("{order} at {rate}")).to(&OUT);
//! # builder.build().unwrap();
//! ```

use std::marker::PhantomData;
use std::sync::Arc;

use super::{Node, Outlet};
use crate::codec::{Codec, Data};
use crate::error::ProcessError;
use crate::record::Record;
use crate::task::RecordRef;
use crate::task::context::{Context, encode};
use crate::task::global::{GlobalRows, Refused, Rows};
use crate::topology::{GlobalIndex, NodeId};

/// Reads the topic's records by its codecs, and writes rows by those of the types.
pub(crate) struct GlobalReader<K: 'static, V: 'static> {
    pub(crate) key: &'static dyn Codec<K>,
    pub(crate) value: &'static dyn Codec<V>,
}

impl<K: Data, V: Data> GlobalRows for GlobalReader<K, V> {
    fn take_in(&self, record: &RecordRef<'_>, rows: &mut Rows<'_>) -> Result<(), Refused> {
        let (mut key, mut row) = (Vec::new(), Vec::new());
        if record.key.is_none() || !encode(K::CODEC, "key", &decode(self.key, "key", record.key)?, &mut key)? {
            return Ok(());
        }
        row.extend_from_slice(&record.timestamp.0.to_be_bytes());
        let has_value = match record.value {
            None => false,
            value => encode(V::CODEC, "value", &decode(self.value, "value", value)?, &mut row)?,
        };
        match has_value {
            true => rows.put(&key, &row),
            false => rows.delete(&key),
        }
        Ok(())
    }
}

/// A part of a record.
pub(super) fn decode<T: 'static>(codec: &dyn Codec<T>, part: &'static str, bytes: Option<&[u8]>) -> Result<T, ProcessError> {
    codec.decode(bytes).map_err(|error| ProcessError::Undecodable { part, error })
}

/// The function sees `None` where the table has nothing for the key (or the key is null), and decides by answering `None` that nothing is
/// emitted.
pub(crate) struct GlobalJoin<G, T, W, S, F, K> {
    pub(crate) id: NodeId,
    pub(crate) table: GlobalIndex,
    pub(crate) selector: S,
    pub(crate) function: F,
    pub(crate) out: Arc<Outlet<K, W>>,
    pub(crate) types: PhantomData<fn() -> (G, T)>,
}

impl<K, V, G, T, W, S, F> Node<K, V> for GlobalJoin<G, T, W, S, F, K>
where
    K: Data,
    V: Send + Sync,
    G: Data,
    T: Data,
    W: Clone + Send + Sync,
    S: Fn(&K, &V) -> G + Send + Sync,
    F: Fn(V, Option<T>) -> Option<W> + Send + Sync,
{
    fn process(&self, ctx: &mut Context, record: Record<K, V>) -> Result<(), ProcessError> {
        ctx.enter(self.id);
        let selected = (self.selector)(&record.key, &record.value);
        let row = ctx.lookup(&selected, |ctx, key| ctx.global_get::<T>(self.table, key))?;
        let Record { key, value, timestamp, headers } = record;
        match (self.function)(value, row) {
            Some(value) => self.out.forward(ctx, Record { key, value, timestamp, headers }),
            None => Ok(()),
        }
    }
}
