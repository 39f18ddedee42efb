//! Grouped records in windows of time, waiting to be folded, and the tables that they are folded into.

use std::sync::Arc;

use millstream_state::Access;

use super::grouped::{aggregating, counting, reducing};
use super::table::to_stream;
use super::{Grouped, SharedDraft, Stream, declare_store};
use crate::codec::Data;
use crate::operators::windowed_aggregate::{Emit, WindowedAggregate};
use crate::operators::{Change, Outlet};
use crate::task::context::WaitingList;
use crate::topology::{NodeId, StoreKind, TopicIndex};
use crate::windows::{TimeWindows, Windowed};

/// A grouped stream in windows. Each fold names its store, which names its changelog and its view.
pub struct WindowedStream<K: 'static, V: 'static, W> {
    pub(super) stream: Stream<K, V>,
    pub(super) windows: W,
    pub(super) retention_ms: Option<i64>,
    pub(super) on_close: bool,
}

impl<K: Data, V: Data> Grouped<K, V> {
    /// Puts the records of a key together by windows of time.
    ///
    /// ```
    /// use millstream::testing::TestDriver;
    /// use millstream::{Record, StreamBuilder, TimeWindows, Timestamp, Topic, Windowed};
    ///
    /// const ORDERS: Topic<String, u64> = Topic::new("orders");
    /// const TOTALS: Topic<Windowed<String>, u64> = Topic::new("totals");
    ///
    /// let mut builder = StreamBuilder::new("example");
    /// let per_minute = builder.stream(&ORDERS).group_by_key().windowed_by(TimeWindows::tumbling_ms(60_000));
    /// per_minute.emit_on_close().reduce("totals", |sum, n| sum + n).to_stream().to(&TOTALS);
    ///
    /// let mut driver = TestDriver::new(builder.build()?);
    /// for (amount, at) in [(5, 1_000), (7, 59_999), (1, 60_000)] {
    ///     driver.pipe(&ORDERS, &Record::new("tea".to_owned(), amount, Timestamp(at)));
    /// }
    /// let closed = Windowed { key: "tea".to_owned(), start: Timestamp(0), end: Timestamp(60_000) };
    /// assert_eq!(driver.read(&TOTALS), [Record::new(closed, 12, Timestamp(59_999))]);
    /// # Ok::<(), millstream::TopologyError>(())
    /// ```
    pub fn windowed_by<W>(&self, windows: W) -> WindowedStream<K, V, W> {
        WindowedStream { stream: self.stream.clone(), windows, retention_ms: None, on_close: false }
    }
}

impl<K: Data, V: Data, W> WindowedStream<K, V, W> {
    /// How long after its start a window stays in the store, in the store's own time, the greatest start of a window that was written to
    /// it. As long as it may change, unless it is set; not less.
    #[must_use]
    pub fn retention_ms(self, retention_ms: i64) -> Self {
        WindowedStream { retention_ms: Some(retention_ms), ..self }
    }

    /// Emits each window once, when it is closed, in place of each update.
    #[must_use]
    pub fn emit_on_close(self) -> Self {
        WindowedStream { on_close: true, ..self }
    }

    /// How long the store keeps a window, given how long it may change.
    pub(super) fn retention(&self, store: &str, lifetime_ms: i64) -> u64 {
        let retention_ms = self.retention_ms.unwrap_or(lifetime_ms);
        if retention_ms < lifetime_ms {
            self.mistake(format!(
                "store {store:?} keeps windows for {retention_ms} ms, but they may change for {lifetime_ms} ms: their size and grace"
            ));
        }
        retention_ms.max(0).unsigned_abs()
    }

    pub(super) fn mistake(&self, mistake: String) {
        self.stream.draft.borrow_mut().mistakes.push(mistake);
    }

    /// When the operator of this name emits.
    pub(super) fn emit(&self, name: &str) -> Emit {
        if self.on_close {
            let bound = self.stream.draft.borrow_mut().clock(None);
            Emit::OnClose(WaitingList { name: name.to_owned(), bound })
        } else {
            Emit::OnUpdate
        }
    }
}

impl<K: Data, V: Data> WindowedStream<K, V, TimeWindows> {
    /// How many records each key had in each window.
    pub fn count(&self, store: &str) -> WindowedTable<K, u64> {
        self.fold(store, counting())
    }

    /// The values of each key and window reduced to one; the first is taken as it is.
    pub fn reduce(&self, store: &str, reducer: impl Fn(V, V) -> V + Send + Sync + 'static) -> WindowedTable<K, V> {
        self.fold(store, reducing(reducer))
    }

    /// The values of each key and window folded into an aggregate, beginning with `initial`.
    pub fn aggregate<A: Data>(
        &self,
        store: &str,
        initial: impl Fn() -> A + Send + Sync + 'static,
        aggregator: impl Fn(&K, V, A) -> A + Send + Sync + 'static,
    ) -> WindowedTable<K, A> {
        self.fold(store, aggregating(initial, aggregator))
    }

    fn fold<A: Data>(
        &self,
        name: &str,
        fold: impl Fn(&K, V, Option<A>) -> Option<A> + Send + Sync + 'static,
    ) -> WindowedTable<K, A> {
        if let Some(mistake) = self.windows.mistake() {
            self.mistake(format!("store {name:?} is of {mistake}"));
        }
        if self.on_close && self.windows.lifetime_ms() == i64::MAX {
            self.mistake(format!("store {name:?} is emitted when its windows close, which never end"));
        }
        let stream = self.stream.partitioned(name);
        let retention_ms = self.retention(name, self.windows.lifetime_ms());
        let store = declare_store::<Windowed<K>, A>(&stream.draft, name, StoreKind::Window, Access::Ordered, Some(retention_ms));
        let id = stream.declare(Ok(name), vec![store]);
        let clock = stream.draft.borrow_mut().clock(Some(name));
        let (windows, emit, out) = (self.windows, self.emit(name), Outlet::new());
        stream.out.attach(Arc::new(WindowedAggregate { id, store, clock, windows, emit, fold, out: Arc::clone(&out) }));
        WindowedTable { draft: stream.draft.clone(), node: id, out, upstream: stream.upstream, grace_ms: self.windows.grace() }
    }
}

/// A table of keys and windows: a value for each.
pub struct WindowedTable<K: 'static, V: 'static> {
    pub(super) draft: SharedDraft,
    pub(super) node: NodeId,
    pub(super) out: Arc<Outlet<Windowed<K>, Change<V>>>,
    pub(super) upstream: Vec<TopicIndex>,
    /// How long after its end a window closes.
    pub(super) grace_ms: i64,
}

impl<K: Data, V: Data> WindowedTable<K, V> {
    /// The table's updates: the new value, or `None` where it was deleted. Their keys are windowed: a step by key after this goes through a
    /// repartition topic.
    pub fn to_stream(&self) -> Stream<Windowed<K>, Option<V>> {
        to_stream(&self.draft, self.node, &self.out, self.upstream.clone(), None)
    }
}
