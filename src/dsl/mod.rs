//! The typed handles with which a topology is declared. Declaring has no effect but on the builder; mistakes are collected and reported
//! by `build`, all at once.

mod cogroup;
mod global;
mod grouped;
mod process;
mod sessions;
mod stream;
mod stream_join;
mod suppress;
mod table;
mod windowed;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use millstream_state::Access;

pub use self::cogroup::{Cogrouped, WindowedCogroup};
pub use self::global::GlobalTable;
pub use self::grouped::Grouped;
pub use self::process::Process;
pub use self::stream::Stream;
pub use self::table::Table;
pub use self::windowed::{WindowedStream, WindowedTable};
use crate::codec::{Codec, Data};
use crate::operators::Outlet;
use crate::operators::source::{StreamSource, TableSource};
use crate::task::Source;
use crate::topic::Topic;
use crate::topology::{
    Draft, NodeDraft, NodeId, NodeKind, StoreIndex, StoreKind, TopicIndex, TopicRole, Topology, TopologyError,
};

type SharedDraft = Rc<RefCell<Draft>>;

/// Declares a topology.
///
/// ```
/// use millstream::{StreamBuilder, Topic};
///
/// const LINES: Topic<String, String> = Topic::new("lines");
/// const COUNTS: Topic<String, u64> = Topic::new("counts");
///
/// let mut builder = StreamBuilder::new("word-count");
/// builder
///     .stream(&LINES)
///     .flat_map_values(|line: String| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
///     .group_by("by-word", |_, word| word.clone()) // through the topic word-count-by-word-repartition
///     .count("counts") // a store with a changelog, and a view
///     .to_stream()
///     .to(&COUNTS);
/// let topology = builder.build()?;
/// # Ok::<(), millstream::TopologyError>(())
/// ```
pub struct StreamBuilder {
    draft: SharedDraft,
}

/// How the records of a handle lie in partitions: by the bytes of this codec, in the partitions of these topics.
struct Partitioning<K: 'static> {
    key: &'static dyn Codec<K>,
    topics: Vec<TopicIndex>,
}

impl<K: 'static> Clone for Partitioning<K> {
    fn clone(&self) -> Self {
        Partitioning { key: self.key, topics: self.topics.clone() }
    }
}

impl StreamBuilder {
    /// A builder for the application of this name, which its internal topics begin with.
    #[must_use]
    pub fn new(application: &str) -> StreamBuilder {
        StreamBuilder { draft: Rc::new(RefCell::new(Draft::new(application))) }
    }

    /// The application's name.
    pub(crate) fn application(&self) -> String {
        self.draft.borrow().application.clone()
    }

    /// The records of a topic.
    pub fn stream<K: Data, V: Data>(&mut self, topic: &Topic<K, V>) -> Stream<K, V> {
        let (key, value, max_ahead_ms) = (topic.key_codec(), topic.value_codec(), topic.bound_ms());
        let out = Outlet::new();
        let (id, index) = declare_source(&self.draft, topic, |id| {
            Arc::new(StreamSource { id, key, value, max_ahead_ms, out: Arc::clone(&out) })
        });
        let partitioning = Some(Partitioning { key, topics: vec![index] });
        Stream { draft: Rc::clone(&self.draft), node: id, out, upstream: vec![index], partitioning }
    }

    /// A topic as a table: the last value of each key, kept in the store of this name. A null value deletes.
    pub fn table<K: Data, V: Data>(&mut self, topic: &Topic<K, V>, store: &str) -> Table<K, V> {
        let (key, value, max_ahead_ms) = (topic.key_codec(), topic.value_codec(), topic.bound_ms());
        let out = Outlet::new();
        let (id, index) = declare_source(&self.draft, topic, |id| {
            Arc::new(TableSource { id, key, value, max_ahead_ms, out: Arc::clone(&out) })
        });
        let partitioning = Some(Partitioning { key, topics: vec![index] });
        let updates = Stream { draft: Rc::clone(&self.draft), node: id, out, upstream: vec![index], partitioning };
        updates.materialize(store)
    }

    /// Validates what was declared.
    ///
    /// # Errors
    /// Everything that is wrong with it, a sentence each.
    ///
    /// # Panics
    /// If handles of this builder are still in use elsewhere while it is built: a programming error.
    pub fn build(self) -> Result<Topology, TopologyError> {
        let draft = self.draft.replace(Draft::new("built"));
        draft.build()
    }
}

fn declare_source<K: 'static, V: 'static, S>(
    draft: &SharedDraft,
    topic: &Topic<K, V>,
    source: impl FnOnce(NodeId) -> Arc<S>,
) -> (NodeId, TopicIndex)
where
    S: Source + 'static,
{
    let mut draft = draft.borrow_mut();
    let spec = topic.spec();
    let index = draft.topic(&spec.name, TopicRole::External, spec.partitions, spec.cleanup);
    let id = draft.node(NodeDraft {
        kind: NodeKind::Source,
        name: Ok(&format!("from-{}", spec.name)),
        parents: Vec::new(),
        stores: Vec::new(),
        topic: Some(index),
    });
    draft.source(id, index, source(id));
    (id, index)
}

fn declare_store<K: Data, V: Data>(
    draft: &SharedDraft,
    name: &str,
    kind: StoreKind,
    access: Access,
    ttl_ms: Option<u64>,
) -> StoreIndex {
    let key = (K::CODEC as &'static dyn crate::codec::Format, std::any::type_name::<K>());
    let value = (V::CODEC as &'static dyn crate::codec::Format, std::any::type_name::<V>());
    draft.borrow_mut().store(name, kind, access, ttl_ms, key, value)
}
