//! A task's state, as its one owner sees it: committed rows and, above them, the writes of the running transaction, each of which can be
//! taken back to the last savepoint. Nothing of a transaction reaches the hot layer, a reader or the disk before `commit`.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::Arc;

use crate::db::Db;
use crate::disk::Family;
use crate::entry::Entry;
use crate::error::Error;
use crate::fault;
use crate::hot::{HotStore, HotTask};
use crate::options::{Position, StoreId, TaskId};
use crate::order::sort_by_key;
use crate::reader::Reader;
use crate::row::{self, Row, STAMP, Value};
use crate::scan::{Direction, Range, Scan};
use crate::table::{Slot, Table};
use crate::time::Times;
use crate::ttl::Sweep;

/// The stores of one task. Dropping it gives the task back: the running transaction is dropped, what was committed stays, with its positions, and
/// is flushed like everything else, so that whoever takes the task again restores only what its changelogs got meanwhile. Until then readers see
/// it as it was; where memory is short, its rows are the first to be forgotten.
pub struct TaskState {
    pub(crate) db: Db,
    pub(crate) task: Arc<HotTask>,
    /// The transaction's writes, by the place of the store. A slot's mark is the savepoint that was in force.
    overlay: Vec<Overlay>,
    undo: Vec<Undo>,
    savepoint: u32,
    times: Times,
    /// As they were at the savepoint.
    saved_times: Times,
    pub(crate) sweeps: Vec<Sweep>,
}

struct Overlay {
    table: Table,
    /// What the budget was told.
    counted: usize,
}

/// How to take back a write.
struct Undo {
    place: usize,
    step: UndoStep,
}

enum UndoStep {
    /// The transaction had written the row before the savepoint.
    Restore(Slot),
    /// It had not; the entry is for its key, with the hash.
    Remove(Entry, u32),
}

/// Overlays tell the budget when they have changed by so many bytes.
const COUNTED_BYTES: usize = 64 << 10;

/// A row that the running transaction wrote, as it goes into the changelog.
#[derive(Clone, Copy)]
pub struct DirtyRow<'a> {
    /// The store.
    pub store: StoreId,
    entry: &'a Entry,
}

impl<'a> DirtyRow<'a> {
    /// The key within the store.
    #[must_use]
    pub fn key(&self) -> &'a [u8] {
        self.entry.key()
    }

    /// The value as it is stored, which in a store with time-to-live begins with the row's time; `None` if the key was deleted.
    #[must_use]
    pub fn value(&self) -> Option<&'a [u8]> {
        self.entry.value()
    }
}

impl TaskState {
    pub(crate) fn new(db: Db, task: Arc<HotTask>) -> TaskState {
        let overlay = |store: &StoreId| Overlay { table: Table::new(db.shared().spec(*store).access, 1), counted: 0 };
        let overlay = task.stores.iter().map(overlay).collect();
        let sweeps = task.stores.iter().map(|_| Sweep::default()).collect();
        let (mut times, mut saved_times) = (Times::new(i64::MIN, task.stores.len()), Times::new(i64::MIN, task.stores.len()));
        times.set(&task.hot.read().times);
        saved_times.set(&times);
        TaskState { db, task, overlay, undo: Vec::new(), savepoint: 0, times, saved_times, sweeps }
    }

    /// A reader of what is committed, of any task of the process.
    #[must_use]
    pub fn reader(&self) -> Reader {
        self.db.reader()
    }

    /// Which task this is.
    #[must_use]
    pub fn id(&self) -> TaskId {
        self.task.id
    }

    /// What the committed rows of a store stand at: the changelog from there on is to be replayed before the task processes anything.
    /// `None` for a store that is empty: to be replayed from the beginning.
    #[must_use]
    pub fn position(&self, store: StoreId) -> Option<Position> {
        self.task.hot.read().stores[self.task.place(store)].position
    }

    /// Stream time, by which rows with time-to-live are there or not, and which [`put`](TaskState::put) writes them with.
    #[must_use]
    pub fn stream_time_ms(&self) -> i64 {
        self.times.stream_ms
    }

    /// Sets stream time. It belongs to the transaction: `undo` and `abort` set it back, and readers see it with the commit. A task that was
    /// taken after a restart is told its stream time once, followed by a commit of nothing, before anyone reads it.
    pub fn set_stream_time_ms(&mut self, stream_time_ms: i64) {
        self.times.stream_ms = stream_time_ms;
    }

    /// The time by which rows of this store are there or not, if they have a time-to-live.
    #[must_use]
    pub fn time_ms(&self, store: StoreId) -> i64 {
        self.times.of(self.task.place(store))
    }

    /// Gives a store a time of its own, by which its rows are there or not in place of stream time: for a store whose rows are as old as
    /// what was last written to it says. It belongs to the transaction, and is told after a restart, as stream time.
    pub fn set_time_ms(&mut self, store: StoreId, time_ms: i64) {
        self.times.set_own(self.task.place(store), time_ms);
    }

    /// The value of a key: what this transaction wrote, else what is committed.
    pub fn get(&self, store: StoreId, key: &[u8]) -> Result<Option<Value>, Error> {
        let place = self.task.place(store);
        let entry = self.entry(store, place, key)?;
        let view = self.db.shared().view(store, self.times.of(place));
        Ok(entry.and_then(|entry| view.row(entry)).map(Value::from))
    }

    /// What the youngest layer that knows the key says about it.
    pub(crate) fn entry(&self, store: StoreId, place: usize, key: &[u8]) -> Result<Option<Entry>, Error> {
        let shared = self.db.shared();
        let hash = shared.hash(store, key);
        if let Some(slot) = self.overlay[place].table.get(hash, key) {
            return Ok(Some(slot.entry.clone()));
        }
        {
            let hot = self.task.hot.read();
            let store = &hot.stores[place];
            if let Some(slot) = store.table.get(hash, key) {
                return Ok(Some(slot.entry.clone()));
            }
            if !store.may_be_on_disk(hash) {
                return Ok(None);
            }
        }
        // No lock is needed here: only the owner commits, so memory gets no row of this key meanwhile, and a row leaves memory only for disk.
        let found = shared.disk.get(Family::of(store), self.task.id.partition, key)?;
        if let Some(entry) = &found
            && shared.budget.has_room()
            && let Some(mut hot) = self.task.hot.try_write()
        {
            hot.keep(place, Slot { entry: entry.clone(), mark: HotStore::CLEAN, hash }, &shared.budget);
        }
        Ok(found)
    }

    /// The rows of a range in order, with this transaction's writes. In a [keyed](crate::Access::Keyed) store all rows in memory are looked at
    /// for the first of them, and put in order for more than a few.
    pub fn scan(&self, store: StoreId, range: Range, direction: Direction) -> impl Iterator<Item = Result<Row, Error>> + '_ {
        Pages { state: self, store, rest: range, direction, page: VecDeque::new(), limit: 0, done: false }
    }

    /// The first rows of a range, merged under one hold of the lock.
    fn page(&self, store: StoreId, range: &Range, direction: Direction, limit: usize) -> Result<VecDeque<Row>, Error> {
        let shared = self.db.shared();
        let place = self.task.place(store);
        let hot = self.task.hot.read();
        let overlay = Some(&self.overlay[place].table);
        let view = shared.view(store, self.times.of(place));
        Scan::new(shared, (self.task.id.partition, store), overlay, &hot.stores[place], (Cow::Borrowed(range), direction), view)
            .take(limit)
            .collect()
    }

    /// Writes a row. In a store with time-to-live its time is stream time.
    pub fn put(&mut self, store: StoreId, key: &[u8], value: &[u8]) {
        self.put_at(store, key, value, self.times.stream_ms);
    }

    /// Writes a row whose time-to-live counts from `time_ms`; in a store without it the time has no meaning.
    pub fn put_at(&mut self, store: StoreId, key: &[u8], value: &[u8], time_ms: i64) {
        let stamp = row::stamp(time_ms);
        let stamp: &[u8] = if self.db.shared().spec(store).ttl_ms.is_some() { &stamp } else { &[] };
        self.write(store, Entry::new(key, Some([stamp, value])));
    }

    /// Deletes a row, if it is there.
    pub fn delete(&mut self, store: StoreId, key: &[u8]) {
        self.write(store, Entry::tombstone(key));
    }

    fn write(&mut self, store: StoreId, entry: Entry) {
        let place = self.task.place(store);
        let hash = self.db.shared().hash(store, entry.key());
        let overlay = &mut self.overlay[place];
        let undo = Entry::clone(&entry);
        let step = match overlay.table.replace(Slot { entry, mark: self.savepoint, hash }) {
            Some(old) if old.mark == self.savepoint => None, // how to take it back is noted already
            Some(old) => Some(UndoStep::Restore(old)),
            None => Some(UndoStep::Remove(undo, hash)),
        };
        self.undo.extend(step.map(|step| Undo { place, step }));
        overlay.count(&self.db, COUNTED_BYTES);
    }

    /// Begins what [`undo`](TaskState::undo) takes back: typically one record. There is one savepoint, the last.
    pub fn savepoint(&mut self) {
        self.savepoint += 1;
        self.saved_times.set(&self.times);
        self.undo.clear();
    }

    /// Takes back every write since the last savepoint, or since the beginning of the transaction, and times with them.
    pub fn undo(&mut self) {
        self.times.set(&self.saved_times);
        while let Some(Undo { place, step }) = self.undo.pop() {
            let table = &mut self.overlay[place].table;
            match step {
                UndoStep::Restore(slot) => table.replace(slot),
                UndoStep::Remove(entry, hash) => table.remove(hash, entry.key()),
            };
        }
    }

    /// The last write of each key that the transaction wrote: by store, then in key order.
    pub fn dirty(&self) -> impl Iterator<Item = DirtyRow<'_>> {
        self.task.stores.iter().zip(&self.overlay).flat_map(|(store, overlay)| {
            sort_by_key(overlay.table.slots(), |slot| slot.entry.key()).map(|slot| DirtyRow { store: *store, entry: &slot.entry })
        })
    }

    /// Bytes of the transaction's rows in memory.
    #[must_use]
    pub fn dirty_bytes(&self) -> usize {
        self.overlay.iter().map(|o| o.table.entry_bytes()).sum()
    }

    /// Makes the transaction's writes committed, for readers all at once, and begins the next one. `positions` are those of the changelogs
    /// after the transaction; call it only when they can no longer be lost.
    ///
    /// Panics if a store was written and has no position among them.
    pub fn commit(&mut self, positions: &[(StoreId, Position)]) {
        fault::crash_point("state:commit:begin");
        let mut hot = self.task.hot.write();
        for (place, store) in self.task.stores.iter().enumerate() {
            let position = positions.iter().find(|(s, _)| s == store).map(|(_, position)| *position);
            let table = &mut self.overlay[place].table;
            assert!(position.is_some() || table.is_empty(), "a store that was written is committed with its position");
            let hot_store = &mut hot.stores[place];
            table.drain(|slot| hot_store.apply(slot.entry, slot.hash));
            hot_store.position = position.or(hot_store.position);
            fault::crash_point("state:commit:store-applied");
        }
        hot.times.set(&self.times);
        hot.count(&self.db.shared().budget);
        drop(hot);
        self.begin();
        self.db.shared().pace.committed(&self.db.shared().budget);
        fault::crash_point("state:commit:applied");
    }

    /// Drops the transaction's writes and begins the next one. Stream time is again that of the last commit.
    pub fn abort(&mut self) {
        for overlay in &mut self.overlay {
            overlay.table.drain(drop);
        }
        self.times.set(&self.task.hot.read().times);
        self.begin();
    }

    /// Whether the running transaction has written to a store.
    pub(crate) fn has_written(&self, place: usize) -> bool {
        !self.overlay[place].table.is_empty()
    }

    fn begin(&mut self) {
        self.undo.clear();
        self.savepoint = 0;
        self.saved_times.set(&self.times);
        for overlay in &mut self.overlay {
            overlay.count(&self.db, 0);
        }
    }

    /// Takes in a part of the changelogs: rows as [`dirty`](TaskState::dirty) gave them, in order, and where the stores stand after them. A row
    /// that is there already does no harm. Readers see each part at once. Waits when memory is short.
    ///
    /// Panics while a transaction has written, or if a store has rows and no position.
    pub fn restore<'a>(
        &mut self,
        rows: impl IntoIterator<Item = (StoreId, &'a [u8], Option<&'a [u8]>)>,
        positions: &[(StoreId, Position)],
    ) -> Result<(), Error> {
        let shared = self.db.shared();
        let stores: Vec<_> = positions.iter().map(|(store, _)| (*store, self.task.place(*store), shared.spec(*store))).collect();
        assert!(stores.iter().all(|(_, place, _)| !self.has_written(*place)), "a store is restored between transactions");
        let mut last = 0;
        let mut entries = Vec::new();
        for (store, key, value) in rows {
            if stores[last].0 != store {
                last = stores.iter().position(|(of, ..)| *of == store).expect("a store that has rows has a position");
            }
            let (_, place, spec) = stores[last];
            if spec.ttl_ms.is_some() && value.is_some_and(|value| value.len() < STAMP) {
                return Err(Error::Damaged("a changelog record of a store with time-to-live has no time".into()));
            }
            entries.push((place, shared.hash(store, key), Entry::new(key, value.map(|value| [value, &[]]))));
        }
        let mut hot = self.task.hot.write();
        for (place, hash, entry) in entries {
            hot.stores[place].apply(entry, hash);
        }
        for ((_, place, _), (_, position)) in stores.iter().zip(positions) {
            hot.stores[*place].position = Some(*position);
        }
        hot.count(&shared.budget);
        drop(hot);
        shared.pace.committed(&shared.budget);
        fault::point("state:restore:applied").map_err(|e| Error::io("restored", &e))?;
        self.db.make_room()
    }
}

/// Rows of the first page of an owner's scan.
const FIRST_PAGE: usize = 16;

/// An owner's scan. Between two pages no lock is held, so that the owner may read on and others may read meanwhile; the rows stay the same,
/// for only the owner changes them, and a row that moves from memory to disk is found there by the next page.
struct Pages<'a> {
    state: &'a TaskState,
    store: StoreId,
    rest: Range,
    direction: Direction,
    page: VecDeque<Row>,
    limit: usize,
    done: bool,
}

impl Iterator for Pages<'_> {
    type Item = Result<Row, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.page.is_empty() && !self.done {
            if self.limit == FIRST_PAGE && self.rest.group().is_none() {
                self.state.task.index(self.state.task.place(self.store), &self.state.db.shared().budget);
            }
            self.limit = (self.limit * 4).clamp(FIRST_PAGE, 1024);
            match self.state.page(self.store, &self.rest, self.direction, self.limit) {
                Ok(page) => self.page = page,
                Err(error) => {
                    self.done = true;
                    return Some(Err(error));
                }
            }
            self.done = self.page.len() < self.limit;
            if let Some(last) = self.page.back() {
                self.rest.rest(self.direction, last.key());
            }
        }
        self.page.pop_front().map(Ok)
    }
}

impl Overlay {
    /// Tells the budget of a change by at least so many bytes.
    fn count(&mut self, db: &Db, least: usize) {
        let now = self.table.memory();
        if now.abs_diff(self.counted) >= least {
            db.shared().budget.recount_overlay(self.counted, now);
            self.counted = now;
        }
    }
}

impl Drop for TaskState {
    fn drop(&mut self) {
        for overlay in &self.overlay {
            self.db.shared().budget.recount_overlay(overlay.counted, 0);
        }
        self.task.release();
    }
}
