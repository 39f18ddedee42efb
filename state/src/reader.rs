//! Reading from outside, on any thread: committed rows only, of one task at one point in time over all its stores. A read holds the task's lock
//! shared, so that no commit, and no flush that would move a row, comes in between; its owner waits meanwhile, so a long list is read in
//! pages.

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

    /// The value of a key.
    pub fn get(&self, store: StoreId, key: &[u8]) -> Result<Option<Value>, Error> {
        let place = self.task.place(store);
        let hot = &self.hot.stores[place];
        let entry = match hot.table.get(self.shared.hash(store, key), key) {
            Some(slot) => Some(slot.entry.clone()),
            None if hot.complete => None,
            None => self.shared.disk.get(Family::of(store), self.task.id.partition, key)?,
        };
        let view = self.shared.view(store, self.hot.times.of(place));
        Ok(entry.and_then(|entry| view.row(entry)).map(Value::from))
    }

    /// The rows of a range in order. In a [keyed](crate::Access::Keyed) store the rows in memory are sorted for it.
    pub fn scan(&self, store: StoreId, range: Range, direction: Direction) -> impl Iterator<Item = Result<Row, Error>> + '_ {
        let place = self.task.place(store);
        let hot = &self.hot.stores[place];
        let view = self.shared.view(store, self.hot.times.of(place));
        Scan::new(self.shared, (self.task.id.partition, store), None, hot, (range, direction), view)
    }
}
