//! Topics that a process has whole: global tables, joins with them, and feeds.

use std::marker::PhantomData;
use std::sync::Arc;

use super::{Stream, StreamBuilder};
use crate::codec::{Data, Format};
use crate::operators::feed::{FeedEvent, FeedReader};
use crate::operators::global_table::{GlobalJoin, GlobalReader};
use crate::operators::{Node, Outlet};
use crate::store::Store;
use crate::topic::Topic;
use crate::topology::{GlobalIndex, TopicRole};

/// A table of keys `K` and values `V` of which every process has all partitions.
pub struct GlobalTable<K: 'static, V: 'static> {
    index: GlobalIndex,
    types: PhantomData<fn() -> (K, V)>,
}

impl StreamBuilder {
    /// A topic as a table that every process has whole: for a join by any key, without repartitioning. The topic itself is its changelog, so
    /// it must be compacted or kept for ever, and nothing else of this application can read it. The table has all that the topic held when
    /// the application starts, and then follows it; joins with it see what it holds at that moment.
    pub fn global_table<K: Data, V: Data>(&mut self, topic: &Topic<K, V>, store: &str) -> GlobalTable<K, V> {
        let spec = topic.spec();
        let reader = Arc::new(GlobalReader { key: topic.key_codec(), value: topic.value_codec() });
        let mut draft = self.draft.borrow_mut();
        let index = draft.topic(&spec.name, TopicRole::External, spec.partitions, spec.cleanup);
        let key = (K::CODEC as &'static dyn Format, std::any::type_name::<K>());
        let value = (V::CODEC as &'static dyn Format, std::any::type_name::<V>());
        GlobalTable { index: draft.global_table(store, index, key, value, reader), types: PhantomData }
    }
}

impl StreamBuilder {
    /// A topic as a feed, in this store: see [`FeedEvent`]. Every process with this topology has all of it. The topic is the feed's changelog, so
    /// it must keep its records for as long as the store does, and nothing else of this application can read it.
    pub fn feed<K: Data, V: Data>(&mut self, topic: &Topic<K, V>, store: &Store<(K, u64), FeedEvent<V>>) {
        let spec = topic.spec();
        let reader = Arc::new(FeedReader { key: topic.key_codec(), value: topic.value_codec() });
        let mut draft = self.draft.borrow_mut();
        let index = draft.topic(&spec.name, TopicRole::External, spec.partitions, spec.cleanup);
        let key = (<(K, u64)>::CODEC as &'static dyn Format, std::any::type_name::<(K, u64)>());
        let value = (<FeedEvent<V>>::CODEC as &'static dyn Format, std::any::type_name::<FeedEvent<V>>());
        draft.feed(store.name, store.ttl_ms, index, key, value, reader);
    }
}

impl<K: Data, V: Data> Stream<K, V> {
    /// Joins each record with what the global table has for the key that `selector` chooses; a record without a match is dropped.
    pub fn join_global<G: Data, T: Data, W: Clone + Send + Sync + 'static>(
        &self,
        name: &str,
        table: &GlobalTable<G, T>,
        selector: impl Fn(&K, &V) -> G + Send + Sync + 'static,
        joiner: impl Fn(V, T) -> W + Send + Sync + 'static,
    ) -> Stream<K, W> {
        self.joined_global(name, table, selector, move |value, row: Option<T>| row.map(|row| joiner(value, row)))
    }

    /// Joins each record with what the global table has for the key that `selector` chooses, or with `None`.
    pub fn left_join_global<G: Data, T: Data, W: Clone + Send + Sync + 'static>(
        &self,
        name: &str,
        table: &GlobalTable<G, T>,
        selector: impl Fn(&K, &V) -> G + Send + Sync + 'static,
        joiner: impl Fn(V, Option<T>) -> W + Send + Sync + 'static,
    ) -> Stream<K, W> {
        self.joined_global(name, table, selector, move |value, row| Some(joiner(value, row)))
    }

    fn joined_global<G: Data, T: Data, W: Clone + Send + Sync + 'static>(
        &self,
        name: &str,
        table: &GlobalTable<G, T>,
        selector: impl Fn(&K, &V) -> G + Send + Sync + 'static,
        function: impl Fn(V, Option<T>) -> Option<W> + Send + Sync + 'static,
    ) -> Stream<K, W> {
        let (id, out) = (self.declare(Ok(name), Vec::new()), Outlet::new());
        let join = GlobalJoin { id, table: table.index, selector, function, out: Arc::clone(&out), types: PhantomData };
        self.out.attach(Arc::new(join) as Arc<dyn Node<K, V>>);
        self.below(id, out, self.partitioning.clone())
    }
}
