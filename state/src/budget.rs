//! One memory budget for all stores of a database, and how it is divided. It counts; who gets too much is told, and flushes or forgets.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::hot::Bytes;

/// Counters and limits, in bytes.
pub(crate) struct Budget {
    /// For rows in memory, overlays included.
    pub(crate) rows: usize,
    /// Dirty rows at which a flush begins. The other half takes commits while it runs.
    pub(crate) dirty: usize,
    /// RocksDB's block cache, indexes and filters included.
    pub(crate) cache: usize,
    hot: AtomicUsize,
    hot_dirty: AtomicUsize,
    overlays: AtomicUsize,
}

impl Budget {
    /// Divides `total`: five eighths for rows and a quarter for the block cache; the rest is what a flush needs to sort and to build its
    /// table file (a third of the dirty rows) and what compactions hold.
    pub(crate) fn new(total: usize) -> Budget {
        let rows = total / 8 * 5;
        let (hot, hot_dirty, overlays) = Default::default();
        Budget { rows, dirty: rows * 2 / 5, cache: total / 4, hot, hot_dirty, overlays }
    }

    /// Bytes of rows in memory.
    pub(crate) fn used(&self) -> usize {
        self.hot.load(Ordering::Relaxed) + self.overlays.load(Ordering::Relaxed)
    }

    pub(crate) fn dirty(&self) -> usize {
        self.hot_dirty.load(Ordering::Relaxed)
    }

    /// Whether there are more rows in memory than there may be.
    pub(crate) fn exceeded(&self) -> bool {
        self.used() > self.rows
    }

    /// Whether the flusher has work that should not wait. That memory is short is not enough: mostly it is enough to forget rows that are on
    /// disk, and a flush of few rows costs a compaction as one of many does.
    pub(crate) fn pressing(&self) -> bool {
        self.dirty() >= self.dirty
    }

    /// Whether a row that was read may stay in memory. Fewer than there may be, so that reading does not push.
    pub(crate) fn has_room(&self) -> bool {
        self.used() < self.rows - self.rows / 16
    }

    pub(crate) fn recount(&self, before: Bytes, now: Bytes) {
        recount(&self.hot, before.all, now.all);
        recount(&self.hot_dirty, before.dirty, now.dirty);
    }

    pub(crate) fn recount_overlay(&self, before: usize, now: usize) {
        recount(&self.overlays, before, now);
    }
}

/// Wrapping, for the difference may be negative; the sum of all parts is not.
fn recount(counter: &AtomicUsize, before: usize, now: usize) {
    if before != now {
        counter.fetch_add(now.wrapping_sub(before), Ordering::Relaxed);
    }
}
