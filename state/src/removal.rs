//! Removing a task's rows for good: of one store, to restore it from the beginning, or of all, for a task that will not come back. In this
//! order, whatever is removed: positions, durably; then rows. Rows without a position are nothing, and are removed when they are met; a position
//! without its rows would be believed.

use crate::disk::{Disk, Family, partitions};
use crate::error::Error;
use crate::fault;
use crate::meta;
use crate::options::{StoreId, StoreSpec};
use crate::task::TaskState;

impl TaskState {
    /// Removes every row of a store and its position, in memory and durably on disk, so that it can be restored from the beginning. After an
    /// error the store is unusable until a repetition succeeds.
    ///
    /// Panics while a transaction has written.
    pub fn clear(&mut self, store: StoreId) -> Result<(), Error> {
        let place = self.task.place(store);
        let shared = self.db.shared();
        assert!(!self.has_written(place), "a store is cleared between transactions");
        let _no_flush = shared.flushing.lock();
        let mut hot = self.task.hot.write();
        hot.stores[place].clear();
        hot.count(&shared.budget);
        remove(&*shared.disk, self.id().partition, &shared.stores, &[store])
    }

    /// Removes every row and every position of the task, in memory and durably on disk, and the task with them: it is not here any more, and
    /// whoever takes it again begins with nothing. For a task that another process has for good. The running transaction is dropped.
    ///
    /// After an error, as after a crash, each store is as it was on disk or gone: take the task again to repeat it.
    pub fn remove(self) -> Result<(), Error> {
        let shared = self.db.shared();
        let _no_flush = shared.flushing.lock();
        let removed = {
            let mut hot = self.task.hot.write();
            hot.retire(&shared.budget);
            remove(&*shared.disk, self.id().partition, &shared.stores, &self.task.stores)
        };
        shared.forget_task(self.id());
        removed
    }
}

/// Removes rows and positions of stores of one partition from the disk.
fn remove(disk: &dyn Disk, partition: u32, specs: &[StoreSpec], stores: &[StoreId]) -> Result<(), Error> {
    let at = |name| fault::point(name).map_err(|e| Error::io("cleared", &e));
    let mut names: Vec<&str> = stores.iter().map(|store| specs[store.0 as usize].name.as_str()).collect();
    names.sort_unstable();
    meta::delete_positions(disk, partition, &names)?;
    at("state:clear:position-deleted")?;
    for store in stores {
        disk.clear(Family::of(*store), partition)?;
        at("state:clear:rows-deleted")?;
        disk.sync(Family::of(*store))?;
    }
    at("state:clear:rows-gone")
}

/// Removes what a crash in a removal, or before the first flush of a store had ended, left on disk: rows without a position.
pub(crate) fn finish(disk: &dyn Disk, specs: &[StoreSpec]) -> Result<(), Error> {
    for (i, spec) in specs.iter().enumerate() {
        let family = Family::of(StoreId(i as u32));
        for partition in partitions(disk, family)? {
            if meta::read_position(disk, partition, &spec.name)?.is_none() {
                disk.clear(family, partition)?;
                disk.sync(family)?;
            }
        }
    }
    Ok(())
}
