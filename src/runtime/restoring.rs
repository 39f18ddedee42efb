//! How far the restoring of stores has come, for whoever wants to hear or see it: a listener of the program, and metrics. Nothing here
//! decides what is restored.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;

use super::Shared;
use crate::record::{Offset, Partition};
use crate::topology::StoreIndex;

/// Hears of every store of every task that is restored, on the thread that restores it, which waits meanwhile.
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

/// A step of restoring one partition of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restoration<'a> {
    /// The store's name.
    pub store: &'a str,
    /// The changelog that it is restored from.
    pub changelog: &'a str,
    /// The partition.
    pub partition: Partition,
    /// What happened.
    pub step: RestoreStep,
}

/// What happens while a store is restored: one `Start`, any number of `Batch`, and then `End` or `Suspended`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestoreStep {
    /// It begins. Offsets also count what compaction has taken out.
    Start {
        /// Where the state stands.
        from: Offset,
        /// The end that it is brought to.
        end: Offset,
    },
    /// A part of the changelog is in the store.
    Batch {
        /// How many records it had.
        records: u64,
        /// Where the store stands now.
        next: Offset,
        /// The end that it is brought to.
        end: Offset,
    },
    /// The store is at the end.
    End {
        /// How many records were applied in all.
        records: u64,
    },
    /// It was given up: the task went to another process, or the log or the state failed.
    Suspended,
}

/// The stores that are being restored: how far each is, and where it is going.
#[derive(Default)]
pub(crate) struct Restoring(Mutex<BTreeMap<(StoreIndex, Partition), (Offset, Offset)>>);

impl Restoring {
    /// How many offsets each store of each partition is away from its end.
    pub(super) fn remaining(&self) -> Vec<(StoreIndex, Partition, u64)> {
        let stores = self.0.lock();
        stores.iter().map(|((store, partition), (next, end))| (*store, *partition, end.0.saturating_sub(next.0))).collect()
    }
}

/// One store that is being restored. Dropped before its end, it says that it was given up.
pub(super) struct StoreRestoration<'a> {
    shared: &'a Shared,
    store: StoreIndex,
    partition: Partition,
    end: Offset,
    records: u64,
    ended: bool,
}

impl<'a> StoreRestoration<'a> {
    pub(super) fn start(shared: &'a Shared, store: StoreIndex, partition: Partition, from: Offset, end: Offset) -> Self {
        shared.restoring.0.lock().insert((store, partition), (from, end));
        let one = StoreRestoration { shared, store, partition, end, records: 0, ended: false };
        one.tell(RestoreStep::Start { from, end });
        one
    }

    pub(super) fn took(&mut self, records: u64, next: Offset) {
        self.records += records;
        self.shared.restoring.0.lock().insert((self.store, self.partition), (next, self.end));
        self.tell(RestoreStep::Batch { records, next, end: self.end });
    }

    /// The store is at its end. How many records that took.
    pub(super) fn ended(mut self) -> u64 {
        self.ended = true;
        self.records
    }

    fn tell(&self, step: RestoreStep) {
        let Some(RestoreListener(hear)) = &self.shared.config.restore_listener else { return };
        let (store, changelog) = (&self.shared.topology.stores[self.store.0].name, &self.shared.changelog(self.store).name);
        hear(&Restoration { store, changelog, partition: self.partition, step });
    }
}

impl Drop for StoreRestoration<'_> {
    fn drop(&mut self) {
        self.shared.restoring.0.lock().remove(&(self.store, self.partition));
        self.tell(if self.ended { RestoreStep::End { records: self.records } } else { RestoreStep::Suspended });
    }
}
