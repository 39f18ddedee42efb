//! The thread that follows the topics of the global tables. They are brought to the end that their topics have when the application
//! starts, before any task runs, and then follow them. Nothing here writes to the log.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;

use super::watch::Change;
use super::{Shared, StartError};
use crate::log;
use crate::record::{Offset, Partition};
use crate::task::global::GlobalPart;
use crate::topology::StoreIndex;

/// How much of a topic is read at once, in bytes.
const FETCH_BYTES: usize = 4 << 20;
/// The longest sleep between two looks at the topics.
const WAIT: Duration = Duration::from_millis(100);
/// The sleep after a failure.
const PAUSE: Duration = Duration::from_millis(500);
/// What this thread's trouble is known by, beside the workers' numbers.
const TROUBLE: usize = usize::MAX;

/// A partition of a global table and how far it was read.
pub(super) struct Followed {
    part: GlobalPart,
    next: Offset,
}

/// Brings all global tables to the ends of their topics.
pub(super) fn bootstrap(shared: &Arc<Shared>) -> Result<Vec<Followed>, StartError> {
    let mut all = Vec::new();
    for (index, global) in shared.topology.globals.iter().enumerate() {
        let topic = &shared.topics[global.topic.0];
        let places: Vec<_> = (0..topic.partitions).map(|partition| (topic.id, Partition(partition))).collect();
        // As of a changelog: with what is committed and not shown yet.
        let ends = shared.log.open_ends(&places)?;
        for ((_, partition), end) in places.into_iter().zip(ends) {
            let part = GlobalPart::take(&shared.db, &shared.topology, index, partition)?;
            let mut followed = Followed { part, next: Offset(0) };
            followed.begin(shared)?;
            while followed.next < end {
                let seen = shared.log.version();
                if !followed.advance(shared)? {
                    shared.log.wait(seen, WAIT);
                }
            }
            all.push(followed);
        }
    }
    Ok(all)
}

/// Follows the topics until the application stops.
pub(super) fn run(shared: &Arc<Shared>, mut all: Vec<Followed>) {
    while !shared.stopping.load(Ordering::Acquire) {
        let seen = shared.log.version();
        let (mut moved, mut trouble) = (false, None);
        for followed in &mut all {
            match followed.advance(shared) {
                Ok(one) => moved |= one,
                Err(error) if error.is_fatal() => return shared.fail(error.to_string()),
                Err(error) => {
                    tracing::warn!(%error, "a global table cannot follow its topic for now");
                    trouble = Some(format!("a global table cannot follow its topic: {error}"));
                }
            }
        }
        if let Some(trouble) = trouble {
            shared.trouble.lock().insert(TROUBLE, trouble);
            shared.log.wait(seen, PAUSE);
            continue;
        }
        shared.trouble.lock().remove(&TROUBLE);
        if !moved {
            shared.log.wait(seen, WAIT);
        }
    }
}

impl Followed {
    fn begin(&mut self, shared: &Shared) -> Result<(), StartError> {
        let topic = &shared.topics[self.part.def().topic.0];
        let bounds = shared.log.bounds(topic.id, self.part.partition())?;
        self.next = self.part.begin(topic, bounds.start, bounds.end, shared.config.clock.now())?;
        self.tell(shared);
        Ok(())
    }

    fn tell(&self, shared: &Shared) {
        shared.progress.set(self.part.def().topic, self.part.partition(), self.next);
        shared.progress.signal();
    }

    /// Takes in what is there. Whether there was anything.
    fn advance(&mut self, shared: &Shared) -> Result<bool, StartError> {
        let topic = &shared.topics[self.part.def().topic.0];
        let (store, partition) = (self.part.def().store, self.part.partition());
        let fetched = match shared.log.follow(topic.id, partition, self.next, FETCH_BYTES) {
            // Records that were not read are gone.
            Err(log::Error::OutOfRange { .. }) => {
                self.begin(shared)?;
                return Ok(true);
            }
            fetched => fetched?,
        };
        if fetched.next == self.next {
            return Ok(false);
        }
        // Who begins to watch from here on waits until the rows are there.
        let watchers = shared.watchers.hold();
        let now = shared.config.clock.now();
        let changed = self.part.apply(topic, &fetched.batches, (self.next, fetched.next), now)?;
        self.next = fetched.next;
        for (key, row, position) in changed {
            publish(&watchers, store, partition, key, row, position);
        }
        drop(watchers);
        self.tell(shared);
        Ok(true)
    }
}

fn publish(
    watchers: &super::watch::HeldWatchers<'_>,
    store: StoreIndex,
    partition: Partition,
    key: Vec<u8>,
    row: Option<Vec<u8>>,
    position: Offset,
) {
    if watchers.wants(store, &key) {
        let change = Change { key: Bytes::from(key), value: row.map(Bytes::from), partition, position, at: log::Moment::DURABLE };
        watchers.publish(store, &Arc::new(change));
    }
}
