//! The RocksDB of the log: opened, read back, and read. What is written, and when, is decided elsewhere.
//!
//! One process has a directory: the file `LOG-FORMAT` is locked while it is open. It is written when the database was made, so an
//! empty one means that making it was interrupted, and a missing database beside a written one means damage, never a new log.

use super::layout::{self, EndRow, KeptRow, Place};
use super::options::Options;
use crate::Offset;
use crate::log::{Cleanup, Error, Moment, StoredBatch, TopicInfo};
use millstream_state::Lock;
use rocksdb::{
    BlockBasedOptions, BottommostLevelCompaction, Cache, ColumnFamily, ColumnFamilyDescriptor, CompactOptions, DB,
    DBCompressionType, ReadOptions, WriteBatch, WriteOptions,
};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

const FORMAT_FILE: &str = "LOG-FORMAT";
const FORMAT: &str = "millstream log 1\n";

/// Of all the files, how many are open at once; the usual limit of a process is 1024.
const MAX_OPEN_FILES: i32 = 256;

/// Values from this size on go to blob files, which compaction of keys does not copy.
const MIN_BLOB_BYTES: u64 = 4 << 10;

/// A locked directory.
#[derive(Debug)]
pub(super) struct Home {
    dir: PathBuf,
    format: Lock,
    is_new: bool,
}

impl Home {
    /// Takes the directory, and makes it if there is none.
    pub(super) fn lock(dir: &Path) -> Result<Home, Error> {
        let io = |e: std::io::Error| Error::Io { dir: dir.to_owned(), cause: e.to_string() };
        let not_a_log = |reason: String| Error::NotALog { dir: dir.to_owned(), reason };
        if dir.exists() && !dir.is_dir() {
            return Err(not_a_log("it is not a directory".to_owned()));
        }
        make_dir(dir).map_err(io)?;
        if !dir.join(FORMAT_FILE).exists()
            && let Some(entry) = std::fs::read_dir(dir).map_err(io)?.next()
        {
            return Err(not_a_log(format!("it holds {} and no {FORMAT_FILE}", entry.map_err(io)?.file_name().display())));
        }
        let path = dir.join(FORMAT_FILE);
        let format = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(path).map_err(io)?;
        let format = Lock::take(format).map_err(|e| match e {
            TryLockError::WouldBlock => Error::Locked { dir: dir.to_owned() },
            TryLockError::Error(e) => io(e),
        })?;
        let mut found = Vec::new();
        (&*format).take(256).read_to_end(&mut found).map_err(io)?;
        if found != FORMAT.as_bytes() && !FORMAT.as_bytes().starts_with(&found) {
            return Err(not_a_log(format!("its {FORMAT_FILE} says {:?}", String::from_utf8_lossy(&found))));
        }
        Ok(Home { dir: dir.to_owned(), is_new: found != FORMAT.as_bytes(), format })
    }

    /// Opens the database, which must not be open.
    pub(super) fn open(&mut self, options: &Options) -> Result<Store, Error> {
        // A write-ahead log that goes on where its predecessor has lost its end is not read: nothing may be there without what lay before it.
        // The option has no function of its own.
        let verified = rocksdb::Options::default().get_options_from_string("track_and_verify_wals=true");
        let mut db_options = verified.map_err(|e| self.error(&e))?;
        db_options.create_if_missing(self.is_new);
        db_options.create_missing_column_families(self.is_new);
        // What is replayed after a crash, at most.
        db_options.set_max_total_wal_size(2 * options.write_buffer_bytes as u64);
        db_options.set_track_and_verify_wals_in_manifest(true);
        db_options.set_keep_log_file_num(2);
        db_options.set_max_log_file_size(1 << 20);
        db_options.set_log_level(rocksdb::LogLevel::Warn);
        db_options.set_max_background_jobs(2);
        db_options.set_max_open_files(MAX_OPEN_FILES);
        let mut tables = BlockBasedOptions::default();
        tables.set_block_cache(&Cache::new_lru_cache(8 << 20));
        let family = |name: &str| {
            let mut family = rocksdb::Options::default();
            if name == layout::REQUESTS {
                // Nearly every request is new.
                tables.set_bloom_filter(10.0, false);
            }
            family.set_block_based_table_factory(&tables);
            if name == layout::RECORDS || name == layout::TABLES {
                family.set_write_buffer_size(options.write_buffer_bytes);
                family.set_enable_blob_files(true);
                family.set_min_blob_size(MIN_BLOB_BYTES);
                // Else every compaction copies what is old and alive; see `collect_garbage`.
                family.set_enable_blob_gc(false);
                family.set_blob_gc_age_cutoff(1.0);
                // Measured: it costs no CPU time that can be seen, for less is copied and checksummed.
                family.set_blob_compression_type(DBCompressionType::Lz4);
            } else {
                family.set_write_buffer_size(options.write_buffer_bytes / 4);
            }
            ColumnFamilyDescriptor::new(name, family)
        };
        let families = ["default", layout::RECORDS, layout::TABLES, layout::REQUESTS].map(family);
        let db = DB::open_cf_descriptors(&db_options, self.dir.join("db"), families).map_err(|e| self.error(&e))?;
        if self.is_new {
            self.made().map_err(|e| Error::Io { dir: self.dir.clone(), cause: e.to_string() })?;
        }
        Ok(Store { db, dir: self.dir.clone() })
    }

    fn made(&mut self) -> std::io::Result<()> {
        let mut format = &*self.format;
        format.rewind()?;
        format.write_all(FORMAT.as_bytes())?;
        format.sync_all()?;
        File::open(&self.dir)?.sync_all()?;
        self.is_new = false;
        Ok(())
    }

    fn error(&self, e: &rocksdb::Error) -> Error {
        classify(&self.dir, e)
    }
}

/// Makes a directory and those above it that are missing, for good: each is synced into the one above.
fn make_dir(dir: &Path) -> std::io::Result<()> {
    let dir = std::path::absolute(dir)?;
    let missing: Vec<_> = dir.ancestors().take_while(|dir| !dir.exists()).collect();
    std::fs::create_dir_all(&dir)?;
    missing.iter().filter_map(|dir| dir.parent()).try_for_each(|parent| File::open(parent)?.sync_all())
}

fn classify(dir: &Path, e: &rocksdb::Error) -> Error {
    let (dir, cause) = (dir.to_owned(), e.to_string());
    match e.kind() {
        rocksdb::ErrorKind::Corruption | rocksdb::ErrorKind::InvalidArgument => Error::Damaged { dir, cause },
        _ => Error::Io { dir, cause },
    }
}

/// The open database.
pub(super) struct Store {
    db: DB,
    dir: PathBuf,
}

impl Store {
    pub(super) fn family(&self, name: &str) -> &ColumnFamily {
        self.db.cf_handle(name).expect("all column families are named when the database is opened")
    }

    /// Writes a batch, and syncs the write-ahead log if `synced`.
    pub(super) fn write(&self, batch: WriteBatch, synced: bool) -> Result<(), rocksdb::Error> {
        let mut options = WriteOptions::default();
        options.set_sync(synced);
        self.db.write_opt(batch, &options)
    }

    /// Makes everything written so far survive the machine.
    pub(super) fn sync(&self) -> Result<(), rocksdb::Error> {
        self.db.flush_wal(true)
    }

    pub(super) fn get(&self, family: &str, key: &[u8]) -> Result<Option<rocksdb::DBPinnableSlice<'_>>, Error> {
        self.db.get_pinned_cf(self.family(family), key).map_err(|e| classify(&self.dir, &e))
    }

    /// All rows whose key begins with `prefix`, from `from` on, as long as `row` says so.
    pub(super) fn scan(
        &self,
        family: &str,
        prefix: &[u8],
        from: &[u8],
        mut row: impl FnMut(&[u8], &[u8]) -> Option<bool>,
    ) -> Result<(), Error> {
        let mut rows = self.db.raw_iterator_cf(self.family(family));
        rows.seek(from);
        while let (Some(key), Some(value)) = (rows.key(), rows.value()) {
            if !key.starts_with(prefix) {
                break;
            }
            match row(key, value) {
                Some(true) => rows.next(),
                Some(false) => break,
                None => return Err(self.damaged(format!("row {} of {family} can't be read", key.escape_ascii()))),
            }
        }
        rows.status().map_err(|e| classify(&self.dir, &e))
    }

    pub(super) fn topics(&self) -> Result<Vec<TopicInfo>, Error> {
        let mut topics = Vec::new();
        self.scan("default", &[layout::TOPIC], &[layout::TOPIC], |key, row| {
            topics.push(layout::topic_from_row(key, row)?);
            Some(true)
        })?;
        topics.sort_by_key(|topic| topic.id);
        if topics.iter().enumerate().any(|(i, topic)| topic.id.0 as usize != i) {
            return Err(self.damaged("a topic is missing".to_owned()));
        }
        Ok(topics)
    }

    /// The last write that is here, 0 before the first.
    pub(super) fn last_group(&self) -> Result<Moment, Error> {
        let Some(row) = self.get("default", &layout::WRITE)? else { return Ok(Moment::DURABLE) };
        let number = row[..].try_into().map_err(|_| self.damaged("the number of the last write can't be read".to_owned()))?;
        Ok(Moment(u64::from_le_bytes(number)))
    }

    pub(super) fn ends(&self) -> Result<Vec<(Place, EndRow)>, Error> {
        self.places(layout::END, EndRow::decode)
    }

    pub(super) fn kept(&self) -> Result<Vec<(Place, KeptRow)>, Error> {
        self.places(layout::KEPT, KeptRow::decode)
    }

    fn places<R>(&self, kind: u8, decode: impl Fn(&[u8]) -> Option<R>) -> Result<Vec<(Place, R)>, Error> {
        let mut rows = Vec::new();
        self.scan("default", &[kind], &[kind], |key, row| {
            rows.push((layout::place_of(key)?, decode(row)?));
            Some(true)
        })?;
        Ok(rows)
    }

    /// Batches of a partition in order: from the one that holds `from`, or the first after it, as long as `more` asks for them,
    /// and none that begins at `end` or later.
    pub(super) fn batches(
        &self,
        place: Place,
        cleanup: Cleanup,
        from: Offset,
        end: Offset,
        mut more: impl FnMut(StoredBatch) -> bool,
    ) -> Result<(), Error> {
        let mut options = ReadOptions::default();
        options.set_iterate_lower_bound(layout::batch_key(place, Offset(0)));
        options.set_iterate_upper_bound(layout::batch_key(place, end));
        options.fill_cache(false);
        let mut rows = self.db.raw_iterator_cf_opt(self.family(layout::batches_of(cleanup)), options);
        let key = layout::batch_key(place, from);
        rows.seek(key);
        if rows.key() != Some(&key) {
            // `from` lies within a batch, or in a hole that compaction made.
            rows.seek_for_prev(key);
            if !rows.valid() {
                rows.seek(key);
            }
        }
        while let (Some(key), Some(value)) = (rows.key(), rows.value()) {
            let batch = layout::batch_base(key).and_then(|base| StoredBatch::decode(base, value));
            let Some(batch) = batch else {
                return Err(self.damaged(format!("batch {} can't be read", key.escape_ascii())));
            };
            if batch.next_offset() > from && !more(batch) {
                return Ok(());
            }
            rows.next();
        }
        rows.status().map_err(|e| classify(&self.dir, &e))
    }

    /// Lets RocksDB see what was deleted in front of `end`: values that lie with their keys are gone then, and blob files that
    /// hold nothing else any more.
    pub(super) fn drop_deleted(&self, place: Place, cleanup: Cleanup, end: Offset) {
        let range = [Offset(0), end].map(|offset| layout::batch_key(place, offset));
        self.db.compact_range_cf(self.family(layout::batches_of(cleanup)), Some(range[0]), Some(range[1]));
    }

    /// Writes a column family anew without the garbage in its blob files, if that is at least `min_bytes` and half of all it has.
    /// So a byte is copied at most once for each byte that is given back.
    pub(super) fn collect_garbage(&self, family: &str, min_bytes: u64) -> Result<(), Error> {
        let classified = |e: rocksdb::Error| classify(&self.dir, &e);
        let cf = self.family(family);
        let size = |name| self.db.property_int_value_cf(cf, name).map(Option::unwrap_or_default).map_err(classified);
        let garbage = size("rocksdb.live-blob-file-garbage-size")?;
        let all = size("rocksdb.live-blob-file-size")? + size("rocksdb.live-sst-files-size")?;
        if garbage < min_bytes || garbage < all / 2 {
            return Ok(());
        }
        tracing::debug!(dir = %self.dir.display(), family, garbage, all, "collecting garbage");
        self.db.set_options_cf(cf, &[("enable_blob_garbage_collection", "true")]).map_err(classified)?;
        let mut options = CompactOptions::default();
        options.set_bottommost_level_compaction(BottommostLevelCompaction::Force);
        self.db.compact_range_cf_opt(cf, None::<&[u8]>, None::<&[u8]>, &options);
        self.db.set_options_cf(cf, &[("enable_blob_garbage_collection", "false")]).map_err(classified)
    }

    /// Ends a compaction that is under way, so that closing does not wait for it. Nothing is written afterwards.
    pub(super) fn stop_background_work(&self) {
        self.db.cancel_all_background_work(false);
    }

    pub(super) fn damaged(&self, cause: String) -> Error {
        Error::Damaged { dir: self.dir.clone(), cause }
    }
}
