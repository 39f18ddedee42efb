//! What flows: a record with its key, value, timestamp and headers, and the newtypes that say where it lies.
//! Nothing here knows bytes of keys or values (`codec`), the log or a task.

use std::fmt;
use std::sync::Arc;

/// The number of a partition within its topic, from 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Partition(pub u32);

/// The place of a record within its partition, from 0. Offsets grow, and may have gaps after compaction.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Offset(pub u64);

impl Offset {
    /// The offset right after this one.
    #[must_use]
    pub fn next(self) -> Offset {
        Offset(self.0 + 1)
    }
}

/// Milliseconds since 1970-01-01T00:00:00Z; event time unless said otherwise. Negative before 1970.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// What stream time is before the first record: earlier than every timestamp that a record can carry, as in Kafka.
    pub const UNKNOWN: Timestamp = Timestamp(-1);

    /// This time moved by `delta_ms`, held at the ends of the range.
    #[must_use]
    pub fn plus_ms(self, delta_ms: i64) -> Timestamp {
        Timestamp(self.0.saturating_add(delta_ms))
    }
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Headers of a record, in order; a name may repeat. Cloning is cheap, and no headers cost no allocation.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Headers(Option<Arc<Vec<(String, Vec<u8>)>>>);

impl Headers {
    /// No headers.
    pub const EMPTY: Headers = Headers(None);

    /// Adds a header at the end.
    pub fn push(&mut self, name: impl Into<String>, value: impl Into<Vec<u8>>) {
        let list = self.0.get_or_insert_with(Default::default);
        Arc::make_mut(list).push((name.into(), value.into()));
    }

    /// These headers with one more at the end.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, value: impl Into<Vec<u8>>) -> Headers {
        self.push(name, value);
        self
    }

    /// The value of the last header of this name, as Kafka's `lastHeader`.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.iter().rev().find(|(n, _)| *n == name).map(|(_, v)| v)
    }

    /// All headers in order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (&str, &[u8])> + ExactSizeIterator {
        let list = self.0.as_deref().map_or(&[][..], Vec::as_slice);
        list.iter().map(|(n, v)| (n.as_str(), v.as_slice()))
    }

    /// How many headers there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.as_deref().map_or(0, Vec::len)
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<N: Into<String>, V: Into<Vec<u8>>> FromIterator<(N, V)> for Headers {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(iter: I) -> Self {
        let list: Vec<_> = iter.into_iter().map(|(n, v)| (n.into(), v.into())).collect();
        Headers((!list.is_empty()).then(|| Arc::new(list)))
    }
}

/// One typed record on its way through a topology.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record<K, V> {
    /// The key; its encoded bytes decide the partition.
    pub key: K,
    /// The value.
    pub value: V,
    /// Event time.
    pub timestamp: Timestamp,
    /// Headers, handed on by every operator that makes one record of one.
    pub headers: Headers,
}

impl<K, V> Record<K, V> {
    /// A record without headers.
    pub fn new(key: K, value: V, timestamp: Timestamp) -> Self {
        Record { key, value, timestamp, headers: Headers::EMPTY }
    }

    /// The same record with another value.
    pub fn with_value<W>(self, value: W) -> Record<K, W> {
        Record { key: self.key, value, timestamp: self.timestamp, headers: self.headers }
    }

    /// The same record with another key.
    pub fn with_key<L>(self, key: L) -> Record<L, V> {
        Record { key, value: self.value, timestamp: self.timestamp, headers: self.headers }
    }
}
