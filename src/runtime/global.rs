//! Following the topics of global tables and feeds. Tables are brought to the end that their topics have when the application starts, before any
//! task runs. Then both follow them: see [`follower`](super::follower). Nothing here writes to the log.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::watch::Change;
use super::{Shared, StartError};
use crate::log::{self, Fetched, Moment};
use crate::record::{Offset, Partition};
use crate::task::global::GlobalPart;
use crate::topology::{StoreIndex, StoreKind};

/// How much of a topic is read at once, in bytes.
const FETCH_BYTES: usize = 4 << 20;
/// The longest sleep between two looks at the topics.
const WAIT: Duration = Duration::from_millis(100);

/// A partition of a global table or feed and how far it was read.
pub(super) struct Followed {
    part: GlobalPart,
    next: Offset,
}

/// Brings all global tables to the ends of their topics, and begins with feeds, which no task waits for.
pub(super) fn bootstrap(shared: &Arc<Shared>) -> Result<Vec<Followed>, StartError> {
    let mut all = Vec::new();
    for owner in shared.globals() {
        let index = owner - shared.topology.subs.len();
        let global = &shared.topology.globals[index];
        let topic = &shared.topics[global.topic.0];
        let places: Vec<_> = (0..topic.partitions).map(|partition| (topic.id, Partition(partition))).collect();
        let ends = match shared.topology.stores[global.store.0].kind {
            StoreKind::Feed => vec![Offset(0); places.len()],
            // As of a changelog: with what is committed and not shown yet.
            _ => shared.log.open_ends(&places)?,
        };
        for ((_, partition), end) in places.into_iter().zip(ends) {
            let part = GlobalPart::take(&shared.db, &shared.topology, index, partition)?;
            let mut followed = Followed { part, next: Offset(0) };
            followed.begin(shared)?;
            while followed.next < end {
                let seen = shared.log.version();
                match followed.fetch(shared)? {
                    Some(fetched) => followed.take_in(shared, &fetched)?,
                    None => drop(shared.log.wait(seen, WAIT)),
                }
            }
            all.push(followed);
        }
    }
    Ok(all)
}

impl Followed {
    fn begin(&mut self, shared: &Shared) -> Result<(), StartError> {
        let topic = &shared.topics[self.part.def().topic.0];
        let bounds = shared.log.bounds(topic.id, self.part.partition())?;
        self.next = self.part.begin(topic, bounds.start, bounds.end, shared.config.clock.now())?;
        shared.progress.note_begin(self.part.def().topic, self.part.partition(), bounds.start);
        self.tell(shared);
        Ok(())
    }

    fn tell(&self, shared: &Shared) {
        shared.progress.set(self.part.def().topic, self.part.partition(), self.next);
        shared.progress.signal();
    }

    /// What has come, if anything has.
    pub(super) fn fetch(&mut self, shared: &Shared) -> Result<Option<Fetched>, StartError> {
        let topic = &shared.topics[self.part.def().topic.0];
        match shared.log.follow(topic.id, self.part.partition(), self.next, FETCH_BYTES) {
            // Records that were not read are gone.
            Err(log::Error::OutOfRange { .. }) => {
                self.begin(shared)?;
                self.fetch(shared)
            }
            fetched => Ok(Some(fetched?).filter(|fetched| fetched.next != self.next)),
        }
    }

    /// Takes in what was fetched, and tells those who watch.
    pub(super) fn take_in(&mut self, shared: &Shared, fetched: &Fetched) -> Result<(), StartError> {
        let topic = &shared.topics[self.part.def().topic.0];
        let (partition, next) = (self.part.partition(), fetched.next);
        // Who begins to watch from here on waits until the rows are there.
        let watchers = shared.watchers.hold();
        let now = shared.config.clock.now();
        let mut changes = Vec::new();
        self.part.take_in(topic, &fetched.batches, (self.next, next), now, |row| {
            let store = StoreIndex::of(row.store);
            if watchers.wants(store, row.key()) {
                let (key, value) = (Bytes::copy_from_slice(row.key()), row.value().map(Bytes::copy_from_slice));
                changes.push((store, Arc::new(Change { key, value, partition, position: next, at: Moment::DURABLE })));
            }
        })?;
        self.next = next;
        changes.iter().for_each(|(store, change)| watchers.publish(*store, change));
        drop(watchers);
        self.tell(shared);
        Ok(())
    }
}
