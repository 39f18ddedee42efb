//! All layers together against a plain model: random transactions, flushes, failures and crashes, after which the changelog is replayed from
//! the positions that the database reports and must give the exact state. A failure prints the smallest case and its seed.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex};

use millstream_state::{
    Access, Db, Direction, Error, Home, MemoryDisk, Options, Position, Range, Row, StoreId, StoreSpec, TaskId, TaskState,
};
use proptest::prelude::*;

const STORES: [StoreId; 2] = [PLAIN, MORTAL];
const PLAIN: StoreId = StoreId(0);
/// With a time-to-live.
const MORTAL: StoreId = StoreId(1);
const TTL_MS: i64 = 100;
const TASKS: [TaskId; 2] = [TaskId { sub_topology: 0, partition: 0 }, TaskId { sub_topology: 0, partition: 7 }];

type Key = Vec<u8>;
type LogRecord = (Key, Option<Vec<u8>>);

#[derive(Clone, Debug)]
enum Step {
    Put(usize, StoreId, Key, Vec<u8>, i64),
    Delete(usize, StoreId, Key),
    Get(usize, StoreId, Key),
    Scan(usize, StoreId, Bound<Key>, Bound<Key>, Direction),
    /// Of the keys of one group.
    ScanWithin(usize, StoreId, Key, u8, u8, Direction),
    Savepoint(usize),
    Undo(usize),
    Advance(usize, i64),
    Expire(usize, usize),
    Commit(usize),
    Abort(usize),
    Retake(usize),
    Clear(usize, StoreId),
    /// The process dies while it clears a store, after so many writes, and column families lose what is not synced.
    CrashInClear(usize, StoreId, usize, u8),
    /// The task is removed and taken again.
    Remove(usize),
    /// The process dies while it removes the task, likewise.
    CrashInRemove(usize, usize, u8),
    Flush,
    /// A commit of the task comes while a flush is on its way.
    FlushAndCommit(usize),
    MakeRoom,
    /// A flush that the disk stops after so many writes; the process goes on.
    FailedFlush(usize),
    CleanRestart,
    /// The process dies in the middle of a flush, after so many writes, and column families lose what is not synced, as the bits say. With
    /// the flag, task 0 had its transaction in the log already.
    Crash(usize, u8, bool),
}

fn step() -> impl Strategy<Value = Step> {
    let task = || 0..TASKS.len();
    let store = || prop::sample::select(&STORES[..]);
    let key = || {
        prop_oneof![
            6 => prop::sample::select(vec!["a", "b", "ba", "bb", "c", "user-0000001", "user-0000002", ""]).prop_map(|key| key.as_bytes().to_vec()),
            1 => Just(vec![0xff; 2]),
            1 => (0u8..3).prop_map(|last| [&[b'l'; 200][..], &[last]].concat()),
        ]
    };
    let bound = move || prop_oneof![Just(Bound::Unbounded), key().prop_map(Bound::Included), key().prop_map(Bound::Excluded)];
    let direction = || prop::sample::select(vec![Direction::Forward, Direction::Reverse]);
    let within = || prop::sample::select(vec![&b""[..], b"b", b"user-000000", &[b'l'; 200]]).prop_map(<[u8]>::to_vec);
    let last = || prop::sample::select(b"\x00\x01\x02ab12\xff".to_vec());
    let value = prop::collection::vec(any::<u8>(), 0..12);
    prop_oneof![
        12 => (task(), store(), key(), value, -50i64..50).prop_map(|(t, s, k, v, age)| Step::Put(t, s, k, v, age)),
        5 => (task(), store(), key()).prop_map(|(t, s, k)| Step::Delete(t, s, k)),
        5 => (task(), store(), key()).prop_map(|(t, s, k)| Step::Get(t, s, k)),
        4 => (task(), store(), bound(), bound(), direction()).prop_map(|(t, s, from, to, d)| Step::Scan(t, s, from, to, d)),
        4 => (task(), store(), within(), last(), last(), direction())
            .prop_map(|(t, s, group, from, to, d)| Step::ScanWithin(t, s, group, from, to, d)),
        3 => task().prop_map(Step::Savepoint),
        2 => task().prop_map(Step::Undo),
        2 => (task(), 0i64..80).prop_map(|(t, by)| Step::Advance(t, by)),
        2 => (task(), 1usize..20).prop_map(|(t, limit)| Step::Expire(t, limit)),
        8 => task().prop_map(Step::Commit),
        1 => task().prop_map(Step::Abort),
        1 => task().prop_map(Step::Retake),
        1 => (task(), store()).prop_map(|(t, s)| Step::Clear(t, s)),
        1 => (task(), store(), 0usize..5, any::<u8>()).prop_map(|(t, s, writes, lost)| Step::CrashInClear(t, s, writes, lost)),
        1 => task().prop_map(Step::Remove),
        1 => (task(), 0usize..7, any::<u8>()).prop_map(|(t, writes, lost)| Step::CrashInRemove(t, writes, lost)),
        3 => Just(Step::Flush),
        2 => task().prop_map(Step::FlushAndCommit),
        3 => Just(Step::MakeRoom),
        1 => (0usize..7).prop_map(Step::FailedFlush),
        1 => Just(Step::CleanRestart),
        2 => (0usize..7, any::<u8>(), any::<bool>()).prop_map(|(writes, lost, ahead)| Step::Crash(writes, lost, ahead)),
    ]
}

/// What a task's stores must hold.
#[derive(Clone, Default)]
struct Rows {
    /// By store and key: the value, and its time.
    rows: BTreeMap<(StoreId, Key), (Vec<u8>, i64)>,
    stream_time_ms: i64,
}

impl Rows {
    fn visible(&self, store: StoreId) -> impl DoubleEndedIterator<Item = (&Key, &Vec<u8>)> {
        let now = self.stream_time_ms;
        let rows = self.rows.iter().filter(move |((s, _), (_, time))| *s == store && (store == PLAIN || time + TTL_MS > now));
        rows.map(|((_, key), (value, _))| (key, value))
    }
}

#[derive(Default)]
struct Task {
    state: Option<TaskState>,
    committed: Rows,
    saved: Rows,
    now: Rows,
    /// The changelogs.
    log: BTreeMap<StoreId, Vec<LogRecord>>,
    /// What the stores stand at.
    positions: BTreeMap<StoreId, Position>,
    commits: i64,
}

struct World {
    options: Box<dyn Fn() -> Options>,
    during_flush: DuringFlush,
    disk: Option<MemoryDisk>,
    db: Option<Db>,
    tasks: [Task; 2],
}

/// A task's state and the commit that it makes when a flush has collected its rows and not yet synced them.
type DuringFlush = Arc<Mutex<Option<(TaskState, Vec<(StoreId, Position)>)>>>;

impl Task {
    fn state(&mut self) -> &mut TaskState {
        self.state.as_mut().expect("every task is open between steps")
    }

    /// Appends the transaction to the log and gives the positions after it.
    fn log_transaction(&mut self) -> Vec<(StoreId, Position)> {
        let dirty: Vec<_> =
            self.state().dirty().map(|row| (row.store, row.key().to_vec(), row.value().map(<[u8]>::to_vec))).collect();
        for (store, key, value) in dirty {
            self.log.entry(store).or_default().push((key, value));
        }
        self.committed = self.now.clone();
        self.commits += 1;
        for store in STORES {
            let end = self.log.entry(store).or_default().len();
            self.positions.insert(store, self.position(end));
        }
        self.positions.iter().map(|(store, position)| (*store, *position)).collect()
    }

    fn position(&self, offset: usize) -> Position {
        Position { topic_id: [1; 16], offset: offset as u64, wall_ms: self.commits }
    }

    fn commit(&mut self) {
        let positions = self.log_transaction();
        self.state().commit(&positions);
        self.saved = self.now.clone();
    }

    fn abort(&mut self) {
        self.now = self.committed.clone();
        self.saved = self.committed.clone();
    }

    /// Replays the log from where a store stands. A log that is read from its beginning was compacted: the tombstones are gone.
    fn restore(&mut self, store: StoreId) {
        let log = self.log.entry(store).or_default().clone();
        let from = self.state().position(store).map(|p| p.offset as usize);
        for (i, (key, value)) in log.iter().enumerate().skip(from.unwrap_or(0)) {
            if from.is_some() || (value.is_some() && log[i + 1..].iter().all(|(later, _)| later != key)) {
                let position = self.position(i + 1);
                self.state().restore([(store, &key[..], value.as_deref())], &[(store, position)]).unwrap();
            }
        }
        match (from, log.len()) {
            (None, 0) => drop(self.positions.remove(&store)),
            (from, end) if from != Some(end) => {
                let position = self.position(end);
                self.state().restore([], &[(store, position)]).unwrap();
                self.positions.insert(store, position);
            }
            _ => drop(self.state().position(store).map(|position| self.positions.insert(store, position))),
        }
    }

    /// Takes the task and restores it.
    fn take(&mut self, id: TaskId, db: &Db) {
        self.state = Some(db.task(id, &STORES).unwrap());
        self.abort();
        for store in STORES {
            self.restore(store);
        }
        let stream_time_ms = self.committed.stream_time_ms;
        self.state().set_stream_time_ms(stream_time_ms);
        self.state().commit(&[]);
        self.check(id, db);
    }

    fn check(&mut self, id: TaskId, db: &Db) {
        let here = db.positions().unwrap();
        for store in STORES {
            let state = self.state.as_ref().unwrap();
            assert_eq!(here.get(&(store, id.partition)).copied(), state.position(store), "what is listed");
            assert_same(state.scan(store, Range::all(), Direction::Forward), self.now.visible(store), "the owner");
            db.reader()
                .read(id, |view| {
                    assert_same(view.scan(store, Range::all(), Direction::Forward), self.committed.visible(store), "a reader")
                })
                .unwrap();
            let entries = db.reader().read(id, |view| view.entries(store)).unwrap().unwrap();
            let rows = self.committed.visible(store).count() as u64;
            assert!(!entries.exact || entries.rows == rows || store == MORTAL && entries.rows > rows, "{entries:?} of {rows}");
            for (key, value) in self.now.visible(store) {
                assert_eq!(state.get(store, key).unwrap().as_deref(), Some(&value[..]));
            }
        }
    }
}

fn assert_same<'a>(
    rows: impl Iterator<Item = Result<Row, Error>>,
    expected: impl Iterator<Item = (&'a Key, &'a Vec<u8>)>,
    who: &str,
) {
    let rows: Vec<_> = rows.map(|row| row.map(|row| (row.key().to_vec(), row.value().to_vec())).unwrap()).collect();
    let expected: Vec<_> = expected.map(|(key, value)| (key.clone(), value.clone())).collect();
    assert_eq!(rows, expected, "{who} reads other rows than the model");
}

impl World {
    fn open(&mut self) {
        let db = Db::open((self.options)()).unwrap();
        for (task, id) in self.tasks.iter_mut().zip(TASKS) {
            task.take(id, &db);
        }
        self.db = Some(db);
    }

    fn drop_all(&mut self) {
        self.tasks.iter_mut().for_each(|task| task.state = None);
        self.db = None;
    }

    /// The machine goes down, and comes up again with column families as they were at their last sync, where the bits say so.
    fn crash(&mut self, lost: u8) {
        self.drop_all();
        if let Some(disk) = &self.disk {
            let families = ["default", "plain", "mortal"];
            disk.crash(|family| families.iter().position(|f| *f == family).is_some_and(|bit| lost & (1 << bit) != 0));
        }
        self.open();
    }

    fn fail_after(&self, writes: Option<usize>) {
        if let Some(disk) = &self.disk {
            disk.fail_after(writes);
        }
    }

    fn db(&self) -> &Db {
        self.db.as_ref().expect("the database is open between steps")
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Put(t, store, key, value, age) => {
                let task = &mut self.tasks[t];
                let time = task.now.stream_time_ms - age;
                task.state().put_at(store, &key, &value, time);
                task.now.rows.insert((store, key), (value, time));
            }
            Step::Delete(t, store, key) => {
                self.tasks[t].state().delete(store, &key);
                self.tasks[t].now.rows.remove(&(store, key));
            }
            Step::Get(t, store, key) => {
                let found = self.tasks[t].state().get(store, &key).unwrap().map(|value| value.to_vec());
                let expected = self.tasks[t].now.visible(store).find(|(k, _)| **k == key).map(|(_, value)| value.clone());
                assert_eq!(found, expected);
            }
            Step::Scan(t, store, from, to, direction) => {
                let task = &self.tasks[t];
                let range = Range::new(from.as_ref().map(Vec::as_slice), to.as_ref().map(Vec::as_slice));
                let after = |key: &Key| match &from {
                    Bound::Unbounded => true,
                    Bound::Included(from) => key >= from,
                    Bound::Excluded(from) => key > from,
                };
                let before = |key: &Key| match &to {
                    Bound::Unbounded => true,
                    Bound::Included(to) => key <= to,
                    Bound::Excluded(to) => key < to,
                };
                let mut expected: Vec<_> = task.now.visible(store).filter(|(key, _)| after(key) && before(key)).collect();
                if direction == Direction::Reverse {
                    expected.reverse();
                }
                assert_same(task.state.as_ref().unwrap().scan(store, range, direction), expected.into_iter(), "a range scan");
            }
            Step::ScanWithin(t, store, group, from, to, direction) => {
                let task = &self.tasks[t];
                let (first, last) = ([&group[..], &[from]].concat(), [&group[..], &[to]].concat());
                let within = |key: &Key| *key >= first && (*key <= last || key.starts_with(&last));
                let mut expected: Vec<_> = task.now.visible(store).filter(|(key, _)| within(key)).collect();
                if direction == Direction::Reverse {
                    expected.reverse();
                }
                let found = task.state.as_ref().unwrap().scan(store, Range::within(&group, &[from], &[to]), direction);
                assert_same(found, expected.into_iter(), "a scan within a group");
            }
            Step::Savepoint(t) => {
                self.tasks[t].state().savepoint();
                self.tasks[t].saved = self.tasks[t].now.clone();
            }
            Step::Undo(t) => {
                self.tasks[t].state().undo();
                self.tasks[t].now = self.tasks[t].saved.clone();
            }
            Step::Advance(t, by) => {
                let task = &mut self.tasks[t];
                task.now.stream_time_ms += by;
                let now = task.now.stream_time_ms;
                task.state().set_stream_time_ms(now);
            }
            Step::Expire(t, limit) => {
                let task = &mut self.tasks[t];
                let swept = task.state().expire(MORTAL, limit).unwrap();
                let before = task.now.rows.len();
                let now = task.now.stream_time_ms;
                // A tombstone may be there for any row that has expired; the model only forgets what the sweep must have seen.
                if swept.finished {
                    let dirty: Vec<Key> = task
                        .state()
                        .dirty()
                        .filter(|r| r.store == MORTAL && r.value().is_none())
                        .map(|r| r.key().to_vec())
                        .collect();
                    task.now
                        .rows
                        .retain(|(store, key), (_, time)| *store == PLAIN || *time + TTL_MS > now || !dirty.contains(key));
                }
                assert!(swept.deleted <= before.max(task.committed.rows.len()));
            }
            Step::Commit(t) => self.tasks[t].commit(),
            Step::Abort(t) => {
                self.tasks[t].state().abort();
                self.tasks[t].abort();
            }
            Step::Retake(t) => {
                let task = &mut self.tasks[t];
                task.state = None;
                task.abort();
                task.state = Some(self.db.as_ref().unwrap().task(TASKS[t], &STORES).unwrap());
            }
            Step::Clear(t, store) => {
                let task = &mut self.tasks[t];
                task.commit();
                task.state().clear(store).unwrap();
                assert_eq!(task.state().position(store), None);
                assert_eq!(task.state().scan(store, Range::all(), Direction::Forward).count(), 0);
                task.restore(store);
            }
            Step::CrashInClear(t, store, writes, lost) => {
                self.tasks[t].commit();
                self.fail_after(Some(writes));
                drop(self.tasks[t].state().clear(store)); // it may or may not get through before the process dies
                self.crash(lost);
            }
            Step::Remove(t) => {
                let task = &mut self.tasks[t];
                task.abort();
                task.state.take().unwrap().remove().unwrap();
                let db = self.db.as_ref().unwrap();
                assert!(matches!(db.reader().read(TASKS[t], |_| ()), Err(Error::NotHere(_))));
                assert!(!db.positions().unwrap().keys().any(|(_, partition)| *partition == TASKS[t].partition));
                task.take(TASKS[t], db);
            }
            Step::CrashInRemove(t, writes, lost) => {
                self.tasks[t].abort();
                self.fail_after(Some(writes));
                drop(self.tasks[t].state.take().unwrap().remove()); // it may or may not get through before the process dies
                self.crash(lost);
            }
            Step::FlushAndCommit(t) => {
                let positions = self.tasks[t].log_transaction();
                let state = self.tasks[t].state.take().unwrap();
                *self.during_flush.lock().unwrap() = Some((state, positions));
                self.db().flush().unwrap();
                let (mut state, positions) = self.during_flush.lock().unwrap().take().unwrap();
                state.commit(&positions); // in case there was nothing to flush
                self.tasks[t].state = Some(state);
                self.tasks[t].saved = self.tasks[t].now.clone();
            }
            Step::Flush => {
                self.db().flush().unwrap();
                for task in &mut self.tasks {
                    for store in STORES {
                        let position = task.state().position(store);
                        assert_eq!(position.map_or(0, |p| p.offset as usize), task.log.entry(store).or_default().len());
                    }
                }
                assert_eq!(self.db().memory().dirty, 0);
            }
            Step::MakeRoom => self.db().make_room().unwrap(),
            Step::FailedFlush(writes) => {
                if let Some(disk) = &self.disk {
                    let dirty = self.db().memory().dirty;
                    disk.fail_after(Some(writes));
                    let outcome = self.db().flush();
                    disk.fail_after(None);
                    assert_eq!(self.db().memory().dirty, if outcome.is_ok() { 0 } else { dirty });
                }
            }
            Step::CleanRestart => {
                self.tasks.iter_mut().for_each(|task| task.state = None);
                self.db.take().unwrap().close().unwrap();
                let db = Db::open((self.options)()).unwrap();
                for (task, id) in self.tasks.iter_mut().zip(TASKS) {
                    let state = db.task(id, &STORES).unwrap();
                    for store in STORES {
                        assert_eq!(
                            state.position(store),
                            task.positions.get(&store).copied(),
                            "a clean close leaves nothing to replay"
                        );
                    }
                }
                drop(db);
                self.open();
            }
            Step::Crash(writes, lost, ahead) => {
                if ahead {
                    self.tasks[0].log_transaction();
                }
                self.fail_after(Some(writes));
                if self.disk.is_some() {
                    drop(self.db().flush()); // likewise
                }
                self.crash(lost);
            }
        }
    }
}

fn run(home: Home, access: [Access; 2], budget: usize, steps: Vec<Step>) {
    let disk = match &home {
        Home::Memory(disk) => Some(disk.clone()),
        Home::Directory(_) => None,
    };
    let during_flush = DuringFlush::default();
    let in_flush = during_flush.clone();
    let options = move || {
        let in_flush = in_flush.clone();
        let before_sync = move || {
            if let Some((state, positions)) = &mut *in_flush.lock().unwrap() {
                state.commit(positions);
            }
            Ok(())
        };
        let stores = vec![StoreSpec::new("plain", access[0]), StoreSpec::new("mortal", access[1]).with_ttl_ms(TTL_MS as u64)];
        Options {
            background: false,
            memory_budget_bytes: budget,
            before_sync: Some(Arc::new(before_sync)),
            ..Options::new(home.clone(), stores)
        }
    };
    let mut world = World { options: Box::new(options), during_flush, disk, db: None, tasks: Default::default() };
    world.open();
    for step in steps {
        world.step(step);
    }
    let db = world.db.clone().unwrap();
    for (task, id) in world.tasks.iter_mut().zip(TASKS) {
        task.check(id, &db);
    }
}

fn access() -> impl Strategy<Value = [Access; 2]> {
    let access = || prop::sample::select(vec![Access::Keyed, Access::Ordered, Access::Grouped { suffix: 1 }]);
    [access(), access()]
}

/// With next to nothing every clean row is forgotten, with a little some are, with much all stay.
fn budget() -> impl Strategy<Value = usize> {
    prop::sample::select(vec![1 << 10, 32 << 10, 256 << 20])
}

proptest! {
        #[test]
    fn in_memory_with_any_column_families_lost(steps in prop::collection::vec(step(), 1..120), access in access(), budget in budget()) {
        run(Home::Memory(MemoryDisk::new()), access, budget, steps);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn on_rocksdb_abandoned(steps in prop::collection::vec(step(), 1..120), access in access(), budget in budget()) {
        let directory = tempfile::tempdir().unwrap();
        run(Home::Directory(directory.path().to_owned()), access, budget, steps);
    }
}
