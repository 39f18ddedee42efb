//! Standbys: copies of tasks that others own, kept a moment behind by following their changelogs. They answer reads, feed watches, and are
//! nearly there when their task comes to this process. They never process a record and never write to the log.
//!
//! Invariant: the progress that a standby tells of a task is behind what its stores hold. The task's own store says how far the task has
//! read; before that is told, every other store is brought past the end that its changelog had after that was read.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use millstream_state::{TaskId, TaskState};

use super::roles::Role;
use super::watch::Change;
use super::{Shared, StartError, restore};
use crate::log::Moment;
use crate::record::{Offset, Partition};
use crate::task::meta;
use crate::topology::{StoreIndex, TopicIndex};

/// The longest sleep between two looks at the changelogs.
const WAIT: Duration = Duration::from_millis(100);
/// How long a task that cannot be followed is left alone.
const PAUSE: Duration = Duration::from_millis(500);

/// A task that is followed.
struct Standby {
    sub: usize,
    partition: Partition,
    state: TaskState,
    stores: Vec<Followed>,
    /// How far the task has read, by its own store, and not told yet.
    untold: Option<Vec<(TopicIndex, Offset)>>,
}

/// One store of it.
struct Followed {
    store: StoreIndex,
    next: Offset,
    end: Offset,
}

/// Follows tasks until the application stops.
pub(super) fn run(shared: &Arc<Shared>) {
    let mut standbys: Vec<Standby> = Vec::new();
    while !shared.stopping.load(Ordering::Acquire) {
        let seen = shared.log.version();
        // A task that is this process's own now is let go, so that it can be taken.
        standbys.retain(|standby| {
            let stays = shared.follows(standby.sub, standby.partition);
            if !stays {
                standby.is_gone(shared);
            }
            stays
        });
        let moved = begin_new(shared, &mut standbys).and_then(|()| {
            let mut moved = false;
            for standby in &mut standbys {
                moved |= standby.follow(shared)?;
            }
            if shared.progress.is_awaited() {
                tell(shared, &mut standbys)?;
            }
            Ok(moved)
        });
        match moved {
            Ok(true) => {}
            Ok(false) => drop(shared.log.wait(seen, WAIT)),
            Err(error) if error.is_fatal() => return shared.fail(error.to_string()),
            Err(error) => {
                tracing::warn!(%error, "a standby cannot follow its task for now");
                standbys.drain(..).for_each(|standby| standby.is_gone(shared));
                shared.log.wait(shared.log.version(), PAUSE);
            }
        }
    }
}

fn begin_new(shared: &Shared, standbys: &mut Vec<Standby>) -> Result<(), StartError> {
    for sub in 0..shared.topology.subs.len() {
        for partition in (0..shared.tasks[sub]).map(Partition) {
            let known = standbys.iter().any(|standby| (standby.sub, standby.partition) == (sub, partition));
            if !known && shared.follows(sub, partition) {
                standbys.extend(Standby::begin(shared, sub, partition)?);
            }
        }
    }
    Ok(())
}

impl Standby {
    /// `None` while a worker of this process has not let the task go yet.
    fn begin(shared: &Shared, sub: usize, partition: Partition) -> Result<Option<Standby>, StartError> {
        let indexes = &shared.topology.subs[sub].stores;
        let ids: Vec<_> = indexes.iter().map(|store| store.id()).collect();
        let mut state = match shared.db.task(TaskId { sub_topology: sub as u32, partition: partition.0 }, &ids) {
            Err(millstream_state::Error::Taken(_)) => return Ok(None),
            state => state?,
        };
        let mut stores = Vec::new();
        let ends = shared.log.open_ends(&restore::changelogs(shared, indexes, partition))?;
        for (&store, end) in indexes.iter().zip(ends) {
            let next = restore::prepare(shared, store, partition, &mut state, end)?;
            stores.push(Followed { store, next, end });
        }
        Ok(Some(Standby { sub, partition, state, stores, untold: None }))
    }

    /// The task is not followed any more: its rows here are not to be read.
    fn is_gone(&self, shared: &Shared) {
        shared.roles.change(self.sub, self.partition, Role::Standby, Role::Away);
    }

    /// Takes in what the changelogs have by now. Whether there was anything.
    fn follow(&mut self, shared: &Shared) -> Result<bool, StartError> {
        let meta = shared.topology.subs[self.sub].meta;
        let mut moved = false;
        let mut read_on = false;
        for followed in &mut self.stores {
            let applied = followed.advance(shared, self.partition, &mut self.state, followed.store != meta)?;
            moved |= applied;
            read_on |= applied && followed.store == meta;
        }
        if read_on {
            self.untold = Some(self.read_meta(shared)?);
        }
        if self.stores.iter().all(|followed| followed.next >= followed.end) {
            shared.roles.change(self.sub, self.partition, Role::Away, Role::Standby);
        }
        Ok(moved)
    }

    /// What the task's own store says.
    fn read_meta(&mut self, shared: &Shared) -> Result<Vec<(TopicIndex, Offset)>, StartError> {
        let sub = &shared.topology.subs[self.sub];
        let store = sub.meta.id();
        self.state.set_stream_time_ms(meta::stream_time(&self.state, store)?.0);
        for window_store in sub.stores.iter().filter(|store| shared.topology.stores[store.0].kind.is_windowed()) {
            let time = meta::store_time(&self.state, store, &shared.topology.stores[window_store.0].name)?;
            self.state.set_time_ms(window_store.id(), time.0);
        }
        // A commit of nothing: readers must know the times by which rows have expired.
        self.state.commit(&[]);
        let mut offsets = Vec::new();
        for source in &sub.sources {
            let topic = shared.topology.sources[source.0].topic;
            if self.partition.0 < shared.topics[topic.0].partitions {
                offsets.push((topic, meta::offset(&self.state, store, &shared.topology.topics[topic.0].name)?));
            }
        }
        Ok(offsets)
    }
}

/// Tells how far tasks have read, once all of their stores here hold what came of it.
fn tell(shared: &Shared, standbys: &mut [Standby]) -> Result<(), StartError> {
    let mut untold: Vec<&mut Standby> = standbys.iter_mut().filter(|standby| standby.untold.is_some()).collect();
    let place = |standby: &Standby, followed: &Followed| (shared.changelog(followed.store).id, standby.partition);
    let places: Vec<_> = untold.iter().flat_map(|standby| standby.stores.iter().map(|store| place(standby, store))).collect();
    if places.is_empty() {
        return Ok(());
    }
    let mut ends = shared.log.open_ends(&places)?.into_iter();
    for standby in &mut untold {
        let meta = shared.topology.subs[standby.sub].meta;
        for (followed, end) in standby.stores.iter_mut().zip(ends.by_ref()) {
            // The task's own store was read before the ends were asked for; what it has had since is for the next time.
            while followed.store != meta && followed.next < end && shared.follows(standby.sub, standby.partition) {
                let seen = shared.log.version();
                if !followed.advance(shared, standby.partition, &mut standby.state, true)? {
                    shared.log.wait(seen, WAIT);
                }
            }
        }
        for (topic, next) in standby.untold.take().unwrap_or_default() {
            shared.progress.set(topic, standby.partition, next);
        }
    }
    shared.progress.signal();
    Ok(())
}

impl Followed {
    fn advance(
        &mut self,
        shared: &Shared,
        partition: Partition,
        state: &mut TaskState,
        watched: bool,
    ) -> Result<bool, StartError> {
        let mut changes = Vec::new();
        let applied = {
            let watchers = shared.watchers.hold();
            let watched = watched && !watchers.is_empty();
            restore::apply(shared, self.store, partition, state, self.next, |key, value, position| {
                if watched && watchers.wants(self.store, key) {
                    let (key, value) = (Bytes::copy_from_slice(key), value.map(Bytes::copy_from_slice));
                    changes.push(Arc::new(Change { key, value, partition, position, at: Moment::DURABLE }));
                }
            })?
        };
        let watchers = shared.watchers.hold();
        changes.iter().for_each(|change| watchers.publish(self.store, change));
        self.end = self.end.max(applied.end);
        Ok(std::mem::replace(&mut self.next, applied.next) != applied.next)
    }
}
