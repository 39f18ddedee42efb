//! How records lie in the log: a [`RecordBatch`] is what a writer fills, a [`StoredBatch`] is what a reader gets.
//! Nothing here knows topics, partitions or RocksDB; keys and values are bytes.
//!
//! **Encoding.** A record is one byte of flags, then only what the flags announce:
//! `[gap varint] [timestamp] [key length varint] [value length varint] [headers length varint] key value headers`.
//! Offsets are not stored: a record lies one after the one before it, plus its `gap` where compaction took records away.
//! A timestamp is the zigzag varint of the distance to the one before, or eight bytes where none is before. So batches of
//! several writers become one by putting their bytes one after the other, and a compacted batch is a batch like any other.

use crate::{Headers, Offset, Timestamp};
use bytes::Bytes;

const HAS_KEY: u8 = 1;
const HAS_VALUE: u8 = 2;
const HAS_HEADERS: u8 = 4;
const FULL_TIMESTAMP: u8 = 8;
const HAS_GAP: u8 = 16;
const KNOWN_FLAGS: u8 = 31;

/// Encoded records on their way into the log, in order, without offsets yet.
#[derive(Clone, Debug, Default)]
pub struct RecordBatch {
    bytes: Vec<u8>,
    records: u32,
    timestamp: i64,
    facts: Facts,
}

/// What limits ask of a batch, kept while it is filled, so that nothing is decoded to check it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts {
    /// Key, value and headers of the largest record, in bytes.
    pub largest: usize,
    /// The smallest timestamp.
    pub earliest: i64,
    /// Whether a record has no key.
    pub unkeyed: bool,
}

impl Default for Facts {
    fn default() -> Self {
        Facts { largest: 0, earliest: i64::MAX, unkeyed: false }
    }
}

/// A place in a [`RecordBatch`] to go back to.
#[derive(Clone, Copy, Debug)]
pub struct Mark {
    bytes: usize,
    records: u32,
    timestamp: i64,
    facts: Facts,
}

impl RecordBatch {
    /// A batch without records.
    #[must_use]
    pub fn new() -> RecordBatch {
        RecordBatch::default()
    }

    /// A batch without records and with room for this many encoded bytes.
    #[must_use]
    pub fn with_capacity(bytes: usize) -> RecordBatch {
        RecordBatch { bytes: Vec::with_capacity(bytes), ..RecordBatch::default() }
    }

    /// Adds a record at the end. What the log would refuse is accepted here and refused by [`super::Limits`].
    pub fn push(&mut self, timestamp: Timestamp, key: Option<&[u8]>, value: Option<&[u8]>, headers: &Headers) {
        self.begin(0, timestamp, key, value, headers_len(headers));
        for (name, value) in headers.iter() {
            put_varint(&mut self.bytes, name.len() as u64);
            self.bytes.extend_from_slice(name.as_bytes());
            put_varint(&mut self.bytes, value.len() as u64);
            self.bytes.extend_from_slice(value);
        }
    }

    /// Adds a record that was read, `gap` offsets after the end of this batch.
    pub(super) fn push_read(&mut self, gap: u64, record: &RecordRef<'_>) {
        self.begin(gap, record.timestamp, record.key, record.value, record.headers.0.len());
        self.bytes.extend_from_slice(record.headers.0);
    }

    /// Adds a record that was read elsewhere, `gap` offsets after the end of this batch.
    #[cfg(feature = "kafka")]
    pub(super) fn push_foreign<'a>(
        &mut self,
        gap: u64,
        timestamp: Timestamp,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: impl Iterator<Item = (std::borrow::Cow<'a, str>, &'a [u8])> + Clone,
    ) {
        let size = |len: usize| varint_len(len) + len;
        let headers_len = headers.clone().map(|(name, value)| size(name.len()) + size(value.len())).sum();
        self.begin(gap, timestamp, key, value, headers_len);
        for (name, value) in headers {
            put_varint(&mut self.bytes, name.len() as u64);
            self.bytes.extend_from_slice(name.as_bytes());
            put_varint(&mut self.bytes, value.len() as u64);
            self.bytes.extend_from_slice(value);
        }
    }

    fn begin(&mut self, gap: u64, timestamp: Timestamp, key: Option<&[u8]>, value: Option<&[u8]>, headers_len: usize) {
        let content = key.map_or(0, <[u8]>::len) + value.map_or(0, <[u8]>::len) + headers_len;
        self.bytes.reserve(content + 32);
        let flag = |on: bool, flag: u8| if on { flag } else { 0 };
        self.bytes.push(
            flag(key.is_some(), HAS_KEY)
                | flag(value.is_some(), HAS_VALUE)
                | flag(headers_len > 0, HAS_HEADERS)
                | flag(self.records == 0, FULL_TIMESTAMP)
                | flag(gap > 0, HAS_GAP),
        );
        if gap > 0 {
            put_varint(&mut self.bytes, gap);
        }
        if self.records == 0 {
            self.bytes.extend_from_slice(&timestamp.0.to_le_bytes());
        } else {
            let delta = timestamp.0.wrapping_sub(self.timestamp);
            put_varint(&mut self.bytes, ((delta << 1) ^ (delta >> 63)) as u64);
        }
        if let Some(key) = key {
            put_varint(&mut self.bytes, key.len() as u64);
        }
        if let Some(value) = value {
            put_varint(&mut self.bytes, value.len() as u64);
        }
        if headers_len > 0 {
            put_varint(&mut self.bytes, headers_len as u64);
        }
        self.bytes.extend_from_slice(key.unwrap_or_default());
        self.bytes.extend_from_slice(value.unwrap_or_default());

        self.records += 1;
        self.timestamp = timestamp.0;
        self.facts.largest = self.facts.largest.max(content);
        self.facts.earliest = self.facts.earliest.min(timestamp.0);
        self.facts.unkeyed |= key.is_none();
    }

    /// How many records there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.records as usize
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// The encoded records.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Where the batch ends now, for [`RecordBatch::truncate`].
    #[must_use]
    pub fn mark(&self) -> Mark {
        Mark { bytes: self.bytes.len(), records: self.records, timestamp: self.timestamp, facts: self.facts }
    }

    /// Takes back every record pushed after `mark` was taken from this batch.
    pub fn truncate(&mut self, mark: Mark) {
        self.bytes.truncate(mark.bytes);
        (self.records, self.timestamp, self.facts) = (mark.records, mark.timestamp, mark.facts);
    }

    /// Takes back all records and keeps the memory.
    pub fn clear(&mut self) {
        self.truncate(RecordBatch::default().mark());
    }

    /// The records, with the offsets they have if the first one lies at `base`.
    #[must_use]
    pub fn records(&self, base: Offset) -> Records<'_> {
        Records { rest: &self.bytes, offset: base.0, timestamp: 0 }
    }

    pub(super) fn facts(&self) -> Facts {
        self.facts
    }
}

/// A batch as it lies in the log: whole appends of one commit, or what compaction left of them.
#[derive(Clone, Debug)]
pub struct StoredBatch {
    base: Offset,
    header: Header,
    value: Bytes,
}

/// What precedes the records of a stored batch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    /// How many offsets the batch covers; at least its records, more after compaction.
    pub span: u32,
    /// How many records there are.
    pub records: u32,
    /// The log's wall-clock time at the append.
    pub appended_at: Timestamp,
}

impl Header {
    const VERSION: u8 = 1;
    const LEN: usize = 17;

    fn encode(self) -> [u8; Header::LEN] {
        let mut bytes = [0; Header::LEN];
        bytes[0] = Header::VERSION;
        bytes[1..5].copy_from_slice(&self.span.to_le_bytes());
        bytes[5..9].copy_from_slice(&self.records.to_le_bytes());
        bytes[9..17].copy_from_slice(&self.appended_at.0.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Header> {
        let bytes: &[u8; Header::LEN] = bytes.first_chunk()?;
        let u32_at = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let appended_at = Timestamp(i64::from_le_bytes(*bytes[9..].first_chunk()?));
        (bytes[0] == Header::VERSION).then(|| Header { span: u32_at(1), records: u32_at(5), appended_at })
    }
}

impl StoredBatch {
    /// One stored batch of these batches in this order.
    pub(crate) fn concat(base: Offset, span: u32, appended_at: Timestamp, parts: &[RecordBatch]) -> StoredBatch {
        let records = parts.iter().map(|part| part.records).sum();
        let header = Header { span, records, appended_at };
        let mut value = Vec::with_capacity(Header::LEN + parts.iter().map(|part| part.bytes.len()).sum::<usize>());
        value.extend_from_slice(&header.encode());
        for part in parts {
            value.extend_from_slice(&part.bytes);
        }
        StoredBatch { base, header, value: Bytes::from(value) }
    }

    /// A batch without records yet whose bytes become a stored batch as they are: see [`StoredBatch::filled`].
    #[cfg(feature = "kafka")]
    pub(super) fn fill(bytes: usize) -> RecordBatch {
        let mut batch = RecordBatch::with_capacity(Header::LEN + bytes);
        batch.bytes.resize(Header::LEN, 0);
        batch
    }

    /// The stored batch of what was pushed to a batch made with [`StoredBatch::fill`].
    #[cfg(feature = "kafka")]
    pub(super) fn filled(base: Offset, span: u32, appended_at: Timestamp, batch: RecordBatch) -> StoredBatch {
        let header = Header { span, records: batch.records, appended_at };
        let mut value = batch.bytes;
        value[..Header::LEN].copy_from_slice(&header.encode());
        StoredBatch { base, header, value: Bytes::from(value) }
    }

    /// The batch that was stored as `value`, or `None` if that is damaged. All of it is looked at, so that reading its
    /// records later can't fail.
    pub(super) fn decode(base: Offset, value: &[u8]) -> Option<StoredBatch> {
        let header = Header::decode(value)?;
        let mut rest = &value[Header::LEN..];
        let (mut offset, mut timestamp) = (base.0, 0);
        for _ in 0..header.records {
            decode_record(&mut rest, &mut offset, &mut timestamp)?.headers.checked()?;
        }
        let whole = rest.is_empty() && offset <= base.0 + u64::from(header.span);
        whole.then(|| StoredBatch { base, header, value: Bytes::copy_from_slice(value) })
    }

    /// What would be stored.
    pub(super) fn value(&self) -> &Bytes {
        &self.value
    }

    /// The first offset that the batch covers.
    #[must_use]
    pub fn base_offset(&self) -> Offset {
        self.base
    }

    /// The offset right after the batch: where to read on.
    #[must_use]
    pub fn next_offset(&self) -> Offset {
        Offset(self.base.0 + u64::from(self.header.span))
    }

    /// How many records there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.header.records as usize
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.header.records == 0
    }

    /// The wall-clock time of the log when the batch was appended.
    #[must_use]
    pub fn appended_at(&self) -> Timestamp {
        self.header.appended_at
    }

    /// The size of the batch in the log, in bytes.
    #[must_use]
    pub fn stored_bytes(&self) -> usize {
        self.value.len()
    }

    /// The records in order. A fetch from within a batch gives the whole batch: see [`StoredBatch::records_from`].
    #[must_use]
    pub fn records(&self) -> Records<'_> {
        Records { rest: &self.value[Header::LEN..], offset: self.base.0, timestamp: 0 }
    }

    /// The record at a cursor and the cursor after it, or `None` at the end of the batch.
    #[must_use]
    pub fn read(&self, cursor: BatchCursor) -> Option<(RecordRef<'_>, BatchCursor)> {
        let records = &self.value[Header::LEN..];
        let mut rest = &records[cursor.at..];
        if rest.is_empty() {
            return None;
        }
        let (mut offset, mut timestamp) = (self.base.0 + cursor.offset, cursor.timestamp);
        let record = decode_record(&mut rest, &mut offset, &mut timestamp).expect(CHECKED);
        Some((record, BatchCursor { at: records.len() - rest.len(), offset: offset - self.base.0, timestamp }))
    }

    /// The records at `from` and later.
    pub fn records_from(&self, from: Offset) -> impl Iterator<Item = RecordRef<'_>> {
        self.records().skip_while(move |record| record.offset < from)
    }
}

/// How far into a [`StoredBatch`] a reader is; the default is its beginning. Only of use with the batch that gave it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BatchCursor {
    at: usize,
    offset: u64,
    timestamp: i64,
}

/// One record of a batch, borrowed from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordRef<'a> {
    /// Where it lies in its partition.
    pub offset: Offset,
    /// Event time.
    pub timestamp: Timestamp,
    /// The key, if it has one.
    pub key: Option<&'a [u8]>,
    /// The value; `None` deletes the key in a compacted topic.
    pub value: Option<&'a [u8]>,
    /// The headers, decoded when asked for.
    pub headers: HeadersRef<'a>,
}

/// The headers of a [`RecordRef`], still encoded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeadersRef<'a>(&'a [u8]);

impl<'a> HeadersRef<'a> {
    /// Whether there are none.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    /// All headers in order.
    pub fn iter(self) -> impl Iterator<Item = (&'a str, &'a [u8])> {
        let mut rest = self.0;
        std::iter::from_fn(move || (!rest.is_empty()).then(|| decode_header(&mut rest).expect(CHECKED)))
    }

    /// The value of the last header of this name.
    #[must_use]
    pub fn get(self, name: &str) -> Option<&'a [u8]> {
        self.iter().filter(|(n, _)| *n == name).last().map(|(_, value)| value)
    }

    /// These headers on their own.
    #[must_use]
    pub fn to_headers(self) -> Headers {
        self.iter().collect()
    }

    fn checked(self) -> Option<()> {
        let mut rest = self.0;
        while !rest.is_empty() {
            decode_header(&mut rest)?;
        }
        Some(())
    }
}

/// The records of a batch, in order.
#[derive(Clone, Debug)]
pub struct Records<'a> {
    rest: &'a [u8],
    offset: u64,
    timestamp: i64,
}

const CHECKED: &str = "a batch is written by RecordBatch or checked when it is read";

impl<'a> Iterator for Records<'a> {
    type Item = RecordRef<'a>;

    fn next(&mut self) -> Option<RecordRef<'a>> {
        if self.rest.is_empty() {
            return None;
        }
        Some(decode_record(&mut self.rest, &mut self.offset, &mut self.timestamp).expect(CHECKED))
    }
}

/// Takes one record off the front; `offset` is the first one it may have, and afterwards the one after it.
fn decode_record<'a>(rest: &mut &'a [u8], offset: &mut u64, timestamp: &mut i64) -> Option<RecordRef<'a>> {
    let flags = *rest.split_off_first()?;
    if flags & !KNOWN_FLAGS != 0 {
        return None;
    }
    let length = |flag: u8, rest: &mut &'a [u8]| if flags & flag != 0 { take_varint(rest) } else { Some(0) };
    let at = offset.checked_add(length(HAS_GAP, rest)?)?;
    *timestamp = if flags & FULL_TIMESTAMP != 0 {
        i64::from_le_bytes(*rest.split_off(..8)?.first_chunk()?)
    } else {
        let zigzag = take_varint(rest)?;
        timestamp.wrapping_add((zigzag >> 1) as i64 ^ -((zigzag & 1) as i64))
    };
    let (key_len, value_len, headers_len) = (length(HAS_KEY, rest)?, length(HAS_VALUE, rest)?, length(HAS_HEADERS, rest)?);
    let key = take(rest, key_len)?;
    let value = take(rest, value_len)?;
    let headers = HeadersRef(take(rest, headers_len)?);
    *offset = at.checked_add(1)?;
    Some(RecordRef {
        offset: Offset(at),
        timestamp: Timestamp(*timestamp),
        key: (flags & HAS_KEY != 0).then_some(key),
        value: (flags & HAS_VALUE != 0).then_some(value),
        headers,
    })
}

fn decode_header<'a>(rest: &mut &'a [u8]) -> Option<(&'a str, &'a [u8])> {
    let name_len = take_varint(rest)?;
    let name = std::str::from_utf8(take(rest, name_len)?).ok()?;
    let value_len = take_varint(rest)?;
    Some((name, take(rest, value_len)?))
}

fn take<'a>(rest: &mut &'a [u8], len: u64) -> Option<&'a [u8]> {
    rest.split_off(..usize::try_from(len).ok()?)
}

fn put_varint(bytes: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        bytes.push(n as u8 | 0x80);
        n >>= 7;
    }
    bytes.push(n as u8);
}

fn take_varint(rest: &mut &[u8]) -> Option<u64> {
    let mut n = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = *rest.split_off_first()?;
        n |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(n);
        }
    }
    None
}

fn varint_len(n: usize) -> usize {
    (64 - (n as u64 | 1).leading_zeros()).div_ceil(7) as usize
}

/// The size of headers in the log, in bytes.
pub(super) fn headers_len(headers: &Headers) -> usize {
    headers.iter().map(|(n, v)| varint_len(n.len()) + n.len() + varint_len(v.len()) + v.len()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Owned = (u64, i64, Option<Vec<u8>>, Option<Vec<u8>>, Vec<(String, Vec<u8>)>);

    fn record() -> impl Strategy<Value = Owned> {
        let bytes = || proptest::collection::vec(any::<u8>(), 0..300);
        let headers = proptest::collection::vec((any::<String>(), bytes()), 0..4);
        (0..3u64, any::<i64>(), proptest::option::of(bytes()), proptest::option::of(bytes()), headers)
    }

    fn owned(record: RecordRef<'_>, gap: u64) -> Owned {
        let headers = record.headers.iter().map(|(n, v)| (n.to_owned(), v.to_vec())).collect();
        (gap, record.timestamp.0, record.key.map(<[u8]>::to_vec), record.value.map(<[u8]>::to_vec), headers)
    }

    fn batch(records: &[Owned]) -> RecordBatch {
        let mut batch = RecordBatch::new();
        for (_, timestamp, key, value, headers) in records {
            batch.push(Timestamp(*timestamp), key.as_deref(), value.as_deref(), &headers.iter().cloned().collect());
        }
        batch
    }

    proptest! {
        #[test]
        fn what_is_pushed_is_read_also_through_concat_and_the_disk(parts in proptest::collection::vec(proptest::collection::vec(record(), 0..5), 0..4)) {
            let batches: Vec<_> = parts.iter().map(|part| batch(part)).collect();
            let records: Vec<_> = parts.concat();
            let stored = StoredBatch::concat(Offset(7), records.len() as u32, Timestamp(5), &batches);
            let read = StoredBatch::decode(Offset(7), stored.value()).expect("what was written can be read");
            prop_assert_eq!(read.next_offset(), Offset(7 + records.len() as u64));
            prop_assert_eq!(read.len(), records.len());
            for (i, (record, expected)) in read.records().zip(&records).enumerate() {
                prop_assert_eq!(record.offset, Offset(7 + i as u64));
                prop_assert_eq!(&owned(record, expected.0), expected);
            }
            prop_assert_eq!(read.records().count(), records.len());
        }

        #[test]
        fn gaps_keep_offsets(records in proptest::collection::vec(record(), 1..8)) {
            let plain = batch(&records);
            let mut gapped = RecordBatch::new();
            let mut offset = 100;
            let mut offsets = Vec::new();
            for (record, (gap, ..)) in plain.records(Offset(0)).zip(&records) {
                gapped.push_read(*gap, &record);
                offsets.push(Offset(offset + gap));
                offset += gap + 1;
            }
            let stored = StoredBatch::concat(Offset(100), (offset - 100) as u32 + 2, Timestamp(5), &[gapped]);
            let read = StoredBatch::decode(Offset(100), stored.value()).expect("what was written can be read");
            prop_assert_eq!(read.records().map(|r| r.offset).collect::<Vec<_>>(), offsets);
            prop_assert!(read.records().zip(&records).all(|(r, expected)| owned(r, expected.0) == *expected));
        }

        #[test]
        fn truncate_forgets(kept in proptest::collection::vec(record(), 0..4), undone in proptest::collection::vec(record(), 0..4)) {
            let expected = batch(&kept);
            let mut both = expected.clone();
            let mark = both.mark();
            for record in batch(&undone).records(Offset(0)) {
                both.push_read(0, &record);
            }
            both.truncate(mark);
            both.push(Timestamp(1), None, None, &Headers::EMPTY);
            let mut expected = expected;
            expected.push(Timestamp(1), None, None, &Headers::EMPTY);
            prop_assert_eq!(both.bytes(), expected.bytes());
            prop_assert_eq!(both.facts().largest, expected.facts().largest);
        }

        #[test]
        fn damage_is_refused_not_panicked_on(records in proptest::collection::vec(record(), 1..4), at in any::<usize>(), flip in 1..=255u8, cut in any::<usize>()) {
            let stored = StoredBatch::concat(Offset(0), records.len() as u32, Timestamp(5), &[batch(&records)]);
            let mut value = stored.value().to_vec();
            let at = at % value.len();
            value[at] ^= flip;
            if let Some(read) = StoredBatch::decode(Offset(0), &value) {
                read.records().for_each(|record| drop(record.headers.to_headers()));
            }
            prop_assert!(StoredBatch::decode(Offset(0), &stored.value()[..cut % stored.value().len()]).is_none());
        }
    }
}
