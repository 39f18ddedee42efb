//! Any number of records of one, in the order in which the function gives them.
//!
//! ```
//! # use millstream::{StreamBuilder, Topic};
//! # const LINES: Topic<String, String> = Topic::new("lines");
//! # const WORDS: Topic<String, String> = Topic::new("words");
//! let mut builder = StreamBuilder::new("example");
//! builder
//!     .stream(&LINES)
//!     .flat_map_values(|line: String| line.split(' ').map(str::to_owned).collect::<Vec<_>>())
//!     .to(&WORDS);
//! ```

use std::sync::Arc;

use super::{Node, Outlet};
use crate::error::ProcessError;
use crate::record::Record;
use crate::task::context::Context;
use crate::topology::NodeId;

pub(crate) struct FlatMap<K, V, F> {
    pub(crate) id: NodeId,
    pub(crate) function: F,
    pub(crate) out: Arc<Outlet<K, V>>,
}

impl<K, V, L, W, F, I> Node<K, V> for FlatMap<L, W, F>
where
    L: Clone + Send + Sync,
    W: Clone + Send + Sync,
    F: Fn(K, V) -> I + Send + Sync,
    I: IntoIterator<Item = (L, W)>,
{
    fn process(&self, ctx: &mut Context, record: Record<K, V>) -> Result<(), ProcessError> {
        ctx.enter(self.id);
        let Record { key, value, timestamp, headers } = record;
        for (key, value) in (self.function)(key, value) {
            self.out.forward(ctx, Record { key, value, timestamp, headers: headers.clone() })?;
            ctx.enter(self.id);
        }
        Ok(())
    }
}
