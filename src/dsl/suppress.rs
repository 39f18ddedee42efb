//! Updates of tables, held back.

use std::sync::Arc;

use millstream_state::Access;

use super::{SharedDraft, Stream, Table, WindowedTable, declare_store};
use crate::codec::Data;
use crate::operators::suppress::Suppress;
use crate::operators::{Change, Outlet};
use crate::record::Timestamp;
use crate::task::context::WaitingList;
use crate::topology::{NodeDraft, NodeId, NodeKind, StoreKind, TopicIndex};
use crate::windows::Windowed;

impl<K: Data, V: Data> Table<K, V> {
    /// The last update of each key, at most one in `limit_ms` of the time that updates show: the first of a key begins to wait, later ones take
    /// its place and its turn. With more than `max_records` keys that wait, the first leave early.
    pub fn suppress_for_ms(&self, name: &str, limit_ms: i64, max_records: Option<u64>) -> Stream<K, Option<V>> {
        let upstream = self.partitioning.topics.clone();
        let mut stream = suppress(&self.draft, self.node, &self.out, upstream, name, until_limit(limit_ms, max_records));
        stream.partitioning = Some(self.partitioning.clone());
        stream
    }
}

impl<K: Data, V: Data> WindowedTable<K, V> {
    /// As [`Table::suppress_for_ms`].
    pub fn suppress_for_ms(&self, name: &str, limit_ms: i64, max_records: Option<u64>) -> Stream<Windowed<K>, Option<V>> {
        let upstream = self.upstream.clone();
        suppress(&self.draft, self.node, &self.out, upstream, name, until_limit(limit_ms, max_records))
    }

    /// The last value of each window, once it is closed; nothing for one that was deleted.
    pub fn suppress_until_close(&self, name: &str) -> Stream<Windowed<K>, V> {
        let until = Until {
            from: |key: &Windowed<K>, _| key.end,
            delay_ms: self.closes_after_ms,
            max_records: None,
            emit: |value| value,
        };
        suppress(&self.draft, self.node, &self.out, self.upstream.clone(), name, until)
    }
}

struct Until<K, V, R> {
    from: fn(&K, Timestamp) -> Timestamp,
    delay_ms: i64,
    max_records: Option<u64>,
    emit: fn(Option<V>) -> Option<R>,
}

fn until_limit<K, V>(limit_ms: i64, max_records: Option<u64>) -> Until<K, V, Option<V>> {
    Until { from: |_, timestamp| timestamp, delay_ms: limit_ms, max_records, emit: Some }
}

fn suppress<K: Data, V: Data, R: Clone + Send + Sync + 'static>(
    draft: &SharedDraft,
    table: NodeId,
    changes: &Outlet<K, Change<V>>,
    upstream: Vec<TopicIndex>,
    name: &str,
    until: Until<K, V, R>,
) -> Stream<K, R> {
    if until.delay_ms < 0 {
        draft.borrow_mut().mistakes.push(format!("{name:?} holds updates back for {} ms", until.delay_ms));
    }
    let store = declare_store::<K, V>(draft, name, StoreKind::Buffer, Access::Keyed, None);
    let node = NodeDraft { kind: NodeKind::Processor, name: Ok(name), parents: vec![table], stores: vec![store], topic: None };
    let id = draft.borrow_mut().node(node);
    let clock = draft.borrow_mut().clock(Some(name));
    let bound = draft.borrow_mut().clock(None);
    let waiting = WaitingList { name: name.to_owned(), bound };
    let Until { from, delay_ms, max_records, emit } = until;
    let out = Outlet::new();
    changes.attach(Arc::new(Suppress { id, store, clock, waiting, from, delay_ms, max_records, emit, out: Arc::clone(&out) }));
    Stream { draft: draft.clone(), node: id, out, upstream, partitioning: None }
}
