//! What reads give: rows and values that share the memory of the layer they come from. Here, too, is what makes a row of a store with
//! time-to-live: the time it was written with, in front of its value, against which every read decides whether it is still there.

use std::fmt;
use std::ops::Deref;

use crate::entry::Entry;

/// A row that was read. Cheap to clone; it stays as it is whatever happens to the store.
#[derive(Clone)]
pub struct Row {
    entry: Entry,
    skip: usize,
}

impl Row {
    /// The key within the store.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        self.entry.key()
    }

    /// The value.
    #[must_use]
    pub fn value(&self) -> &[u8] {
        &self.entry.value().expect("a row is made of an entry with a value")[self.skip..]
    }

    /// The time that the row was written with, in a store with time-to-live.
    #[must_use]
    pub fn time_ms(&self) -> Option<i64> {
        (self.skip > 0).then(|| time_of(&self.entry).expect("a row of a store with time-to-live carries its time"))
    }
}

impl fmt::Debug for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Row").field("key", &self.key()).field("value", &self.value()).finish()
    }
}

/// The value of a row: its bytes. Cheap to clone.
#[derive(Clone)]
pub struct Value(Row);

impl Value {
    /// The whole row.
    #[must_use]
    pub fn into_row(self) -> Row {
        self.0
    }
}

impl Deref for Value {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.0.value()
    }
}

impl AsRef<[u8]> for Value {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl From<Row> for Value {
    fn from(row: Row) -> Value {
        Value(row)
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

/// Bytes of the time in front of a value with time-to-live.
pub(crate) const STAMP: usize = size_of::<i64>();

/// The time in front of a value, big-endian.
pub(crate) fn stamp(time_ms: i64) -> [u8; STAMP] {
    time_ms.to_be_bytes()
}

fn time_of(entry: &Entry) -> Option<i64> {
    entry.value()?.first_chunk().map(|stamp| i64::from_be_bytes(*stamp))
}

/// Which entries of a store are rows, at a point of time.
#[derive(Clone, Copy)]
pub(crate) struct View {
    pub(crate) ttl_ms: Option<u64>,
    pub(crate) time_ms: i64,
}

impl View {
    /// The row that an entry stands for: none for a tombstone and for a row whose time has passed.
    pub(crate) fn row(self, entry: Entry) -> Option<Row> {
        if entry.is_tombstone() || self.expired(&entry) {
            return None;
        }
        Some(Row { entry, skip: if self.ttl_ms.is_some() { STAMP } else { 0 } })
    }

    /// Whether the entry is a row that has outlived its time: it lives while time is below its own time plus the time-to-live.
    pub(crate) fn expired(self, entry: &Entry) -> bool {
        match (self.ttl_ms, time_of(entry)) {
            (Some(ttl_ms), Some(written_ms)) => written_ms.saturating_add_unsigned(ttl_ms) <= self.time_ms,
            _ => false,
        }
    }
}
