//! How far the restoring of tasks has come, for whoever wants to hear or see it: a listener of the program, and metrics. Nothing here
//! decides what is restored.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;

use super::Shared;
use crate::record::{Offset, Partition};

/// Hears of every task whose stores are restored, on the thread that restores it, which waits meanwhile.
/// See [`Config::restore_listener`](crate::Config::restore_listener).
#[derive(Clone)]
pub struct RestoreListener(Arc<dyn Fn(&Restoration<'_>) + Send + Sync>);

impl RestoreListener {
    /// Calls this.
    #[must_use]
    pub fn new(hear: impl Fn(&Restoration<'_>) + Send + Sync + 'static) -> RestoreListener {
        RestoreListener(Arc::new(hear))
    }
}

impl fmt::Debug for RestoreListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RestoreListener")
    }
}

/// A step of restoring the stores of one task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restoration<'a> {
    /// The task's sub-topology.
    pub sub_topology: &'a str,
    /// The names of the stores.
    pub stores: &'a [&'a str],
    /// The changelog that they are restored from.
    pub changelog: &'a str,
    /// The partition.
    pub partition: Partition,
    /// What happened.
    pub step: RestoreStep,
}

/// What happens while a task is restored: one `Start`, any number of `Batch`, and then `End` or `Suspended`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestoreStep {
    /// It begins. Offsets also count what compaction has taken out.
    Start {
        /// Where the state stands: the least of its stores.
        from: Offset,
        /// The end that it is brought to.
        end: Offset,
    },
    /// A part of the changelog is in the stores.
    Batch {
        /// How many records it had.
        records: u64,
        /// Where they stand now.
        next: Offset,
        /// The end that it is brought to.
        end: Offset,
    },
    /// The stores are at the end.
    End {
        /// How many records were applied in all.
        records: u64,
    },
    /// It was given up: the task went to another process, or the log or the state failed.
    Suspended,
}

/// The tasks that are being restored, by sub-topology and partition: how far each is, and where it is going.
#[derive(Default)]
pub(crate) struct Restoring(Mutex<BTreeMap<(usize, Partition), (Offset, Offset)>>);

impl Restoring {
    /// How many offsets each of them is away from its end.
    pub(super) fn remaining(&self) -> Vec<(usize, Partition, u64)> {
        let tasks = self.0.lock();
        tasks.iter().map(|((sub, partition), (next, end))| (*sub, *partition, end.0.saturating_sub(next.0))).collect()
    }
}

/// A task that is being restored. Dropped before its end, it says that it was given up.
pub(super) struct TaskRestoration<'a> {
    shared: &'a Shared,
    sub: usize,
    partition: Partition,
    end: Offset,
    records: u64,
    ended: bool,
}

impl<'a> TaskRestoration<'a> {
    pub(super) fn start(shared: &'a Shared, sub: usize, partition: Partition, from: Offset, end: Offset) -> Self {
        shared.restoring.0.lock().insert((sub, partition), (from, end));
        let one = TaskRestoration { shared, sub, partition, end, records: 0, ended: false };
        one.tell(RestoreStep::Start { from, end });
        one
    }

    pub(super) fn took(&mut self, records: u64, next: Offset) {
        self.records += records;
        self.shared.restoring.0.lock().insert((self.sub, self.partition), (next, self.end));
        self.tell(RestoreStep::Batch { records, next, end: self.end });
    }

    /// The stores are at the end. How many records that took.
    pub(super) fn ended(mut self) -> u64 {
        self.ended = true;
        self.records
    }

    fn tell(&self, step: RestoreStep) {
        let Some(RestoreListener(hear)) = &self.shared.config.restore_listener else { return };
        let topology = &self.shared.topology;
        let sub = &topology.subs[self.sub];
        let stores: Vec<&str> = sub.stores.iter().map(|store| topology.stores[store.0].name.as_str()).collect();
        let changelog = &self.shared.changelog(self.sub).name;
        hear(&Restoration { sub_topology: &sub.name, stores: &stores, changelog, partition: self.partition, step });
    }
}

impl Drop for TaskRestoration<'_> {
    fn drop(&mut self) {
        self.shared.restoring.0.lock().remove(&(self.sub, self.partition));
        self.tell(if self.ended { RestoreStep::End { records: self.records } } else { RestoreStep::Suspended });
    }
}
