//! Stateless operators that make at most one record of one: filter, map, peek and their like.
//!
//! ```
//! # use millstream::{StreamBuilder, Topic};
//! # const IN: Topic<String, i64> = Topic::new("in");
//! # const OUT: Topic<String, i64> = Topic::new("out");
//! let mut builder = StreamBuilder::new("example");
//! builder.stream(&IN).filter(|_, n| *n > 0).map_values(|n| n * 2).to(&OUT);
//! ```

use std::sync::Arc;

use super::{Node, Outlet};
use crate::error::ProcessError;
use crate::record::Record;
use crate::task::context::Context;
use crate::topology::NodeId;

/// Hands on what the function makes of a record, or nothing.
pub(crate) struct FilterMap<K, V, F> {
    pub(crate) id: NodeId,
    pub(crate) function: F,
    pub(crate) out: Arc<Outlet<K, V>>,
}

impl<K, V, L, W, F> Node<K, V> for FilterMap<L, W, F>
where
    L: Clone + Send + Sync,
    W: Clone + Send + Sync,
    F: Fn(Record<K, V>) -> Option<Record<L, W>> + Send + Sync,
{
    fn process(&self, ctx: &mut Context, record: Record<K, V>) -> Result<(), ProcessError> {
        ctx.enter(self.id);
        match (self.function)(record) {
            Some(record) => self.out.forward(ctx, record),
            None => Ok(()),
        }
    }
}

/// Hands every record on as it is: where two streams become one.
pub(crate) struct Pass<K, V> {
    pub(crate) out: Arc<Outlet<K, V>>,
}

impl<K: Clone + Send + Sync, V: Clone + Send + Sync> Node<K, V> for Pass<K, V> {
    fn process(&self, ctx: &mut Context, record: Record<K, V>) -> Result<(), ProcessError> {
        self.out.forward(ctx, record)
    }
}
