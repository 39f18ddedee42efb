//! One partition of one sub-topology: which record is next, stream time, timers, undo, retry and dead letters.
//!
//! A task decides and never acts: `step` turns an input into writes in the overlay and records in the outbox; the runtime (or the test
//! driver) fetches, commits and tells the task what became of it. Nothing here names the log's home, a thread or a real clock.

pub(crate) mod changelog;
mod clocks;
pub(crate) mod context;
mod dead_letter;
pub(crate) mod global;
mod input;
pub(crate) mod meta;
mod outbox;
mod replay;
mod sweep;
#[expect(clippy::module_inception, reason = "the type that this module is about")]
mod task;

pub(crate) use self::dead_letter::{DeadLetter, Event, ROOM};
pub use self::meta::TimeDomain;
pub(crate) use self::task::{Counts, Effects, Step, Task};

use crate::error::ProcessError;
pub(crate) use crate::log::RecordRef;

/// A source node as its task sees it: where a record's bytes go, with the types erased.
pub(crate) trait Source: Send + Sync {
    fn process(&self, ctx: &mut context::Context, record: &RecordRef<'_>) -> Result<(), ProcessError>;
}
