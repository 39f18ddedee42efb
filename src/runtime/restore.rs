//! Bringing a task's stores to the end of their changelogs, from where their state stands. A task processes only after that.
//!
//! The end is the one that includes what a former owner committed, even if the log does not show it yet: first the end with all open
//! transactions is asked for, then committed records are read until that end is passed (KAFKA-10167: whoever stops at the last stable
//! offset misses a transaction that is decided and not yet marked).

use std::time::Duration;

use millstream_state::{Position, TaskState};

use super::restoring::StoreRestoration;
use super::{Shared, StartError};
use crate::log::{Fetched, StoredBatch, TopicId, TopicInfo};
use crate::record::{Offset, Partition, Timestamp};
use crate::topology::{DELETE_RETENTION_MS, StoreIndex};

/// How much of a changelog is read at once, in bytes.
pub(super) const FETCH_BYTES: usize = 4 << 20;
/// How long to wait for an open transaction to end before it is looked whether the task is still wanted.
const WAIT: Duration = Duration::from_millis(50);

/// Restores all stores of a task. Answers how many changelog records were applied, or `None` if the task was not wanted any more meanwhile.
pub(super) fn restore(
    shared: &Shared,
    sub: usize,
    partition: Partition,
    state: &mut TaskState,
    wanted: &dyn Fn() -> bool,
) -> Result<Option<u64>, StartError> {
    let mut records = 0;
    let stores = &shared.topology.subs[sub].stores;
    let ends = shared.log.open_ends(&changelogs(shared, stores, partition))?;
    for (&store, end) in stores.iter().zip(ends) {
        let Some(applied) = restore_store(shared, (store, end), partition, state, wanted)? else { return Ok(None) };
        records += applied;
    }
    Ok(Some(records))
}

/// Where the changelogs of a task's stores lie.
pub(super) fn changelogs(shared: &Shared, stores: &[StoreIndex], partition: Partition) -> Vec<(TopicId, Partition)> {
    stores.iter().map(|store| (shared.changelog(*store).id, partition)).collect()
}

/// Why the changelog cannot go on from where the state stands.
enum Misfit {
    Missing,
    OtherLog,
    Beyond(u64),
    Trimmed(u64),
    /// Deleted keys may have been forgotten by compaction since, and would stay.
    TooOld,
}

/// Where to begin: at the state's position, if the changelog still goes on from there.
fn begin(
    shared: &Shared,
    changelog: &TopicInfo,
    position: Option<Position>,
    start: Offset,
    end: Offset,
) -> Result<Offset, Misfit> {
    let Some(position) = position else { return if start == Offset(0) { Ok(start) } else { Err(Misfit::Missing) } };
    // The embedded log trims what is behind the state and drops tombstones only after that.
    let oldest = shared.config.clock.now().plus_ms(-(DELETE_RETENTION_MS as i64) / 2);
    if position.topic_id != changelog.uuid {
        Err(Misfit::OtherLog)
    } else if position.offset > end.0 {
        Err(Misfit::Beyond(position.offset))
    } else if position.offset < start.0 {
        Err(Misfit::Trimmed(position.offset))
    } else if shared.embedded.is_none() && position.wall_ms < oldest.0 && position.offset < end.0 {
        Err(Misfit::TooOld)
    } else {
        Ok(Offset(position.offset))
    }
}

fn restore_store(
    shared: &Shared,
    (store, end): (StoreIndex, Offset),
    partition: Partition,
    state: &mut TaskState,
    wanted: &dyn Fn() -> bool,
) -> Result<Option<u64>, StartError> {
    let mut next = prepare(shared, store, partition, state, end)?;
    let mut restoration = StoreRestoration::start(shared, store, partition, next, end);
    while next < end {
        let seen = shared.log.version();
        let fetched = shared.log.fetch(shared.changelog(store).id, partition, next, FETCH_BYTES)?;
        let applied = apply(shared, store, state, next, fetched, |_, _, _| {})?;
        if !wanted() {
            return Ok(None);
        }
        if applied.next == next {
            shared.log.wait(seen, WAIT);
        } else {
            restoration.took(applied.records, applied.next);
        }
        next = applied.next;
    }
    Ok(Some(restoration.ended()))
}

/// Where the changelog of a store is to be read from, its state cleared if that does not lead there. `end` is the changelog's.
pub(super) fn prepare(
    shared: &Shared,
    store: StoreIndex,
    partition: Partition,
    state: &mut TaskState,
    end: Offset,
) -> Result<Offset, StartError> {
    let changelog = shared.changelog(store);
    let position = state.position(store.id());
    // Who followed it until now has all of it: wherever it begins is before that.
    if position.is_some_and(|at| at.topic_id == changelog.uuid && at.offset == end.0) {
        return Ok(end);
    }
    // Nothing was ever written to it: there is nothing to ask for.
    if position.is_none() && end == Offset(0) {
        return Ok(end);
    }
    let start = shared.log.bounds(changelog.id, partition)?.start;
    match begin(shared, changelog, position, start, end) {
        Ok(next) => Ok(next),
        // What lies behind the state was trimmed: there is nothing to rebuild it from.
        Err(misfit) if shared.embedded.is_some() => Err(refused(shared, store, partition, &misfit, start, end)),
        Err(misfit) => {
            let why = misfit.explain(&shared.topology.stores[store.0].name, &changelog.name, start, end);
            tracing::warn!(partition = partition.0, "{why}; it is restored from the beginning");
            state.clear(store.id())?;
            Ok(start)
        }
    }
}

/// What one part of a changelog came to.
pub(super) struct Applied {
    /// Where to read on; where it was read from if there was nothing.
    pub(super) next: Offset,
    /// The changelog's end, as far as is known.
    pub(super) end: Offset,
    pub(super) records: u64,
    /// When the last of it was committed, by the clock of who did.
    pub(super) committed_at: Option<Timestamp>,
}

/// Takes a part of a changelog, as it was read from `next` on, into the state, and then tells `each` row of it.
pub(super) fn apply(
    shared: &Shared,
    store: StoreIndex,
    state: &mut TaskState,
    next: Offset,
    fetched: Fetched,
    mut each: impl FnMut(&[u8], Option<&[u8]>, Offset),
) -> Result<Applied, StartError> {
    let changelog = shared.changelog(store);
    let mut records = 0;
    let committed_at = fetched.batches.last().map(StoredBatch::appended_at);
    if fetched.next > next {
        let rows = || fetched.batches.iter().flat_map(|batch| batch.records_from(next));
        let keyed = rows().filter_map(|record| Some((record.key?, record.value)));
        let wall_ms = committed_at.unwrap_or(shared.config.clock.now()).0;
        let until = Position { topic_id: changelog.uuid, offset: fetched.next.0, wall_ms };
        state.restore(store.id(), keyed.inspect(|_| records += 1), until)?;
        for record in rows() {
            if let Some(key) = record.key {
                each(key, record.value, record.offset.next());
            }
        }
    }
    Ok(Applied { next: fetched.next, end: fetched.end, records, committed_at })
}

fn refused(shared: &Shared, store: StoreIndex, partition: Partition, misfit: &Misfit, start: Offset, end: Offset) -> StartError {
    let why = misfit.explain(&shared.topology.stores[store.0].name, &shared.changelog(store).name, start, end);
    StartError::StateAndLogDiffer { dir: shared.config.data.clone(), why: format!("{why} (partition {partition})") }
}

impl Misfit {
    fn explain(&self, store: &str, changelog: &str, start: Offset, end: Offset) -> String {
        match self {
            Misfit::Missing => {
                format!("the state of store {store:?} is missing, and its changelog begins only at offset {start}")
            }
            Misfit::OtherLog => format!("the state of store {store:?} belongs to another log than the changelog {changelog:?}"),
            Misfit::Beyond(at) => {
                format!("the state of store {store:?} stands at offset {at}, beyond the end {end} of its changelog")
            }
            Misfit::Trimmed(at) => {
                format!("the state of store {store:?} stands at offset {at}, and its changelog begins only at {start}")
            }
            Misfit::TooOld => format!("the state of store {store:?} is too old to tell which keys were deleted since"),
        }
    }
}
