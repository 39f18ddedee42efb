//! A stream of records and what can be made of it.

use std::rc::Rc;
use std::sync::Arc;

use super::{Grouped, Partitioning, Process, SharedDraft, Table, declare_store};
use crate::codec::{Codec, Data};
use crate::operators::branch::Branch;
use crate::operators::flat_map::FlatMap;
use crate::operators::map::{FilterMap, Pass};
use crate::operators::sink::{NullKeys, Sink, SinkValue};
use crate::operators::source::StreamSource;
use crate::operators::stream_table_join::StreamTableJoin;
use crate::operators::table::Materialize;
use crate::operators::{Node, Outlet};
use crate::record::Record;
use crate::topic::Topic;
use crate::topology::{NodeDraft, NodeId, NodeKind, StoreIndex, StoreKind, TopicIndex, TopicRole};

/// A stream of records with keys `K` and values `V`. The handle can be used any number of times; each use gets every record.
pub struct Stream<K: 'static, V: 'static> {
    pub(super) draft: SharedDraft,
    pub(super) node: NodeId,
    pub(super) out: Arc<Outlet<K, V>>,
    /// The topics that the records come from.
    pub(super) upstream: Vec<TopicIndex>,
    /// `None` once the key may have changed: a stateful step then goes through a repartition topic first.
    pub(super) partitioning: Option<Partitioning<K>>,
}

impl<K: 'static, V: 'static> Clone for Stream<K, V> {
    fn clone(&self) -> Self {
        Stream {
            draft: Rc::clone(&self.draft),
            node: self.node,
            out: Arc::clone(&self.out),
            upstream: self.upstream.clone(),
            partitioning: self.partitioning.clone(),
        }
    }
}

impl<K: Data, V: Clone + Send + Sync + 'static> Stream<K, V> {
    /// Declares a node below this one.
    pub(super) fn declare(&self, name: Result<&str, &'static str>, stores: Vec<StoreIndex>) -> NodeId {
        let node = NodeDraft { kind: NodeKind::Processor, name, parents: vec![self.node], stores, topic: None };
        self.draft.borrow_mut().node(node)
    }

    /// A handle on what a node below this one gives. `partitioning` is that of the result.
    pub(super) fn below<L: 'static, W: 'static>(
        &self,
        node: NodeId,
        out: Arc<Outlet<L, W>>,
        partitioning: Option<Partitioning<L>>,
    ) -> Stream<L, W> {
        Stream { draft: Rc::clone(&self.draft), node, out, upstream: self.upstream.clone(), partitioning }
    }

    fn filter_map<L, W>(
        &self,
        kind: &'static str,
        partitioning: Option<Partitioning<L>>,
        function: impl Fn(Record<K, V>) -> Option<Record<L, W>> + Send + Sync + 'static,
    ) -> Stream<L, W>
    where
        L: Data,
        W: Clone + Send + Sync + 'static,
    {
        let (id, out) = (self.declare(Err(kind), Vec::new()), Outlet::new());
        self.out.attach(Arc::new(FilterMap { id, function, out: Arc::clone(&out) }));
        self.below(id, out, partitioning)
    }

    /// The records for which the predicate holds.
    pub fn filter(&self, predicate: impl Fn(&K, &V) -> bool + Send + Sync + 'static) -> Stream<K, V> {
        self.filter_map("filter", self.partitioning.clone(), move |r| predicate(&r.key, &r.value).then_some(r))
    }

    /// The records for which the predicate does not hold.
    pub fn filter_not(&self, predicate: impl Fn(&K, &V) -> bool + Send + Sync + 'static) -> Stream<K, V> {
        self.filter(move |key, value| !predicate(key, value))
    }

    /// Calls the function for every record and hands it on. The function may run more than once for a record that is retried.
    pub fn peek(&self, function: impl Fn(&K, &V) + Send + Sync + 'static) -> Stream<K, V> {
        self.filter_map("peek", self.partitioning.clone(), move |record| {
            function(&record.key, &record.value);
            Some(record)
        })
    }

    /// Another key and value for every record.
    pub fn map<L, W>(&self, function: impl Fn(K, V) -> (L, W) + Send + Sync + 'static) -> Stream<L, W>
    where
        L: Data,
        W: Clone + Send + Sync + 'static,
    {
        self.filter_map("map", None, move |record| {
            let (key, value) = function(record.key, record.value);
            Some(Record { key, value, timestamp: record.timestamp, headers: record.headers })
        })
    }

    /// Another value for every record; the key, and so the partition, stays.
    pub fn map_values<W: Clone + Send + Sync + 'static>(
        &self,
        function: impl Fn(V) -> W + Send + Sync + 'static,
    ) -> Stream<K, W> {
        self.map_values_with_key(move |_, value| function(value))
    }

    /// Another value for every record, made of key and value.
    pub fn map_values_with_key<W: Clone + Send + Sync + 'static>(
        &self,
        function: impl Fn(&K, V) -> W + Send + Sync + 'static,
    ) -> Stream<K, W> {
        self.filter_map("map-values", self.partitioning.clone(), move |record| {
            let Record { key, value, timestamp, headers } = record;
            let value = function(&key, value);
            Some(Record { key, value, timestamp, headers })
        })
    }

    /// Another key for every record.
    pub fn select_key<L: Data>(&self, selector: impl Fn(&K, &V) -> L + Send + Sync + 'static) -> Stream<L, V> {
        self.filter_map("select-key", None, move |record| {
            let key = selector(&record.key, &record.value);
            Some(record.with_key(key))
        })
    }

    /// Any number of records for every record, in order.
    pub fn flat_map<L, W, I>(&self, function: impl Fn(K, V) -> I + Send + Sync + 'static) -> Stream<L, W>
    where
        L: Data,
        W: Clone + Send + Sync + 'static,
        I: IntoIterator<Item = (L, W)> + 'static,
    {
        self.attach_flat_map("flat-map", None, function)
    }

    /// Any number of values for every record, in order; the key stays.
    pub fn flat_map_values<W, I>(&self, function: impl Fn(V) -> I + Send + Sync + 'static) -> Stream<K, W>
    where
        W: Clone + Send + Sync + 'static,
        I: IntoIterator<Item = W> + 'static,
    {
        self.attach_flat_map("flat-map-values", self.partitioning.clone(), move |key: K, value| {
            function(value).into_iter().map(move |value| (key.clone(), value))
        })
    }

    fn attach_flat_map<L, W, I>(
        &self,
        kind: &'static str,
        partitioning: Option<Partitioning<L>>,
        function: impl Fn(K, V) -> I + Send + Sync + 'static,
    ) -> Stream<L, W>
    where
        L: Data,
        W: Clone + Send + Sync + 'static,
        I: IntoIterator<Item = (L, W)> + 'static,
    {
        let (id, out) = (self.declare(Err(kind), Vec::new()), Outlet::new());
        self.out.attach(Arc::new(FlatMap { id, function, out: Arc::clone(&out) }));
        self.below(id, out, partitioning)
    }

    /// Two streams: the records for which the predicate holds, and the rest. Branch the rest again for a third way.
    pub fn branch(&self, predicate: impl Fn(&K, &V) -> bool + Send + Sync + 'static) -> (Stream<K, V>, Stream<K, V>) {
        let id = self.declare(Err("branch"), Vec::new());
        let (matching, rest) = (Outlet::new(), Outlet::new());
        self.out.attach(Arc::new(Branch { id, predicate, matching: Arc::clone(&matching), rest: Arc::clone(&rest) }));
        (self.below(id, matching, self.partitioning.clone()), self.below(id, rest, self.partitioning.clone()))
    }

    /// The records of both streams. Their order between the two is that of their timestamps where the topics' records are at hand.
    pub fn merge(&self, other: &Stream<K, V>) -> Stream<K, V> {
        let parents = vec![self.node, other.node];
        let node = NodeDraft { kind: NodeKind::Processor, name: Err("merge"), parents, stores: Vec::new(), topic: None };
        let id = self.draft.borrow_mut().node(node);
        let out = Outlet::new();
        let pass: Arc<dyn Node<K, V>> = Arc::new(Pass { out: Arc::clone(&out) });
        self.out.attach(Arc::clone(&pass));
        other.out.attach(pass);
        let mut upstream = self.upstream.clone();
        upstream.extend(other.upstream.iter().filter(|topic| !self.upstream.contains(topic)));
        let partitioning = match (&self.partitioning, &other.partitioning) {
            (Some(a), Some(b)) if a.key.name() == b.key.name() => Some(Partitioning { key: a.key, topics: upstream.clone() }),
            _ => None,
        };
        Stream { draft: Rc::clone(&self.draft), node: id, out, upstream, partitioning }
    }

    /// Writes every record to a topic, at the partition of its key. An `Option` value's `None` is written as null.
    pub fn to<T: 'static>(&self, topic: &Topic<K, T>)
    where
        V: SinkValue<T>,
    {
        let spec = topic.spec();
        let index = self.draft.borrow_mut().topic(&spec.name, TopicRole::External, spec.partitions, spec.cleanup);
        self.sink(index, topic.key_codec(), topic.value_codec(), NullKeys::Keep);
    }

    fn sink<T: 'static>(&self, topic: TopicIndex, key: &'static dyn Codec<K>, value: &'static dyn Codec<T>, null_keys: NullKeys)
    where
        V: SinkValue<T>,
    {
        let node =
            NodeDraft { kind: NodeKind::Sink, name: Err("to"), parents: vec![self.node], stores: Vec::new(), topic: Some(topic) };
        let id = self.draft.borrow_mut().node(node);
        self.out.attach(Arc::new(Sink::<K, T> { id, topic, key, value, null_keys }));
    }

    /// Keeps the last value of each key in the store of this name.
    pub fn to_table(&self, store: &str) -> Table<K, V>
    where
        V: Data,
    {
        self.partitioned(store).map_values(Some).materialize(store)
    }

    /// Runs a processor of one's own: for what the DSL cannot say.
    pub fn process<L: Data, W: Clone + Send + Sync + 'static>(&self, process: Process<K, V, L, W>) -> Stream<L, W> {
        process.attach(self)
    }
}

impl<K: Data, V: Data> Stream<K, V> {
    /// Sends every record through a repartition topic, so that it goes on in the task of its key; one without a key is dropped.
    pub fn repartition(&self, name: &str) -> Stream<K, V> {
        self.through(name, K::CODEC, &self.upstream, NullKeys::Drop)
    }

    /// This stream if its key has not changed, else through a repartition topic of this name.
    pub(super) fn partitioned(&self, name: &str) -> Stream<K, V> {
        if self.partitioning.is_some() { self.clone() } else { self.repartition(name) }
    }

    pub(super) fn through(
        &self,
        name: &str,
        key: &'static dyn Codec<K>,
        like: &[TopicIndex],
        null_keys: NullKeys,
    ) -> Stream<K, V> {
        let topic = self.draft.borrow_mut().repartition_topic(name, like);
        self.sink::<V>(topic, key, V::CODEC, null_keys);
        let out = Outlet::new();
        let source_name = format!("from-{}", self.draft.borrow().topic_name(topic));
        let mut draft = self.draft.borrow_mut();
        let id = draft.node(NodeDraft {
            kind: NodeKind::Source,
            name: Ok(&source_name),
            parents: Vec::new(),
            stores: Vec::new(),
            topic: Some(topic),
        });
        draft.source(id, topic, Arc::new(StreamSource { id, key, value: V::CODEC, max_ahead_ms: None, out: Arc::clone(&out) }));
        drop(draft);
        let partitioning = Some(Partitioning { key, topics: vec![topic] });
        Stream { draft: Rc::clone(&self.draft), node: id, out, upstream: vec![topic], partitioning }
    }

    /// Groups by the key that the records have.
    pub fn group_by_key(&self) -> Grouped<K, V> {
        Grouped { stream: self.clone() }
    }

    /// Groups by a new key, through the repartition topic `<application>-<name>-repartition`.
    pub fn group_by<L: Data>(&self, name: &str, selector: impl Fn(&K, &V) -> L + Send + Sync + 'static) -> Grouped<L, V> {
        Grouped { stream: self.select_key(selector).repartition(name) }
    }

    /// Joins each record with what the table has for its key; a record without a match is dropped. If the key has changed, the stream
    /// goes through the repartition topic `<application>-<name>-repartition` first.
    pub fn join<T: Data, W: Clone + Send + Sync + 'static>(
        &self,
        name: &str,
        table: &Table<K, T>,
        joiner: impl Fn(V, T) -> W + Send + Sync + 'static,
    ) -> Stream<K, W> {
        self.join_table(name, table, NullKeys::Drop, move |value, row| row.map(|row| joiner(value, row)))
    }

    /// Joins each record with what the table has for its key, or with `None`; a record without a key too (KIP-962).
    pub fn left_join<T: Data, W: Clone + Send + Sync + 'static>(
        &self,
        name: &str,
        table: &Table<K, T>,
        joiner: impl Fn(V, Option<T>) -> W + Send + Sync + 'static,
    ) -> Stream<K, W> {
        self.join_table(name, table, NullKeys::Keep, move |value, row| Some(joiner(value, row)))
    }

    fn join_table<T: Data, W: Clone + Send + Sync + 'static>(
        &self,
        name: &str,
        table: &Table<K, T>,
        null_keys: NullKeys,
        function: impl Fn(V, Option<T>) -> Option<W> + Send + Sync + 'static,
    ) -> Stream<K, W> {
        let left = match &self.partitioning {
            Some(_) => self.clone(),
            None => self.through(name, table.partitioning.key, &table.partitioning.topics, null_keys),
        };
        let node = NodeDraft {
            kind: NodeKind::Processor,
            name: Ok(name),
            parents: vec![left.node, table.node],
            stores: vec![table.store],
            topic: None,
        };
        let id = self.draft.borrow_mut().node(node);
        if let Some(partitioning) = &left.partitioning {
            let left = (&partitioning.topics[..], partitioning.key.name());
            let right = (&table.partitioning.topics[..], table.partitioning.key.name());
            self.draft.borrow_mut().copartition(id, left, right);
        }
        let out = Outlet::new();
        let join = StreamTableJoin { id, store: table.store, function, out: Arc::clone(&out), table: std::marker::PhantomData };
        left.out.attach(Arc::new(join) as Arc<dyn Node<K, V>>);
        left.below(id, out, left.partitioning.clone())
    }
}

impl<K: Data, V: Data> Stream<K, Option<V>> {
    /// Keeps the last value of each key in the store of this name; `None` deletes. The key must not have changed.
    pub(super) fn materialize(&self, store_name: &str) -> Table<K, V> {
        let access = millstream_state::Access::Keyed;
        let store = declare_store::<K, V>(&self.draft, store_name, StoreKind::Table, access, None);
        let id = self.declare(Ok(store_name), vec![store]);
        let out = Outlet::new();
        self.out.attach(Arc::new(Materialize::<K, V> { id, store, out: Arc::clone(&out) }));
        let partitioning = self.partitioning.clone().unwrap_or(Partitioning { key: K::CODEC, topics: self.upstream.clone() });
        Table { draft: Rc::clone(&self.draft), node: id, out, store, partitioning }
    }
}
