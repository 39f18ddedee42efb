//! What a database is opened with, and the names and numbers that stores, tasks and positions have.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::disk::MemoryDisk;
use crate::error::Error;
use crate::flush::FlushReport;

/// What [`Db::open`](crate::Db::open) needs to know. [`Options::new`] gives the defaults.
pub struct Options {
    /// Where the rows lie.
    pub home: Home,
    /// Every store of the program. A [`StoreId`] is a place in this list.
    pub stores: Vec<StoreSpec>,
    /// What must still be so when the directory is opened again, by name: see [`OpenError::Incompatible`](crate::OpenError::Incompatible).
    pub fingerprint: BTreeMap<String, String>,
    /// The life of the program that the state is of; empty for the first. A directory of another one is emptied when it is opened.
    pub incarnation: String,
    /// Bytes for everything in memory: rows with their buckets, block cache, and what a flush and RocksDB need to work. Default 256 MiB.
    pub memory_budget_bytes: usize,
    /// Whether a thread of the database flushes by itself (default). Without it, `flush` and `make_room` do it on the caller's thread, which
    /// makes a single-threaded test repeatable.
    pub background: bool,
    /// The longest that a committed row waits for its flush under load. Default 30 s.
    pub flush_every: Duration,
    /// How long there must have been no commit for a flush to happen before that. Default 1 s.
    pub flush_when_idle_for: Duration,
    /// Runs on the flushing thread right before rows become durable, all of which were committed before it is called. It is for a log that is
    /// not synced by each commit, and syncs it: a state on disk that is newer than its log is wrong. Its error stops the flush.
    pub before_sync: Option<Arc<dyn Fn() -> io::Result<()> + Send + Sync>>,
    /// Hears how every flush ended, on the flushing thread and before the next one begins. It must neither flush nor own a `Db`. After an
    /// error nothing is lost: the rows stay in memory, and the database's own thread tries again after a second.
    pub after_flush: Option<AfterFlush>,
}

/// See [`Options::after_flush`].
pub type AfterFlush = Arc<dyn Fn(Result<&FlushReport, &Error>) + Send + Sync>;

impl Options {
    /// The defaults, for these stores in this home.
    #[must_use]
    pub fn new(home: Home, stores: Vec<StoreSpec>) -> Options {
        Options {
            home,
            stores,
            fingerprint: BTreeMap::new(),
            incarnation: String::new(),
            memory_budget_bytes: 256 << 20,
            background: true,
            flush_every: Duration::from_secs(30),
            flush_when_idle_for: Duration::from_secs(1),
            before_sync: None,
            after_flush: None,
        }
    }
}

/// Where a database keeps its rows.
#[derive(Clone, Debug)]
pub enum Home {
    /// A RocksDB in this directory, which is made where it is missing.
    Directory(PathBuf),
    /// Memory, for tests and for state that is cheap to rebuild.
    Memory(MemoryDisk),
}

/// A store as the program declares it.
#[derive(Clone, Debug)]
pub struct StoreSpec {
    /// Its name: unique, not empty, not "default". It is the name of its column family too, by which what is on disk is found.
    pub name: String,
    /// How it is read.
    pub access: Access,
    /// How long a row lives after the time it was written with, in stream time; `None` is for ever. A store cannot change between `None` and
    /// a number, for the rows look different; it can change the number.
    pub ttl_ms: Option<u64>,
}

impl StoreSpec {
    /// A store without time-to-live.
    #[must_use]
    pub fn new(name: impl Into<String>, access: Access) -> StoreSpec {
        StoreSpec { name: name.into(), access, ttl_ms: None }
    }

    /// The same with a time-to-live in milliseconds.
    #[must_use]
    pub fn with_ttl_ms(mut self, ttl_ms: u64) -> StoreSpec {
        self.ttl_ms = Some(ttl_ms);
        self
    }
}

/// How a store is read, which decides how its rows are held in memory; on disk there is no difference.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// By key, in a hash map. Scans are possible and right, but each one sorts the rows that are in memory.
    Keyed,
    /// By key and by range, in an ordered map, which costs about twice as much.
    Ordered,
    /// By key, and by ranges [within](crate::Range::within) a group: the keys that are equal but for so many bytes at their end. In a hash map
    /// of the groups; other scans are what they are of `Keyed`.
    Grouped {
        /// So many bytes.
        suffix: usize,
    },
}

impl Access {
    /// How many bytes at the end of a key do not belong to its group in a hash map; `None` where there is none.
    pub(crate) fn group_suffix(self) -> Option<usize> {
        match self {
            Access::Keyed => Some(0),
            Access::Grouped { suffix } => Some(suffix),
            Access::Ordered => None,
        }
    }
}

/// A store, by its place in [`Options::stores`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct StoreId(pub u32);

/// A task: one partition of one sub-topology. A store belongs to one sub-topology, so that the partition alone tells its rows apart.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TaskId {
    /// The number of the sub-topology.
    pub sub_topology: u32,
    /// The partition; [`u32::MAX`] is not one.
    pub partition: u32,
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}_{}", self.sub_topology, self.partition)
    }
}

/// How far into its changelog a store of a task is: every record below `offset` is in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Position {
    /// The identity of the changelog topic; a topic that was made anew has another.
    pub topic_id: [u8; 16],
    /// The offset of the next record to replay.
    pub offset: u64,
    /// When the store stood here, in milliseconds since 1970-01-01T00:00:00Z: a changelog forgets its tombstones after a while, and then
    /// cannot be replayed from here any more.
    pub wall_ms: i64,
}
