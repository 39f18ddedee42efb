//! How the embedded log lies in RocksDB: column families, and the bytes of keys and rows. Nothing here reads or writes them.
//!
//! | column family | key | row |
//! |---|---|---|
//! | `default` | `T` name | a topic |
//! | | `E` topic partition | [`EndRow`], written with every append |
//! | | `K` topic partition | [`KeptRow`], written by maintenance alone |
//! | | `W` | the number of the last write, in each of them |
//! | | `G` group topic partition | the offset up to which the group has read |
//! | `records` | topic partition base offset | a batch of a topic that is cleaned by deletion |
//! | `tables` | the same | a batch of a compacted topic: these live shorter, so their blob files are apart |
//! | `requests` | `K` key | a request that was carried out |
//! | | `X` expiry key | nothing: the order in which requests expire |
//!
//! Numbers in keys are big-endian, so that keys sort as their numbers do; numbers in rows are little-endian.

use crate::log::{Cleanup, Request, StoredRequest, TopicId, TopicInfo};
use crate::{Offset, Partition, Timestamp};
use std::sync::Arc;

pub(super) const TOPIC: u8 = b'T';
pub(super) const END: u8 = b'E';
pub(super) const KEPT: u8 = b'K';
pub(super) const WRITE: [u8; 1] = *b"W";
pub(super) const REQUEST: u8 = b'K';
pub(super) const EXPIRY: u8 = b'X';
const GROUP: u8 = b'G';

pub(super) const RECORDS: &str = "records";
pub(super) const TABLES: &str = "tables";
pub(super) const REQUESTS: &str = "requests";

/// The column family that holds the batches of a topic.
pub(super) fn batches_of(cleanup: Cleanup) -> &'static str {
    match cleanup {
        Cleanup::Delete { .. } => RECORDS,
        Cleanup::Compact { .. } => TABLES,
    }
}

/// A partition of a topic.
pub(super) type Place = (TopicId, Partition);

pub(super) fn batch_key((topic, partition): Place, base: Offset) -> [u8; 16] {
    let mut key = [0; 16];
    key[..4].copy_from_slice(&topic.0.to_be_bytes());
    key[4..8].copy_from_slice(&partition.0.to_be_bytes());
    key[8..].copy_from_slice(&base.0.to_be_bytes());
    key
}

pub(super) fn batch_base(key: &[u8]) -> Option<Offset> {
    Some(Offset(u64::from_be_bytes(*key.get(8..)?.first_chunk()?)))
}

pub(super) fn place_key(kind: u8, (topic, partition): Place) -> [u8; 9] {
    let mut key = [kind; 9];
    key[1..5].copy_from_slice(&topic.0.to_be_bytes());
    key[5..].copy_from_slice(&partition.0.to_be_bytes());
    key
}

/// The place at the end of a key.
pub(super) fn place_of(key: &[u8]) -> Option<Place> {
    let (rest, partition) = key.split_last_chunk()?;
    let (_, topic) = rest.split_last_chunk()?;
    Some((TopicId(u32::from_be_bytes(*topic)), Partition(u32::from_be_bytes(*partition))))
}

/// The prefix of a group's offsets; its length in front keeps one name from being the prefix of another.
pub(super) fn group_prefix(group: &str) -> Vec<u8> {
    let mut key = vec![GROUP];
    key.extend_from_slice(&(group.len() as u16).to_be_bytes());
    key.extend_from_slice(group.as_bytes());
    key
}

pub(super) fn group_key(group: &str, place: Place) -> Vec<u8> {
    let mut key = group_prefix(group);
    key.extend_from_slice(&place_key(0, place)[1..]);
    key
}

pub(super) fn topic_key(name: &str) -> Vec<u8> {
    [&[TOPIC], name.as_bytes()].concat()
}

pub(super) fn topic_row(topic: &TopicInfo) -> Vec<u8> {
    let (policy, a, b) = match topic.cleanup {
        Cleanup::Delete { retention_ms, retention_bytes } => {
            (0u64, retention_ms.unwrap_or(u64::MAX), retention_bytes.unwrap_or(u64::MAX))
        }
        Cleanup::Compact { delete_retention_ms } => (1, delete_retention_ms, 0),
    };
    let numbers = numbers_row([u64::from(topic.id.0), u64::from(topic.partitions), policy, a, b]);
    [&topic.uuid[..], &numbers].concat()
}

pub(super) fn topic_from_row(key: &[u8], row: &[u8]) -> Option<TopicInfo> {
    let name = std::str::from_utf8(key.get(1..)?).ok()?;
    let (uuid, numbers) = row.split_first_chunk()?;
    let [id, partitions, policy, a, b] = numbers_from_row(numbers)?;
    let limit = |n| (n != u64::MAX).then_some(n);
    let cleanup = match policy {
        0 => Cleanup::Delete { retention_ms: limit(a), retention_bytes: limit(b) },
        1 => Cleanup::Compact { delete_retention_ms: a },
        _ => return None,
    };
    let (id, partitions) = (TopicId(u32::try_from(id).ok()?), u32::try_from(partitions).ok()?);
    Some(TopicInfo { name: Arc::from(name), id, uuid: *uuid, partitions, cleanup, max_record_bytes: usize::MAX })
}

/// What the writer knows of a partition.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct EndRow {
    /// The offset that the next record gets.
    pub end: u64,
    /// The size of all batches ever appended, in bytes.
    pub appended: u64,
}

/// What maintenance knows of a partition.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct KeptRow {
    /// The first offset that can be read.
    pub start: u64,
    /// How many of the appended bytes are gone.
    pub dropped: u64,
    /// Up to where compaction has come.
    pub cleaned: u64,
    /// How much had been appended up to there, in bytes.
    pub cleaned_bytes: u64,
}

impl EndRow {
    pub(super) fn encode(self) -> Vec<u8> {
        numbers_row([self.end, self.appended])
    }

    pub(super) fn decode(row: &[u8]) -> Option<EndRow> {
        let [end, appended] = numbers_from_row(row)?;
        Some(EndRow { end, appended })
    }
}

impl KeptRow {
    pub(super) fn encode(self) -> Vec<u8> {
        numbers_row([self.start, self.dropped, self.cleaned, self.cleaned_bytes])
    }

    pub(super) fn decode(row: &[u8]) -> Option<KeptRow> {
        let [start, dropped, cleaned, cleaned_bytes] = numbers_from_row(row)?;
        Some(KeptRow { start, dropped, cleaned, cleaned_bytes })
    }
}

pub(super) fn request_key(key: &[u8]) -> Vec<u8> {
    [&[REQUEST], key].concat()
}

/// Sorts by time, also where that is negative.
pub(super) fn expiry_key(expires_at: Timestamp, key: &[u8]) -> Vec<u8> {
    let time = (expires_at.0 as u64) ^ (1 << 63);
    [&[EXPIRY][..], &time.to_be_bytes(), key].concat()
}

pub(super) fn expiry_from_key(key: &[u8]) -> Option<(Timestamp, &[u8])> {
    let (time, key) = key.get(1..)?.split_first_chunk()?;
    Some((Timestamp((u64::from_be_bytes(*time) ^ (1 << 63)) as i64), key))
}

pub(super) fn request_row(request: &Request, positions: &[(TopicId, Partition, Offset)]) -> Vec<u8> {
    let mut row = request.fingerprint.to_vec();
    row.extend_from_slice(&request.expires_at.0.to_le_bytes());
    row.extend_from_slice(&(positions.len() as u64).to_le_bytes());
    for (topic, partition, offset) in positions {
        row.extend_from_slice(&batch_key((*topic, *partition), *offset));
    }
    row.extend_from_slice(&request.answer);
    row
}

pub(super) fn request_expiry(row: &[u8]) -> Option<Timestamp> {
    Some(Timestamp(i64::from_le_bytes(*row.get(32..)?.first_chunk()?)))
}

pub(super) fn request_from_row(row: &[u8]) -> Option<StoredRequest> {
    let expires_at = request_expiry(row)?;
    let (fingerprint, rest) = row.split_first_chunk()?;
    let (count, mut rest) = rest.get(8..)?.split_first_chunk()?;
    let mut positions = Vec::new();
    for _ in 0..u64::from_le_bytes(*count) {
        let (key, after) = rest.split_at_checked(16)?;
        let (topic, partition) = place_of(&key[..8])?;
        positions.push((topic, partition, batch_base(key)?));
        rest = after;
    }
    Some(StoredRequest { fingerprint: *fingerprint, answer: rest.to_vec(), expires_at, positions })
}

fn numbers_row<const N: usize>(numbers: [u64; N]) -> Vec<u8> {
    numbers.iter().flat_map(|n| n.to_le_bytes()).collect()
}

fn numbers_from_row<const N: usize>(row: &[u8]) -> Option<[u64; N]> {
    let (numbers, rest) = row.as_chunks::<8>();
    let numbers: &[[u8; 8]; N] = numbers.try_into().ok()?;
    rest.is_empty().then(|| numbers.map(u64::from_le_bytes))
}
