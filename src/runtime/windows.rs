//! Reading a window store from outside: the windows of a key, or of all keys, by the time they start at.

use std::ops::Bound;

use millstream_state::{Direction, Range};

use super::seen::Seen;
use super::view::{MAX_PAGE, QueryError, Row, TypedView, View, cut};
use crate::codec::{Data, push_key, split_window, time_bytes};
use crate::log::Moment;
use crate::record::Timestamp;
use crate::windows::Windowed;

impl View {
    /// The first windows of a range of keys that start at or after `from` and before `to`, by key and start (from the last with
    /// `Direction::Reverse`), over all partitions; as many as [`View::page`] gives. Every row of the range is looked at, so the range of
    /// one key ([`TypedView::windows`]) is much cheaper than that of all.
    ///
    /// Windows that the store has forgotten are not there: see [`WindowedStream::retention_ms`](crate::WindowedStream::retention_ms).
    ///
    /// # Errors
    /// If the state cannot be read.
    pub fn windows(
        &self,
        range: &Range,
        (from, to): (Timestamp, Timestamp),
        direction: Direction,
        limit: usize,
    ) -> Result<Seen<Vec<Row>>, QueryError> {
        let limit = limit.min(MAX_PAGE);
        let wanted = |key: &[u8]| split_window(key).is_some_and(|(_, window)| from <= window.start && window.start < to);
        let (mut found, mut seen) = (Vec::new(), Moment::DURABLE);
        let mut rest = range.clone();
        // A part at a time, for the owners wait meanwhile.
        while found.len() < limit {
            let page = self.page(&rest, direction, MAX_PAGE)?;
            seen = seen.max(page.at());
            let page = page.ahead();
            let last = page.last().filter(|_| page.len() >= MAX_PAGE).map(|(key, _)| key.clone());
            found.extend(page.into_iter().filter(|(key, _)| wanted(key)));
            let Some(last) = last else { break };
            let (first, end) = rest.bounds();
            rest = match direction {
                Direction::Forward => Range::new(Bound::Excluded(&last), end),
                Direction::Reverse => Range::new(first, Bound::Excluded(&last)),
            };
        }
        cut(&mut found, limit);
        Ok(self.seen(found, seen))
    }

    /// Whether keys of this view are windowed.
    #[must_use]
    pub fn is_windowed(&self) -> bool {
        self.kind().is_windowed()
    }
}

impl<K: Data, V: Data> TypedView<Windowed<K>, V> {
    /// The windows of a key that start at or after `from` and before `to`, in the order of time (from the last with
    /// `Direction::Reverse`); at most `limit`, and [`MAX_PAGE`].
    ///
    /// # Errors
    /// If the state cannot be read, or a row is not what the codec reads.
    pub fn windows(
        &self,
        key: &K,
        (from, to): (Timestamp, Timestamp),
        direction: Direction,
        limit: usize,
    ) -> Result<Seen<Vec<(Windowed<K>, V)>>, QueryError> {
        let mut group = Vec::new();
        if !push_key(key, &mut group).map_err(|e| self.untyped().codec_error(e))? {
            return Ok(self.untyped().seen(Vec::new(), Moment::DURABLE));
        }
        self.page(&Range::within(&group, &time_bytes(from), &time_bytes(to.plus_ms(-1))), direction, limit)
    }

    /// The windows of all keys that start at or after `from` and before `to`, by key and start: see [`View::windows`]. Windows of a key
    /// alone are [`TypedView::windows`].
    ///
    /// # Errors
    /// As [`TypedView::windows`].
    pub fn all_windows(
        &self,
        times: (Timestamp, Timestamp),
        direction: Direction,
        limit: usize,
    ) -> Result<Seen<Vec<(Windowed<K>, V)>>, QueryError> {
        self.decode(self.untyped().windows(&Range::all(), times, direction, limit)?)
    }
}
