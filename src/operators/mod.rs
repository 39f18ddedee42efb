//! One operator, one file. An operator is immutable and shared by all tasks: whatever it remembers lies in a store, so that undoing a
//! failed record undoes all of it. Nothing here names a thread, the log or a real clock.

pub(crate) mod aggregate;
pub(crate) mod branch;
pub mod feed;
pub(crate) mod flat_map;
pub(crate) mod global_table;
pub(crate) mod map;
pub(crate) mod process;
pub(crate) mod session_aggregate;
pub(crate) mod sink;
pub(crate) mod sliding_aggregate;
pub(crate) mod source;
pub(crate) mod stream_stream_join;
pub(crate) mod stream_table_join;
pub(crate) mod suppress;
pub(crate) mod table;
pub(crate) mod windowed_aggregate;

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use crate::error::ProcessError;
use crate::record::Record;
use crate::task::context::Context;

/// One operator as its upstream sees it: a typed call.
pub(crate) trait Node<K, V>: Send + Sync {
    fn process(&self, ctx: &mut Context, record: Record<K, V>) -> Result<(), ProcessError>;
}

/// Where an operator's records go: to each operator that was attached to it, in the order of attaching.
///
/// While a topology is declared, operators are attached; the first use seals the list, so the data path reads it without a lock.
pub(crate) struct Outlet<K, V> {
    attached: Mutex<Vec<Arc<dyn Node<K, V>>>>,
    sealed: OnceLock<Box<[Arc<dyn Node<K, V>>]>>,
}

impl<K, V> Outlet<K, V> {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Outlet { attached: Mutex::default(), sealed: OnceLock::new() })
    }

    /// # Panics
    /// If a record has already passed.
    pub(crate) fn attach(&self, node: Arc<dyn Node<K, V>>) {
        assert!(self.sealed.get().is_none(), "an operator was attached to a running topology");
        self.attached.lock().unwrap_or_else(PoisonError::into_inner).push(node);
    }
}

impl<K: Clone, V: Clone> Outlet<K, V> {
    pub(crate) fn forward(&self, ctx: &mut Context, record: Record<K, V>) -> Result<(), ProcessError> {
        let nodes = self.sealed.get_or_init(|| {
            std::mem::take(&mut *self.attached.lock().unwrap_or_else(PoisonError::into_inner)).into_boxed_slice()
        });
        let Some((last, others)) = nodes.split_last() else { return Ok(()) };
        for node in others {
            node.process(ctx, record.clone())?;
        }
        last.process(ctx, record)
    }
}

/// A table's update: the value before and after it, `None` where the key is absent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change<V> {
    /// The value before.
    pub old: Option<V>,
    /// The value after.
    pub new: Option<V>,
}
