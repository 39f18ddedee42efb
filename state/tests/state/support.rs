//! Databases to test with, in every home, and short names for what every test does.

use std::ops::Bound;

use millstream_state::{
    Access, Db, Direction, Home, MemoryDisk, Options, Position, Range, StoreId, StoreSpec, TaskId, TaskState, TaskView,
};

pub const TASK: TaskId = TaskId { sub_topology: 0, partition: 3 };
pub const A: StoreId = StoreId(0);
pub const B: StoreId = StoreId(1);

/// A home that outlives the databases opened on it.
pub struct TestHome {
    pub home: Home,
    _directory: Option<tempfile::TempDir>,
}

impl TestHome {
    pub fn memory() -> TestHome {
        TestHome { home: Home::Memory(MemoryDisk::new()), _directory: None }
    }

    pub fn directory() -> TestHome {
        let directory = tempfile::tempdir().unwrap();
        TestHome { home: Home::Directory(directory.path().join("state")), _directory: Some(directory) }
    }

    /// Options for two stores `a` and `b`, without a thread and so without a flush that the test does not ask for.
    pub fn options(&self, access: Access) -> Options {
        let stores = vec![StoreSpec::new("a", access), StoreSpec::new("b", access)];
        Options { background: false, ..Options::new(self.home.clone(), stores) }
    }

    pub fn open(&self, access: Access) -> Db {
        Db::open(self.options(access)).unwrap()
    }
}

/// Runs a check in every home and for every kind of access.
pub fn everywhere(check: impl Fn(TestHome, Access)) {
    for access in [Access::Keyed, Access::Ordered, Access::Grouped { suffix: 1 }] {
        check(TestHome::memory(), access);
        check(TestHome::directory(), access);
    }
}

pub fn task(db: &Db) -> TaskState {
    db.task(TASK, &[A, B]).unwrap()
}

pub fn position(offset: u64) -> Position {
    Position { topic_id: [9; 16], offset, wall_ms: 1_000 + offset as i64 }
}

/// Commits both stores at this offset.
pub fn commit(state: &mut TaskState, offset: u64) {
    state.commit(&[(A, position(offset)), (B, position(offset))]);
}

/// The value of a key as text.
pub fn get(state: &TaskState, store: StoreId, key: &str) -> Option<String> {
    state.get(store, key.as_bytes()).unwrap().map(|value| String::from_utf8(value.to_vec()).unwrap())
}

/// Rows as text: "key=value key=value".
pub fn text(rows: impl Iterator<Item = Result<millstream_state::Row, millstream_state::Error>>) -> String {
    let rows =
        rows.map(|row| row.map(|row| format!("{}={}", String::from_utf8_lossy(row.key()), String::from_utf8_lossy(row.value()))));
    rows.collect::<Result<Vec<_>, _>>().unwrap().join(" ")
}

pub fn all(state: &TaskState, store: StoreId) -> String {
    text(state.scan(store, Range::all(), Direction::Forward))
}

pub fn all_seen(view: &TaskView<'_>, store: StoreId) -> String {
    text(view.scan(store, Range::all(), Direction::Forward))
}

pub fn between(from: Bound<&str>, to: Bound<&str>) -> Range {
    Range::new(from.map(str::as_bytes), to.map(str::as_bytes))
}
