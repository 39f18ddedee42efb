//! A topology while it is declared, and its validation: every mistake is found before anything runs, and all of them at once.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use millstream_state::Access;

use super::{
    ClockIndex, CoPartition, GlobalDef, GlobalIndex, NodeDef, NodeId, NodeKind, Punctuator, SourceDef, SourceIndex, StoreDef,
    StoreIndex, StoreKind, SubTopology, Timer, TopicDef, TopicIndex, TopicRole, Topology,
};
use crate::codec::{Format, RawBytes};
use crate::log::Cleanup;
use crate::task::Source;
use crate::task::global::GlobalRows;

/// What is wrong with a topology: one sentence for each mistake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopologyError(pub Vec<String>);

impl fmt::Display for TopologyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("; "))
    }
}

impl std::error::Error for TopologyError {}

/// A topic name may have this many characters in Kafka; `.dlq` must still fit.
const MAX_TOPIC_NAME: usize = 249 - ".dlq".len();
/// Deleted keys stay visible for this long to whoever restores from an old position.
pub(crate) const DELETE_RETENTION_MS: u64 = 7 * 24 * 3_600_000;
const DEAD_LETTER_RETENTION_MS: u64 = 30 * 24 * 3_600_000;
const FOREVER: Cleanup = Cleanup::Delete { retention_ms: None, retention_bytes: None };

/// A node as it is declared; one without a name gets one from its kind and number.
pub(crate) struct NodeDraft<'a> {
    pub kind: NodeKind,
    pub name: Result<&'a str, &'static str>,
    pub parents: Vec<NodeId>,
    pub stores: Vec<StoreIndex>,
    pub topic: Option<TopicIndex>,
}

/// What the handles of the DSL write into.
pub(crate) struct Draft {
    pub application: String,
    nodes: Vec<NodeDef>,
    stores: Vec<StoreDef>,
    topics: Vec<TopicDef>,
    sources: Vec<(NodeId, TopicIndex, Arc<dyn Source>)>,
    pub punctuators: Vec<Punctuator>,
    pub timers: Vec<(String, Timer)>,
    pub copartitions: Vec<CoPartition>,
    clocks: Vec<Option<String>>,
    globals: Vec<GlobalDef>,
    pub mistakes: Vec<String>,
}

impl Draft {
    pub(crate) fn new(application: &str) -> Draft {
        let mut draft = Draft {
            application: application.to_owned(),
            nodes: Vec::new(),
            stores: Vec::new(),
            topics: Vec::new(),
            sources: Vec::new(),
            punctuators: Vec::new(),
            timers: Vec::new(),
            copartitions: Vec::new(),
            clocks: Vec::new(),
            globals: Vec::new(),
            mistakes: Vec::new(),
        };
        draft.check_name("application", application);
        draft
    }

    fn check_name(&mut self, what: &str, name: &str) {
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if name.is_empty() || name.len() > MAX_TOPIC_NAME || !name.chars().all(legal) || name == "." || name == ".." {
            self.mistakes.push(format!("{what} name {name:?} needs 1 to {MAX_TOPIC_NAME} of a-z, A-Z, 0-9, '.', '_' and '-'"));
        }
    }

    /// The topic of this name, declared now if it was not before.
    pub(crate) fn topic(&mut self, name: &str, role: TopicRole, partitions: u32, cleanup: Cleanup) -> TopicIndex {
        if let Some(i) = self.topics.iter().position(|topic| topic.name == name) {
            let known = &self.topics[i];
            if known.role != role || (role == TopicRole::External && (known.partitions, known.cleanup) != (partitions, cleanup)) {
                self.mistakes.push(format!("topic {name:?} is declared twice with different settings"));
            }
            return TopicIndex(i);
        }
        self.check_name("topic", name);
        if partitions == 0 {
            self.mistakes.push(format!("topic {name:?} has no partitions"));
        }
        self.topics.push(TopicDef { name: name.to_owned(), role, partitions, cleanup });
        TopicIndex(self.topics.len() - 1)
    }

    /// An internal topic between two sub-topologies, with as many partitions as the greatest of `like` has.
    pub(crate) fn repartition_topic(&mut self, name: &str, like: &[TopicIndex]) -> TopicIndex {
        let name = format!("{}-{name}-repartition", self.application);
        if self.topics.iter().any(|topic| topic.name == name) {
            self.mistakes.push(format!("two repartition topics are named {name:?}"));
        }
        self.topic(&name, TopicRole::Repartition { like: like.to_vec() }, 1, FOREVER)
    }

    pub(crate) fn topic_name(&self, topic: TopicIndex) -> &str {
        &self.topics[topic.0].name
    }

    /// The store of this name, declared now if it was not before.
    pub(crate) fn store(
        &mut self,
        name: &str,
        kind: StoreKind,
        access: Access,
        ttl_ms: Option<u64>,
        key: (&'static dyn Format, &'static str),
        value: (&'static dyn Format, &'static str),
    ) -> StoreIndex {
        if let Some(i) = self.stores.iter().position(|store| store.name == name) {
            let known = &self.stores[i];
            let same = (known.kind, known.access, known.ttl_ms) == (kind, access, ttl_ms)
                && (known.key_type, known.value_type) == (key.1, value.1);
            if !same || kind != StoreKind::KeyValue {
                self.mistakes.push(format!("two stores are named {name:?}"));
            }
            return StoreIndex(i);
        }
        self.add_store(name, kind, access, ttl_ms, key, value)
    }

    fn add_store(
        &mut self,
        name: &str,
        kind: StoreKind,
        access: Access,
        ttl_ms: Option<u64>,
        key: (&'static dyn Format, &'static str),
        value: (&'static dyn Format, &'static str),
    ) -> StoreIndex {
        self.check_name("store", name);
        self.stores.push(StoreDef {
            name: name.to_owned(),
            kind,
            access,
            ttl_ms,
            key: key.0,
            value: value.0,
            key_type: key.1,
            value_type: value.1,
        });
        StoreIndex(self.stores.len() - 1)
    }

    /// The topic as a table that every process has whole.
    pub(crate) fn global_table(
        &mut self,
        name: &str,
        topic: TopicIndex,
        key: (&'static dyn Format, &'static str),
        value: (&'static dyn Format, &'static str),
        rows: Arc<dyn GlobalRows>,
    ) -> GlobalIndex {
        let known = &self.topics[topic.0];
        if !matches!(known.cleanup, FOREVER | Cleanup::Compact { .. }) {
            let topic = &known.name;
            self.mistakes.push(format!(
                "global table {name:?} is of topic {topic:?}, which forgets: make it compacted or keep it forever"
            ));
        }
        self.global((name, StoreKind::Global, Access::Keyed, None), topic, key, value, rows)
    }

    /// The topic as the events of its keys, each kept for so long.
    pub(crate) fn feed(
        &mut self,
        name: &str,
        ttl_ms: Option<u64>,
        topic: TopicIndex,
        key: (&'static dyn Format, &'static str),
        value: (&'static dyn Format, &'static str),
        rows: Arc<dyn GlobalRows>,
    ) {
        let known = &self.topics[topic.0];
        let forgets_first = match (known.cleanup, ttl_ms) {
            (Cleanup::Compact { .. }, _) => true,
            (Cleanup::Delete { retention_ms: Some(retention_ms), .. }, ttl_ms) => {
                ttl_ms.is_none_or(|ttl_ms| retention_ms < ttl_ms)
            }
            (Cleanup::Delete { retention_ms: None, .. }, _) => false,
        };
        if forgets_first {
            let topic = &known.name;
            self.mistakes.push(format!("feed {name:?} is of topic {topic:?}, which forgets events before the feed does"));
        }
        self.global((name, StoreKind::Feed, Access::Ordered, ttl_ms), topic, key, value, rows);
    }

    fn global(
        &mut self,
        (name, kind, access, ttl_ms): (&str, StoreKind, Access, Option<u64>),
        topic: TopicIndex,
        key: (&'static dyn Format, &'static str),
        value: (&'static dyn Format, &'static str),
        rows: Arc<dyn GlobalRows>,
    ) -> GlobalIndex {
        if self.stores.iter().any(|store| store.name == name) {
            self.mistakes.push(format!("two stores are named {name:?}"));
        }
        let store = self.add_store(name, kind, access, ttl_ms, key, value);
        self.globals.push(GlobalDef { store, topic, rows });
        GlobalIndex(self.globals.len() - 1)
    }

    pub(crate) fn node(&mut self, node: NodeDraft<'_>) -> NodeId {
        let id = NodeId(self.nodes.len());
        let name = match node.name {
            Ok(name) => name.to_owned(),
            Err(base) => format!("{base}-{}", id.0),
        };
        if self.nodes.iter().any(|other| other.name == name) {
            self.mistakes.push(format!("two nodes are named {name:?}"));
        }
        let NodeDraft { kind, parents, stores, topic, .. } = node;
        self.nodes.push(NodeDef { name, kind, parents, stores, topic });
        id
    }

    /// A time that an operator keeps, across restarts if it has a name.
    pub(crate) fn clock(&mut self, name: Option<&str>) -> ClockIndex {
        self.clocks.push(name.map(str::to_owned));
        ClockIndex(self.clocks.len() - 1)
    }

    pub(crate) fn source(&mut self, node: NodeId, topic: TopicIndex, processor: Arc<dyn Source>) {
        if self.sources.iter().any(|(_, known, _)| *known == topic) {
            let name = self.topic_name(topic).to_owned();
            self.mistakes.push(format!("topic {name:?} is read twice; read it once and use the handle twice"));
        }
        self.sources.push((node, topic, processor));
    }

    /// Two sides that are joined by key.
    pub(crate) fn copartition(&mut self, node: NodeId, left: (&[TopicIndex], &str), right: (&[TopicIndex], &str)) {
        if left.1 != right.1 {
            let name = &self.nodes[node.0].name;
            let (left, right) = (left.1, right.1);
            self.mistakes.push(format!("{name:?} joins keys that are encoded as {left} with keys that are encoded as {right}"));
        }
        self.copartitions.push(CoPartition { node, left: left.0.to_vec(), right: right.0.to_vec() });
    }

    /// The validated topology.
    pub(crate) fn build(mut self) -> Result<Topology, TopologyError> {
        if self.sources.is_empty() {
            self.mistakes.push("the topology reads no topic".to_owned());
        }
        for (i, global) in self.globals.iter().enumerate() {
            let read = self.sources.iter().map(|(_, topic, _)| *topic).chain(self.globals[..i].iter().map(|other| other.topic));
            if read.into_iter().any(|topic| topic == global.topic) {
                let name = &self.topics[global.topic.0].name;
                let what = if self.stores[global.store.0].kind == StoreKind::Feed { "feed" } else { "global table" };
                self.mistakes.push(format!("topic {name:?} is a {what} and is read otherwise, too"));
            }
        }
        if !self.mistakes.is_empty() {
            return Err(TopologyError(self.mistakes));
        }
        let component = self.components();
        let mut by_component: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (i, (node, ..)) in self.sources.iter().enumerate() {
            by_component.entry(component[node.0]).or_default().push(i);
        }
        let mut sources: Vec<SourceDef> = Vec::new();
        let mut subs = Vec::new();
        let declared: Vec<_> = self.sources.iter().map(|(_, topic, processor)| (*topic, Arc::clone(processor))).collect();
        for (root, members) in by_component {
            let mut own = Vec::new();
            for i in members {
                let (topic, processor) = (declared[i].0, Some(Arc::clone(&declared[i].1)));
                let dead_letters = self.dead_letters(topic);
                own.push(SourceIndex(sources.len()));
                sources.push(SourceDef { topic, processor, replays: false, dead_letters });
            }
            let name = self.sub_name(sources[own[0].0].topic);
            let replay = format!("{}-{name}-replay", self.application);
            let topic = self.topic(&replay, TopicRole::Replay, 1, FOREVER);
            let dead_letters = sources[own[0].0].dead_letters;
            own.push(SourceIndex(sources.len()));
            sources.push(SourceDef { topic, processor: None, replays: true, dead_letters });
            let dead_letters = own.iter().map(|source| sources[source.0].dead_letters).collect();
            subs.push(self.sub_topology(name, &component, root, own, dead_letters));
        }
        if !self.mistakes.is_empty() {
            return Err(TopologyError(self.mistakes));
        }
        let topology = Topology {
            application: self.application,
            nodes: self.nodes,
            stores: self.stores,
            topics: self.topics,
            sources,
            subs,
            globals: self.globals,
            clocks: self.clocks,
            copartitions: self.copartitions,
        };
        topology.partitions(|_| None)?;
        Ok(topology)
    }

    /// A sub-topology is named by the first topic that it reads.
    fn sub_name(&self, topic: TopicIndex) -> String {
        let name = self.topic_name(topic);
        let internal = name.strip_prefix(&format!("{}-", self.application)).and_then(|name| name.strip_suffix("-repartition"));
        internal.unwrap_or(name).to_owned()
    }

    fn dead_letters(&mut self, of: TopicIndex) -> TopicIndex {
        let name = format!("{}.dlq", self.topic_name(of));
        let cleanup = Cleanup::Delete { retention_ms: Some(DEAD_LETTER_RETENTION_MS), retention_bytes: None };
        self.topic(&name, TopicRole::DeadLetters { of }, 1, cleanup)
    }

    fn sub_topology(
        &mut self,
        name: String,
        component: &[usize],
        root: usize,
        sources: Vec<SourceIndex>,
        dead_letters: Vec<TopicIndex>,
    ) -> SubTopology {
        let nodes: Vec<NodeId> = (0..self.nodes.len()).filter(|i| component[*i] == root).map(NodeId).collect();
        let mut stores: Vec<StoreIndex> = nodes.iter().flat_map(|node| self.nodes[node.0].stores.clone()).collect();
        let raw: (&'static dyn Format, _) = (&RawBytes, "bytes");
        let meta = self.store(&format!("meta.{name}"), StoreKind::TaskMeta, Access::Ordered, None, raw, raw);
        stores.sort_unstable();
        stores.dedup();
        // The last of them, and so of each commit.
        stores.push(meta);
        let changelog = format!("{}-{name}-changelog", self.application);
        let cleanup = Cleanup::Compact { delete_retention_ms: DELETE_RETENTION_MS };
        let changelog = self.topic(&changelog, TopicRole::Changelog, 1, cleanup);
        let sinks = nodes.iter().map(|node| &self.nodes[node.0]).filter(|node| node.kind == NodeKind::Sink);
        let mut writes: Vec<TopicIndex> = sinks.filter_map(|node| node.topic).chain(dead_letters).collect();
        writes.sort_unstable();
        writes.dedup();
        let own: HashSet<NodeId> = nodes.iter().copied().collect();
        let (punctuators, others) = std::mem::take(&mut self.punctuators).into_iter().partition(|p| own.contains(&p.node));
        self.punctuators = others;
        let (timers, others): (Vec<_>, _) =
            std::mem::take(&mut self.timers).into_iter().partition(|(_, t)| own.contains(&t.node));
        self.timers = others;
        SubTopology {
            name,
            sources,
            stores,
            meta,
            changelog,
            writes,
            nodes,
            punctuators,
            timers: timers.into_iter().collect::<HashMap<_, _>>(),
        }
    }

    /// For each node the smallest node that it is connected with by calls or by a store.
    fn components(&self) -> Vec<usize> {
        fn root(parent: &mut [usize], mut i: usize) -> usize {
            while parent[i] != i {
                parent[i] = parent[parent[i]];
                i = parent[i];
            }
            i
        }
        let mut parent: Vec<usize> = (0..self.nodes.len()).collect();
        let mut user_of: HashMap<StoreIndex, usize> = HashMap::new();
        for (i, node) in self.nodes.iter().enumerate() {
            let sharers = node.stores.iter().map(|store| *user_of.entry(*store).or_insert(i));
            for other in node.parents.iter().map(|id| id.0).chain(sharers.collect::<Vec<_>>()) {
                let (a, b) = (root(&mut parent, i), root(&mut parent, other));
                parent[a.max(b)] = a.min(b);
            }
        }
        (0..parent.len()).map(|i| root(&mut parent, i)).collect()
    }
}
