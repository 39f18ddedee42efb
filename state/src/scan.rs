//! Reading rows in order: the range, and the merge of the three layers, of which the youngest that has a key decides. A scan sees one
//! committed point in time and, for the owner, its own uncommitted writes.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::VecDeque;
use std::ops::Bound;

use crate::db::Shared;
use crate::disk::{DiskScan, Family};
use crate::entry::Entry;
use crate::error::Error;
use crate::hot::HotStore;
use crate::options::StoreId;
use crate::row::{Row, View};
use crate::table::Table;

/// The order in which a scan gives its rows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// From the smallest key on.
    Forward,
    /// From the largest key on.
    Reverse,
}

impl Direction {
    pub(crate) fn order(self, a: &[u8], b: &[u8]) -> Ordering {
        match self {
            Direction::Forward => a.cmp(b),
            Direction::Reverse => b.cmp(a),
        }
    }
}

/// A range of keys, by their bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Range {
    from: Bound<Vec<u8>>,
    to: Bound<Vec<u8>>,
    /// How many bytes at the beginning of `from` are the group that all keys are of; 0 if that is not said.
    group: usize,
}

/// The two ends of a range, as a B-tree wants them.
pub type Bounds<'a> = (Bound<&'a [u8]>, Bound<&'a [u8]>);

impl Range {
    /// Every key.
    #[must_use]
    pub fn all() -> Range {
        Range { from: Bound::Unbounded, to: Bound::Unbounded, group: 0 }
    }

    /// The keys between two bounds; none if they are the wrong way round.
    #[must_use]
    pub fn new(from: Bound<&[u8]>, to: Bound<&[u8]>) -> Range {
        Range { from: from.map(<[u8]>::to_vec), to: to.map(<[u8]>::to_vec), group: 0 }
    }

    /// The keys that begin with `prefix`.
    #[must_use]
    pub fn prefix(prefix: &[u8]) -> Range {
        Range { from: Bound::Included(prefix.to_vec()), to: behind(prefix.to_vec()), group: 0 }
    }

    /// The keys of a group that go on with `from`, or what is after it, up to those that go on with what begins with `to`. In a store that is
    /// [grouped](crate::Access::Grouped) `group` is all but the last bytes of its keys, as many as the store says.
    #[must_use]
    pub fn within(group: &[u8], from: &[u8], to: &[u8]) -> Range {
        Range { from: Bound::Included([group, from].concat()), to: behind([group, to].concat()), group: group.len() }
    }

    /// The group that all keys are of, if that was said.
    pub(crate) fn group(&self) -> Option<&[u8]> {
        match &self.from {
            Bound::Included(from) | Bound::Excluded(from) if self.group > 0 => Some(&from[..self.group]),
            _ => None,
        }
    }

    /// The first and the last bound.
    #[must_use]
    pub fn bounds(&self) -> Bounds<'_> {
        (self.from.as_ref().map(Vec::as_slice), self.to.as_ref().map(Vec::as_slice))
    }

    /// What remains of the range after the row of this key was given.
    pub(crate) fn rest(&mut self, direction: Direction, given: &[u8]) {
        let end = match direction {
            Direction::Forward => &mut self.from,
            Direction::Reverse => &mut self.to,
        };
        *end = Bound::Excluded(given.to_vec());
    }

    /// What remains of the range after `key` was given, in a form that a B-tree accepts, or `None` if that is nothing.
    pub(crate) fn after<'a>(&'a self, direction: Direction, key: Option<&'a [u8]>) -> Option<Bounds<'a>> {
        let (mut from, mut to) = self.bounds();
        match (direction, key) {
            (_, None) => {}
            (Direction::Forward, Some(key)) => from = Bound::Excluded(key),
            (Direction::Reverse, Some(key)) => to = Bound::Excluded(key),
        }
        let possible = match (from, to) {
            (Bound::Included(a), Bound::Included(b)) => a <= b,
            (Bound::Included(a) | Bound::Excluded(a), Bound::Included(b) | Bound::Excluded(b)) => a < b,
            _ => true,
        };
        possible.then_some((from, to))
    }
}

/// The end of the keys that begin with this one.
fn behind(mut prefix: Vec<u8>) -> Bound<Vec<u8>> {
    while prefix.pop_if(|last| *last == u8::MAX).is_some() {}
    match prefix.last_mut() {
        None => Bound::Unbounded,
        Some(last) => {
            *last += 1;
            Bound::Excluded(prefix)
        }
    }
}

/// The rows of a range over overlay (for the owner), hot layer and disk.
pub(crate) struct Scan<'a> {
    shared: &'a Shared,
    store: StoreId,
    hot: &'a HotStore,
    overlay: Option<&'a Table>,
    overlay_rows: Ahead,
    hot_rows: Ahead,
    /// `None` when everything is in memory.
    disk: Option<Box<dyn DiskScan + 'a>>,
    disk_row: Option<Entry>,
    range: Cow<'a, Range>,
    /// The hash of its group, where the store has groups.
    group: Option<u32>,
    direction: Direction,
    view: View,
    failed: bool,
}

/// Rows of one layer in memory, fetched some at a time.
#[derive(Default)]
struct Ahead {
    rows: VecDeque<Entry>,
    last: Option<Entry>,
    limit: usize,
    done: bool,
}

impl Ahead {
    /// Fetches more if there are none; `fetch` is told after which entry, and how many.
    fn fill(&mut self, fetch: impl FnOnce(Option<&Entry>, usize, &mut VecDeque<Entry>) -> bool) {
        if self.rows.is_empty() && !self.done {
            self.limit = (self.limit * 2).clamp(8, 256);
            self.done = fetch(self.last.as_ref(), self.limit, &mut self.rows);
            self.last = self.rows.back().cloned();
        }
    }
}

impl<'a> Scan<'a> {
    /// A scan of what `hot` and the disk hold while the caller's lock keeps them still.
    pub(crate) fn new(
        shared: &'a Shared,
        (partition, store): (u32, StoreId),
        overlay: Option<&'a Table>,
        hot: &'a HotStore,
        (range, direction): (Cow<'a, Range>, Direction),
        view: View,
    ) -> Self {
        let group = shared.group_hash(store, &range);
        let on_disk = group.map_or(!hot.complete, |hash| hot.may_be_on_disk(hash));
        let disk = on_disk.then(|| shared.disk.scan(Family::of(store), partition, &range, direction));
        let (overlay_rows, hot_rows) = Default::default();
        let (disk_row, failed) = (None, false);
        Scan { shared, store, hot, overlay, overlay_rows, hot_rows, disk, disk_row, range, group, direction, view, failed }
    }

    /// The next entry that any layer has, tombstones included.
    fn next_entry(&mut self) -> Result<Option<Entry>, Error> {
        let (range, group, direction) = (&*self.range, self.group, self.direction);
        if let Some(overlay) = self.overlay {
            self.overlay_rows.fill(|after, limit, rows| overlay.range((range, group), direction, after, limit, rows));
        }
        let hash = |key: &[u8]| self.shared.hash(self.store, key);
        self.hot_rows.fill(|after, limit, rows| self.hot.range(hash, (range, group), direction, after, limit, rows));
        if let (None, Some(disk)) = (&self.disk_row, &mut self.disk) {
            self.disk_row = disk.next()?;
            if self.disk_row.is_none() {
                self.disk = None;
            }
        }
        let layers = [self.overlay_rows.rows.front(), self.hot_rows.rows.front(), self.disk_row.as_ref()];
        // `min_by` keeps the first of equals, which is the youngest layer.
        let Some(next) = layers.into_iter().flatten().min_by(|a, b| self.direction.order(a.key(), b.key())).cloned() else {
            return Ok(None);
        };
        for rows in [&mut self.overlay_rows.rows, &mut self.hot_rows.rows] {
            rows.pop_front_if(|e| e.key() == next.key());
        }
        self.disk_row.take_if(|e| e.key() == next.key());
        Ok(Some(next))
    }
}

impl Iterator for Scan<'_> {
    type Item = Result<Row, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.failed {
            match self.next_entry() {
                Ok(None) => return None,
                Ok(Some(entry)) => {
                    if let Some(row) = self.view.row(entry) {
                        return Some(Ok(row));
                    }
                }
                Err(error) => {
                    self.failed = true;
                    return Some(Err(error));
                }
            }
        }
        None
    }
}
