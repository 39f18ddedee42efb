//! Each record of a stream with what a table holds for its key at that moment. Updates of the table alone emit nothing.
//!
//! ```
//! # use millstream::{StreamBuilder, Topic};
//! # const CLICKS: Topic<String, String> = Topic::new("clicks");
//! # const USERS: Topic<String, String> = Topic::new("users");
//! # const OUT: Topic<String, String> = Topic::new("named-clicks");
//! let mut builder = StreamBuilder::new("example");
//! let users = builder.table(&USERS, "users");
//! builder.stream(&CLICKS).join("with-user", &users, |page, name| format!("{name}: {page}")).to(&OUT);
//! ```

use std::sync::Arc;

use super::{Node, Outlet};
use crate::codec::Data;
use crate::error::ProcessError;
use crate::record::Record;
use crate::task::context::Context;
use crate::topology::{NodeId, StoreIndex};

/// The function sees `None` where the table has nothing for the key (or the record no key), and decides by answering `None` that
/// nothing is emitted.
pub(crate) struct StreamTableJoin<K, T, W, F> {
    pub(crate) id: NodeId,
    pub(crate) store: StoreIndex,
    pub(crate) function: F,
    pub(crate) out: Arc<Outlet<K, W>>,
    pub(crate) table: std::marker::PhantomData<fn() -> T>,
}

impl<K, V, T, W, F> Node<K, V> for StreamTableJoin<K, T, W, F>
where
    K: Data,
    T: Data,
    W: Clone + Send + Sync,
    F: Fn(V, Option<T>) -> Option<W> + Send + Sync,
{
    fn process(&self, ctx: &mut Context, record: Record<K, V>) -> Result<(), ProcessError> {
        ctx.enter(self.id);
        let row = ctx.lookup(&record.key, |ctx, bytes| ctx.table_get::<T>(self.store, bytes))?;
        let Record { key, value, timestamp, headers } = record;
        match (self.function)(value, row.map(|(value, _)| value)) {
            Some(value) => self.out.forward(ctx, Record { key, value, timestamp, headers }),
            None => Ok(()),
        }
    }
}
