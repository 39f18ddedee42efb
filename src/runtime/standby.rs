//! Standbys: copies of tasks that others own, kept a moment behind by following their changelogs. They answer reads, feed watches, and are
//! nearly there when their task comes to this process. They never process a record and never write to the log.
//!
//! Invariant: the progress that a standby tells of a task is behind what its stores hold. The task's own store says how far the task has
//! read; before that is told, every other store is brought past the end that its changelog had after that was read.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use millstream_state::{TaskId, TaskState};

use super::roles::Role;
use super::watch::Change;
use super::{Shared, StartError, restore};
use crate::log::Moment;
use crate::record::{Offset, Partition, Timestamp};
use crate::task::meta;
use crate::topology::{StoreIndex, TopicIndex};

/// The longest sleep between two looks at the changelogs.
const WAIT: Duration = Duration::from_millis(100);
/// How often it is looked which tasks are to be followed here.
const PLACE_EVERY: Duration = Duration::from_millis(50);
/// How long a task that cannot be followed is left alone.
const PAUSE: Duration = Duration::from_millis(500);

/// A task that is followed.
struct Standby {
    sub: usize,
    partition: Partition,
    state: TaskState,
    stores: Vec<Followed>,
    /// How far the task has read, by its own store, and the other stores are not known to have what came of it.
    untold: Option<Vec<(TopicIndex, Offset)>>,
    /// The same, and where the other stores must come to before that is told.
    telling: Option<(Vec<(TopicIndex, Offset)>, Vec<Offset>)>,
}

/// One store of it.
struct Followed {
    store: StoreIndex,
    next: Offset,
    /// Where it must come to before it can be read.
    first_end: Offset,
    /// Whether it has all that is known of, and when the last of it was committed.
    is_current: bool,
    committed_at: Timestamp,
}

/// Follows tasks until the application stops.
pub(super) fn run(shared: &Arc<Shared>) {
    let mut standbys: Vec<Standby> = Vec::new();
    let mut placed = None::<Instant>;
    while !shared.stopping.load(Ordering::Acquire) {
        let seen = shared.log.version();
        let place = placed.is_none_or(|at| at.elapsed() >= PLACE_EVERY);
        // A task that is this process's own now is let go, so that it can be taken.
        standbys.retain(|standby| {
            let Standby { sub, partition, .. } = *standby;
            let stays = !shared.roles.get(sub, partition).is_mine() && (!place || shared.follows(sub, partition));
            if !stays {
                standby.is_gone(shared);
            }
            stays
        });
        let begun = if place { begin_new(shared, &mut standbys) } else { Ok(()) };
        let moved = begun.and_then(|()| {
            placed = if place { Some(Instant::now()) } else { placed };
            let mut moved = false;
            for standby in &mut standbys {
                moved |= standby.follow(shared)?;
            }
            tell(shared, &mut standbys)?;
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
            stores.push(Followed { store, next, first_end: end, is_current: false, committed_at: Timestamp(0) });
        }
        let mut standby = Standby { sub, partition, state, stores, untold: None, telling: None };
        // What it has from before is told like what comes in.
        standby.untold = Some(standby.read_meta(shared)?);
        Ok(Some(standby))
    }

    /// The task is not followed any more: its rows here are not to be read.
    fn is_gone(&self, shared: &Shared) {
        shared.roles.change(self.sub, self.partition, Role::Standby, Role::Away);
    }

    /// Takes in what the changelogs have by now. Whether there was anything.
    fn follow(&mut self, shared: &Shared) -> Result<bool, StartError> {
        let now = shared.config.clock.now();
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
        // While the owner always has a transaction open, an end is never reached: then what counts is the last commit that is here.
        let last_commit =
            self.stores.iter().filter(|followed| followed.store == meta).map(|followed| followed.committed_at).max();
        let current_at = if self.stores.iter().all(|followed| followed.is_current) { Some(now) } else { last_commit };
        let before = shared.roles.current_at(self.sub, self.partition);
        shared.roles.is_current(self.sub, self.partition, current_at.map_or(before, |at| at.clamp(before, now.max(before))));
        if self.stores.iter().all(|followed| followed.next >= followed.first_end) {
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

/// Tells how far tasks have read, once all of their stores here hold what came of it; and asks where that is for those of which it is not
/// known yet, all at once, if anybody waits.
fn tell(shared: &Shared, standbys: &mut [Standby]) -> Result<(), StartError> {
    let mut told = false;
    for standby in standbys.iter_mut() {
        let meta = shared.topology.subs[standby.sub].meta;
        // The task's own store was read before the ends were asked for; what it has had since is for the next time.
        let here = |ends: &[Offset]| {
            standby.stores.iter().zip(ends).all(|(followed, end)| followed.store == meta || followed.next >= *end)
        };
        if let Some((offsets, _)) = standby.telling.take_if(|(_, ends)| here(ends)) {
            for (topic, next) in offsets {
                shared.progress.set(topic, standby.partition, next);
            }
            told = true;
        }
    }
    if told {
        shared.progress.signal();
    }
    if !shared.progress.is_awaited() {
        return Ok(());
    }
    let mut asking: Vec<&mut Standby> =
        standbys.iter_mut().filter(|standby| standby.telling.is_none() && standby.untold.is_some()).collect();
    let place = |standby: &Standby, followed: &Followed| (shared.changelog(followed.store).id, standby.partition);
    let places: Vec<_> = asking.iter().flat_map(|standby| standby.stores.iter().map(|store| place(standby, store))).collect();
    if places.is_empty() {
        return Ok(());
    }
    let mut ends = shared.log.open_ends(&places)?.into_iter();
    for standby in &mut asking {
        let ends = ends.by_ref().take(standby.stores.len()).collect();
        standby.telling = standby.untold.take().map(|offsets| (offsets, ends));
    }
    // What is there already is told at once.
    tell(shared, standbys)
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
            let fetched = shared.log.follow(shared.changelog(self.store).id, partition, self.next, restore::FETCH_BYTES)?;
            restore::apply(shared, self.store, state, self.next, fetched, |key, value, position| {
                if watched && watchers.wants(self.store, key) {
                    let (key, value) = (Bytes::copy_from_slice(key), value.map(Bytes::copy_from_slice));
                    changes.push(Arc::new(Change { key, value, partition, position, at: Moment::DURABLE }));
                }
            })?
        };
        let watchers = shared.watchers.hold();
        changes.iter().for_each(|change| watchers.publish(self.store, change));
        self.is_current = applied.next >= applied.end;
        self.committed_at = applied.committed_at.unwrap_or(self.committed_at);
        Ok(std::mem::replace(&mut self.next, applied.next) != applied.next)
    }
}
