//! The keys of a hash map in order, for as long as somebody pages through it: a page then costs what it gives, and not a look at every row.
//! The index only says where keys may be; whether a row is there, and what it is, the hash map says. It is made from a copy of the keys while
//! commits go on, and is given up after twice as many writes as it has keys, or when memory is short.

use std::cmp::Ordering;
use std::collections::VecDeque;
use std::ops::Bound;

use crate::entry::Entry;
use crate::order::sort_by_key;
use crate::scan::{Bounds, Direction, Range};
use crate::table::Slot;

/// See the module.
pub(crate) struct KeyIndex {
    /// In order, each key once. Keys may be gone from the map meanwhile. `None` until the index is made.
    sorted: Option<Vec<Entry>>,
    /// Keys that came since, in no order, some of them perhaps in `sorted` too.
    added: Vec<Entry>,
    /// Bytes of entries that the map has replaced and the index may still hold.
    held: usize,
    /// Writes since it was begun.
    writes: usize,
    /// Tells it from those that were begun before it for the same map.
    number: u64,
}

/// Keys out of order that are put in order with a page, and not by making the index anew.
const FEW_ADDED: usize = 1024;

impl KeyIndex {
    /// An index that is being made: it notes what comes from now on.
    pub(crate) fn begun(number: u64) -> KeyIndex {
        KeyIndex { sorted: None, added: Vec::new(), held: 0, writes: 0, number }
    }

    /// Puts the entries in order that are in the map after the index was begun; it takes a while.
    pub(crate) fn sorted(entries: Vec<Entry>) -> Vec<Entry> {
        let mut sorted: Vec<Entry> = sort_by_key(entries, Entry::key).collect();
        sorted.dedup_by(|a, b| a.key() == b.key()); // a key that was removed and came again while they were collected
        sorted
    }

    /// Takes what `sorted` made, if this is the index that it was made for: one that was begun later has not noted all that came since.
    pub(crate) fn finish(&mut self, number: u64, sorted: Vec<Entry>) {
        if self.number == number {
            self.sorted = Some(sorted);
        }
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.sorted.is_some()
    }

    /// Notes a write: a row of a key that the map did not have, or that took the place of another. False if the index is not worth its memory
    /// any more.
    pub(crate) fn note(&mut self, written: &Entry, replaced: Option<&Entry>) -> bool {
        match replaced {
            Some(old) => self.held += old.memory(),
            None => self.added.push(written.clone()),
        }
        self.writes += 1;
        self.writes <= self.sorted.as_ref().map_or(usize::MAX, |keys| 2 * keys.len())
    }

    /// Bytes that the index takes.
    pub(crate) fn memory(&self) -> usize {
        (self.sorted.as_ref().map_or(0, Vec::capacity) + self.added.capacity()) * size_of::<Entry>() + self.held
    }

    /// Adds entries of a range to `into`, in its direction, about `limit` of them, as `find` has them in the map; true when there are no more.
    /// The index must be ready.
    pub(crate) fn range<'a>(
        &mut self,
        range: &Range,
        direction: Direction,
        after: Option<&Entry>,
        limit: usize,
        find: impl Fn(&[u8]) -> Option<&'a Slot>,
        into: &mut VecDeque<Entry>,
    ) -> bool {
        self.put_in_order();
        let Some(bounds) = range.after(direction, after.map(Entry::key)) else { return true };
        let [mut a, mut b] = [self.sorted.as_deref().unwrap_or_default(), &self.added].map(|keys| part(keys, bounds));
        let mut found = 0;
        while found < limit {
            let order = match (next(a, direction), next(b, direction)) {
                (None, None) => return true,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(a), Some(b)) => direction.order(a.key(), b.key()),
            };
            let key = if order.is_gt() { pop(&mut b, direction) } else { pop(&mut a, direction) };
            if order.is_eq() {
                pop(&mut b, direction);
            }
            if let Some(slot) = key.and_then(|key| find(key.key())) {
                into.push_back(slot.entry.clone());
                found += 1;
            }
        }
        false
    }

    fn put_in_order(&mut self) {
        if !self.added.is_sorted_by(|a, b| a.key() < b.key()) {
            self.added = sort_by_key(std::mem::take(&mut self.added), Entry::key).collect();
            self.added.dedup_by(|a, b| a.key() == b.key());
        }
        if let Some(sorted) = &mut self.sorted
            && self.added.len() > FEW_ADDED.max(sorted.len() / 8)
        {
            sorted.append(&mut self.added);
            // Two runs, each in order: a stable sort merges them.
            sorted.sort_by(|a, b| a.key().cmp(b.key()));
            sorted.dedup_by(|a, b| a.key() == b.key());
        }
    }
}

/// The keys between two bounds.
fn part<'a>(keys: &'a [Entry], (from, to): Bounds<'_>) -> &'a [Entry] {
    let start = keys.partition_point(|entry| match from {
        Bound::Unbounded => false,
        Bound::Included(from) => entry.key() < from,
        Bound::Excluded(from) => entry.key() <= from,
    });
    let end = keys.partition_point(|entry| match to {
        Bound::Unbounded => true,
        Bound::Included(to) => entry.key() <= to,
        Bound::Excluded(to) => entry.key() < to,
    });
    &keys[start..end.max(start)]
}

fn next(keys: &[Entry], direction: Direction) -> Option<&Entry> {
    match direction {
        Direction::Forward => keys.first(),
        Direction::Reverse => keys.last(),
    }
}

fn pop<'a>(keys: &mut &'a [Entry], direction: Direction) -> Option<&'a Entry> {
    match direction {
        Direction::Forward => keys.split_off_first(),
        Direction::Reverse => keys.split_off_last(),
    }
}
