//! Removing rows that have outlived their time. That they are gone is decided by every read (`row::View`); here their tombstones are written, by
//! the owner and in its transaction, so that they reach the changelog.
//!
//! There is no index by time: a sweep walks the store, a bounded step at a time, first the rows in memory and then those on disk, and begins
//! again when it is through. An index would cost two more rows for every write; walking costs a look at each row per round, and after a
//! restart it just begins again.

use crate::disk::Family;
use crate::error::Error;
use crate::options::StoreId;
use crate::scan::{Direction, Range};
use crate::table::Cursor;
use crate::task::TaskState;

/// Where the sweep over a store stands.
pub(crate) enum Sweep {
    Memory(Cursor),
    /// What is left.
    Disk(Range),
    End,
}

impl Default for Sweep {
    fn default() -> Sweep {
        Sweep::Memory(Cursor::default())
    }
}

/// What a call of [`TaskState::expire`] did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Swept {
    /// Rows deleted.
    pub deleted: usize,
    /// Whether the walk has reached the end of the store; the next call begins a new one.
    pub finished: bool,
}

impl TaskState {
    /// Looks at rows of a store with time-to-live, from where the last call stopped, and deletes those whose time has passed.
    /// It stops after `limit` rows, or a few thousand more where they are in memory.
    ///
    /// Panics if the store has none.
    pub fn expire(&mut self, store: StoreId, limit: usize) -> Result<Swept, Error> {
        let shared = self.db.shared();
        let view = shared.view(store, self.time_ms(store));
        assert!(view.ttl_ms.is_some(), "only rows with time-to-live expire");
        let place = self.task.place(store);
        let mut expired = Vec::new();
        let mut seen = 0;
        let mut sweep = std::mem::take(&mut self.sweeps[place]);
        while seen < limit {
            sweep = match sweep {
                Sweep::Memory(mut cursor) => {
                    let hot = &self.task.hot.read().stores[place];
                    let more = hot.table.step(&mut cursor, |slot| {
                        seen += 1;
                        if view.expired(&slot.entry) {
                            expired.push(slot.entry.clone());
                        }
                    });
                    match more {
                        true => Sweep::Memory(cursor),
                        false if hot.complete => Sweep::End,
                        false => Sweep::Disk(Range::all()),
                    }
                }
                Sweep::Disk(mut rest) => {
                    let mut rows = shared.disk.scan(Family::of(store), self.task.id.partition, &rest, Direction::Forward);
                    let mut last = None;
                    while seen < limit
                        && let Some(entry) = rows.next()?
                    {
                        seen += 1;
                        if view.expired(&entry) {
                            expired.push(entry.clone());
                        }
                        last = Some(entry);
                    }
                    match last {
                        Some(last) if seen >= limit => {
                            rest.rest(Direction::Forward, last.key());
                            Sweep::Disk(rest)
                        }
                        _ => Sweep::End,
                    }
                }
                Sweep::End => break,
            };
        }
        let finished = matches!(sweep, Sweep::End);
        self.sweeps[place] = if finished { Sweep::default() } else { sweep };
        let mut deleted = 0;
        for entry in expired {
            // What a layer below says may be outdated: only if the youngest layer, too, has it expired is it removed.
            if self.entry(store, place, entry.key())?.is_some_and(|youngest| view.expired(&youngest)) {
                self.delete(store, entry.key());
                deleted += 1;
            }
        }
        Ok(Swept { deleted, finished })
    }
}
