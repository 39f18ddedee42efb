//! Typed topics: a name, the codecs of key and value, and the settings with which the topic is created where it is missing.

use std::borrow::Cow;

use crate::codec::{Codec, Data};
use crate::log::{Cleanup, TopicSpec};

/// A topic of keys `K` and values `V`. It can be a constant:
///
/// ```
/// use millstream::Topic;
/// use millstream::codec::{Decimal, Utf8};
///
/// const LINES: Topic<String, String> = Topic::new("lines");
/// const BY_USER: Topic<u64, String> = Topic::with_codecs("by-user", &Decimal, &Utf8).partitions(6).retention_ms(86_400_000);
/// ```
pub struct Topic<K: 'static, V: 'static> {
    name: Cow<'static, str>,
    key: &'static dyn Codec<K>,
    value: &'static dyn Codec<V>,
    partitions: u32,
    cleanup: Cleanup,
    max_ahead_ms: Option<u64>,
}

impl<K: 'static, V: 'static> Clone for Topic<K, V> {
    fn clone(&self) -> Self {
        Topic { name: self.name.clone(), ..*self }
    }
}

impl<K: Data, V: Data> Topic<K, V> {
    /// A topic with the types' own codecs, one partition, kept for 7 days.
    #[must_use]
    pub const fn new(name: &'static str) -> Self {
        Topic::with_codecs(name, K::CODEC, V::CODEC)
    }
}

impl<K: 'static, V: 'static> Topic<K, V> {
    /// A topic with the given codecs, one partition, kept for 7 days.
    #[must_use]
    pub const fn with_codecs(name: &'static str, key: &'static dyn Codec<K>, value: &'static dyn Codec<V>) -> Self {
        Topic::owned(Cow::Borrowed(name), key, value)
    }

    /// The same with a name that is known only when the program runs.
    #[must_use]
    pub fn named(name: impl Into<String>, key: &'static dyn Codec<K>, value: &'static dyn Codec<V>) -> Self {
        Topic::owned(Cow::Owned(name.into()), key, value)
    }

    pub(crate) const fn owned(name: Cow<'static, str>, key: &'static dyn Codec<K>, value: &'static dyn Codec<V>) -> Self {
        let cleanup = Cleanup::Delete { retention_ms: Some(7 * 24 * 3_600_000), retention_bytes: None };
        Topic { name, key, value, partitions: 1, cleanup, max_ahead_ms: None }
    }

    /// How many partitions it is created with.
    #[must_use]
    pub const fn partitions(mut self, partitions: u32) -> Self {
        self.partitions = partitions;
        self
    }

    /// Its records are kept for this long after they were written, in milliseconds.
    #[must_use]
    pub const fn retention_ms(mut self, retention_ms: u64) -> Self {
        self.cleanup = Cleanup::Delete { retention_ms: Some(retention_ms), retention_bytes: None };
        self
    }

    /// Its records are kept until something else deletes them.
    #[must_use]
    pub const fn keep_forever(mut self) -> Self {
        self.cleanup = Cleanup::Delete { retention_ms: None, retention_bytes: None };
        self
    }

    /// The last record of each key is kept: the topic is a table.
    #[must_use]
    pub const fn compacted(mut self) -> Self {
        self.cleanup = Cleanup::Compact { delete_retention_ms: 7 * 24 * 3_600_000 };
        self
    }

    /// How far the timestamps of its records may be ahead of the clock of who reads it, in milliseconds. A record beyond that is parked, and moves no
    /// stream time: one wrong clock of a producer would close every window of its partition. Not bounded unless it is set here; what a broker
    /// accepts is bounded by its `message.timestamp.after.max.ms` (KIP-937).
    #[must_use]
    pub const fn max_ahead_ms(mut self, max_ahead_ms: u64) -> Self {
        self.max_ahead_ms = Some(max_ahead_ms);
        self
    }

    /// What [`Topic::max_ahead_ms`] set.
    pub(crate) fn bound_ms(&self) -> Option<u64> {
        self.max_ahead_ms
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The codec of its keys.
    #[must_use]
    pub fn key_codec(&self) -> &'static dyn Codec<K> {
        self.key
    }

    /// The codec of its values.
    #[must_use]
    pub fn value_codec(&self) -> &'static dyn Codec<V> {
        self.value
    }

    /// What the log needs to create it.
    #[must_use]
    pub fn spec(&self) -> TopicSpec {
        TopicSpec { name: self.name.to_string(), partitions: self.partitions, cleanup: self.cleanup }
    }
}
