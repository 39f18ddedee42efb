//! The lowest layer: rows at rest, by column family, task partition and key. It knows no positions and no transactions; what it promises is
//! that a family's writes are durable once `sync` of that family returned, and that a crash before loses any part of them.

mod memory;
mod rocks;

pub use memory::MemoryDisk;
pub(crate) use memory::MemoryFamilies;
pub(crate) use rocks::Rocks;

use std::ops::Bound;

use crate::entry::Entry;
use crate::error::Error;
use crate::options::StoreId;
use crate::scan::{Direction, Range};

/// A column family: the one for positions and fingerprint, then one per store.
#[derive(Clone, Copy)]
pub(crate) struct Family(pub(crate) usize);

impl Family {
    pub(crate) const META: Family = Family(0);

    pub(crate) fn of(store: StoreId) -> Family {
        Family(store.0 as usize + 1)
    }
}

/// A home's back end. A row's place on disk is `[partition, u32 big-endian][key]`.
pub(crate) trait Disk: Send + Sync {
    /// The row of this key; never a tombstone.
    fn get(&self, family: Family, partition: u32, key: &[u8]) -> Result<Option<Entry>, Error>;

    /// The rows of a range as they are now.
    fn scan<'a>(&'a self, family: Family, partition: u32, range: &Range, direction: Direction) -> Box<dyn DiskScan + 'a>;

    /// The first partition from this one on that has a row.
    fn partition(&self, family: Family, from: u32) -> Result<Option<u32>, Error>;

    /// Writes rows and tombstones, which come in the order of their places, and gives their number. Until the sync they may be seen or not,
    /// and another `write` or `clear` of the family takes the place of this one.
    fn write(&self, family: Family, rows: &mut dyn Iterator<Item = (u32, Entry)>) -> Result<usize, Error>;

    /// Removes every row of a partition.
    fn clear(&self, family: Family, partition: u32) -> Result<(), Error>;

    /// Makes all that was written to the family durable.
    fn sync(&self, family: Family) -> Result<(), Error>;

    /// About how many rows a partition has.
    fn rows(&self, family: Family, partition: u32) -> Result<u64, Error>;

    /// Bytes on disk.
    fn bytes_on_disk(&self) -> u64;

    /// Bytes that the back end itself holds in memory to work.
    fn bytes_in_memory(&self) -> usize;
}

/// Every partition but [`u32::MAX`] that has rows of a family.
pub(crate) fn partitions(disk: &dyn Disk, family: Family) -> Result<Vec<u32>, Error> {
    let (mut all, mut from) = (Vec::new(), 0);
    while let Some(partition) = disk.partition(family, from)?.filter(|partition| *partition != u32::MAX) {
        all.push(partition);
        from = partition + 1;
    }
    Ok(all)
}

/// The partition that a place belongs to.
fn partition_of(place: &[u8]) -> Result<u32, Error> {
    let partition = place.first_chunk().map(|partition| u32::from_be_bytes(*partition));
    partition.ok_or_else(|| Error::Damaged("a row has no partition".into()))
}

/// Rows in order.
pub(crate) trait DiskScan {
    fn next(&mut self) -> Result<Option<Entry>, Error>;
}

/// The place of a key on disk, made without an allocation where it is short.
pub(crate) fn with_place<T>(partition: u32, key: &[u8], f: impl FnOnce(&[u8]) -> T) -> T {
    let mut short = [0; 128];
    let len = PARTITION + key.len();
    if len > short.len() {
        return f(&place(partition, key));
    }
    short[..PARTITION].copy_from_slice(&partition.to_be_bytes());
    short[PARTITION..len].copy_from_slice(key);
    f(&short[..len])
}

pub(crate) fn place(partition: u32, key: &[u8]) -> Vec<u8> {
    [&partition.to_be_bytes(), key].concat()
}

/// Bytes of the partition in front of a key.
pub(crate) const PARTITION: usize = size_of::<u32>();

/// A range of keys as a range of places: the first one, and the first one behind it. A partition is never `u32::MAX` but in the family of
/// positions, which is not scanned that way.
pub(crate) fn places(partition: u32, range: &Range) -> (Vec<u8>, Option<Vec<u8>>) {
    let (from, to) = range.bounds();
    let successor = |key: &[u8]| [&place(partition, key)[..], &[0]].concat();
    let from = match from {
        Bound::Unbounded => place(partition, &[]),
        Bound::Included(key) => place(partition, key),
        Bound::Excluded(key) => successor(key),
    };
    let to = match to {
        Bound::Unbounded => partition.checked_add(1).map(|next| place(next, &[])),
        Bound::Included(key) => Some(successor(key)),
        Bound::Excluded(key) => Some(place(partition, key)),
    };
    (from, to)
}
