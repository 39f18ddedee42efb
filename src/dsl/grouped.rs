//! Records grouped by key, waiting to be folded into a table.

use std::sync::Arc;

use super::{Stream, Table, declare_store};
use crate::codec::Data;
use crate::operators::Outlet;
use crate::operators::aggregate::Aggregate;
use crate::topology::StoreKind;

/// A grouped stream. Each fold names its store, which names its changelog and its view.
pub struct Grouped<K: 'static, V: 'static> {
    pub(super) stream: Stream<K, V>,
}

impl<K: Data, V: Data> Grouped<K, V> {
    /// How many records each key had.
    pub fn count(&self, store: &str) -> Table<K, u64> {
        self.fold(store, counting())
    }

    /// The values of each key reduced to one; the first is taken as it is.
    pub fn reduce(&self, store: &str, reducer: impl Fn(V, V) -> V + Send + Sync + 'static) -> Table<K, V> {
        self.fold(store, reducing(reducer))
    }

    /// The values of each key folded into an aggregate, beginning with `initial`.
    pub fn aggregate<A: Data>(
        &self,
        store: &str,
        initial: impl Fn() -> A + Send + Sync + 'static,
        aggregator: impl Fn(&K, V, A) -> A + Send + Sync + 'static,
    ) -> Table<K, A> {
        self.fold(store, aggregating(initial, aggregator))
    }

    fn fold<A: Data>(
        &self,
        store_name: &str,
        fold: impl Fn(&K, V, Option<A>) -> Option<A> + Send + Sync + 'static,
    ) -> Table<K, A> {
        let stream = self.stream.partitioned(store_name);
        let access = millstream_state::Access::Keyed;
        let store = declare_store::<K, A>(&stream.draft, store_name, StoreKind::Table, access, None);
        let id = stream.declare(Ok(store_name), vec![store]);
        let out = Outlet::new();
        stream.out.attach(Arc::new(Aggregate { id, store, fold, out: Arc::clone(&out) }));
        let partitioning = stream.partitioning.clone().expect("a partitioned stream knows how");
        Table { draft: stream.draft.clone(), node: id, out, store, partitioning }
    }
}

pub(super) fn counting<K, V>() -> impl Fn(&K, V, Option<u64>) -> Option<u64> {
    |_, _, count| Some(count.unwrap_or(0) + 1)
}

pub(super) fn reducing<K, V>(reducer: impl Fn(V, V) -> V) -> impl Fn(&K, V, Option<V>) -> Option<V> {
    move |_, value, so_far| {
        Some(match so_far {
            Some(so_far) => reducer(so_far, value),
            None => value,
        })
    }
}

pub(super) fn aggregating<K, V, A>(
    initial: impl Fn() -> A,
    aggregator: impl Fn(&K, V, A) -> A,
) -> impl Fn(&K, V, Option<A>) -> Option<A> {
    move |key, value, so_far| Some(aggregator(key, value, so_far.unwrap_or_else(&initial)))
}
