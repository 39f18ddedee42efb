//! Rows in memory, by key: a hash map for stores that are read by key, an ordered one for stores that are scanned. Overlay and hot layer are
//! both made of it. It knows no layers, no positions and no locks; what a slot's `mark` means is its owner's affair.

use std::collections::VecDeque;
use std::ops::{Bound, RangeBounds};

use crate::entry::Entry;
use crate::groups::Groups;
use crate::options::Access;
use crate::scan::{Bounds, Direction, Range};
use crate::tree::Tree;

/// One row, with its owner's mark and, in a hash map, its hash: growing never touches the entries.
pub(crate) struct Slot {
    pub(crate) entry: Entry,
    pub(crate) mark: u32,
    pub(crate) hash: u32,
}

/// See the module.
pub(crate) struct Table {
    rows: Rows,
    entry_bytes: usize,
}

enum Rows {
    Hash(Groups),
    Tree(Tree),
}

/// Where a walk over a table stands.
#[derive(Default)]
pub(crate) struct Cursor {
    shard: usize,
    after: Option<Entry>,
}

/// Rows of a tree that one step of a walk visits; a step of a hash map is a shard.
const STEP: usize = 4096;

/// The least that a hash map gives of a range at a time, for it has to look at all its rows for it.
const HASH_RANGE: usize = 4096;

impl Table {
    /// An empty table. `shards` is a power of two, for a hash map.
    pub(crate) fn new(access: Access, shards: usize) -> Table {
        let rows = match access.group_suffix() {
            Some(suffix) => Rows::Hash(Groups::new(shards, suffix)),
            None => Rows::Tree(Tree::default()),
        };
        Table { rows, entry_bytes: 0 }
    }

    pub(crate) fn get(&self, hash: u32, key: &[u8]) -> Option<&Slot> {
        match &self.rows {
            Rows::Hash(groups) => groups.get(hash, key),
            Rows::Tree(tree) => tree.get(key),
        }
    }

    /// Puts a slot in, and gives back the one that it replaces.
    pub(crate) fn replace(&mut self, slot: Slot) -> Option<Slot> {
        self.entry_bytes += slot.entry.memory();
        let old = match &mut self.rows {
            Rows::Hash(groups) => groups.replace(slot),
            Rows::Tree(tree) => tree.replace(slot),
        };
        self.entry_bytes -= old.as_ref().map_or(0, |s| s.entry.memory());
        old
    }

    pub(crate) fn remove(&mut self, hash: u32, key: &[u8]) -> Option<Slot> {
        let old = match &mut self.rows {
            Rows::Hash(groups) => groups.remove(hash, key),
            Rows::Tree(tree) => tree.remove(key),
        };
        self.entry_bytes -= old.as_ref().map_or(0, |s| s.entry.memory());
        old
    }

    /// Empties the table into `f`.
    pub(crate) fn drain(&mut self, f: impl FnMut(Slot)) {
        self.entry_bytes = 0;
        match &mut self.rows {
            Rows::Hash(groups) => groups.drain(f),
            Rows::Tree(tree) => tree.drain(f),
        }
    }

    /// Whether keys are in no order.
    pub(crate) fn is_hash(&self) -> bool {
        matches!(self.rows, Rows::Hash(_))
    }

    pub(crate) fn len(&self) -> usize {
        match &self.rows {
            Rows::Hash(groups) => groups.len(),
            Rows::Tree(tree) => tree.len(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entry_bytes == 0
    }

    /// Bytes of the entries alone.
    pub(crate) fn entry_bytes(&self) -> usize {
        self.entry_bytes
    }

    /// Bytes of entries and buckets.
    pub(crate) fn memory(&self) -> usize {
        self.entry_bytes
            + match &self.rows {
                Rows::Hash(groups) => groups.memory(),
                Rows::Tree(tree) => tree.len() * Tree::ROW_BYTES,
            }
    }

    /// Every slot: in key order from a tree, in no order from a hash map.
    pub(crate) fn slots(&self) -> Vec<&Slot> {
        let mut slots = Vec::with_capacity(self.len());
        match &self.rows {
            Rows::Hash(groups) => groups.iter().for_each(|slot| slots.push(slot)),
            Rows::Tree(tree) => tree.iter().for_each(|slot| slots.push(slot)),
        }
        slots
    }

    /// Visits the next part of the table; false when that was the last. Rows written between two steps may be missed or seen, others are
    /// seen exactly once.
    pub(crate) fn step(&self, cursor: &mut Cursor, mut f: impl FnMut(&Slot)) -> bool {
        match &self.rows {
            Rows::Hash(groups) => {
                groups.of_shard(cursor.shard).for_each(f);
                cursor.shard += 1;
                cursor.shard < groups.shards()
            }
            Rows::Tree(tree) => {
                let mut last = None;
                let mut seen = 0;
                for slot in tree.range(cursor.rest()).take(STEP) {
                    f(slot);
                    last = Some(&slot.entry);
                    seen += 1;
                }
                cursor.after = last.cloned();
                seen == STEP
            }
        }
    }

    /// Removes the slots that `f` does not want to keep from the next part of the table; false when that was the last.
    pub(crate) fn retain_step(&mut self, cursor: &mut Cursor, mut keep: impl FnMut(&Slot) -> bool) -> bool {
        let mut freed = 0;
        let more = match &mut self.rows {
            Rows::Hash(groups) => {
                groups.retain_of_shard(cursor.shard, |slot| {
                    let keep = keep(slot);
                    freed += if keep { 0 } else { slot.entry.memory() };
                    keep
                });
                cursor.shard += 1;
                cursor.shard < groups.shards()
            }
            Rows::Tree(tree) => {
                let last = tree.range(cursor.rest()).take(STEP).last().map(|s| s.entry.clone());
                if let Some(last) = &last {
                    let part = (
                        cursor.after.as_ref().map_or(Bound::Unbounded, |e| Bound::Excluded(e.key())),
                        Bound::Included(last.key()),
                    );
                    let doomed: Vec<Entry> = tree.range(part).filter(|s| !keep(s)).map(|s| s.entry.clone()).collect();
                    for entry in doomed {
                        freed += entry.memory();
                        tree.remove(entry.key());
                    }
                }
                cursor.after = last;
                cursor.after.is_some()
            }
        };
        self.entry_bytes -= freed;
        more
    }

    /// Adds entries of `range` to `into`, in its direction, from the beginning or after `after`, about `limit` of them; true when there are no
    /// more. `group` is the hash of the range's group, if it is to be found by that.
    pub(crate) fn range(
        &self,
        (range, group): (&Range, Option<u32>),
        direction: Direction,
        after: Option<&Entry>,
        limit: usize,
        into: &mut VecDeque<Entry>,
    ) -> bool {
        let Some(bounds) = range.after(direction, after.map(Entry::key)) else { return true };
        match (&self.rows, group.zip(range.group())) {
            (Rows::Tree(tree), _) => take(tree.range(bounds), direction, limit, into),
            (Rows::Hash(groups), Some((hash, group))) => take(groups.range(hash, group, bounds), direction, limit, into),
            (Rows::Hash(groups), None) => {
                let limit = limit.max(HASH_RANGE);
                let mut rows: Vec<&Slot> =
                    groups.iter().filter(|s| RangeBounds::<[u8]>::contains(&bounds, s.entry.key())).collect();
                let done = rows.len() <= limit;
                let order = |a: &&Slot, b: &&Slot| direction.order(a.entry.key(), b.entry.key());
                if !done {
                    rows.select_nth_unstable_by(limit, order);
                    rows.truncate(limit);
                }
                rows.sort_unstable_by(order);
                into.extend(rows.into_iter().map(|s| s.entry.clone()));
                done
            }
        }
    }
}

/// Adds at most `limit` entries, from the end at which the direction begins; true when there are no more.
fn take<'a>(
    rows: impl DoubleEndedIterator<Item = &'a Slot>,
    direction: Direction,
    limit: usize,
    into: &mut VecDeque<Entry>,
) -> bool {
    let before = into.len();
    match direction {
        Direction::Forward => into.extend(rows.take(limit).map(|s| s.entry.clone())),
        Direction::Reverse => into.extend(rows.rev().take(limit).map(|s| s.entry.clone())),
    }
    into.len() - before < limit
}

impl Cursor {
    fn rest(&self) -> Bounds<'_> {
        (self.after.as_ref().map_or(Bound::Unbounded, |e| Bound::Excluded(e.key())), Bound::Unbounded)
    }
}
