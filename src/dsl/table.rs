//! A table: the last value of each key, kept in a store, and its updates.

use std::rc::Rc;
use std::sync::Arc;

use super::{Partitioning, SharedDraft, Stream};
use crate::codec::Data;
use crate::operators::table::ToStream;
use crate::operators::{Change, Outlet};
use crate::topology::{NodeDraft, NodeId, NodeKind, StoreIndex, TopicIndex};

/// A table of keys `K` and values `V`.
pub struct Table<K: 'static, V: 'static> {
    pub(super) draft: SharedDraft,
    pub(super) node: NodeId,
    pub(super) out: Arc<Outlet<K, Change<V>>>,
    pub(super) store: StoreIndex,
    pub(super) partitioning: Partitioning<K>,
}

impl<K: Data, V: Data> Table<K, V> {
    /// The table's updates: the new value, or `None` where the key was deleted.
    pub fn to_stream(&self) -> Stream<K, Option<V>> {
        let upstream = self.partitioning.topics.clone();
        to_stream(&self.draft, self.node, &self.out, upstream, Some(self.partitioning.clone()))
    }
}

/// The updates of a table whose changes come out of `out`.
pub(super) fn to_stream<K: Data, V: Data>(
    draft: &SharedDraft,
    table: NodeId,
    changes: &Outlet<K, Change<V>>,
    upstream: Vec<TopicIndex>,
    partitioning: Option<Partitioning<K>>,
) -> Stream<K, Option<V>> {
    let node =
        NodeDraft { kind: NodeKind::Processor, name: Err("to-stream"), parents: vec![table], stores: Vec::new(), topic: None };
    let id = draft.borrow_mut().node(node);
    let out = Outlet::new();
    changes.attach(Arc::new(ToStream { out: Arc::clone(&out) }));
    Stream { draft: Rc::clone(draft), node: id, out, upstream, partitioning }
}
