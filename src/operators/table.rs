//! Tables: a stream of updates kept as the last value of each key, and a table's updates as a stream again.
//!
//! ```
//! # use millstream::{StreamBuilder, Topic};
//! # const PRICES: Topic<String, i64> = Topic::new("prices");
//! # const CHANGED: Topic<String, i64> = Topic::new("changed");
//! let mut builder = StreamBuilder::new("example");
//! builder.table(&PRICES, "prices").to_stream().to(&CHANGED); // a deletion is a null value
//! ```

use std::sync::Arc;

use super::{Change, Node, Outlet};
use crate::codec::Data;
use crate::error::ProcessError;
use crate::record::Record;
use crate::task::context::Context;
use crate::topology::{NodeId, StoreIndex};

/// Keeps the last value of each key; a `None` deletes it. A record without a key is dropped.
pub(crate) struct Materialize<K, V> {
    pub(crate) id: NodeId,
    pub(crate) store: StoreIndex,
    pub(crate) out: Arc<Outlet<K, Change<V>>>,
}

impl<K: Data, V: Data> Node<K, Option<V>> for Materialize<K, V> {
    fn process(&self, ctx: &mut Context, record: Record<K, Option<V>>) -> Result<(), ProcessError> {
        ctx.enter(self.id);
        let Record { key, value: new, timestamp, headers } = record;
        let Some(old) = ctx.with_key(&key, |ctx, bytes| {
            let old = ctx.table_get::<V>(self.store, bytes)?.map(|(value, _)| value);
            ctx.table_set(self.store, bytes, new.as_ref(), timestamp)?;
            Ok(old)
        })?
        else {
            return Ok(());
        };
        self.out.forward(ctx, Record { key, value: Change { old, new }, timestamp, headers })
    }
}

/// A table's updates as records: the new value, or `None` for a deletion.
pub(crate) struct ToStream<K, V> {
    pub(crate) out: Arc<Outlet<K, Option<V>>>,
}

impl<K: Data, V: Data> Node<K, Change<V>> for ToStream<K, V> {
    fn process(&self, ctx: &mut Context, record: Record<K, Change<V>>) -> Result<(), ProcessError> {
        let Record { key, value, timestamp, headers } = record;
        self.out.forward(ctx, Record { key, value: value.new, timestamp, headers })
    }
}
