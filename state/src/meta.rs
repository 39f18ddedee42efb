//! What a database remembers about itself, in a column family of its own: the format, the fingerprint, and the positions that its rows stand
//! at. A position is a row under its task's partition, by the store's name; the rest lies under a partition that no task has.

use std::collections::BTreeMap;

use crate::disk::{Disk, Family};
use crate::entry::Entry;
use crate::error::Error;
use crate::options::Position;
use crate::scan::{Direction, Range};

/// The partition of what belongs to no task.
const OWN: u32 = u32::MAX;

/// The fingerprint that was written last; empty for a database that is new.
pub(crate) fn read_fingerprint(disk: &dyn Disk) -> Result<BTreeMap<String, String>, Error> {
    let mut rows = disk.scan(Family::META, OWN, &Range::all(), Direction::Forward);
    let mut fingerprint = BTreeMap::new();
    while let Some(row) = rows.next()? {
        let text =
            |bytes: &[u8]| String::from_utf8(bytes.to_vec()).map_err(|_| Error::Damaged("the fingerprint is not text".into()));
        fingerprint.insert(text(row.key())?, text(row.value().unwrap_or_default())?);
    }
    Ok(fingerprint)
}

/// Writes entries of the fingerprint, durably.
pub(crate) fn write_fingerprint(disk: &dyn Disk, entries: &BTreeMap<String, String>) -> Result<(), Error> {
    let mut rows = entries.iter().map(|(name, value)| (OWN, Entry::new(name.as_bytes(), Some([value.as_bytes(), &[]]))));
    disk.write(Family::META, &mut rows)?;
    disk.sync(Family::META)
}

/// What the rows of a store's partition stand at, if they stand at anything.
pub(crate) fn read_position(disk: &dyn Disk, partition: u32, store: &str) -> Result<Option<Position>, Error> {
    let Some(row) = disk.get(Family::META, partition, store.as_bytes())? else { return Ok(None) };
    let position = row.value().and_then(decode_position);
    position
        .map(Some)
        .ok_or_else(|| Error::Damaged(format!("the position of {store:?}, partition {partition}, is unreadable").into()))
}

/// Removes the positions of some stores of a partition, durably. The names are sorted.
pub(crate) fn delete_positions(disk: &dyn Disk, partition: u32, stores: &[&str]) -> Result<(), Error> {
    let mut rows = stores.iter().map(|store| (partition, Entry::tombstone(store.as_bytes())));
    disk.write(Family::META, &mut rows)?;
    disk.sync(Family::META)
}

const ENCODED: usize = 32;

pub(crate) fn encode_position(position: Position) -> [u8; ENCODED] {
    let mut bytes = [0; ENCODED];
    bytes[..16].copy_from_slice(&position.topic_id);
    bytes[16..24].copy_from_slice(&position.offset.to_be_bytes());
    bytes[24..].copy_from_slice(&position.wall_ms.to_be_bytes());
    bytes
}

fn decode_position(bytes: &[u8]) -> Option<Position> {
    let bytes: &[u8; ENCODED] = bytes.try_into().ok()?;
    let (topic_id, rest) = bytes.split_first_chunk::<16>()?;
    let (offset, wall_ms) = rest.split_first_chunk::<8>()?;
    Some(Position {
        topic_id: *topic_id,
        offset: u64::from_be_bytes(*offset),
        wall_ms: i64::from_be_bytes(wall_ms.try_into().ok()?),
    })
}
