//! Grouped records in sessions, and the tables that they are folded into.

use std::sync::Arc;

use super::WindowedTable;
use super::windowed::{Folding, WindowedStream, windowed_table};
use crate::codec::Data;
use crate::operators::Outlet;
use crate::operators::session_aggregate::SessionAggregate;
use crate::topology::StoreKind;
use crate::windows::SessionWindows;

/// ```
/// use millstream::testing::TestDriver;
/// use millstream::{Record, SessionWindows, StreamBuilder, Timestamp, Topic, Windowed};
///
/// const CLICKS: Topic<String, u64> = Topic::new("clicks");
/// const VISITS: Topic<Windowed<String>, u64> = Topic::new("visits");
///
/// let mut builder = StreamBuilder::new("example");
/// let visits = builder.stream(&CLICKS).group_by_key().windowed_by(SessionWindows::gap_ms(60_000));
/// visits.emit_on_close().count("visits").to_stream().flat_map_values(|clicks| clicks).to(&VISITS);
///
/// let mut driver = TestDriver::new(builder.build()?);
/// for at in [0, 50_000, 100_000, 500_000] {
///     driver.pipe(&CLICKS, &Record::new("ann".to_owned(), 1, Timestamp(at)));
/// }
/// let visit = Windowed { key: "ann".to_owned(), start: Timestamp(0), end: Timestamp(100_000) };
/// assert_eq!(driver.read(&VISITS), [Record::new(visit, 3, Timestamp(100_000))]);
/// # Ok::<(), millstream::TopologyError>(())
/// ```
///
/// An update of a session that grows or merges is a deletion of each session that it was, then the new one. Windows end with the time of
/// their last record.
impl<K: Data, V: Data> WindowedStream<K, V, SessionWindows> {
    /// How many records each session had.
    pub fn count(&self, store: &str) -> WindowedTable<K, u64> {
        let merge = |_: &K, so_far: Option<u64>, other| Some(so_far.unwrap_or(0) + other);
        self.fold(store, |_, _, count: Option<u64>| Some(count.unwrap_or(0) + 1), merge)
    }

    /// The values of each session reduced to one; the first is taken as it is. What two sessions came to is reduced likewise when they merge.
    pub fn reduce(&self, store: &str, reducer: impl Fn(V, V) -> V + Send + Sync + 'static) -> WindowedTable<K, V> {
        let reduce = Arc::new(move |so_far: Option<V>, value| {
            Some(match so_far {
                Some(so_far) => reducer(so_far, value),
                None => value,
            })
        });
        let merge = Arc::clone(&reduce);
        self.fold(store, move |_, value, so_far| reduce(so_far, value), move |_, so_far, other| merge(so_far, other))
    }

    /// The values of each session folded into an aggregate, beginning with `initial`. When sessions merge, so do their aggregates, the earlier
    /// one first, beginning with `initial` too.
    pub fn aggregate<A: Data>(
        &self,
        store: &str,
        initial: impl Fn() -> A + Send + Sync + 'static,
        aggregator: impl Fn(&K, V, A) -> A + Send + Sync + 'static,
        merger: impl Fn(&K, A, A) -> A + Send + Sync + 'static,
    ) -> WindowedTable<K, A> {
        let initial = Arc::new(initial);
        let begin = Arc::clone(&initial);
        self.fold(
            store,
            move |key, value, so_far: Option<A>| Some(aggregator(key, value, so_far.unwrap_or_else(|| initial()))),
            move |key, so_far: Option<A>, other| Some(merger(key, so_far.unwrap_or_else(|| begin()), other)),
        )
    }

    fn fold<A: Data>(
        &self,
        name: &str,
        fold: impl Fn(&K, V, Option<A>) -> Option<A> + Send + Sync + 'static,
        merge: impl Fn(&K, Option<A>, A) -> Option<A> + Send + Sync + 'static,
    ) -> WindowedTable<K, A> {
        if let Some(mistake) = self.windows.mistake() {
            self.mistake(format!("store {name:?} is of {mistake}"));
        }
        let Folding { stream, id, store, clock, emit } = self.declare::<A>(name, StoreKind::Session, self.windows.lifetime_ms());
        let (windows, out) = (self.windows, Outlet::new());
        stream.out.attach(Arc::new(SessionAggregate { id, store, clock, windows, emit, fold, merge, out: Arc::clone(&out) }));
        windowed_table(&stream.draft, id, out, stream.upstream, windows.lifetime_ms())
    }
}
