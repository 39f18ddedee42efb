//! The hot layer of a task: its committed rows in memory, dirty ones (not yet on disk) and clean ones (also on disk). One lock guards all
//! stores of a task, and a commit changes them under one hold of it: whoever reads under it sees whole commits. Here is no disk and no
//! uncommitted write.
//!
//! Dirtiness is a number. Rows committed between two freezes carry the same generation; a flush freezes one, writes every row above the last
//! flushed generation, and turns them clean by raising that number. A row that changes while the flush writes belongs to the next generation
//! already and stays dirty.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};

use crate::budget::Budget;
use crate::entry::Entry;
use crate::forgotten::Forgotten;
use crate::index::KeyIndex;
use crate::options::{Access, Position, StoreId, TaskId};
use crate::scan::{Direction, Range};
use crate::table::{Cursor, Slot, Table};
use crate::time::Times;

/// Shards of a hash map of the hot layer: at a million rows, about a millisecond's work each.
const SHARDS: usize = 64;

/// Bytes for the hashes of what was forgotten of a store, beside which an eighth of what its rows take may be more.
const FORGOTTEN_LEAST: usize = 16 << 10;

/// Rows that are sorted for each page of a scan rather than kept in order: a few milliseconds.
const SMALL: usize = 16 << 10;

/// What a task's owner, readers and the flush share.
pub(crate) struct HotTask {
    pub(crate) id: TaskId,
    /// The task's stores; a store's place in this list is its place everywhere in the task.
    pub(crate) stores: Vec<StoreId>,
    pub(crate) owned: AtomicBool,
    pub(crate) hot: RwLock<Hot>,
}

/// What the lock guards.
pub(crate) struct Hot {
    pub(crate) stores: Vec<HotStore>,
    /// Times of the last commit, by which readers tell whether a row has expired.
    pub(crate) times: Times,
    /// What the budget was told.
    counted: Bytes,
    /// Whether the task is gone, and what remains here is for those who are just looking at it.
    retired: bool,
}

/// The hot layer of one store of a task.
pub(crate) struct HotStore {
    pub(crate) table: Table,
    /// What the rows stand at, together with those on disk.
    pub(crate) position: Option<Position>,
    /// What the rows on disk stand at.
    pub(crate) durable: Option<Position>,
    /// Whether every row of the store is here, so that a key that is missing needs no look at the disk.
    pub(crate) complete: bool,
    /// Otherwise, which rows may be on disk alone; `None` if nobody knows.
    forgotten: Option<Forgotten>,
    /// The mark of rows that are committed now.
    generation: u32,
    /// The newest generation that the running flush writes; equal to `flushed` when none runs.
    frozen: u32,
    /// The newest generation on disk.
    flushed: u32,
    /// Bytes of rows younger than `frozen`.
    active_bytes: usize,
    /// Bytes of rows that the running flush writes.
    frozen_bytes: usize,
    /// Where forgetting goes on.
    hand: Cursor,
    /// Tombstones in the table.
    tombstones: usize,
    /// The keys in order, while somebody pages through a hash map. Readers lock it while they hold the task's lock shared.
    index: Mutex<Option<KeyIndex>>,
    /// How many indexes were begun.
    indexes: AtomicU64,
}

/// Bytes in memory, and those of them that are dirty.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Bytes {
    pub(crate) all: usize,
    pub(crate) dirty: usize,
}

impl HotTask {
    pub(crate) fn new(id: TaskId, stores: Vec<StoreId>, hot: Vec<HotStore>) -> HotTask {
        let times = Times::new(i64::MIN, hot.len());
        let hot = Hot { stores: hot, times, counted: Bytes::default(), retired: false };
        HotTask { id, stores, owned: AtomicBool::new(false), hot: RwLock::new(hot) }
    }

    /// The place of a store in this task.
    ///
    /// Panics if the task does not have it, which is a mistake of the program.
    pub(crate) fn place(&self, store: StoreId) -> usize {
        let place = self.stores.iter().position(|s| *s == store);
        place.unwrap_or_else(|| panic!("task {} has no store {}", self.id, store.0))
    }

    /// Gets a store ready for being read in order for more than a page, without holding up commits for longer than one.
    pub(crate) fn index(&self, place: usize, budget: &Budget) {
        let number = {
            let hot = self.hot.read();
            let store = &hot.stores[place];
            let mut index = store.index.lock();
            if !store.table.is_hash() || store.table.len() <= SMALL || index.is_some() {
                return; // it is there, or somebody else is making it: whoever reads meanwhile gets along without
            }
            let number = store.indexes.fetch_add(1, Ordering::Relaxed);
            *index = Some(KeyIndex::begun(number));
            number
        };
        let (mut entries, mut cursor) = (Vec::new(), Cursor::default());
        while self.hot.read().stores[place].table.step(&mut cursor, |slot| entries.push(slot.entry.clone())) {}
        let made = KeyIndex::sorted(entries);
        let mut hot = self.hot.write();
        if let Some(index) = hot.stores[place].index.get_mut() {
            index.finish(number, made);
        }
        hot.count(budget);
    }

    pub(crate) fn is_owned(&self) -> bool {
        self.owned.load(Ordering::Acquire)
    }

    pub(crate) fn release(&self) {
        self.owned.store(false, Ordering::Release);
    }
}

impl Hot {
    /// Tells the budget how much this task's rows take now.
    pub(crate) fn count(&mut self, budget: &Budget) {
        let now = match self.retired {
            true => Bytes::default(),
            false => Bytes {
                all: self.stores.iter_mut().map(HotStore::memory).sum(),
                dirty: self.stores.iter().map(|s| s.active_bytes + s.frozen_bytes).sum(),
            },
        };
        budget.recount(self.counted, now);
        self.counted = now;
    }

    /// Ends the task, with nothing in it.
    pub(crate) fn retire(&mut self, budget: &Budget) {
        self.stores.iter_mut().for_each(HotStore::clear);
        self.retired = true;
        self.count(budget);
    }

    /// Adds one clean row that was read from disk.
    pub(crate) fn keep(&mut self, place: usize, slot: Slot, budget: &Budget) {
        let now = Bytes { all: self.counted.all + slot.entry.memory(), ..self.counted };
        self.stores[place].keep(slot);
        budget.recount(self.counted, now);
        self.counted = now;
    }
}

impl HotStore {
    pub(crate) fn new(access: Access, durable: Option<Position>, complete: bool) -> HotStore {
        HotStore {
            table: Table::new(access, SHARDS),
            position: durable,
            durable,
            complete,
            forgotten: complete.then(Forgotten::default),
            generation: 1,
            frozen: 0,
            flushed: 0,
            active_bytes: 0,
            frozen_bytes: 0,
            hand: Cursor::default(),
            tombstones: 0,
            index: Mutex::new(None),
            indexes: AtomicU64::new(0),
        }
    }

    fn memory(&mut self) -> usize {
        self.table.memory()
            + self.index.get_mut().as_ref().map_or(0, KeyIndex::memory)
            + self.forgotten.as_ref().map_or(0, Forgotten::memory)
    }

    /// Whether a row with this hash, that is not here, may be on disk.
    pub(crate) fn may_be_on_disk(&self, hash: u32) -> bool {
        !self.complete && self.forgotten.as_ref().is_none_or(|forgotten| forgotten.may_have(hash))
    }

    /// Takes in one committed row.
    pub(crate) fn apply(&mut self, entry: Entry, hash: u32) {
        self.active_bytes += entry.memory();
        self.tombstones += usize::from(entry.is_tombstone());
        let written = self.index.get_mut().is_some().then(|| entry.clone());
        let old = self.table.replace(Slot { entry, mark: self.generation, hash });
        if let Some(written) = written {
            self.note(&written, old.as_ref().map(|old| &old.entry));
        }
        if let Some(old) = old {
            self.tombstones -= usize::from(old.entry.is_tombstone());
            if old.mark > self.frozen {
                self.active_bytes -= old.entry.memory();
            } else if old.mark > self.flushed {
                self.frozen_bytes -= old.entry.memory();
            }
        }
    }

    fn keep(&mut self, slot: Slot) {
        if self.index.get_mut().is_some() {
            self.note(&slot.entry, None);
        }
        let old = self.table.replace(slot);
        debug_assert!(old.is_none(), "a row is read from disk only where memory has none");
    }

    /// Tells the index of a write.
    fn note(&mut self, written: &Entry, replaced: Option<&Entry>) {
        let index = self.index.get_mut();
        if !index.as_mut().is_some_and(|index| index.note(written, replaced)) {
            *index = None;
        }
    }

    /// How many keys have a row here.
    pub(crate) fn rows(&self) -> usize {
        self.table.len() - self.tombstones
    }

    /// As [`Table::range`], by the index if there is one and it is of use.
    pub(crate) fn range(
        &self,
        hash: impl Fn(&[u8]) -> u32,
        (range, group): (&Range, Option<u32>),
        direction: Direction,
        after: Option<&Entry>,
        limit: usize,
        into: &mut VecDeque<Entry>,
    ) -> bool {
        if group.is_none()
            && let Some(index) = &mut *self.index.lock()
            && index.is_ready()
        {
            return index.range(range, direction, after, limit, |key| self.table.get(hash(key), key), into);
        }
        self.table.range((range, group), direction, after, limit, into)
    }

    /// The mark of a row that is on disk as it is here.
    pub(crate) const CLEAN: u32 = 0;

    /// Forgets everything, for the rows on disk are gone.
    pub(crate) fn clear(&mut self) {
        self.table.drain(drop);
        *self.index.get_mut() = None;
        (self.active_bytes, self.frozen_bytes, self.tombstones) = (0, 0, 0);
        (self.position, self.durable) = (None, None);
        self.complete = true;
        self.forgotten = Some(Forgotten::default());
    }

    /// Begins a flush and gives the position that it will make durable; `None` if the disk has all already.
    pub(crate) fn freeze(&mut self) -> Option<Position> {
        debug_assert!(self.frozen == self.flushed, "one flush at a time");
        let position = self.position.filter(|_| self.active_bytes > 0 || self.position != self.durable)?;
        self.frozen = self.generation;
        self.generation += 1;
        self.frozen_bytes = std::mem::take(&mut self.active_bytes);
        Some(position)
    }

    /// Collects the next part of the rows that the running flush has to write; false when that was the last.
    pub(crate) fn collect(&self, cursor: &mut Cursor, into: &mut Vec<Entry>) -> bool {
        self.table.step(cursor, |slot| {
            if slot.mark > self.flushed {
                into.push(slot.entry.clone());
            }
        })
    }

    /// Ends a flush that reached the disk.
    pub(crate) fn settle(&mut self, durable: Position) {
        self.flushed = self.frozen;
        self.frozen_bytes = 0;
        self.durable = Some(durable);
    }

    /// Ends a flush that did not: all it froze is still dirty.
    pub(crate) fn thaw(&mut self) {
        self.frozen = self.flushed;
        self.active_bytes += std::mem::take(&mut self.frozen_bytes);
    }

    /// Removes a tombstone that has reached the disk, if nothing younger took its place: there is no row of that key any more, here or there.
    pub(crate) fn bury(&mut self, tombstone: &Entry, hash: u32) {
        let key = tombstone.key();
        if self.table.get(hash, key).is_some_and(|s| s.mark <= self.flushed && s.entry.same(tombstone)) {
            self.table.remove(hash, key);
            self.tombstones -= 1;
        }
    }

    /// Forgets the clean rows of the next part of the store; false at its end.
    pub(crate) fn forget_step(&mut self) -> bool {
        let (flushed, mut forgot) = (self.flushed, false);
        *self.index.get_mut() = None;
        let (tombstones, forgotten) = (&mut self.tombstones, &mut self.forgotten);
        let more = self.table.retain_step(&mut self.hand, |slot| {
            let dirty = slot.mark > flushed;
            let is_tombstone = slot.entry.is_tombstone();
            *tombstones -= usize::from(!dirty && is_tombstone);
            if !dirty && !is_tombstone {
                forgot = true;
                forgotten.iter_mut().for_each(|forgotten| forgotten.note(slot.hash));
            }
            dirty
        });
        self.complete &= !forgot;
        // Worth a little of the memory, and not more.
        self.forgotten.take_if(|forgotten| forgotten.memory() > FORGOTTEN_LEAST.max(self.table.memory() / 8));
        if !more {
            self.hand = Cursor::default();
        }
        more
    }
}
