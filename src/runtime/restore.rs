//! Bringing a task's stores to the end of their changelogs, from where their state stands. A task processes only after that. A store without
//! a position is empty: whoever takes its task from the database gets it so.

use millstream_state::{Position, TaskState};

use super::{Shared, StartError};
use crate::log::{Log, StoredBatch, TopicInfo};
use crate::record::{Offset, Partition};
use crate::topology::{StoreIndex, SubTopology};

/// How much of a changelog is read at once, in bytes.
const FETCH_BYTES: usize = 4 << 20;

/// Restores all stores of a task. Answers how many changelog records were applied.
pub(super) fn restore(
    shared: &Shared,
    sub: &SubTopology,
    partition: Partition,
    state: &mut TaskState,
) -> Result<u64, StartError> {
    let mut records = 0;
    for &store in &sub.stores {
        records += restore_store(shared, store, partition, state)?;
    }
    Ok(records)
}

/// Where to begin: at the state's position, if the changelog still goes on from there.
fn begin(
    shared: &Shared,
    store: StoreIndex,
    partition: Partition,
    changelog: &TopicInfo,
    position: Option<Position>,
) -> Result<Offset, StartError> {
    let bounds = shared.log.bounds(changelog.id, partition)?;
    let name = &shared.topology.stores[store.0].name;
    let (start, end) = (bounds.start, bounds.end);
    let why = match position {
        None if start == Offset(0) => return Ok(Offset(0)),
        None => format!("the state of store {name:?} is missing, and its changelog begins only at offset {start}"),
        Some(position) if position.topic_id != changelog.uuid => {
            format!("the state of store {name:?} belongs to another log than the changelog {:?}", changelog.name)
        }
        Some(position) if position.offset > end.0 => {
            format!("the state of store {name:?} stands at offset {}, beyond the end {end} of its changelog", position.offset)
        }
        Some(position) if position.offset < start.0 => {
            format!("the state of store {name:?} stands at offset {}, and its changelog begins only at {start}", position.offset)
        }
        Some(position) => return Ok(Offset(position.offset)),
    };
    Err(StartError::StateAndLogDiffer { dir: shared.config.data.clone(), why: format!("{why} (partition {partition})") })
}

fn restore_store(shared: &Shared, store: StoreIndex, partition: Partition, state: &mut TaskState) -> Result<u64, StartError> {
    let changelog = shared.changelog(store);
    let position = state.position(store.id());
    let mut next = begin(shared, store, partition, changelog, position)?;
    let mut records = 0;
    loop {
        let fetched = shared.log.fetch(changelog.id, partition, next, FETCH_BYTES)?;
        if fetched.next == next {
            return Ok(records);
        }
        let rows = fetched.batches.iter().flat_map(|batch| batch.records_from(next));
        let rows = rows.filter_map(|record| Some((record.key?, record.value)));
        let wall_ms = fetched.batches.last().map_or(shared.config.clock.now(), StoredBatch::appended_at).0;
        let until = Position { topic_id: changelog.uuid, offset: fetched.next.0, wall_ms };
        let mut count = 0;
        state.restore(store.id(), rows.inspect(|_| count += 1), until)?;
        records += count;
        next = fetched.next;
    }
}
