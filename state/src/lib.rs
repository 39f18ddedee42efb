//! State stores of Millstream: keyed rows of bytes that belong to a task, change by transactions, and are rebuilt from a changelog.
//!
//! Three layers, youngest first: the **overlay** with the uncommitted writes of a task's running transaction, the **hot layer** with committed
//! rows in memory, and RocksDB without a write-ahead log, to which dirty rows are flushed in sorted bulk. The changelog is the write-ahead
//! log: with each commit the owner names the [`Position`] that its rows now stand at, and after a crash [`TaskState::position`] says from
//! where to replay. This crate knows bytes and positions; it knows no topics, no topology and no real clock.
//!
//! ```
//! use millstream_state::{Access, Db, Home, MemoryDisk, Options, Position, StoreId, StoreSpec, TaskId};
//!
//! let counts = StoreId(0);
//! let db = Db::open(Options::new(Home::Memory(MemoryDisk::new()), vec![StoreSpec::new("counts", Access::Keyed)]))?;
//! let task = TaskId { sub_topology: 0, partition: 0 };
//! let mut state = db.task(task, &[counts])?;
//!
//! state.put(counts, b"apples", b"1");
//! assert_eq!(state.get(counts, b"apples")?.as_deref(), Some(&b"1"[..])); // the owner reads its own writes
//! let seen = db.reader().read(task, |view| view.get(counts, b"apples"))??;
//! assert!(seen.is_none()); // others see what is committed
//!
//! // … append `state.dirty()` to the changelog, and when that is durable:
//! state.commit(&[(counts, Position { topic_id: [7; 16], offset: 1, wall_ms: 0 })]);
//! db.close()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod budget;
mod db;
mod disk;
mod entry;
mod error;
pub mod fault;
mod flush;
mod flusher;
mod forgotten;
mod groups;
mod hot;
mod incarnation;
mod index;
mod lock;
mod meta;
mod options;
mod order;
mod reader;
mod removal;
mod row;
mod scan;
mod table;
mod task;
mod time;
mod tree;
mod ttl;

pub use db::{Db, Memory};
pub use disk::MemoryDisk;
pub use error::{Error, OpenError};
pub use flush::FlushReport;
pub use lock::Lock;
pub use options::{Access, AfterFlush, Home, Options, Position, StoreId, StoreSpec, TaskId};
pub use reader::{Entries, Reader, TaskView};
pub use row::{Row, Value};
pub use scan::{Bounds, Direction, Range};
pub use task::{DirtyRow, TaskState};
pub use ttl::Swept;
