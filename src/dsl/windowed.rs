//! Grouped records in windows of time, waiting to be folded, and the tables that they are folded into.

use std::rc::Rc;
use std::sync::Arc;

use millstream_state::Access;

use super::grouped::{aggregating, counting, reducing};
use super::table::to_stream;
use super::{Grouped, SharedDraft, Stream, declare_store};
use crate::codec::Data;
use crate::operators::sliding_aggregate::SlidingAggregate;
use crate::operators::windowed_aggregate::{Emit, WindowedAggregate};
use crate::operators::{Change, Outlet};
use crate::task::context::WaitingList;
use crate::topology::{ClockIndex, NodeId, StoreIndex, StoreKind, TopicIndex};
use crate::windows::{SlidingWindows, TimeWindows, Windowed};

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
    /// How long after its start (a session: its end) a window stays in the store, in the store's own time, the greatest such time of a window
    /// that was written to it. As long as it may change, unless it is set; not less.
    #[must_use]
    pub fn retention_ms(self, retention_ms: i64) -> Self {
        WindowedStream { retention_ms: Some(retention_ms), ..self }
    }

    /// Emits each window once, when it is closed, in place of each update.
    #[must_use]
    pub fn emit_on_close(self) -> Self {
        WindowedStream { on_close: true, ..self }
    }

    pub(super) fn mistake(&self, mistake: String) {
        self.stream.draft.borrow_mut().mistakes.push(mistake);
    }

    /// What every fold over windows declares, which may change for so long.
    pub(super) fn declare<A: Data>(&self, name: &str, kind: StoreKind, lifetime_ms: i64) -> Folding<K, V> {
        let stream = self.stream.partitioned(name);
        let store = declare_window_store::<K, A>(&stream.draft, name, kind, self.retention_ms, lifetime_ms);
        let id = stream.declare(Ok(name), vec![store]);
        let mut draft = stream.draft.borrow_mut();
        let clock = draft.clock(Some(name));
        let emit = if self.on_close {
            Emit::OnClose(WaitingList { name: name.to_owned(), bound: draft.clock(None) })
        } else {
            Emit::OnUpdate
        };
        drop(draft);
        Folding { stream, id, store, clock, emit }
    }
}

/// An operator that folds records into a store of windows, as it is declared.
pub(super) struct Folding<K: 'static, V: 'static> {
    pub(super) stream: Stream<K, V>,
    pub(super) id: NodeId,
    pub(super) store: StoreIndex,
    pub(super) clock: ClockIndex,
    pub(super) emit: Emit,
}

/// A store of windows that may change for so long.
pub(super) fn declare_window_store<K: Data, A: Data>(
    draft: &SharedDraft,
    name: &str,
    kind: StoreKind,
    retention_ms: Option<i64>,
    lifetime_ms: i64,
) -> StoreIndex {
    let retention_ms = retention_ms.unwrap_or(lifetime_ms);
    if retention_ms < lifetime_ms {
        draft.borrow_mut().mistakes.push(format!(
            "store {name:?} keeps windows for {retention_ms} ms, but they may change for {lifetime_ms} ms: their size or gap, and grace"
        ));
    }
    let retention_ms = Some(retention_ms.max(0).unsigned_abs());
    declare_store::<Windowed<K>, A>(draft, name, kind, Access::Ordered, retention_ms)
}

/// The table that comes out of a fold over windows, which close so long after their end.
pub(super) fn windowed_table<K: Data, A: Data>(
    draft: &SharedDraft,
    node: NodeId,
    out: Arc<Outlet<Windowed<K>, Change<A>>>,
    upstream: Vec<TopicIndex>,
    closes_after_ms: i64,
) -> WindowedTable<K, A> {
    WindowedTable { draft: Rc::clone(draft), node, out, upstream, closes_after_ms }
}

/// The folds over windows whose bounds do not depend on other records.
macro_rules! folds {
    ($windows:ty, $operator:ident) => {
        impl<K: Data, V: Data> WindowedStream<K, V, $windows> {
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
                let Folding { stream, id, store, clock, emit } =
                    self.declare::<A>(name, StoreKind::Window, self.windows.lifetime_ms());
                let (windows, out) = (self.windows, Outlet::new());
                stream.out.attach(Arc::new($operator { id, store, clock, windows, emit, fold, out: Arc::clone(&out) }));
                windowed_table(&stream.draft, id, out, stream.upstream, windows.grace())
            }
        }
    };
}

folds!(TimeWindows, WindowedAggregate);
folds!(SlidingWindows, SlidingAggregate);

/// A table of keys and windows: a value for each.
pub struct WindowedTable<K: 'static, V: 'static> {
    pub(super) draft: SharedDraft,
    pub(super) node: NodeId,
    pub(super) out: Arc<Outlet<Windowed<K>, Change<V>>>,
    pub(super) upstream: Vec<TopicIndex>,
    /// How long after its end a window closes.
    pub(super) closes_after_ms: i64,
}

impl<K: Data, V: Data> WindowedTable<K, V> {
    /// The table's updates: the new value, or `None` where it was deleted. Their keys are windowed: a step by key after this goes through a
    /// repartition topic.
    pub fn to_stream(&self) -> Stream<Windowed<K>, Option<V>> {
        to_stream(&self.draft, self.node, &self.out, self.upstream.clone(), None)
    }
}
