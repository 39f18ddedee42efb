//! A process that dies at each step of commit, flush, restore, clear and removal, on a real disk. It is this test binary, started again with a fault armed;
//! what it was doing is a function of how far it came, so that afterwards its changelog is known.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use millstream_state::{Access, Db, Direction, Home, Options, Position, Range, StoreId, StoreSpec, TaskId, fault};

const TASK: TaskId = TaskId { sub_topology: 0, partition: 0 };
const A: StoreId = StoreId(0);
const B: StoreId = StoreId(1);
const COMMITS: u64 = 12;
const DIRECTORY: &str = "MILLSTREAM_TEST_DIRECTORY";

fn open(directory: &Path) -> Db {
    let stores = vec![StoreSpec::new("a", Access::Keyed), StoreSpec::new("b", Access::Ordered)];
    Db::open(Options { background: false, ..Options::new(Home::Directory(directory.join("state")), stores) }).unwrap()
}

/// What the n-th commit writes to a store, from 1: its changelog record n - 1.
fn record(store: StoreId, n: u64) -> (Vec<u8>, Option<Vec<u8>>) {
    let key = format!("key {}", (n * 7 + u64::from(store.0)) % 5).into_bytes();
    (key, (!n.is_multiple_of(4)).then(|| format!("{n}").into_bytes()))
}

fn position(offset: u64) -> Position {
    Position { topic_id: [1; 16], offset, wall_ms: 5 }
}

fn replay(db: &Db, end: u64) -> millstream_state::TaskState {
    let mut state = db.task(TASK, &[A, B]).unwrap();
    for store in [A, B] {
        for n in state.position(store).map_or(0, |p| p.offset)..end {
            let (key, value) = record(store, n + 1);
            state.restore([(store, &key[..], value.as_deref())], &[(store, position(n + 1))]).unwrap();
        }
    }
    state
}

/// The program that dies: commits, flushes now and then, clears a store and removes the task, and restores them. `logged` is its changelog's end.
#[test]
#[ignore = "runs in a process of its own, started by the test below"]
fn the_program() {
    let directory = std::env::var(DIRECTORY).unwrap();
    let directory = Path::new(&directory);
    let db = open(directory);
    let mut state = replay(&db, 0);
    for n in 1..=COMMITS {
        for store in [A, B] {
            match record(store, n) {
                (key, Some(value)) => state.put(store, &key, &value),
                (key, None) => state.delete(store, &key),
            }
        }
        fs::write(directory.join("logged.new"), n.to_string()).unwrap();
        fs::rename(directory.join("logged.new"), directory.join("logged")).unwrap();
        state.commit(&[(A, position(n)), (B, position(n))]);
        if n % 3 == 0 {
            db.flush().unwrap();
        }
        if n % 5 == 0 {
            state.clear(B).unwrap();
            drop(state);
            state = replay(&db, n);
        }
        if n == 7 {
            state.remove().unwrap();
            state = replay(&db, n);
        }
    }
    drop(state);
    db.close().unwrap();
    fs::write(directory.join("finished"), "").unwrap();
}

/// Runs the program with a fault, and gives whether it died.
fn run(directory: &Path, armed: &str) -> bool {
    let mut program = Command::new(std::env::current_exe().unwrap());
    program.args(["--exact", "faults::the_program", "--ignored"]);
    let output = program.env(DIRECTORY, directory).env("MILLSTREAM_FAULT", armed).output().unwrap();
    let finished = directory.join("finished").exists();
    assert_eq!(output.status.success(), finished, "{armed}: {}", String::from_utf8_lossy(&output.stdout));
    !finished
}

fn check(point: &str) {
    check_at(point, &[1, 2, 4]);
}

fn check_at(point: &str, visits: &[u32]) {
    for nth in visits {
        let directory = tempfile::tempdir().unwrap();
        assert!(run(directory.path(), &format!("state:{point}:{nth}:abort")), "the program comes by {point} {nth} times");
        let logged = fs::read_to_string(directory.path().join("logged")).map_or(0, |text| text.parse().unwrap());
        let mut expected: [BTreeMap<Vec<u8>, Vec<u8>>; 2] = Default::default();
        for (store, n) in [A, B].into_iter().flat_map(|store| (1..=logged).map(move |n| (store, n))) {
            match record(store, n) {
                (key, Some(value)) => drop(expected[store.0 as usize].insert(key, value)),
                (key, None) => drop(expected[store.0 as usize].remove(&key)),
            }
        }
        let db = open(directory.path());
        let state = replay(&db, logged);
        for store in [A, B] {
            let rows = state
                .scan(store, Range::all(), Direction::Forward)
                .map(|row| row.map(|row| (row.key().to_vec(), row.value().to_vec())));
            let rows: BTreeMap<_, _> = rows.collect::<Result<_, _>>().unwrap();
            assert_eq!(rows, expected[store.0 as usize], "{point}, {nth}, store {store:?}, {logged} logged");
        }
    }
}

#[test]
fn dying_in_a_commit() {
    check("commit:begin");
    check("commit:store-applied");
    check("commit:applied");
}

#[test]
fn dying_in_a_flush() {
    check("flush:frozen");
    check("flush:store-written");
    check("flush:store-synced");
    check("flush:positions-written");
    check("flush:positions-synced");
}

#[test]
fn dying_in_a_restore() {
    check("restore:applied");
}

#[test]
fn dying_in_a_clear_or_a_removal() {
    let directory = tempfile::tempdir().unwrap();
    assert!(!run(directory.path(), "state:no-such-point:1:abort"), "without a fault it lives");
    check_at("clear:position-deleted", &[1, 2, 3]); // a clear, the removal, a clear
    check_at("clear:rows-deleted", &[1, 2, 3, 4]); // the removal deletes those of two stores
    check_at("clear:rows-gone", &[1, 2, 3]);
}

#[test]
fn a_point_fails_from_its_nth_visit_until_it_is_disarmed() {
    let point = || fault::point("test:point:here").is_ok();
    assert!(point());
    fault::arm("test:point:here", 2, fault::Action::Fail);
    assert_eq!([point(), point(), point()], [true, false, false]);
    assert!(fault::point("test:point:there").is_ok());
    fault::disarm("test:point:here");
    assert!(point());
}
