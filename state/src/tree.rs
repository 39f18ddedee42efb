//! An ordered set of slots. A comparison of two keys would have to fetch both from memory elsewhere; so beside each slot lie the eight bytes
//! that follow what all keys of the set begin with, and mostly decide.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::ops::Bound;

use crate::order::{common_len, head};
use crate::scan::Bounds;
use crate::table::Slot;

/// See the module.
#[derive(Default)]
pub(crate) struct Tree {
    /// What every key begins with. It only ever gets shorter.
    prefix: Option<Vec<u8>>,
    rows: BTreeSet<Place>,
}

/// A slot, with what follows the prefix in its key.
struct Place {
    head: u64,
    slot: Slot,
}

/// What has a place in the order of a tree: a slot in it, or a key that is looked for.
trait Placed {
    fn place(&self) -> (u64, &[u8]);
}

impl Tree {
    /// Bytes of one row, as its part of nodes that are two thirds full.
    pub(crate) const ROW_BYTES: usize = size_of::<Place>() * 3 / 2 + 4;

    pub(crate) fn get(&self, key: &[u8]) -> Option<&Slot> {
        let probe = self.probe(key)?;
        self.rows.get(&probe as &dyn Placed).map(|place| &place.slot)
    }

    pub(crate) fn replace(&mut self, slot: Slot) -> Option<Slot> {
        let key = slot.entry.key();
        let prefix = self.prefix.get_or_insert_with(|| key.to_vec());
        let common = common_len(prefix, key);
        if common < prefix.len() {
            prefix.truncate(common);
            // The order stays, so that this is one walk over the set.
            let rows = std::mem::take(&mut self.rows).into_iter();
            self.rows = rows.map(|Place { slot, .. }| Place { head: head(&slot.entry.key()[common..]), slot }).collect();
        }
        let head = head(&key[common..]);
        self.rows.replace(Place { head, slot }).map(|place| place.slot)
    }

    pub(crate) fn remove(&mut self, key: &[u8]) -> Option<Slot> {
        let probe = self.probe(key)?;
        self.rows.take(&probe as &dyn Placed).map(|place| place.slot)
    }

    /// Empties the tree into `f`.
    pub(crate) fn drain(&mut self, f: impl FnMut(Slot)) {
        std::mem::take(&mut self.rows).into_iter().map(|place| place.slot).for_each(f);
    }

    /// Removes the slots that `keep` does not want.
    pub(crate) fn retain(&mut self, mut keep: impl FnMut(&Slot) -> bool) {
        self.rows.retain(|place| keep(&place.slot));
    }

    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Slot> {
        self.rows.iter().map(|place| &place.slot)
    }

    /// The slots between two bounds that are the right way round.
    pub(crate) fn range(&self, (from, to): Bounds<'_>) -> impl DoubleEndedIterator<Item = &Slot> {
        let prefix = self.prefix.as_deref().unwrap_or_default();
        // A key that does not begin with the prefix is before all keys or behind all of them.
        let beside = |bound: Bound<&[u8]>, order| matches!(bound, Bound::Included(key) | Bound::Excluded(key) if !key.starts_with(prefix) && key.cmp(prefix) == order);
        let none = beside(from, Ordering::Greater) || beside(to, Ordering::Less);
        let probes = [from, to].map(|bound| match bound {
            Bound::Included(key) => self.probe(key).map_or(Bound::Unbounded, Bound::Included),
            Bound::Excluded(key) => self.probe(key).map_or(Bound::Unbounded, Bound::Excluded),
            Bound::Unbounded => Bound::Unbounded,
        });
        let [from, to] = probes.each_ref().map(|bound| bound.as_ref().map(|probe| probe as &dyn Placed));
        let rows = (!none).then(|| self.rows.range::<dyn Placed, _>((from, to)));
        rows.into_iter().flatten().map(|place| &place.slot)
    }

    /// How to look for a key; `None` if it cannot be there.
    fn probe<'a>(&self, key: &'a [u8]) -> Option<Probe<'a>> {
        let rest = key.strip_prefix(self.prefix.as_deref()?)?;
        Some(Probe { head: head(rest), key })
    }
}

struct Probe<'a> {
    head: u64,
    key: &'a [u8],
}

impl Placed for Probe<'_> {
    fn place(&self) -> (u64, &[u8]) {
        (self.head, self.key)
    }
}

impl Placed for Place {
    fn place(&self) -> (u64, &[u8]) {
        (self.head, self.slot.entry.key())
    }
}

impl<'a> Borrow<dyn Placed + 'a> for Place {
    fn borrow(&self) -> &(dyn Placed + 'a) {
        self
    }
}

impl Ord for dyn Placed + '_ {
    fn cmp(&self, other: &Self) -> Ordering {
        self.place().cmp(&other.place())
    }
}

impl PartialOrd for dyn Placed + '_ {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for dyn Placed + '_ {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for dyn Placed + '_ {}

impl Ord for Place {
    fn cmp(&self, other: &Place) -> Ordering {
        self.place().cmp(&other.place())
    }
}

impl PartialOrd for Place {
    fn partial_cmp(&self, other: &Place) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Place {
    fn eq(&self, other: &Place) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Place {}
