//! Millstream: a stream processor in the manner of Kafka Streams, as a library: a program declares a topology of typed streams and tables
//! and runs it, exactly once, on a log in its own process.
//!
//! ```no_run
//! use millstream::{App, Config, StreamBuilder, Topic};
//!
//! const LINES: Topic<String, String> = Topic::new("lines");
//! const COUNTS: Topic<String, u64> = Topic::new("counts");
//!
//! let mut builder = StreamBuilder::new("word-count");
//! builder
//!     .stream(&LINES)
//!     .flat_map_values(|line: String| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
//!     .group_by("by-word", |_, word| word.clone())
//!     .count("counts")
//!     .to_stream()
//!     .to(&COUNTS);
//! let app = App::start(builder.build()?, Config::embedded("./data"))?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Declare with [`StreamBuilder`], [`Stream`], [`Grouped`] and [`Table`], and with [`Process`] over typed [`Store`]s what these cannot say.
//! Run with [`App`]. Append events, read views, wait for positions and watch changes with its [`Handle`]. Test without threads, disks or
//! waiting with [`testing::TestDriver`]. What the types are in bytes is said by [`codec`]; what is durable, and how, by [`log`].

mod clock;
pub mod codec;
mod dsl;
mod error;
pub mod log;
mod operators;
mod record;
mod requests;
mod runtime;
#[cfg(feature = "http")]
pub mod serve;
mod store;
mod task;
pub mod testing;
mod topic;
mod topology;
mod windows;

pub use clock::Clock;
pub use dsl::{
    Cogrouped, GlobalTable, Grouped, Process, Stream, StreamBuilder, Table, WindowedCogroup, WindowedStream, WindowedTable,
};
pub use error::ProcessError;
pub use log::embedded::Durability;
pub use millstream_state::{Direction, Range};
pub use operators::feed::FeedEvent;
pub use operators::process::{Scope, StoreScope};
pub use operators::sink::SinkValue;
pub use record::{Headers, Offset, Partition, Record, Timestamp};
pub use requests::RequestProcess;
pub use runtime::{
    Accepted, Answer, App, AppState, AppendError, Behind, Change, Config, DeadLetters, Events, Failure, Handle, Health, MAX_PAGE,
    ParkedRecord, QueryError, Replayed, RequestError, RequestKey, Reset, ResetBegin, ResetError, ResetReport, ResetTo,
    Restoration, RestoreListener, RestoreStep, Row, Seen, Selection, Standbys, StartError, StoreStatus, TaskStatus, ThreadError,
    Token, TypedView, UnreadableToken, Upstream, View, Waiting, Watch, Watched,
};
pub use store::Store;
pub use task::TimeDomain;
pub use topic::Topic;
pub use topology::{Topology, TopologyError};
pub use windows::{JoinWindows, SessionWindows, SlidingWindows, TimeWindows, Windowed};

/// The program in README.md compiles and runs.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
