//! A task's queue of one source topic: batches as they were fetched, and how far into them it is.

use std::collections::VecDeque;

use crate::log::{BatchCursor, RecordRef, StoredBatch};
use crate::record::{Offset, Timestamp};
use crate::topology::SourceIndex;

/// Invariant: the record at `cursor` of the front batch, if any, has an offset of at least `next`, and is the next to process.
pub(crate) struct Input {
    pub(crate) source: SourceIndex,
    batches: VecDeque<StoredBatch>,
    cursor: BatchCursor,
    next: Offset,
    fetch_from: Offset,
    committed: Offset,
    /// Since when it is known to be empty.
    empty_since: Option<Timestamp>,
}

impl Input {
    pub(super) fn new(source: SourceIndex, next: Offset) -> Input {
        let (batches, cursor) = Default::default();
        Input { source, batches, cursor, next, fetch_from: next, committed: next, empty_since: None }
    }

    /// The offset after the last record that was processed.
    pub(super) fn next(&self) -> Offset {
        self.next
    }

    pub(super) fn changed(&self) -> bool {
        self.next != self.committed
    }

    pub(super) fn committed(&mut self) {
        self.committed = self.next;
    }

    /// Where the next fetch begins, if the queue is short enough to want one.
    pub(crate) fn wants(&self) -> Option<Offset> {
        (self.batches.len() < 2).then_some(self.fetch_from)
    }

    /// Takes fetched batches; `next` is the offset after them.
    pub(super) fn push(&mut self, batches: impl IntoIterator<Item = StoredBatch>, next: Offset) {
        self.batches.extend(batches);
        self.fetch_from = next;
        self.skip_done();
    }

    /// The log begins later than this input wants (its records were deleted by retention): goes on from there, after what it has.
    pub(super) fn skip_to(&mut self, start: Offset) {
        self.push([], start);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    /// Since when it has been empty, as far as was asked; `None` if it has a record.
    pub(super) fn empty_since(&mut self, now: Timestamp) -> Option<Timestamp> {
        match self.is_empty() {
            true => Some(*self.empty_since.get_or_insert(now)),
            false => {
                self.empty_since = None;
                None
            }
        }
    }

    /// The next record, and the cursor after it.
    pub(super) fn head(&self) -> Option<(RecordRef<'_>, BatchCursor)> {
        self.batches.front()?.read(self.cursor)
    }

    pub(super) fn head_timestamp(&self) -> Option<Timestamp> {
        self.head().map(|(record, _)| record.timestamp)
    }

    /// The head was dealt with; `next` and `after` are what comes after it.
    pub(super) fn advance(&mut self, next: Offset, after: BatchCursor) {
        self.next = next;
        self.cursor = after;
        self.skip_done();
    }

    /// Drops batches that are used up, and records below `next`, which a fetch may bring along at the start of a batch.
    fn skip_done(&mut self) {
        while let Some(front) = self.batches.front() {
            match front.read(self.cursor) {
                Some((record, after)) if record.offset < self.next => self.cursor = after,
                Some(_) => return,
                None => {
                    self.batches.pop_front();
                    self.cursor = BatchCursor::default();
                }
            }
        }
        self.next = self.next.max(self.fetch_from);
    }
}
