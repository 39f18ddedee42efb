//! One value a key, folded from all of its records: count, reduce and aggregate.
//!
//! The update's timestamp is the greatest of the key's records so far, as in Kafka Streams.
//!
//! ```
//! # use millstream::{StreamBuilder, Topic};
//! # const CLICKS: Topic<String, u64> = Topic::new("clicks");
//! # const TOTALS: Topic<String, u64> = Topic::new("totals");
//! let mut builder = StreamBuilder::new("example");
//! builder.stream(&CLICKS).group_by_key().reduce("totals", |sum, n| sum + n).to_stream().to(&TOTALS);
//! ```

use std::sync::Arc;

use super::{Change, Node, Outlet};
use crate::codec::Data;
use crate::error::ProcessError;
use crate::record::Record;
use crate::task::context::Context;
use crate::topology::{NodeId, StoreIndex};

/// Folds records into a store. A record without a key is dropped; a fold to `None` deletes the row.
pub(crate) struct Aggregate<K, A, F> {
    pub(crate) id: NodeId,
    pub(crate) store: StoreIndex,
    pub(crate) fold: F,
    pub(crate) out: Arc<Outlet<K, Change<A>>>,
}

impl<K, V, A, F> Node<K, V> for Aggregate<K, A, F>
where
    K: Data,
    A: Data,
    F: Fn(&K, V, Option<A>) -> Option<A> + Send + Sync,
{
    fn process(&self, ctx: &mut Context, record: Record<K, V>) -> Result<(), ProcessError> {
        ctx.enter(self.id);
        let Record { key, value, timestamp, headers } = record;
        let updated = ctx.with_key(&key, |ctx, bytes| {
            let (old, timestamp) = match ctx.table_get::<A>(self.store, bytes)? {
                Some((old, at)) => (Some(old), timestamp.max(at)),
                None => (None, timestamp),
            };
            let new = (self.fold)(&key, value, old.clone());
            ctx.table_set(self.store, bytes, new.as_ref(), timestamp)?;
            Ok((Change { old, new }, timestamp))
        })?;
        match updated {
            Some((value, timestamp)) => self.out.forward(ctx, Record { key, value, timestamp, headers }),
            None => Ok(()),
        }
    }
}
