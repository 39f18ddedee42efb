//! Rows at rest in RocksDB. A flush comes in key order, so it is written as one table file per store, which the database takes in whole at
//! the sync: no write-ahead log, no memtable, no second sorting, and what is taken in is durable. Only what is removed by range goes through a
//! memtable. This is the only file that names RocksDB.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use rocksdb::{
    BlockBasedIndexType, BlockBasedOptions, Cache, ColumnFamilyDescriptor, DB, DBCompressionType, DBPinnableSlice, DBRawIterator,
    DataBlockIndexType, ErrorKind, IngestExternalFileOptions, ReadOptions, SstFileWriter, WaitForCompactOptions, WriteOptions,
};

use super::{Disk, DiskScan, Family, PARTITION, partition_of, place, places, with_place};
use crate::budget::Budget;
use crate::entry::Entry;
use crate::error::{Error, OpenError};
use crate::scan::{Direction, Range};

/// A RocksDB directory with a column family per store.
pub(crate) struct Rocks {
    db: DB,
    /// Names of the families, by [`Family`].
    names: Vec<String>,
    /// What the files of a flush are written with.
    flushed: rocksdb::Options,
    cache: Cache,
    /// Where table files are made, on the same file system as the database.
    incoming: PathBuf,
    /// Files that are written and wait for the sync of their family, by its number.
    written: Mutex<BTreeMap<usize, PathBuf>>,
}

impl Rocks {
    /// Opens or makes the database `db` within `directory`.
    pub(crate) fn open(directory: &Path, stores: impl Iterator<Item = String>, budget: &Budget) -> Result<Rocks, OpenError> {
        let failed = |cause| OpenError::Io { directory: directory.to_owned(), cause };
        let incoming = directory.join("incoming");
        if incoming.exists() {
            std::fs::remove_dir_all(&incoming).map_err(failed)?; // left by a crash: never taken in, so nothing depends on it
        }
        std::fs::create_dir_all(&incoming).map_err(failed)?;

        let cache = Cache::new_lru_cache(budget.cache);
        let options = table_options(&cache, Index::InParts, budget.dirty);
        let flushed = table_options(&cache, Index::Whole, budget.dirty);
        let path = directory.join("db");
        let names: Vec<String> = std::iter::once("default".to_owned()).chain(stores).collect();
        let mut families = names.clone();
        if path.join("CURRENT").exists() {
            // RocksDB opens all families or none: also those of a store that was made just before a crash and is not declared now.
            let there = DB::list_cf(&options, &path).map_err(|error| open_error(directory, error))?;
            families.extend(there.into_iter().filter(|name| !names.contains(name)));
        }
        let families = families.into_iter().map(|name| ColumnFamilyDescriptor::new(name, options.clone()));
        let db = DB::open_cf_descriptors(&database_options(), &path, families).map_err(|error| open_error(directory, error))?;
        Ok(Rocks { db, names, flushed, cache, incoming, written: Mutex::default() })
    }

    /// Throws away what a flush wrote that failed before its sync.
    fn forget_written(&self, family: Family) -> Result<(), Error> {
        match self.written.lock().remove(&family.0) {
            Some(file) => std::fs::remove_file(file).map_err(|e| Error::io("written", &e)),
            None => Ok(()),
        }
    }

    fn family(&self, family: Family) -> &rocksdb::ColumnFamily {
        self.db.cf_handle(&self.names[family.0]).expect("every family is opened with the database")
    }
}

/// Files of flushes that are compacted together. A read asks the filter of each that waits, which costs a tenth of what it costs to
/// write all rows anew twice as often.
const FILES_TO_COMPACT: i32 = 8;

/// Files that may wait for their compaction before a flush does.
const MOST_FILES: u64 = 20;

fn database_options() -> rocksdb::Options {
    let mut options = rocksdb::Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    options.set_max_background_jobs(2);
    options.set_max_open_files(256);
    options.set_keep_log_file_num(2);
    options.set_max_log_file_size(1 << 20);
    options.set_compaction_readahead_size(256 << 10);
    options
}

/// How a table file says where its rows are: by an index of its blocks and a filter of its keys. Both count against the cache.
#[derive(Clone, Copy, PartialEq)]
enum Index {
    /// For files that a flush wrote and no compaction has taken yet. Every read asks each of them, so they are pinned; and they are small.
    Whole,
    /// For all others, so that a small cache holds those parts that are used.
    InParts,
}

fn table_options(cache: &Cache, index: Index, flush_bytes: usize) -> rocksdb::Options {
    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_cache(cache);
    blocks.set_format_version(6);
    blocks.set_bloom_filter(10.0, false);
    blocks.set_cache_index_and_filter_blocks(true);
    blocks.set_pin_l0_filter_and_index_blocks_in_cache(true);
    if index == Index::InParts {
        blocks.set_index_type(BlockBasedIndexType::TwoLevelIndexSearch);
        blocks.set_partition_filters(true);
        blocks.set_pin_top_level_index_and_filter(true);
    }
    blocks.set_data_block_index_type(DataBlockIndexType::BinaryAndHash);
    let mut options = rocksdb::Options::default();
    options.set_block_based_table_factory(&blocks);
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_level_zero_file_num_compaction_trigger(FILES_TO_COMPACT);
    // It holds range deletions only, in small pieces; but what is larger than one and a half of it is not taken for a flush, and not pinned.
    options.set_write_buffer_size(flush_bytes.max(256 << 10));
    options.set_arena_block_size(32 << 10);
    options.set_target_file_size_base(32 << 20);
    options
}

impl Disk for Rocks {
    fn get(&self, family: Family, partition: u32, key: &[u8]) -> Result<Option<Entry>, Error> {
        let found: Option<DBPinnableSlice<'_>> =
            with_place(partition, key, |place| self.db.get_pinned_cf(self.family(family), place))
                .map_err(|e| failed("read", e))?;
        Ok(found.map(|value| Entry::new(key, Some([&value, &[]]))))
    }

    fn scan<'a>(&'a self, family: Family, partition: u32, range: &Range, direction: Direction) -> Box<dyn DiskScan + 'a> {
        let (from, to) = places(partition, range);
        let mut options = ReadOptions::default();
        options.set_iterate_lower_bound(from);
        if let Some(to) = to {
            options.set_iterate_upper_bound(to);
        }
        let rows = self.db.raw_iterator_cf_opt(self.family(family), options);
        Box::new(RocksScan { rows, direction, started: false })
    }

    fn partition(&self, family: Family, from: u32) -> Result<Option<u32>, Error> {
        let mut rows = self.db.raw_iterator_cf(self.family(family));
        rows.seek(place(from, &[]));
        match rows.key() {
            Some(place) => partition_of(place).map(Some),
            None => rows.status().map(|()| None).map_err(|e| failed("read", e)),
        }
    }

    fn write(&self, family: Family, rows: &mut dyn Iterator<Item = (u32, Entry)>) -> Result<usize, Error> {
        let failed = |error| failed("written", error);
        self.forget_written(family)?;
        let mut rows = rows.peekable();
        if rows.peek().is_none() {
            return Ok(0); // RocksDB refuses an empty file
        }
        let file = self.incoming.join(format!("{}.sst", family.0));
        let mut writer = SstFileWriter::create(&self.flushed);
        writer.open(&file).map_err(failed)?;
        let mut written = 0;
        let mut place = Vec::new();
        for (partition, entry) in rows {
            place.clear();
            place.extend_from_slice(&partition.to_be_bytes());
            place.extend_from_slice(entry.key());
            match entry.value() {
                Some(value) => writer.put(&place, value),
                None => writer.delete(&place),
            }
            .map_err(failed)?;
            written += 1;
        }
        writer.finish().map_err(failed)?;
        self.written.lock().insert(family.0, file);
        Ok(written)
    }

    fn clear(&self, family: Family, partition: u32) -> Result<(), Error> {
        self.forget_written(family)?;
        let mut unlogged = WriteOptions::default();
        unlogged.disable_wal(true);
        let (from, to) = (place(partition, &[]), place(partition + 1, &[]));
        self.db.delete_range_cf_opt(self.family(family), from, to, &unlogged).map_err(|e| failed("cleared", e))
    }

    fn sync(&self, family: Family) -> Result<(), Error> {
        let failed = |error| failed("synced", error);
        let handle = self.family(family);
        if let Some(file) = self.written.lock().remove(&family.0) {
            let mut options = IngestExternalFileOptions::default();
            options.set_move_files(true);
            self.db.ingest_external_file_cf_opts(handle, &options, vec![file]).map_err(failed)?;
        }
        self.db.flush_cf(handle).map_err(failed)?;
        // RocksDB slows down who writes faster than it compacts, but not who hands it whole files.
        let level_0 = self.db.property_int_value_cf(handle, rocksdb::properties::num_files_at_level(0)).map_err(failed)?;
        if level_0.is_some_and(|files| files > MOST_FILES) {
            self.db.wait_for_compact(&WaitForCompactOptions::default()).map_err(failed)?;
        }
        Ok(())
    }

    /// RocksDB estimates the keys of a whole family, counting one that lies in several files once for each, and the bytes of a range: the
    /// partition's share of the one is that of the other.
    fn rows(&self, family: Family, partition: u32) -> Result<u64, Error> {
        let handle = self.family(family);
        let number = |name: &rocksdb::properties::PropName| {
            self.db.property_int_value_cf(handle, name).map(Option::unwrap_or_default).map_err(|e| failed("read", e))
        };
        let (rows, all) = (number(rocksdb::properties::ESTIMATE_NUM_KEYS)?, number(rocksdb::properties::TOTAL_SST_FILES_SIZE)?);
        let (from, to) = (place(partition, &[]), place(partition + 1, &[]));
        let part = self.db.get_approximate_sizes_cf(handle, &[rocksdb::Range::new(&from, &to)]);
        let part: u64 = part.iter().sum();
        Ok(if all == 0 { rows } else { (u128::from(rows) * u128::from(part.min(all)) / u128::from(all)) as u64 })
    }

    fn bytes_on_disk(&self) -> u64 {
        let size = |name: &String| {
            let family = self.db.cf_handle(name)?;
            self.db.property_int_value_cf(family, rocksdb::properties::TOTAL_SST_FILES_SIZE).ok().flatten()
        };
        self.names.iter().filter_map(size).sum()
    }

    fn bytes_in_memory(&self) -> usize {
        self.cache.get_usage()
    }
}

struct RocksScan<'a> {
    rows: DBRawIterator<'a>,
    direction: Direction,
    started: bool,
}

impl DiskScan for RocksScan<'_> {
    fn next(&mut self) -> Result<Option<Entry>, Error> {
        match (std::mem::replace(&mut self.started, true), self.direction) {
            (false, Direction::Forward) => self.rows.seek_to_first(),
            (false, Direction::Reverse) => self.rows.seek_to_last(),
            (true, Direction::Forward) => self.rows.next(),
            (true, Direction::Reverse) => self.rows.prev(),
        }
        match self.rows.item() {
            Some((place, value)) => Ok(Some(Entry::new(&place[PARTITION..], Some([value, &[]])))),
            None => self.rows.status().map(|()| None).map_err(|e| failed("read", e)),
        }
    }
}

fn failed(doing: &'static str, error: rocksdb::Error) -> Error {
    match error.kind() {
        ErrorKind::Corruption => Error::Damaged(phrase(error).into()),
        _ => Error::io(doing, &phrase(error)),
    }
}

fn open_error(directory: &Path, error: rocksdb::Error) -> OpenError {
    let directory = directory.to_owned();
    match error.kind() {
        ErrorKind::IOError => OpenError::Io { directory, cause: std::io::Error::other(phrase(error)) },
        _ => OpenError::Damaged { directory, detail: phrase(error).into() },
    }
}

/// RocksDB's words as a part of a sentence.
fn phrase(error: rocksdb::Error) -> String {
    let words = error.into_string().split_whitespace().collect::<Vec<_>>().join(" ");
    words.trim_end_matches('.').to_owned()
}
