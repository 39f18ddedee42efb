//! Rows in memory, by key: a hash map for stores that are read by key, an ordered one for stores that are scanned. Overlay and hot layer are
//! both made of it. It knows no layers, no positions and no locks; what a slot's `mark` means is its owner's affair.

use std::collections::VecDeque;
use std::hash::Hasher;
use std::ops::{Bound, RangeBounds};

use hashbrown::HashTable;
use hashbrown::hash_table::Entry as Place;
use rustc_hash::FxHasher;

use crate::entry::Entry;
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
    /// Many small maps in place of a large one: growing, walking and forgetting go one shard at a time, so no lock is held for long and no
    /// table is ever there twice.
    Hash(Box<[HashTable<Slot>]>),
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

/// Rows that an emptied hash map stays ready for.
const KEPT_CAPACITY: usize = 64 << 10;

/// The hash of a key for stores that are read by key.
pub(crate) fn hash_key(seed: u64, key: &[u8]) -> u32 {
    let mut hasher = FxHasher::with_seed(seed as usize);
    hasher.write(key);
    (hasher.finish() >> 32) as u32
}

/// A slot keeps 32 bits of hash; hashbrown reads the lowest bits and the topmost seven, so those are spread over 64.
fn spread(hash: u32) -> u64 {
    u64::from(hash).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

/// The shard of a hash, from bits that hashbrown leaves alone.
fn shard(hash: u32, shards: usize) -> usize {
    (spread(hash) >> 40) as usize & (shards - 1)
}

impl Table {
    /// An empty table. `shards` is a power of two, for a hash map.
    pub(crate) fn new(access: Access, shards: usize) -> Table {
        debug_assert!(shards.is_power_of_two());
        let rows = match access {
            Access::Keyed => Rows::Hash((0..shards).map(|_| HashTable::new()).collect()),
            Access::Ordered => Rows::Tree(Tree::default()),
        };
        Table { rows, entry_bytes: 0 }
    }

    pub(crate) fn get(&self, hash: u32, key: &[u8]) -> Option<&Slot> {
        match &self.rows {
            Rows::Hash(shards) => shards[shard(hash, shards.len())].find(spread(hash), |s| s.entry.key() == key),
            Rows::Tree(tree) => tree.get(key),
        }
    }

    /// Puts a slot in, and gives back the one that it replaces.
    pub(crate) fn replace(&mut self, slot: Slot) -> Option<Slot> {
        self.entry_bytes += slot.entry.memory();
        let old = match &mut self.rows {
            Rows::Hash(shards) => {
                let shard = &mut shards[shard(slot.hash, shards.len())];
                match shard.entry(spread(slot.hash), |s| s.entry.key() == slot.entry.key(), |s| spread(s.hash)) {
                    Place::Occupied(mut place) => Some(std::mem::replace(place.get_mut(), slot)),
                    Place::Vacant(place) => {
                        place.insert(slot);
                        None
                    }
                }
            }
            Rows::Tree(tree) => tree.replace(slot),
        };
        self.entry_bytes -= old.as_ref().map_or(0, |s| s.entry.memory());
        old
    }

    pub(crate) fn remove(&mut self, hash: u32, key: &[u8]) -> Option<Slot> {
        let old = match &mut self.rows {
            Rows::Hash(shards) => {
                let shard = &mut shards[shard(hash, shards.len())];
                shard.find_entry(spread(hash), |s| s.entry.key() == key).ok().map(|place| place.remove().0)
            }
            Rows::Tree(tree) => tree.remove(key),
        };
        self.entry_bytes -= old.as_ref().map_or(0, |s| s.entry.memory());
        old
    }

    /// Empties the table into `f`.
    pub(crate) fn drain(&mut self, f: impl FnMut(Slot)) {
        self.entry_bytes = 0;
        match &mut self.rows {
            Rows::Hash(shards) => {
                shards.iter_mut().flat_map(HashTable::drain).for_each(f);
                // The buckets are for the next transaction, but not those of the largest ever.
                shards.iter_mut().filter(|shard| shard.capacity() > KEPT_CAPACITY).for_each(|shard| *shard = HashTable::new());
            }
            Rows::Tree(tree) => tree.drain(f),
        }
    }

    /// Whether keys are in no order.
    pub(crate) fn is_hash(&self) -> bool {
        matches!(self.rows, Rows::Hash(_))
    }

    pub(crate) fn len(&self) -> usize {
        match &self.rows {
            Rows::Hash(shards) => shards.iter().map(HashTable::len).sum(),
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
                Rows::Hash(shards) => shards.iter().map(|s| s.allocation_size() + size_of::<HashTable<Slot>>()).sum(),
                Rows::Tree(tree) => tree.len() * Tree::ROW_BYTES,
            }
    }

    /// Every slot: in key order from a tree, in no order from a hash map.
    pub(crate) fn iter(&self) -> Box<dyn Iterator<Item = &Slot> + '_> {
        match &self.rows {
            Rows::Hash(shards) => Box::new(shards.iter().flat_map(HashTable::iter)),
            Rows::Tree(tree) => Box::new(tree.iter()),
        }
    }

    /// Visits the next part of the table; false when that was the last. Rows written between two steps may be missed or seen, others are
    /// seen exactly once.
    pub(crate) fn step(&self, cursor: &mut Cursor, mut f: impl FnMut(&Slot)) -> bool {
        match &self.rows {
            Rows::Hash(shards) => {
                shards[cursor.shard].iter().for_each(f);
                cursor.shard += 1;
                cursor.shard < shards.len()
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
            Rows::Hash(shards) => {
                let count = shards.len();
                let shard = &mut shards[cursor.shard];
                shard.retain(|slot| {
                    let keep = keep(slot);
                    freed += if keep { 0 } else { slot.entry.memory() };
                    keep
                });
                if shard.capacity() > 64 && shard.len() < shard.capacity() / 4 {
                    shard.shrink_to(shard.len() * 2, |s| spread(s.hash));
                }
                cursor.shard += 1;
                cursor.shard < count
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

    /// Adds entries of `range` to `into`, in its direction, from the beginning or after `after`, about `limit` of them; true when there are
    /// no more.
    pub(crate) fn range(
        &self,
        range: &Range,
        direction: Direction,
        after: Option<&Entry>,
        limit: usize,
        into: &mut VecDeque<Entry>,
    ) -> bool {
        let Some(bounds) = range.after(direction, after.map(Entry::key)) else { return true };
        match &self.rows {
            Rows::Hash(shards) => {
                let limit = limit.max(HASH_RANGE);
                let all = shards.iter().flat_map(HashTable::iter);
                let mut rows: Vec<&Slot> = all.filter(|s| RangeBounds::<[u8]>::contains(&bounds, s.entry.key())).collect();
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
            Rows::Tree(tree) => {
                let before = into.len();
                let rows = tree.range(bounds);
                match direction {
                    Direction::Forward => into.extend(rows.take(limit).map(|s| s.entry.clone())),
                    Direction::Reverse => into.extend(rows.rev().take(limit).map(|s| s.entry.clone())),
                }
                into.len() - before < limit
            }
        }
    }
}

impl Cursor {
    fn rest(&self) -> Bounds<'_> {
        (self.after.as_ref().map_or(Bound::Unbounded, |e| Bound::Excluded(e.key())), Bound::Unbounded)
    }
}
