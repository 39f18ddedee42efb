//! Rows in hash maps, by the group of their key: what comes before its last bytes, of which a store says how many. With none of them each
//! key is a group of its own. A group of one row is that row; a larger one is a tree, so that a group may be as large as it likes.
//!
//! There are many small maps in place of a large one: growing, walking and forgetting go one shard at a time, so no lock is held for long
//! and no table is ever there twice.

use std::hash::Hasher;
use std::ops::RangeBounds;

use hashbrown::HashTable;
use hashbrown::hash_table::Entry as Place;
use rustc_hash::FxHasher;

use crate::scan::Bounds;
use crate::table::Slot;
use crate::tree::Tree;

/// See the module. All slots of a group have the same hash.
pub(crate) struct Groups {
    shards: Box<[HashTable<Group>]>,
    /// How many bytes at the end of a key do not belong to its group.
    suffix: usize,
    /// Groups that are trees, and the rows in them.
    trees: usize,
    in_trees: usize,
}

enum Group {
    One(Slot),
    /// Never empty.
    Many(Box<Tree>),
}

/// Rows that an emptied hash map stays ready for.
const KEPT_CAPACITY: usize = 64 << 10;

/// Bytes of a group that is a tree, beside its rows.
const TREE_BYTES: usize = size_of::<Tree>() + 64;

/// The hash of a key, by its group.
pub(crate) fn hash_group(seed: u64, suffix: usize, key: &[u8]) -> u32 {
    let mut hasher = FxHasher::with_seed(seed as usize);
    hasher.write(group_of(key, suffix));
    (hasher.finish() >> 32) as u32
}

fn group_of(key: &[u8], suffix: usize) -> &[u8] {
    &key[..key.len().saturating_sub(suffix)]
}

/// A slot keeps 32 bits of hash; hashbrown reads the lowest bits and the topmost seven, so those are spread over 64.
fn spread(hash: u32) -> u64 {
    u64::from(hash).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

/// The shard of a hash, from bits that hashbrown leaves alone.
fn shard(hash: u32, shards: usize) -> usize {
    (spread(hash) >> 40) as usize & (shards - 1)
}

impl Group {
    fn first(&self) -> &Slot {
        match self {
            Group::One(slot) => slot,
            Group::Many(tree) => first_of(tree),
        }
    }

    fn slots(&self) -> impl Iterator<Item = &Slot> {
        let (one, many) = match self {
            Group::One(slot) => (Some(slot), None),
            Group::Many(tree) => (None, Some(tree.iter())),
        };
        one.into_iter().chain(many.into_iter().flatten())
    }

    fn into_slots(self, mut f: impl FnMut(Slot)) {
        match self {
            Group::One(slot) => f(slot),
            Group::Many(mut tree) => tree.drain(f),
        }
    }
}

/// Apart, so that the way to the only row of a group stays short.
#[cold]
#[inline(never)]
fn first_of(tree: &Tree) -> &Slot {
    tree.iter().next().expect("a group has a row")
}

impl Groups {
    /// No rows; `shards` is a power of two.
    pub(crate) fn new(shards: usize, suffix: usize) -> Groups {
        debug_assert!(shards.is_power_of_two());
        Groups { shards: (0..shards).map(|_| HashTable::new()).collect(), suffix, trees: 0, in_trees: 0 }
    }

    fn find(&self, hash: u32, group: &[u8]) -> Option<&Group> {
        let suffix = self.suffix;
        let shard = &self.shards[shard(hash, self.shards.len())];
        shard.find(spread(hash), |found| group_of(found.first().entry.key(), suffix) == group)
    }

    pub(crate) fn get(&self, hash: u32, key: &[u8]) -> Option<&Slot> {
        match self.find(hash, group_of(key, self.suffix))? {
            Group::One(slot) => Some(slot).filter(|slot| self.suffix == 0 || slot.entry.key() == key),
            Group::Many(tree) => tree.get(key),
        }
    }

    pub(crate) fn replace(&mut self, slot: Slot) -> Option<Slot> {
        let suffix = self.suffix;
        let shard = &mut self.shards[shard(slot.hash, self.shards.len())];
        let same = |group: &Group| group_of(group.first().entry.key(), suffix) == group_of(slot.entry.key(), suffix);
        let mut place = match shard.entry(spread(slot.hash), same, |group| spread(group.first().hash)) {
            Place::Occupied(place) => place,
            Place::Vacant(place) => {
                place.insert(Group::One(slot));
                return None;
            }
        };
        let group = place.get_mut();
        let tree = match group {
            Group::One(old) if suffix == 0 || old.entry.key() == slot.entry.key() => return Some(std::mem::replace(old, slot)),
            Group::One(_) => {
                let one = std::mem::replace(group, Group::Many(Box::default()));
                let Group::Many(tree) = group else { unreachable!("it was just made so") };
                one.into_slots(|first| drop(tree.replace(first)));
                self.trees += 1;
                self.in_trees += 1;
                tree
            }
            Group::Many(tree) => tree,
        };
        let old = tree.replace(slot);
        self.in_trees += usize::from(old.is_none());
        old
    }

    pub(crate) fn remove(&mut self, hash: u32, key: &[u8]) -> Option<Slot> {
        let suffix = self.suffix;
        let shard = &mut self.shards[shard(hash, self.shards.len())];
        let same = |group: &Group| group_of(group.first().entry.key(), suffix) == group_of(key, suffix);
        let mut place = shard.find_entry(spread(hash), same).ok()?;
        match place.get_mut() {
            Group::One(slot) if suffix > 0 && slot.entry.key() != key => None,
            Group::One(_) => match place.remove().0 {
                Group::One(slot) => Some(slot),
                Group::Many(_) => unreachable!("it is one"),
            },
            Group::Many(tree) => {
                let old = tree.remove(key)?;
                self.in_trees -= 1;
                if tree.len() == 0 {
                    place.remove();
                    self.trees -= 1;
                }
                Some(old)
            }
        }
    }

    /// Empties the maps into `f`.
    pub(crate) fn drain(&mut self, mut f: impl FnMut(Slot)) {
        self.shards.iter_mut().flat_map(HashTable::drain).for_each(|group| group.into_slots(&mut f));
        (self.trees, self.in_trees) = (0, 0);
        // The buckets are for the next transaction, but not those of the largest ever.
        self.shards.iter_mut().filter(|shard| shard.capacity() > KEPT_CAPACITY).for_each(|shard| *shard = HashTable::new());
    }

    pub(crate) fn len(&self) -> usize {
        self.shards.iter().map(HashTable::len).sum::<usize>() - self.trees + self.in_trees
    }

    /// Bytes beside those of the entries.
    pub(crate) fn memory(&self) -> usize {
        let shards = self.shards.iter().map(|shard| shard.allocation_size() + size_of::<HashTable<Group>>());
        shards.sum::<usize>() + self.trees * TREE_BYTES + self.in_trees * Tree::ROW_BYTES
    }

    /// Every slot, in no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Slot> {
        self.shards.iter().flat_map(HashTable::iter).flat_map(Group::slots)
    }

    /// The slots of the group of a key, between two bounds that are the right way round, in order.
    pub(crate) fn range(&self, hash: u32, group: &[u8], bounds: Bounds<'_>) -> impl DoubleEndedIterator<Item = &Slot> {
        let (one, many) = match self.find(hash, group) {
            Some(Group::One(slot)) => (Some(slot).filter(|slot| RangeBounds::<[u8]>::contains(&bounds, slot.entry.key())), None),
            Some(Group::Many(tree)) => (None, Some(tree.range(bounds))),
            None => (None, None),
        };
        one.into_iter().chain(many.into_iter().flatten())
    }

    /// How many shards there are.
    pub(crate) fn shards(&self) -> usize {
        self.shards.len()
    }

    /// The slots of a shard.
    pub(crate) fn of_shard(&self, shard: usize) -> impl Iterator<Item = &Slot> {
        self.shards[shard].iter().flat_map(Group::slots)
    }

    /// Removes the slots of a shard that `keep` does not want.
    pub(crate) fn retain_of_shard(&mut self, shard: usize, mut keep: impl FnMut(&Slot) -> bool) {
        let (mut trees, mut in_trees) = (0, 0);
        let shard = &mut self.shards[shard];
        shard.retain(|group| match group {
            Group::One(slot) => keep(slot),
            Group::Many(tree) => {
                in_trees += tree.len();
                tree.retain(&mut keep);
                in_trees -= tree.len();
                trees += usize::from(tree.len() == 0);
                tree.len() > 0
            }
        });
        self.trees -= trees;
        self.in_trees -= in_trees;
        if shard.capacity() > 64 && shard.len() < shard.capacity() / 4 {
            shard.shrink_to(shard.len() * 2, |group| spread(group.first().hash));
        }
    }
}
