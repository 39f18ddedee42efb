//! The way from the hot layer to the disk. In this order, so that a position on disk never promises more than the rows beside it hold:
//! freeze the dirty rows with their positions; write each store's rows, sorted, to its column family; sync those families; write and sync the
//! positions; only then count the rows as clean. A crash in between leaves rows that are newer than their position, which a replay from there
//! overwrites with what they are already. No lock of the hot layer is held while anything is sorted or written.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::db::Shared;
use crate::disk::Family;
use crate::entry::Entry;
use crate::error::Error;
use crate::fault;
use crate::hot::HotTask;
use crate::meta;
use crate::options::{Position, StoreId, TaskId};
use crate::order::sort_by_key;
use crate::table::Cursor;

/// What a flush made durable.
#[derive(Clone, Default, Debug)]
pub struct FlushReport {
    /// The positions on disk that changed. Up to there, a changelog is not needed any more by this process.
    pub positions: Vec<(TaskId, StoreId, Position)>,
    /// Rows and tombstones written.
    pub rows: usize,
}

/// One store of one task in a running flush.
struct Part {
    task: Arc<HotTask>,
    place: usize,
    /// What will be durable.
    position: Position,
    /// Whether the store had a position on disk before; else what was removed there may not be durable yet.
    had_position: bool,
}

/// Tombstones of a part that are on their way to the disk.
type Tombstones = Vec<Entry>;

/// Flushes all that is dirty. One at a time: others wait for it.
pub(crate) fn flush(shared: &Shared) -> Result<FlushReport, Error> {
    let _alone = shared.flushing.lock();
    shared.pace.flushing();
    let parts = freeze(shared);
    let written = if parts.is_empty() { Ok((0, Vec::new())) } else { write(shared, &parts) };
    let report = match written {
        Ok((rows, tombstones)) => {
            settle(shared, &parts, tombstones);
            let positions = parts.iter().map(|p| (p.task.id, p.task.stores[p.place], p.position)).collect();
            Ok(FlushReport { positions, rows })
        }
        Err(error) => {
            for part in &parts {
                part.task.hot.write().stores[part.place].thaw();
            }
            shared.pace.flush_failed();
            Err(error)
        }
    };
    if let Some(listener) = &shared.after_flush
        && !parts.is_empty()
    {
        listener(report.as_ref());
    }
    report
}

/// Freezes every store that has something for the disk, in the order of its place there.
fn freeze(shared: &Shared) -> Vec<Part> {
    let mut parts = Vec::new();
    for task in shared.all_tasks() {
        let mut hot = task.hot.write();
        for (place, store) in hot.stores.iter_mut().enumerate() {
            let had_position = store.durable.is_some();
            parts.extend(store.freeze().map(|position| Part { task: task.clone(), place, position, had_position }));
        }
    }
    parts.sort_by_key(|part| (part.task.stores[part.place], part.task.id.partition));
    parts
}

fn write(shared: &Shared, parts: &[Part]) -> Result<(usize, Vec<Tombstones>), Error> {
    let at = |name| fault::point(name).map_err(|e| Error::io("written", &e));
    at("state:flush:frozen")?;
    let by_store = || parts.chunk_by(|a, b| store_of(a) == store_of(b));
    let mut rows = 0;
    let mut written = Vec::new();
    let mut tombstones = Vec::new();
    for parts in by_store() {
        let family = Family::of(store_of(&parts[0]));
        let of_store = shared.disk.write(family, &mut parts.iter().flat_map(|part| collect(part, &mut tombstones)))?;
        rows += of_store;
        let only_moved = of_store == 0 && parts.iter().all(|part| part.had_position);
        written.extend((!only_moved).then_some(family));
        at("state:flush:store-written")?;
    }
    if let Some(before_sync) = &shared.before_sync {
        before_sync().map_err(|e| Error::io("synced, for the log was not", &e))?;
    }
    for family in written {
        shared.disk.sync(family)?;
        at("state:flush:store-synced")?;
    }
    let positions: BTreeMap<_, _> = parts
        .iter()
        .map(|p| {
            ((p.task.id.partition, shared.stores[store_of(p).0 as usize].name.as_bytes()), meta::encode_position(p.position))
        })
        .collect();
    let mut rows_of_positions =
        positions.iter().map(|((partition, name), position)| (*partition, Entry::new(name, Some([position, &[]]))));
    shared.disk.write(Family::META, &mut rows_of_positions)?;
    at("state:flush:positions-written")?;
    shared.disk.sync(Family::META)?;
    at("state:flush:positions-synced")?;
    Ok((rows, tombstones))
}

fn store_of(part: &Part) -> StoreId {
    part.task.stores[part.place]
}

/// The rows of a part in key order, and its tombstones once more aside.
fn collect(part: &Part, tombstones: &mut Vec<Tombstones>) -> impl Iterator<Item = (u32, Entry)> + use<> {
    let mut rows = Vec::new();
    let mut cursor = Cursor::default();
    while part.task.hot.read().stores[part.place].collect(&mut cursor, &mut rows) {}
    tombstones.push(rows.iter().filter(|e| e.is_tombstone()).cloned().collect());
    let partition = part.task.id.partition;
    sort_by_key(rows, Entry::key).map(move |entry| (partition, entry))
}

/// Counts what was written as clean, and removes the tombstones that have done their work.
fn settle(shared: &Shared, parts: &[Part], tombstones: Vec<Tombstones>) {
    const HOLD: usize = 1024; // tombstones buried under one hold of the lock
    for (part, tombstones) in parts.iter().zip(tombstones) {
        part.task.hot.write().stores[part.place].settle(part.position);
        for some in tombstones.chunks(HOLD) {
            let mut hot = part.task.hot.write();
            for tombstone in some {
                let hash = shared.hash(store_of(part), tombstone.key());
                hot.stores[part.place].bury(tombstone, hash);
            }
        }
        part.task.hot.write().count(&shared.budget);
    }
}

/// Forgets clean rows until memory is within its budget again, first those of tasks that nobody owns, part by part of every store in turn, or
/// nothing is left to forget.
pub(crate) fn forget(shared: &Shared) {
    let (owned, given_back): (Vec<_>, Vec<_>) = shared.all_tasks().into_iter().partition(|task| task.is_owned());
    forget_of(shared, &given_back);
    forget_of(shared, &owned);
}

fn forget_of(shared: &Shared, tasks: &[Arc<HotTask>]) {
    let mut left: Vec<(&Arc<HotTask>, usize)> =
        tasks.iter().flat_map(|task| (0..task.stores.len()).map(move |place| (task, place))).collect();
    while !left.is_empty() {
        let mut more = Vec::new();
        for (task, place) in left {
            if shared.budget.has_room() {
                return;
            }
            let mut hot = task.hot.write();
            if hot.stores[place].forget_step() {
                more.push((task, place));
            }
            hot.count(&shared.budget);
        }
        left = more;
    }
}
