//! Records of several streams folded together by key, into one table.

use std::rc::Rc;
use std::sync::Arc;

use millstream_state::Access;

use super::windowed::{declare_window_store, windowed_table};
use super::{Grouped, Partitioning, SharedDraft, Stream, Table, WindowedTable, declare_store};
use crate::codec::{Codec, Data};
use crate::operators::aggregate::Aggregate;
use crate::operators::session_aggregate::SessionAggregate;
use crate::operators::sink::NullKeys;
use crate::operators::sliding_aggregate::SlidingAggregate;
use crate::operators::windowed_aggregate::{Emit, WindowedAggregate};
use crate::operators::{Change, Outlet};
use crate::topology::{ClockIndex, NodeDraft, NodeId, NodeKind, StoreIndex, StoreKind, TopicIndex};
use crate::windows::{SessionWindows, SlidingWindows, TimeWindows, Windowed};

/// Grouped streams, each with a function that folds its values into what all of them share.
///
/// ```
/// use millstream::testing::TestDriver;
/// use millstream::{Record, Store, StreamBuilder, Timestamp, Topic};
///
/// const PAID: Topic<String, u64> = Topic::new("paid");
/// const REFUNDED: Topic<String, u64> = Topic::new("refunded");
/// const BALANCES: Store<String, i64> = Store::keyed("balances");
///
/// let mut builder = StreamBuilder::new("example");
/// let paid = builder.stream(&PAID).group_by_key();
/// let refunded = builder.stream(&REFUNDED).group_by_key();
/// paid.cogroup(|_, amount, balance: i64| balance + amount as i64)
///     .with(&refunded, |_, amount, balance| balance - amount as i64)
///     .aggregate("balances", || 0);
///
/// let mut driver = TestDriver::new(builder.build()?);
/// driver.pipe(&PAID, &Record::new("ann".to_owned(), 700, Timestamp(1)));
/// driver.pipe(&REFUNDED, &Record::new("ann".to_owned(), 200, Timestamp(2)));
/// assert_eq!(driver.table::<String, i64>("balances"), [("ann".to_owned(), 500, Timestamp(2))]);
/// # Ok::<(), millstream::TopologyError>(())
/// ```
pub struct Cogrouped<K: 'static, A: 'static> {
    members: Vec<Box<dyn Member<K, A>>>,
}

/// The same in windows. Each stream has a time of its own: what is late by the time of one may come in time by another's.
pub struct WindowedCogroup<K: 'static, A: 'static, W> {
    group: Cogrouped<K, A>,
    windows: W,
    retention_ms: Option<i64>,
}

impl<K: Data, V: Data> Grouped<K, V> {
    /// Begins a group of streams that are folded together: `aggregator` folds this one's values.
    pub fn cogroup<A: Data>(&self, aggregator: impl Fn(&K, V, A) -> A + Send + Sync + 'static) -> Cogrouped<K, A> {
        Cogrouped { members: Vec::new() }.with(self, aggregator)
    }
}

impl<K: Data, A: Data> Cogrouped<K, A> {
    /// Adds a stream, whose values `aggregator` folds.
    #[must_use]
    pub fn with<V: Data>(
        mut self,
        grouped: &Grouped<K, V>,
        aggregator: impl Fn(&K, V, A) -> A + Send + Sync + 'static,
    ) -> Cogrouped<K, A> {
        self.members.push(Box::new(Of { stream: grouped.stream.clone(), aggregator: Arc::new(aggregator) }));
        self
    }

    /// Folds all of them into one table, each key beginning with `initial`. A stream whose key has changed goes through the repartition topic
    /// `<application>-<store>-<n>-repartition`, counted from 1.
    pub fn aggregate(self, store: &str, initial: impl Fn() -> A + Send + Sync + 'static) -> Table<K, A> {
        let draft = self.draft();
        let index = declare_store::<K, A>(&draft, store, StoreKind::Table, Access::Keyed, None);
        let (node, out, partitioning) = self.declare(store, index, initial, |_, _, out| Fold::Keyed(out));
        Table { draft, node, out, store: index, partitioning }
    }

    /// Puts the records of a key together by windows, too.
    #[must_use]
    pub fn windowed_by<W>(self, windows: W) -> WindowedCogroup<K, A, W> {
        WindowedCogroup { group: self, windows, retention_ms: None }
    }

    fn draft(&self) -> SharedDraft {
        Rc::clone(self.members[0].handle().0)
    }

    /// Declares an operator for each stream, all of which share the store.
    fn declare<L: Data>(
        mut self,
        name: &str,
        store: StoreIndex,
        initial: impl Fn() -> A + Send + Sync + 'static,
        fold: impl Fn(&SharedDraft, &str, Arc<Outlet<L, Change<A>>>) -> Fold<K, A>,
    ) -> (NodeId, Arc<Outlet<L, Change<A>>>, Partitioning<K>) {
        let (draft, initial, out) = (self.draft(), Arc::new(initial) as Initial<A>, Outlet::new());
        let names: Vec<String> = (1..=self.members.len()).map(|number| format!("{name}-{number}")).collect();
        // Whoever has to be moved is moved to where the others are.
        let known = self.members.iter().find_map(|member| member.handle().1.cloned());
        let like = known.unwrap_or_else(|| Partitioning {
            key: K::CODEC,
            topics: self.members.iter().flat_map(|member| member.handle().2.to_vec()).collect(),
        });
        let mut ids = Vec::new();
        for (member, name) in self.members.iter_mut().zip(&names) {
            member.partition_like(name, &like);
            let id = member.declare(name, store);
            member.attach(id, store, &initial, fold(&draft, name, Arc::clone(&out)));
            ids.push(id);
        }
        let node = NodeDraft { kind: NodeKind::Processor, name: Ok(name), parents: ids, stores: vec![store], topic: None };
        let id = draft.borrow_mut().node(node);
        let mut all = self.members.iter().map(|member| member.handle().1.cloned().expect("it was made sure of"));
        let mut first = all.next().expect("a group has a stream");
        for other in all {
            draft.borrow_mut().copartition(id, (&first.topics, first.key.name()), (&other.topics, other.key.name()));
            first.topics.extend(other.topics.iter().filter(|topic| !first.topics.contains(topic)).copied().collect::<Vec<_>>());
        }
        (id, out, first)
    }
}

impl<K: Data, A: Data, W> WindowedCogroup<K, A, W> {
    /// As [`WindowedStream::retention_ms`](crate::WindowedStream::retention_ms).
    #[must_use]
    pub fn retention_ms(self, retention_ms: i64) -> Self {
        WindowedCogroup { retention_ms: Some(retention_ms), ..self }
    }

    fn fold(
        self,
        name: &str,
        kind: StoreKind,
        (mistake, lifetime_ms, closes_after_ms): (Option<String>, i64, i64),
        initial: impl Fn() -> A + Send + Sync + 'static,
        fold: impl Fn(&W, ClockIndex, Arc<Outlet<Windowed<K>, Change<A>>>) -> Fold<K, A>,
    ) -> WindowedTable<K, A> {
        let WindowedCogroup { group, windows, retention_ms } = self;
        let draft = group.draft();
        if let Some(mistake) = mistake {
            draft.borrow_mut().mistakes.push(format!("store {name:?} is of {mistake}"));
        }
        let store = declare_window_store::<K, A>(&draft, name, kind, retention_ms, lifetime_ms);
        let (node, out, partitioning) = group.declare(name, store, initial, |draft, name, out| {
            let clock = draft.borrow_mut().clock(Some(name));
            fold(&windows, clock, out)
        });
        windowed_table(&draft, node, out, partitioning.topics, closes_after_ms)
    }
}

impl<K: Data, A: Data> WindowedCogroup<K, A, TimeWindows> {
    /// Folds all of the streams into one table, each key and window beginning with `initial`.
    pub fn aggregate(self, store: &str, initial: impl Fn() -> A + Send + Sync + 'static) -> WindowedTable<K, A> {
        let windows = self.windows;
        let what = (windows.mistake(), windows.lifetime_ms(), windows.grace());
        self.fold(store, StoreKind::Window, what, initial, |windows, clock, out| Fold::Time(*windows, clock, out))
    }
}

impl<K: Data, A: Data> WindowedCogroup<K, A, SlidingWindows> {
    /// Folds all of the streams into one table, each key and window beginning with `initial`.
    pub fn aggregate(self, store: &str, initial: impl Fn() -> A + Send + Sync + 'static) -> WindowedTable<K, A> {
        let windows = self.windows;
        let what = (windows.mistake(), windows.lifetime_ms(), windows.grace());
        self.fold(store, StoreKind::Window, what, initial, |windows, clock, out| Fold::Sliding(*windows, clock, out))
    }
}

impl<K: Data, A: Data> WindowedCogroup<K, A, SessionWindows> {
    /// Folds all of the streams into one table, each session beginning with `initial`. When sessions merge, so do their aggregates, the earlier
    /// one first, beginning with `initial` too.
    pub fn aggregate(
        self,
        store: &str,
        initial: impl Fn() -> A + Send + Sync + 'static,
        merger: impl Fn(&K, A, A) -> A + Send + Sync + 'static,
    ) -> WindowedTable<K, A> {
        let windows = self.windows;
        let what = (windows.mistake(), windows.lifetime_ms(), windows.lifetime_ms());
        let merger = Arc::new(merger) as Merger<K, A>;
        self.fold(store, StoreKind::Session, what, initial, move |windows, clock, out| {
            Fold::Sessions(*windows, clock, Arc::clone(&merger), out)
        })
    }
}

type Initial<A> = Arc<dyn Fn() -> A + Send + Sync>;
type Merger<K, A> = Arc<dyn Fn(&K, A, A) -> A + Send + Sync>;

/// What a stream's records are folded by, and where the updates go.
enum Fold<K: 'static, A: 'static> {
    Keyed(Arc<Outlet<K, Change<A>>>),
    Time(TimeWindows, ClockIndex, Arc<Outlet<Windowed<K>, Change<A>>>),
    Sliding(SlidingWindows, ClockIndex, Arc<Outlet<Windowed<K>, Change<A>>>),
    Sessions(SessionWindows, ClockIndex, Merger<K, A>, Arc<Outlet<Windowed<K>, Change<A>>>),
}

/// A stream of a group, whatever its values are.
trait Member<K: 'static, A: 'static> {
    /// What is known of the stream: the draft, how it is partitioned, and the topics that it comes from.
    fn handle(&self) -> (&SharedDraft, Option<&Partitioning<K>>, &[TopicIndex]);
    /// Lets it go through a repartition topic of this name, if its key has changed.
    fn partition_like(&mut self, name: &str, like: &Partitioning<K>);
    fn declare(&self, name: &str, store: StoreIndex) -> NodeId;
    fn attach(&self, id: NodeId, store: StoreIndex, initial: &Initial<A>, fold: Fold<K, A>);
}

struct Of<K: 'static, V: 'static, F> {
    stream: Stream<K, V>,
    aggregator: Arc<F>,
}

impl<K, V, A, F> Member<K, A> for Of<K, V, F>
where
    K: Data,
    V: Data,
    A: Data,
    F: Fn(&K, V, A) -> A + Send + Sync + 'static,
{
    fn handle(&self) -> (&SharedDraft, Option<&Partitioning<K>>, &[TopicIndex]) {
        (&self.stream.draft, self.stream.partitioning.as_ref(), &self.stream.upstream)
    }

    fn partition_like(&mut self, name: &str, like: &Partitioning<K>) {
        if self.stream.partitioning.is_none() {
            let key: &'static dyn Codec<K> = like.key;
            self.stream = self.stream.through(name, key, &like.topics, NullKeys::Drop);
        }
    }

    fn declare(&self, name: &str, store: StoreIndex) -> NodeId {
        self.stream.declare(Ok(name), vec![store])
    }

    fn attach(&self, id: NodeId, store: StoreIndex, initial: &Initial<A>, into: Fold<K, A>) {
        let (aggregator, begin) = (Arc::clone(&self.aggregator), Arc::clone(initial));
        let fold = move |key: &K, value: V, so_far: Option<A>| Some(aggregator(key, value, so_far.unwrap_or_else(|| begin())));
        let emit = Emit::OnUpdate;
        self.stream.out.attach(match into {
            Fold::Keyed(out) => Arc::new(Aggregate { id, store, fold, out }),
            Fold::Time(windows, clock, out) => Arc::new(WindowedAggregate { id, store, clock, windows, emit, fold, out }),
            Fold::Sliding(windows, clock, out) => Arc::new(SlidingAggregate { id, store, clock, windows, emit, fold, out }),
            Fold::Sessions(windows, clock, merger, out) => {
                let begin = Arc::clone(initial);
                let merge = move |key: &K, so_far: Option<A>, other| Some(merger(key, so_far.unwrap_or_else(|| begin()), other));
                Arc::new(SessionAggregate { id, store, clock, windows, emit, fold, merge, out })
            }
        });
    }
}
