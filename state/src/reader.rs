//! Reading from outside, on any thread: committed rows only, of one task at one point in time over all its stores. A read holds the task's lock
//! shared, so that no commit, and no flush that would move a row, comes in between; its owner waits meanwhile, so a long list is read in
//! pages.

use std::borrow::Cow;

use crate::db::{Db, Shared};
use crate::disk::Family;
use crate::error::Error;
use crate::hot::{Hot, HotTask};
use crate::options::{Position, StoreId, TaskId};
use crate::row::{Row, Value};
use crate::scan::{Direction, Range, Scan};

/// Reads what is committed. Cheap to clone.
#[derive(Clone)]
pub struct Reader {
    db: Db,
}

impl Reader {
    pub(crate) fn new(db: Db) -> Reader {
        Reader { db }
    }

    /// Runs `f` on a task's rows as they are at one moment between two commits. The owner cannot commit before `f` returns, so read a page
    /// and return, and do not call `read` within. A task that was never taken in this process is not here.
    pub fn read<T>(&self, task: TaskId, f: impl FnOnce(&TaskView<'_>) -> T) -> Result<T, Error> {
        let shared = self.db.shared();
        let task = shared.existing_task(task)?;
        let hot = task.hot.read();
        Ok(f(&TaskView { shared, task: &task, hot: &hot }))
    }

    /// Gets a store ready for being paged through: to be called with the second page. In a [keyed](crate::Access::Keyed) store, of whose rows
    /// in memory every page would look at each, their keys are put in order and kept so, within the memory budget, until they have not been
    /// used for long or memory is short. No commit waits for it, and nothing changes but the time that pages take;
    /// nothing at all where the task is not here.
    pub fn index(&self, task: TaskId, store: StoreId) {
        let shared = self.db.shared();
        if let Ok(task) = shared.existing_task(task) {
            task.index(task.place(store), &shared.budget);
        }
    }
}

/// How many rows a store of a task has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entries {
    /// So many.
    pub rows: u64,
    /// Whether they were counted, and not estimated.
    pub exact: bool,
}

/// A task's committed rows at one moment.
pub struct TaskView<'a> {
    shared: &'a Shared,
    task: &'a HotTask,
    hot: &'a Hot,
}

impl TaskView<'_> {
    /// What the rows of a store stand at.
    #[must_use]
    pub fn position(&self, store: StoreId) -> Option<Position> {
        self.hot.stores[self.task.place(store)].position
    }

    /// Stream time of the last commit.
    #[must_use]
    pub fn stream_time_ms(&self) -> i64 {
        self.hot.times.stream_ms
    }

    /// How many rows a store has, without looking at them. Exact while all rows are in memory; else what the disk estimates, or the rows in
    /// memory if those are more. What has outlived its time-to-live counts until it is swept.
    pub fn entries(&self, store: StoreId) -> Result<Entries, Error> {
        let hot = &self.hot.stores[self.task.place(store)];
        let here = hot.rows() as u64;
        if hot.complete {
            return Ok(Entries { rows: here, exact: true });
        }
        let on_disk = self.shared.disk.rows(Family::of(store), self.task.id.partition)?;
        Ok(Entries { rows: here.max(on_disk), exact: false })
    }

    /// The value of a key.
    pub fn get(&self, store: StoreId, key: &[u8]) -> Result<Option<Value>, Error> {
        let place = self.task.place(store);
        let hot = &self.hot.stores[place];
        let hash = self.shared.hash(store, key);
        let entry = match hot.table.get(hash, key) {
            Some(slot) => Some(slot.entry.clone()),
            None if !hot.may_be_on_disk(hash) => None,
            None => self.shared.disk.get(Family::of(store), self.task.id.partition, key)?,
        };
        let view = self.shared.view(store, self.hot.times.of(place));
        Ok(entry.and_then(|entry| view.row(entry)).map(Value::from))
    }

    /// The rows of a range in order. In a [keyed](crate::Access::Keyed) store all rows in memory are looked at for
    /// it, unless it was [indexed](Reader::index).
    pub fn scan(&self, store: StoreId, range: Range, direction: Direction) -> impl Iterator<Item = Result<Row, Error>> + '_ {
        let place = self.task.place(store);
        let hot = &self.hot.stores[place];
        let view = self.shared.view(store, self.hot.times.of(place));
        Scan::new(self.shared, (self.task.id.partition, store), None, hot, (Cow::Owned(range), direction), view)
    }
}
