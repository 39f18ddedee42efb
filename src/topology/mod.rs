//! The validated graph of an application: nodes, stores, topics, and the sub-topologies that tasks run.
//!
//! A sub-topology is a set of nodes that are connected by calls or share a store; sub-topologies are connected by topics alone. Nothing
//! here runs, and nothing can be changed once it is built.

mod describe;
mod draft;
mod partitions;

use std::collections::HashMap;
use std::sync::Arc;

use millstream_state::{Access, StoreId};

use crate::codec::Format;
use crate::error::ProcessError;
use crate::log::Cleanup;
use crate::record::Timestamp;
use crate::task::context::Context;
use crate::task::global::GlobalRows;
use crate::task::{Source, TimeDomain};

pub use self::draft::TopologyError;
pub(crate) use self::draft::{DELETE_RETENTION_MS, Draft, NodeDraft};

macro_rules! indexes {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
        pub(crate) struct $name(pub(crate) usize);
    )*};
}

indexes! {
    /// A node, by its place in the order of declaration.
    NodeId;
    /// A topic of the topology.
    TopicIndex;
    /// A store of the topology; the state's database numbers them alike.
    StoreIndex;
    /// A source node.
    SourceIndex;
    /// A time that an operator keeps.
    ClockIndex;
    /// A global table or a feed.
    GlobalIndex;
}

impl StoreIndex {
    pub(crate) fn id(self) -> StoreId {
        StoreId(self.0 as u32)
    }

    pub(crate) fn of(id: StoreId) -> StoreIndex {
        StoreIndex(id.0 as usize)
    }
}

/// What a node does, for people.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum NodeKind {
    Source,
    Processor,
    Sink,
}

#[derive(Debug)]
pub(crate) struct NodeDef {
    pub name: String,
    pub kind: NodeKind,
    pub parents: Vec<NodeId>,
    pub stores: Vec<StoreIndex>,
    pub topic: Option<TopicIndex>,
}

/// How rows of a store look.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum StoreKind {
    /// Key -> value.
    KeyValue,
    /// Key -> timestamp (8 bytes) and value.
    Table,
    /// Key and window -> timestamp and value; its own time is the greatest start of a window that was written to it, and rows outlive their
    /// start by the time-to-live.
    Window,
    /// As a window store, by the end of sessions in place of the start of windows.
    Session,
    /// Key and time, as a window that starts and ends there -> the values that a side of a join has seen then. Its time and what it forgets
    /// are as a window store's.
    Join,
    /// Key -> timestamp and value, of which a process has all partitions; the topic that it is read from is in a changelog's place.
    Global,
    /// Key and sequence -> [`FeedEvent`](crate::FeedEvent), likewise.
    Feed,
    /// What an operator holds back; no view.
    Buffer,
    /// What a task knows about itself; no view.
    TaskMeta,
}

impl StoreKind {
    /// The kind for people; `None` if there is no view of such a store.
    pub(crate) fn shown(self) -> Option<&'static str> {
        match self {
            StoreKind::KeyValue => Some("key-value"),
            StoreKind::Table => Some("table"),
            StoreKind::Window => Some("window"),
            StoreKind::Session => Some("session"),
            StoreKind::Join => Some("join"),
            StoreKind::Global => Some("global-table"),
            StoreKind::Feed => Some("feed"),
            StoreKind::Buffer | StoreKind::TaskMeta => None,
        }
    }

    /// Whether keys have a window, by which rows are kept.
    pub(crate) fn is_windowed(self) -> bool {
        matches!(self, StoreKind::Window | StoreKind::Session | StoreKind::Join)
    }

    /// Whether values have a timestamp before them.
    pub(crate) fn has_timestamps(self) -> bool {
        matches!(self, StoreKind::Table | StoreKind::Window | StoreKind::Session | StoreKind::Global)
    }
}

pub(crate) struct StoreDef {
    pub name: String,
    pub kind: StoreKind,
    pub access: Access,
    pub ttl_ms: Option<u64>,
    pub key: &'static dyn Format,
    pub value: &'static dyn Format,
    pub key_type: &'static str,
    pub value_type: &'static str,
}

/// What a topic is to the application.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum TopicRole {
    /// Read or written by others, too.
    External,
    /// Written and read by this application alone; as many partitions as the greatest of these topics has.
    Repartition { like: Vec<TopicIndex> },
    /// As many partitions as this topic: its dead letters.
    DeadLetters { of: TopicIndex },
    /// As many partitions as the sub-topology has tasks: dead letters to be tried again.
    Replay,
    /// As many partitions as the sub-topology has tasks.
    Changelog,
}

#[derive(Debug)]
pub(crate) struct TopicDef {
    pub name: String,
    pub role: TopicRole,
    /// The declared number; that of internal topics follows from their role.
    pub partitions: u32,
    pub cleanup: Cleanup,
}

pub(crate) struct SourceDef {
    pub topic: TopicIndex,
    /// `None` for the replay topic, whose records are dead letters and go to the source that had read them.
    pub processor: Option<Arc<dyn Source>>,
    pub replays: bool,
    pub dead_letters: TopicIndex,
}

type PunctuatorCall = Arc<dyn Fn(&mut Context, Timestamp) -> Result<(), ProcessError> + Send + Sync>;
type TimerCall = Arc<dyn Fn(&mut Context, &[u8], Timestamp) -> Result<(), ProcessError> + Send + Sync>;

pub(crate) struct Punctuator {
    pub node: NodeId,
    pub name: String,
    pub domain: TimeDomain,
    pub interval_ms: i64,
    /// When it runs first, if that was said.
    pub anchor: Option<Timestamp>,
    pub call: PunctuatorCall,
}

impl Punctuator {
    /// When it is due again that was due at `due` and runs at `now`: at the next point of its grid, however many it missed. The grid of
    /// stream time begins at 0 (KIP-138).
    pub(crate) fn next_due(&self, due: Timestamp, now: Timestamp) -> Timestamp {
        let missed = now.0.saturating_sub(due.0).div_euclid(self.interval_ms);
        due.plus_ms((missed + 1).saturating_mul(self.interval_ms))
    }
}

pub(crate) struct Timer {
    pub node: NodeId,
    pub call: TimerCall,
}

/// Connected nodes: what a task runs for one partition.
pub(crate) struct SubTopology {
    pub name: String,
    pub sources: Vec<SourceIndex>,
    /// All stores, the task's own included.
    pub stores: Vec<StoreIndex>,
    pub meta: StoreIndex,
    /// The changelog of all of them.
    pub changelog: TopicIndex,
    /// The topics that it writes, other than changelogs.
    pub writes: Vec<TopicIndex>,
    pub nodes: Vec<NodeId>,
    pub punctuators: Vec<Punctuator>,
    /// By the name of the node that sets them.
    pub timers: HashMap<String, Timer>,
}

/// A topic that a process has whole, as a table or as a feed.
pub(crate) struct GlobalDef {
    pub store: StoreIndex,
    pub topic: TopicIndex,
    pub rows: Arc<dyn GlobalRows>,
}

/// Topics that are joined: record by record, by key, so their partitions must correspond.
#[derive(Debug)]
pub(crate) struct CoPartition {
    pub node: NodeId,
    pub left: Vec<TopicIndex>,
    pub right: Vec<TopicIndex>,
}

/// A validated topology: what an application runs. Made by [`crate::StreamBuilder::build`].
pub struct Topology {
    pub(crate) application: String,
    pub(crate) nodes: Vec<NodeDef>,
    pub(crate) stores: Vec<StoreDef>,
    pub(crate) topics: Vec<TopicDef>,
    pub(crate) sources: Vec<SourceDef>,
    pub(crate) subs: Vec<SubTopology>,
    pub(crate) globals: Vec<GlobalDef>,
    /// The names under which the times of operators are kept; a bound has none.
    pub(crate) clocks: Vec<Option<String>>,
    pub(crate) copartitions: Vec<CoPartition>,
}

impl Topology {
    /// The application's name, which its internal topics begin with.
    #[must_use]
    pub fn application(&self) -> &str {
        &self.application
    }

    /// The names of its sub-topologies.
    pub fn sub_topologies(&self) -> impl Iterator<Item = &str> {
        self.subs.iter().map(|sub| sub.name.as_str())
    }

    /// The store of this name and the sub-topology that owns it. A global table or feed stands behind the sub-topologies, as if it were one:
    /// see [`Topology::global`].
    pub(crate) fn store(&self, name: &str) -> Option<(StoreIndex, usize)> {
        let index = StoreIndex(self.stores.iter().position(|store| store.name == name && store.kind.shown().is_some())?);
        let global = || Some(self.subs.len() + self.globals.iter().position(|global| global.store == index)?);
        let owner = self.subs.iter().position(|sub| sub.stores.contains(&index)).or_else(global)?;
        Some((index, owner))
    }

    /// The global table or feed that this owner of a store is, if it is no sub-topology.
    pub(crate) fn global(&self, owner: usize) -> Option<&GlobalDef> {
        self.globals.get(owner.checked_sub(self.subs.len())?)
    }

    /// The topics that the owner of a store reads.
    pub(crate) fn inputs(&self, owner: usize) -> impl Iterator<Item = TopicIndex> {
        let sources = self.subs.get(owner).map_or(&[][..], |sub| &sub.sources[..]);
        sources.iter().map(|source| self.sources[source.0].topic).chain(self.global(owner).map(|global| global.topic))
    }

    /// The topics that the owner of a store writes, other than changelogs.
    pub(crate) fn outputs(&self, owner: usize) -> &[TopicIndex] {
        self.subs.get(owner).map_or(&[][..], |sub| &sub.writes)
    }
}
