//! Rows at rest in memory: a home for tests, with the crashes and the write errors that a test wants. It outlives the database that is
//! opened on it, as a disk does.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use parking_lot::Mutex;

use super::{Disk, DiskScan, Family, PARTITION, partition_of, place, places};
use crate::entry::Entry;
use crate::error::Error;
use crate::scan::{Direction, Range};

/// A disk made of memory. Clones are the same disk.
#[derive(Clone, Default, Debug)]
pub struct MemoryDisk(Arc<Mutex<State>>);

#[derive(Default, Debug)]
struct State {
    families: BTreeMap<String, FamilyRows>,
    in_use: bool,
    writes_until_failure: Option<usize>,
}

#[derive(Default, Debug)]
struct FamilyRows {
    rows: BTreeMap<Vec<u8>, Vec<u8>>,
    /// What was there before each change since the last sync.
    unsynced: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

impl FamilyRows {
    fn change(&mut self, place: Vec<u8>, value: Option<Vec<u8>>) {
        let before = match value {
            Some(value) => self.rows.insert(place.clone(), value),
            None => self.rows.remove(&place),
        };
        self.unsynced.push((place, before));
    }

    fn lose_unsynced(&mut self) {
        while let Some((place, before)) = self.unsynced.pop() {
            match before {
                Some(value) => self.rows.insert(place, value),
                None => self.rows.remove(&place),
            };
        }
    }
}

impl MemoryDisk {
    /// An empty disk.
    #[must_use]
    pub fn new() -> MemoryDisk {
        MemoryDisk::default()
    }

    /// A crash of the machine: of each column family for which `lost` says so, what was not yet synced is gone. Call it when no database has
    /// the disk open.
    pub fn crash(&self, mut lost: impl FnMut(&str) -> bool) {
        let mut state = self.0.lock();
        assert!(!state.in_use, "a disk crashes after the process that used it");
        state.writes_until_failure = None;
        for (name, family) in &mut state.families {
            if lost(name) {
                family.lose_unsynced();
            }
            family.unsynced.clear();
        }
    }

    /// Lets `writes` more writes and syncs succeed and all after them fail, or with `None` lets all succeed.
    pub fn fail_after(&self, writes: Option<usize>) {
        self.0.lock().writes_until_failure = writes;
    }
}

impl State {
    fn count_write(&mut self) -> Result<(), Error> {
        match &mut self.writes_until_failure {
            None => Ok(()),
            Some(0) => Err(Error::io("written", &"the disk is out of order")),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
        }
    }
}

/// A memory disk that is open, with its families in the order of the stores.
pub(crate) struct MemoryFamilies {
    disk: MemoryDisk,
    names: Vec<String>,
}

impl MemoryFamilies {
    /// Opens the disk with these families; `None` if it is in use.
    pub(crate) fn open(disk: &MemoryDisk, names: Vec<String>) -> Option<MemoryFamilies> {
        let mut state = disk.0.lock();
        if std::mem::replace(&mut state.in_use, true) {
            return None;
        }
        for name in &names {
            state.families.entry(name.clone()).or_default();
        }
        Some(MemoryFamilies { disk: disk.clone(), names })
    }

    fn with<T>(&self, family: Family, f: impl FnOnce(&mut FamilyRows) -> T) -> T {
        f(self.disk.0.lock().families.get_mut(&self.names[family.0]).expect("families are made when the disk is opened"))
    }
}

impl Drop for MemoryFamilies {
    fn drop(&mut self) {
        self.disk.0.lock().in_use = false;
    }
}

impl Disk for MemoryFamilies {
    fn get(&self, family: Family, partition: u32, key: &[u8]) -> Result<Option<Entry>, Error> {
        Ok(self.with(family, |f| f.rows.get(&place(partition, key)).map(|value| Entry::new(key, Some([value, &[]])))))
    }

    fn scan<'a>(&'a self, family: Family, partition: u32, range: &Range, direction: Direction) -> Box<dyn DiskScan + 'a> {
        let (from, to) = places(partition, range);
        let to = to.map_or(Bound::Unbounded, Bound::Excluded);
        Box::new(MemoryScan { families: self, family, rest: (Bound::Included(from), to), direction, ahead: VecDeque::new() })
    }

    fn partition(&self, family: Family, from: u32) -> Result<Option<u32>, Error> {
        self.with(family, |f| f.rows.range(place(from, &[])..).next().map(|(place, _)| partition_of(place)).transpose())
    }

    fn write(&self, family: Family, rows: &mut dyn Iterator<Item = (u32, Entry)>) -> Result<usize, Error> {
        self.disk.0.lock().count_write()?;
        let mut written = 0;
        for (partition, entry) in rows {
            self.with(family, |f| f.change(place(partition, entry.key()), entry.value().map(<[u8]>::to_vec)));
            written += 1;
        }
        Ok(written)
    }

    fn clear(&self, family: Family, partition: u32) -> Result<(), Error> {
        self.disk.0.lock().count_write()?;
        self.with(family, |f| {
            let doomed: Vec<Vec<u8>> =
                f.rows.range(place(partition, &[])..place(partition + 1, &[])).map(|(place, _)| place.clone()).collect();
            doomed.into_iter().for_each(|place| f.change(place, None));
        });
        Ok(())
    }

    fn sync(&self, family: Family) -> Result<(), Error> {
        self.disk.0.lock().count_write()?;
        self.with(family, |f| f.unsynced.clear());
        Ok(())
    }

    fn rows(&self, family: Family, partition: u32) -> Result<u64, Error> {
        Ok(self.with(family, |f| f.rows.range(place(partition, &[])..place(partition + 1, &[])).count() as u64))
    }

    fn bytes_on_disk(&self) -> u64 {
        let state = self.disk.0.lock();
        let rows = state.families.values().flat_map(|f| &f.rows);
        rows.map(|(place, value)| (place.len() + value.len()) as u64).sum()
    }

    fn bytes_in_memory(&self) -> usize {
        0
    }
}

/// Fetches some rows at a time, so that the disk is not locked for longer.
struct MemoryScan<'a> {
    families: &'a MemoryFamilies,
    family: Family,
    rest: (Bound<Vec<u8>>, Bound<Vec<u8>>),
    direction: Direction,
    ahead: VecDeque<Entry>,
}

impl DiskScan for MemoryScan<'_> {
    fn next(&mut self) -> Result<Option<Entry>, Error> {
        const AHEAD: usize = 64;
        if self.ahead.is_empty() && possible(&self.rest) {
            let mut last = None;
            self.families.with(self.family, |f| {
                let mut take = |(place, value): (&Vec<u8>, &Vec<u8>)| {
                    self.ahead.push_back(Entry::new(&place[PARTITION..], Some([value, &[]])));
                    last = Some(place.clone());
                };
                let rows = f.rows.range(self.rest.clone());
                match self.direction {
                    Direction::Forward => rows.take(AHEAD).for_each(&mut take),
                    Direction::Reverse => rows.rev().take(AHEAD).for_each(&mut take),
                }
            });
            if let Some(last) = last {
                match self.direction {
                    Direction::Forward => self.rest.0 = Bound::Excluded(last),
                    Direction::Reverse => self.rest.1 = Bound::Excluded(last),
                }
            }
        }
        Ok(self.ahead.pop_front())
    }
}

/// Whether a B-tree accepts the range.
fn possible(range: &(Bound<Vec<u8>>, Bound<Vec<u8>>)) -> bool {
    match range {
        (Bound::Included(from), Bound::Excluded(to)) | (Bound::Excluded(from), Bound::Excluded(to)) => from < to,
        _ => true,
    }
}
