//! Standbys: copies of tasks that others own, kept a moment behind by following their changelogs. They answer reads, feed watches, and are
//! nearly there when their task comes to this process. They never process a record and never write to the log.
//!
//! Invariant: the progress that a standby tells of a task is behind what its stores hold. The task's own rows say how far the task has read, and
//! they come last in a commit.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use millstream_state::{TaskId, TaskState};

use super::restore::{FETCH_BYTES, Tail};
use super::roles::Role;
use super::watch::Change;
use super::{Shared, StartError};
use crate::log::Moment;
use crate::record::{Offset, Partition, Timestamp};
use crate::task::meta;

/// How often it is looked which tasks are to be followed here.
const PLACE_EVERY: Duration = Duration::from_millis(50);

/// A task that is followed.
struct Standby {
    sub: usize,
    partition: Partition,
    state: TaskState,
    tail: Tail,
    /// Where it must come to before it can be read.
    first_end: Offset,
    /// When the last of what it has was committed.
    committed_at: Timestamp,
}

/// The tasks that are followed here.
#[derive(Default)]
pub(super) struct StandbyTasks {
    all: Vec<Standby>,
    placed: Option<Instant>,
}

impl StandbyTasks {
    /// Takes in what changelogs have got. Whether there was anything. After an error nothing is followed, until the next call.
    pub(super) fn follow(&mut self, shared: &Shared) -> Result<bool, StartError> {
        let moved = self.try_follow(shared);
        if moved.is_err() {
            self.all.drain(..).for_each(|standby| standby.is_gone(shared));
        }
        moved
    }

    fn try_follow(&mut self, shared: &Shared) -> Result<bool, StartError> {
        let place = self.placed.is_none_or(|at| at.elapsed() >= PLACE_EVERY);
        // A task that is this process's own now is let go, so that it can be taken.
        self.all.retain(|standby| {
            let Standby { sub, partition, .. } = *standby;
            let stays = !shared.roles.get(sub, partition).is_mine() && (!place || shared.follows(sub, partition));
            if !stays {
                standby.is_gone(shared);
            }
            stays
        });
        if place {
            begin_new(shared, &mut self.all)?;
            self.placed = Some(Instant::now());
        }
        let mut moved = false;
        for standby in &mut self.all {
            moved |= standby.follow(shared)?;
        }
        if moved {
            shared.progress.signal();
        }
        Ok(moved)
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
        let changelog = shared.changelog(sub).id;
        let first_end = shared.log.open_ends(&[(changelog, partition)])?[0];
        let tail = Tail::prepare(shared, sub, partition, &mut state, first_end)?;
        let mut standby = Standby { sub, partition, state, tail, first_end, committed_at: Timestamp(0) };
        // What it has from before is told like what comes in.
        standby.tell(shared)?;
        Ok(Some(standby))
    }

    /// The task is not followed any more: its rows here are not to be read.
    fn is_gone(&self, shared: &Shared) {
        shared.roles.change(self.sub, self.partition, Role::Standby, Role::Away);
    }

    /// Takes in what the changelog has by now. Whether there was anything.
    fn follow(&mut self, shared: &Shared) -> Result<bool, StartError> {
        let now = shared.config.clock.now();
        let (before, partition) = (self.tail.next, self.partition);
        let meta = shared.topology.subs[self.sub].meta;
        let mut changes = Vec::new();
        let applied = {
            let watchers = shared.watchers.hold();
            let fetched = shared.log.follow(shared.changelog(self.sub).id, partition, before, FETCH_BYTES)?;
            self.tail.apply(shared, &mut self.state, fetched, |row, position| {
                if !watchers.is_empty() && row.store != meta && watchers.wants(row.store, row.key) {
                    let (key, value) = (Bytes::copy_from_slice(row.key), row.value.map(Bytes::copy_from_slice));
                    changes.push((row.store, Arc::new(Change { key, value, partition, position, at: Moment::DURABLE })));
                }
            })?
        };
        let watchers = shared.watchers.hold();
        changes.iter().for_each(|(store, change)| watchers.publish(*store, change));
        drop(watchers);
        let moved = self.tail.next != before;
        if moved {
            self.tell(shared)?;
        }
        // While the owner always has a transaction open, the end is never reached: then what counts is the last commit that is here.
        self.committed_at = applied.committed_at.unwrap_or(self.committed_at);
        let current_at = if self.tail.next >= applied.end { now } else { self.committed_at };
        let known = shared.roles.current_at(self.sub, partition);
        shared.roles.is_current(self.sub, partition, current_at.clamp(known, now.max(known)));
        if self.tail.next >= self.first_end {
            shared.roles.change(self.sub, partition, Role::Away, Role::Standby);
        }
        Ok(moved)
    }

    /// Takes over and tells what the task's own rows say: its times, and how far it has read.
    fn tell(&mut self, shared: &Shared) -> Result<(), StartError> {
        let sub = &shared.topology.subs[self.sub];
        let store = sub.meta.id();
        self.state.set_stream_time_ms(meta::stream_time(&self.state, store)?.0);
        for window_store in sub.stores.iter().filter(|store| shared.topology.stores[store.0].kind.is_windowed()) {
            let time = meta::store_time(&self.state, store, &shared.topology.stores[window_store.0].name)?;
            self.state.set_time_ms(window_store.id(), time.0);
        }
        // A commit of nothing: readers must know the times by which rows have expired.
        self.state.commit(&[]);
        for source in &sub.sources {
            let topic = shared.topology.sources[source.0].topic;
            if self.partition.0 < shared.topics[topic.0].partitions {
                let next = meta::offset(&self.state, store, &shared.topology.topics[topic.0].name)?;
                shared.progress.set(topic, self.partition, next);
            }
        }
        Ok(())
    }
}
