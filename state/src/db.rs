//! A database: every store of a process, opened once. It hands out tasks to their owners and readers to everyone else, and flushes.

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::hash::{BuildHasher, RandomState};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;

use parking_lot::{Mutex, RwLock};

use crate::budget::Budget;
use crate::disk::{Disk, Family, MemoryFamilies, Rocks, partitions};
use crate::error::{Error, OpenError};
use crate::flush::{self, FlushReport};
use crate::flusher::{self, Pace};
use crate::groups::hash_group;
use crate::hot::{HotStore, HotTask};
use crate::incarnation;
use crate::lock::Lock;
use crate::meta;
use crate::options::{Access, AfterFlush, Home, Options, Position, StoreId, StoreSpec, TaskId};
use crate::reader::Reader;
use crate::removal;
use crate::row::View;
use crate::scan::{Direction, Range};
use crate::task::TaskState;

/// An open database. Clones are the same one; the last to go closes it, without a flush unless [`close`](Db::close) was called.
#[derive(Clone)]
pub struct Db(Arc<Handle>);

struct Handle {
    shared: Arc<Shared>,
    flusher: Mutex<Option<JoinHandle<()>>>,
}

/// What tasks, readers and the flusher have in common.
pub(crate) struct Shared {
    pub(crate) disk: Box<dyn Disk>,
    pub(crate) stores: Vec<StoreSpec>,
    pub(crate) budget: Budget,
    pub(crate) pace: Pace,
    /// Held by whoever changes what is on disk.
    pub(crate) flushing: Mutex<()>,
    pub(crate) before_sync: Option<Arc<dyn Fn() -> std::io::Result<()> + Send + Sync>>,
    pub(crate) after_flush: Option<AfterFlush>,
    tasks: RwLock<BTreeMap<TaskId, Arc<HotTask>>>,
    background: bool,
    /// Spreads keys over hash maps in a way that who sends the keys does not know.
    seed: u64,
    /// Locked for as long as the database is open.
    _lock: Option<Lock>,
}

/// What a database takes in memory, in bytes.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Memory {
    /// Rows and buckets, committed and not.
    pub rows: usize,
    /// The committed rows that are not on disk yet; part of `rows`.
    pub dirty: usize,
    /// RocksDB's blocks, indexes and filters.
    pub cache: usize,
    /// What `rows` may be; the rest of the budget is for the cache and for work.
    pub rows_limit: usize,
}

impl Db {
    /// Opens the database, or makes it.
    ///
    /// Panics if a store has no name or is called "default", or two have the same name.
    pub fn open(options: Options) -> Result<Db, OpenError> {
        let names: Vec<&str> = options.stores.iter().map(|s| s.name.as_str()).collect();
        assert!(
            names.iter().enumerate().all(|(i, name)| !name.is_empty() && *name != "default" && !names[..i].contains(name)),
            "stores have names, each its own"
        );
        let budget = Budget::new(options.memory_budget_bytes);
        let names = names.into_iter().map(str::to_owned);
        let (disk, directory, lock): (Box<dyn Disk>, _, _) = match &options.home {
            Home::Directory(directory) => {
                let lock = lock(directory)?;
                let failed = |cause| OpenError::Io { directory: directory.clone(), cause };
                if incarnation::keep_to(directory, &options.incarnation, LOCK).map_err(failed)? {
                    tracing::warn!(
                        "state directory {} is from before the application was reset: it was emptied",
                        directory.display()
                    );
                }
                (Box::new(Rocks::open(directory, names, &budget)?), directory.clone(), Some(lock))
            }
            Home::Memory(disk) => {
                let names = std::iter::once("default".to_owned()).chain(names).collect();
                let families = MemoryFamilies::open(disk, names).ok_or_else(|| OpenError::Locked("(memory)".into()))?;
                (Box::new(families), "(memory)".into(), None)
            }
        };
        check_fingerprint(&*disk, &options).map_err(|refusal| refusal.into_error(&directory))?;
        removal::finish(&*disk, &options.stores).map_err(|error| Refusal::Unreadable(error).into_error(&directory))?;

        let seed = if lock.is_some() { RandomState::new().hash_one(0) } else { 0 };
        let pace = Pace::new(options.flush_every, options.flush_when_idle_for);
        let shared = Arc::new(Shared {
            disk,
            stores: options.stores,
            budget,
            pace,
            flushing: Mutex::new(()),
            before_sync: options.before_sync,
            after_flush: options.after_flush,
            tasks: RwLock::default(),
            background: options.background,
            seed,
            _lock: lock,
        });
        let flusher = if options.background {
            let thread = std::thread::Builder::new().name("state-flusher".to_owned());
            let shared = shared.clone();
            Some(thread.spawn(move || flusher::run(&shared)).map_err(|cause| OpenError::Io { directory, cause })?)
        } else {
            None
        };
        Ok(Db(Arc::new(Handle { shared, flusher: Mutex::new(flusher) })))
    }

    /// The store of this name.
    #[must_use]
    pub fn store(&self, name: &str) -> Option<StoreId> {
        let place = self.shared().stores.iter().position(|s| s.name == name)?;
        Some(StoreId(place as u32))
    }

    /// Takes a task, to be its only owner until the `TaskState` is dropped. What was committed before is there, with its positions: in memory
    /// if this process had the task since the database was opened, else from disk; what its changelogs got elsewhere meanwhile is to be
    /// [restored](TaskState::restore) from those positions. A store that is on disk without a position cannot be trusted, so its rows are removed first.
    ///
    /// Panics if a store is unknown, or belongs to another sub-topology, or if the task was taken with other stores before.
    pub fn task(&self, id: TaskId, stores: &[StoreId]) -> Result<TaskState, Error> {
        let task = self.shared().hot_task(id, stores)?;
        assert_eq!(task.stores, stores, "a task has the same stores each time");
        if task.owned.swap(true, Ordering::AcqRel) {
            return Err(Error::Taken(id));
        }
        Ok(TaskState::new(self.clone(), task))
    }

    /// What is here: for each store and partition that has state, where it stands, be the task owned, given back, or not taken since the
    /// database was opened. In memory if it was taken, else on disk; a store of a taken task that has no position is not among them.
    pub fn positions(&self) -> Result<BTreeMap<(StoreId, u32), Position>, Error> {
        let shared = self.shared();
        let mut positions = BTreeMap::new();
        let taken = shared.all_tasks(); // first: what is removed meanwhile has no positions below
        for partition in partitions(&*shared.disk, Family::META)? {
            for (i, spec) in shared.stores.iter().enumerate() {
                let position = meta::read_position(&*shared.disk, partition, &spec.name)?;
                positions.extend(position.map(|position| ((StoreId(i as u32), partition), position)));
            }
        }
        for task in taken {
            let hot = task.hot.read();
            for (store, hot) in task.stores.iter().zip(&hot.stores) {
                let place = (*store, task.id.partition);
                match hot.position {
                    Some(position) => positions.insert(place, position),
                    None => positions.remove(&place),
                };
            }
        }
        Ok(positions)
    }

    /// A reader of committed rows, for any thread.
    #[must_use]
    pub fn reader(&self) -> Reader {
        Reader::new(self.clone())
    }

    /// Flushes all that is dirty, on this thread, and says what became durable. After an error every row is still in memory, and dirty.
    pub fn flush(&self) -> Result<FlushReport, Error> {
        flush::flush(self.shared())
    }

    /// Waits, if memory is over its budget, until it is not: to be called by owners between transactions, with no scan or view of this
    /// thread alive. An error is that of the flush that was to make room.
    pub fn make_room(&self) -> Result<(), Error> {
        let shared = self.shared();
        if !shared.budget.exceeded() {
            return Ok(());
        }
        flush::forget(shared);
        if !shared.budget.exceeded() {
            return Ok(());
        }
        if shared.background { shared.pace.wait_for_round(&shared.budget) } else { flusher::round(shared) }
    }

    /// What the database takes in memory now.
    #[must_use]
    pub fn memory(&self) -> Memory {
        let Shared { budget, disk, .. } = self.shared();
        Memory { rows: budget.used(), dirty: budget.dirty(), cache: disk.bytes_in_memory(), rows_limit: budget.rows }
    }

    /// Bytes of rows on disk.
    #[must_use]
    pub fn bytes_on_disk(&self) -> u64 {
        self.shared().disk.bytes_on_disk()
    }

    /// Stops the flusher and flushes all that is committed. Call it after the owners have stopped; what is committed later stays in memory.
    pub fn close(self) -> Result<FlushReport, Error> {
        self.0.stop_flusher();
        self.flush()
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.0.shared
    }
}

impl Handle {
    fn stop_flusher(&self) {
        let Some(flusher) = self.flusher.lock().take() else { return };
        self.shared.pace.stop();
        // The flusher itself may hold the last handle, in its listener: then it just ends.
        if flusher.thread().id() != std::thread::current().id()
            && let Err(panic) = flusher.join()
        {
            std::panic::resume_unwind(panic);
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.stop_flusher();
    }
}

impl Shared {
    /// Every task of the process, owned or not.
    pub(crate) fn all_tasks(&self) -> Vec<Arc<HotTask>> {
        self.tasks.read().values().cloned().collect()
    }

    pub(crate) fn existing_task(&self, id: TaskId) -> Result<Arc<HotTask>, Error> {
        self.tasks.read().get(&id).cloned().ok_or(Error::NotHere(id))
    }

    pub(crate) fn forget_task(&self, id: TaskId) {
        self.tasks.write().remove(&id);
    }

    pub(crate) fn spec(&self, store: StoreId) -> &StoreSpec {
        &self.stores[store.0 as usize]
    }

    pub(crate) fn view(&self, store: StoreId, time_ms: i64) -> View {
        View { ttl_ms: self.spec(store).ttl_ms, time_ms }
    }

    /// The hash of a key, for stores that are hash maps.
    pub(crate) fn hash(&self, store: StoreId, key: &[u8]) -> u32 {
        self.spec(store).access.group_suffix().map_or(0, |suffix| hash_group(self.seed, suffix, key))
    }

    /// The hash of the group that a range is within, in a store with groups.
    pub(crate) fn group_hash(&self, store: StoreId, range: &Range) -> Option<u32> {
        let is_grouped = matches!(self.spec(store).access, Access::Grouped { .. });
        range.group().filter(|_| is_grouped).map(|group| hash_group(self.seed, 0, group))
    }

    fn hot_task(&self, id: TaskId, stores: &[StoreId]) -> Result<Arc<HotTask>, Error> {
        let mut tasks = self.tasks.write();
        if let Some(task) = tasks.get(&id) {
            return Ok(task.clone());
        }
        assert!(id.partition != u32::MAX, "u32::MAX is not a partition");
        let shares = |t: &HotTask| t.id.partition == id.partition && t.stores.iter().any(|s| stores.contains(s));
        assert!(!tasks.values().any(|t| shares(t)), "a store belongs to one sub-topology");
        let hot = stores.iter().map(|store| self.hot_store(id.partition, *store)).collect::<Result<_, _>>()?;
        let task = Arc::new(HotTask::new(id, stores.to_vec(), hot));
        tasks.insert(id, task.clone());
        Ok(task)
    }

    fn hot_store(&self, partition: u32, store: StoreId) -> Result<HotStore, Error> {
        let spec = self.spec(store);
        let (disk, family) = (&*self.disk, Family::of(store));
        let empty = disk.scan(family, partition, &Range::all(), Direction::Forward).next()?.is_none();
        let position = meta::read_position(disk, partition, &spec.name)?;
        if position.is_none() && !empty {
            disk.clear(family, partition)?;
            disk.sync(family)?;
        }
        Ok(HotStore::new(spec.access, position, empty || position.is_none()))
    }
}

/// The file that is locked.
const LOCK: &str = "lock";

/// Makes the directory if it is missing and locks it against every other process. RocksDB has a lock too, but its refusal cannot be told from
/// other failures of the file system.
fn lock(directory: &Path) -> Result<Lock, OpenError> {
    let failed = |cause| OpenError::Io { directory: directory.to_owned(), cause };
    if directory.exists() && !directory.is_dir() {
        return Err(OpenError::NotADirectory(directory.to_owned()));
    }
    std::fs::create_dir_all(directory).map_err(failed)?;
    let file = File::options().create(true).truncate(false).write(true).open(directory.join(LOCK)).map_err(failed)?;
    Lock::take(file).map_err(|error| match error {
        TryLockError::WouldBlock => OpenError::Locked(directory.to_owned()),
        TryLockError::Error(cause) => failed(cause),
    })
}

/// Why a disk that was opened is refused.
enum Refusal {
    Unreadable(Error),
    Incompatible { entry: String, stored: String, given: Option<String> },
}

impl Refusal {
    fn into_error(self, directory: &Path) -> OpenError {
        let directory = directory.to_owned();
        match self {
            Refusal::Unreadable(Error::Damaged(detail)) => OpenError::Damaged { directory, detail },
            Refusal::Unreadable(error) => OpenError::Io { directory, cause: std::io::Error::other(error) },
            Refusal::Incompatible { entry, stored, given } => OpenError::Incompatible { directory, entry, stored, given },
        }
    }
}

/// The format of what is written to disk by this version.
const FORMAT: &str = "1";

/// Compares the fingerprint on disk with the one given, and writes down what is new.
fn check_fingerprint(disk: &dyn Disk, options: &Options) -> Result<(), Refusal> {
    let mut given = options.fingerprint.clone();
    given.insert("state format".to_owned(), FORMAT.to_owned());
    for store in &options.stores {
        let rows = if store.ttl_ms.is_some() { "with time-to-live" } else { "plain" };
        given.insert(format!("store {}", store.name), rows.to_owned());
    }
    let stored = meta::read_fingerprint(disk).map_err(Refusal::Unreadable)?;
    for (entry, stored) in &stored {
        if given.get(entry) != Some(stored) {
            return Err(Refusal::Incompatible { entry: entry.clone(), stored: stored.clone(), given: given.remove(entry) });
        }
    }
    if stored.len() < given.len() {
        meta::write_fingerprint(disk, &given).map_err(Refusal::Unreadable)?;
    }
    Ok(())
}
