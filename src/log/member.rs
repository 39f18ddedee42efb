//! A worker thread's place in the group of its application: which tasks it is given, what it reads for them, and how it commits.
//!
//! What must always hold: a task is given to one member at a time, and a member that has lost one commits nothing for it any more, whatever
//! it believes. Nothing here knows what a task does.

use super::{Committed, Error, Fetched, TopicId, Transaction};
use crate::{Offset, Partition};
use std::sync::Arc;
use std::time::Duration;

/// Who joins, and what there is to be shared out.
#[derive(Clone, Debug)]
pub struct Membership {
    /// The group: the application's name.
    pub group: Arc<str>,
    /// The worker thread's number in its process.
    pub worker: usize,
    /// What the tasks of each sub-topology read, by the sub-topology's index.
    pub subs: Vec<Inputs>,
}

/// What the tasks of a sub-topology read: a task reads the partition of its number of each topic that has one.
#[derive(Clone, Debug)]
pub struct Inputs {
    /// The topics.
    pub topics: Vec<TopicId>,
    /// How many tasks there are: as many as the greatest of the topics has partitions.
    pub tasks: u32,
}

/// What became of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It is this member's now: restore it, then [`Member::begin`].
    Assigned {
        /// Its sub-topology.
        sub: usize,
        /// Its number.
        partition: Partition,
    },
    /// It is this member's no longer.
    Revoked {
        /// Its sub-topology.
        sub: usize,
        /// Its number.
        partition: Partition,
    },
}

/// A worker thread's place in its group. Dropping it leaves the group.
pub trait Member: Send {
    /// What the group gave or took since the last call. To be called between transactions only, at least every few seconds: who does not
    /// ask for long is taken for dead.
    ///
    /// # Errors
    /// If the group can't be asked, now or any more.
    fn changes(&mut self) -> Result<Vec<Change>, Error>;

    /// Whether the group knows this member, which then has tasks or will be given some, if there are enough.
    fn is_member(&self) -> bool;

    /// The task is restored: its inputs are read from these offsets on. Also goes back, after an aborted transaction.
    ///
    /// # Errors
    /// If the log can't be asked; the task then must be begun again.
    fn begin(&mut self, sub: usize, partition: Partition, offsets: &[(TopicId, Offset)]) -> Result<(), Error>;

    /// Committed records of an input of a task that has begun, from `from` on, as far as they are here; never waits. They may not be
    /// durable yet: see [`Moment`](super::Moment).
    ///
    /// # Errors
    /// As [`Log::fetch`](super::Log::fetch).
    fn fetch(&mut self, topic: TopicId, partition: Partition, from: Offset, max_bytes: usize) -> Result<Fetched, Error>;

    /// Waits until there may be something new to fetch or a change, at most `timeout`.
    fn wait(&mut self, timeout: Duration);

    /// Commits outputs, changelogs and offsets as one transaction, and waits for the outcome, but not until it is durable: see
    /// [`Committed::at`]. What the members of this process have read before lies before it in the log.
    ///
    /// # Errors
    /// What the log answers; nothing was appended, unless it is [`Error::OutcomeUnknown`].
    fn commit(&mut self, transaction: Transaction) -> Result<Committed, Error>;
}
