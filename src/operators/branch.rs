//! Two ways for a record: one for those that match, one for the rest.
//!
//! ```
//! # use millstream::{StreamBuilder, Topic};
//! # const NUMBERS: Topic<String, i64> = Topic::new("numbers");
//! # const EVEN: Topic<String, i64> = Topic::new("even");
//! # const ODD: Topic<String, i64> = Topic::new("odd");
//! let mut builder = StreamBuilder::new("example");
//! let (even, odd) = builder.stream(&NUMBERS).branch(|_, n| n % 2 == 0);
//! even.to(&EVEN);
//! odd.to(&ODD);
//! ```

use std::sync::Arc;

use super::{Node, Outlet};
use crate::error::ProcessError;
use crate::record::Record;
use crate::task::context::Context;
use crate::topology::NodeId;

pub(crate) struct Branch<K, V, F> {
    pub(crate) id: NodeId,
    pub(crate) predicate: F,
    pub(crate) matching: Arc<Outlet<K, V>>,
    pub(crate) rest: Arc<Outlet<K, V>>,
}

impl<K, V, F> Node<K, V> for Branch<K, V, F>
where
    K: Clone + Send + Sync,
    V: Clone + Send + Sync,
    F: Fn(&K, &V) -> bool + Send + Sync,
{
    fn process(&self, ctx: &mut Context, record: Record<K, V>) -> Result<(), ProcessError> {
        ctx.enter(self.id);
        let way = if (self.predicate)(&record.key, &record.value) { &self.matching } else { &self.rest };
        way.forward(ctx, record)
    }
}
