//! Bringing a task's stores to the end of their changelog, from where their state stands. A task processes only after that.
//!
//! The end is the one that includes what a former owner committed, even if the log does not show it yet, and whoever answers: first a mark is
//! appended, behind all that is decided or can still be, then committed records are read until the mark is reached (KAFKA-10167: whoever stops
//! at the last stable offset misses a transaction that is decided and not yet marked).

use std::time::Duration;

use millstream_state::{Position, StoreId, TaskState};

use super::restoring::TaskRestoration;
use super::{Shared, StartError};
use crate::log::{Fetched, OwnedEnd, StoredBatch, TopicInfo};
use crate::record::{Offset, Partition, Timestamp};
use crate::task::changelog::{ChangelogReader, ChangelogRow};
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
    let changelog = shared.changelog(sub).id;
    let OwnedEnd { end, next } = shared.log.owned_end(changelog, partition)?;
    let mut tail = Tail::prepare(shared, sub, partition, state, end)?;
    let mut restoration = TaskRestoration::start(shared, sub, partition, tail.next, end);
    while tail.next < end {
        let (seen, from) = (shared.log.version(), tail.next);
        let fetched = shared.log.fetch(changelog, partition, from, FETCH_BYTES)?;
        let applied = tail.apply(shared, state, fetched, |_, _| {})?;
        if !wanted() {
            return Ok(None);
        }
        if tail.next == from {
            shared.log.wait(seen, WAIT);
        } else {
            restoration.took(applied.records, tail.next);
        }
    }
    // Who follows the changelog reads the mark as well, and whoever was told of a position waits for an owner that has come so far.
    let nothing = Fetched { batches: Vec::new(), next, end: next };
    tail.apply(shared, state, nothing, |_, _| {})?;
    Ok(Some(restoration.ended()))
}

/// Whether the changelog of a task may have rows in this part of it: marks of transactions, which nobody waits for who has made them, take offsets
/// too. What cannot be read may be one.
pub(super) fn may_have_rows(shared: &Shared, sub: usize, partition: Partition, from: Offset, to: Offset) -> bool {
    let mut rows = ChangelogReader::new(&shared.topology, &shared.topology.subs[sub]);
    let mut next = from;
    while next < to {
        let Ok(fetched) = shared.log.fetch(shared.changelog(sub).id, partition, next, FETCH_BYTES) else { return true };
        let mut read = fetched.batches.iter().flat_map(|batch| batch.records_from(next));
        if fetched.next == next || read.any(|record| record.offset < to && rows.row(&record).is_some()) {
            return true;
        }
        next = fetched.next;
    }
    false
}

/// What is still to be read of a task's changelog, to be taken into its stores.
pub(super) struct Tail {
    sub: usize,
    rows: ChangelogReader,
    /// Where to read on.
    pub(super) next: Offset,
    /// Where the stores stand: what lies before that is in them already, or belongs to a former life of theirs. They stand apart only where one
    /// of them is new.
    from: Vec<(StoreId, Offset)>,
}

/// What one part of a changelog came to.
pub(super) struct Applied {
    /// The changelog's end, as far as is known.
    pub(super) end: Offset,
    pub(super) records: u64,
    /// When the last of it was committed, by the clock of who did.
    pub(super) committed_at: Option<Timestamp>,
}

impl Tail {
    /// Where the changelog of a task is to be read from; stores from which it does not go on are cleared. `end` is the changelog's.
    pub(super) fn prepare(
        shared: &Shared,
        sub: usize,
        partition: Partition,
        state: &mut TaskState,
        end: Offset,
    ) -> Result<Tail, StartError> {
        let (changelog, def) = (shared.changelog(sub), &shared.topology.subs[sub]);
        let from = def.stores.iter().map(|store| (store.id(), end)).collect();
        let mut tail = Tail { sub, rows: ChangelogReader::new(&shared.topology, def), next: end, from };
        let positions: Vec<Option<Position>> = def.stores.iter().map(|store| state.position(store.id())).collect();
        // Who followed it until now has all of it: wherever it begins is before that. And where nothing was ever written there is nothing to ask for.
        let here = |position: &Option<Position>| match position {
            Some(at) => at.topic_id == changelog.uuid && at.offset == end.0,
            None => end == Offset(0),
        };
        if positions.iter().all(here) {
            return Ok(tail);
        }
        let start = shared.log.bounds(changelog.id, partition)?.start;
        // Nobody else can have written to a store that is new to the only process: it stands where the others do.
        let others = positions.iter().flatten().min_by_key(|at| at.offset).filter(|_| shared.embedded.is_some()).copied();
        for ((store, from), position) in tail.from.iter_mut().zip(positions) {
            *from = match begin(shared, changelog, position.or(others), start, end) {
                Ok(from) => from,
                Err(misfit) => {
                    let name = &shared.topology.stores[StoreIndex::of(*store).0].name;
                    let why = misfit.explain(name, &changelog.name, start, end);
                    if shared.embedded.is_some() {
                        // What lies behind the state was trimmed: there is nothing to rebuild it from.
                        let why = format!("{why} (partition {partition})");
                        return Err(StartError::StateAndLogDiffer { dir: shared.config.data.clone(), why });
                    }
                    tracing::warn!(partition = partition.0, "{why}; it is restored from the beginning");
                    state.clear(*store)?;
                    start
                }
            };
        }
        tail.next = tail.from.iter().map(|(_, from)| *from).min().unwrap_or(end);
        Ok(tail)
    }

    /// Takes what was read from `next` on into the state, all of it at once for readers, and tells `each` row of it with the offset after it.
    pub(super) fn apply(
        &mut self,
        shared: &Shared,
        state: &mut TaskState,
        fetched: Fetched,
        mut each: impl FnMut(&ChangelogRow<'_>, Offset),
    ) -> Result<Applied, StartError> {
        let committed_at = fetched.batches.last().map(StoredBatch::appended_at);
        let mut records = 0;
        if fetched.next > self.next {
            let Tail { sub, ref mut rows, next, ref from, .. } = *self;
            let apart = from.iter().any(|(_, from)| *from > next);
            let is_new = |store: StoreId, offset: Offset| from.iter().all(|(of, from)| *of != store || *from <= offset);
            let wall_ms = committed_at.unwrap_or(shared.config.clock.now()).0;
            let at = Position { topic_id: shared.changelog(sub).uuid, offset: fetched.next.0, wall_ms };
            let reached = from.iter().filter(|(_, from)| *from <= fetched.next);
            let positions: Vec<(StoreId, Position)> = reached.map(|(store, _)| (*store, at)).collect();
            let read = fetched.batches.iter().flat_map(|batch| batch.records_from(next)).filter_map(|record| {
                let row = rows.row(&record).filter(|row| !apart || is_new(row.store.id(), record.offset))?;
                records += 1;
                each(&row, record.offset.next());
                Some((row.store.id(), row.key, row.value))
            });
            state.restore(read, &positions)?;
            self.next = fetched.next;
        }
        Ok(Applied { end: fetched.end, records, committed_at })
    }
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

impl Misfit {
    fn explain(&self, store: &str, changelog: &str, start: Offset, end: Offset) -> String {
        match self {
            Misfit::Missing => {
                format!("the state of store {store:?} is missing, and its changelog {changelog:?} begins only at offset {start}")
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
