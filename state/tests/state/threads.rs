//! Readers on other threads while commits, flushes and forgetting go on: they see whole commits, also those that a restore takes in, and nothing
//! vanishes.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use millstream_state::{Access, Db, Direction, FlushReport, MemoryDisk, Options, Range};

use crate::support::{A, B, TASK, TestHome, commit, everywhere, position, task};

const KEYS: u32 = 400;
const COMMITS: u64 = 40;

fn key(i: u32) -> Vec<u8> {
    format!("key {i:04}").into_bytes()
}

/// Each commit writes its number to every key of both stores, but deletes each tenth one and the next time puts it back.
fn there(i: u32, n: u64) -> bool {
    !(u64::from(i) + n).is_multiple_of(10)
}

#[test]
fn readers_see_whole_commits() {
    everywhere(|home, access| {
        let options = Options {
            background: true,
            memory_budget_bytes: 64 << 10, // a quarter of the rows: there is always something to flush and to forget
            flush_every: Duration::from_millis(3),
            flush_when_idle_for: Duration::from_millis(1),
            ..home.options(access)
        };
        let db = Db::open(options).unwrap();
        let mut state = task(&db);
        let done = AtomicBool::new(false);
        let committed = AtomicU64::new(0);
        thread::scope(|scope| {
            for reader in 0..2 {
                let (db, done, committed) = (db.clone(), &done, &committed);
                scope.spawn(move || {
                    let mut last = 0;
                    while !done.load(Ordering::Acquire) {
                        let at_least = committed.load(Ordering::Acquire);
                        let n = db.reader().read(TASK, |view| if reader == 0 { by_scan(view) } else { by_get(view) }).unwrap();
                        assert!(n >= at_least.max(last), "went back from {last} or {at_least} to {n}");
                        last = n;
                    }
                });
            }
            for n in 1..=COMMITS {
                let rows = || (0..KEYS).flat_map(|i| [(i, A), (i, B)]).map(|(i, store)| (store, key(i), there(i, n)));
                if n % 4 == 0 {
                    // As a commit that somebody else has made.
                    let (rows, value) = (rows().collect::<Vec<_>>(), n.to_be_bytes());
                    let rows = rows.iter().map(|(store, key, there)| (*store, &key[..], there.then_some(&value[..])));
                    state.restore(rows, &[A, B].map(|store| (store, position(n)))).unwrap();
                } else {
                    for (store, key, there) in rows() {
                        if there { state.put(store, &key, &n.to_be_bytes()) } else { state.delete(store, &key) }
                    }
                    commit(&mut state, n);
                }
                committed.store(n, Ordering::Release);
                db.make_room().unwrap();
                let n_of = |i| state.get(A, &key(i)).unwrap().map(|value| u64::from_be_bytes(value[..].try_into().unwrap()));
                assert!((0..KEYS).all(|i| n_of(i) == there(i, n).then_some(n)), "the owner reads what it committed");
            }
            done.store(true, Ordering::Release);
        });
        drop(state);
        db.close().unwrap();
        let state_again = home.open(access);
        let state = task(&state_again);
        assert_eq!(state.position(B), Some(position(COMMITS)));
        assert_eq!(state.scan(B, Range::all(), Direction::Forward).count(), (0..KEYS).filter(|i| there(*i, COMMITS)).count());
    });
}

fn by_get(view: &millstream_state::TaskView<'_>) -> u64 {
    let n = view.position(A).map_or(0, |p| p.offset);
    for (i, store) in (0..KEYS).rev().step_by(7).flat_map(|i| [(i, A), (i, B)]) {
        let value = view.get(store, &key(i)).unwrap().map(|value| u64::from_be_bytes(value[..].try_into().unwrap()));
        assert_eq!(value, (n > 0 && there(i, n)).then_some(n), "key {i} at commit {n}");
    }
    n
}

fn by_scan(view: &millstream_state::TaskView<'_>) -> u64 {
    let n = view.position(B).map_or(0, |p| p.offset);
    for store in [A, B] {
        let rows: Vec<_> = view.scan(store, Range::all(), Direction::Forward).collect::<Result<_, _>>().unwrap();
        assert!(rows.iter().all(|row| row.value() == n.to_be_bytes()), "a row of another commit than {n}");
        assert_eq!(rows.len(), (0..KEYS).filter(|i| n > 0 && there(*i, n)).count(), "at commit {n}");
    }
    n
}

#[test]
fn what_was_committed_is_flushed_without_being_asked() {
    let (send, reports) = mpsc::channel::<FlushReport>();
    let send = Mutex::new(send);
    let after_flush = move |outcome: Result<&FlushReport, &_>| drop(send.lock().unwrap().send(outcome.cloned().unwrap()));
    let options = |every, idle| Options {
        background: true,
        flush_every: every,
        flush_when_idle_for: idle,
        ..TestHome::memory().options(Access::Keyed)
    };
    let (long, short) = (Duration::from_secs(3600), Duration::from_millis(5));
    let idle = Options { after_flush: Some(Arc::new(after_flush)), ..options(long, short) };
    let db = Db::open(idle).unwrap();
    let mut state = task(&db);
    for n in 1..=2 {
        state.put(A, b"k", b"v");
        commit(&mut state, n);
        let report = reports.recv_timeout(Duration::from_secs(20)).unwrap();
        assert!(report.positions.contains(&(TASK, A, position(n))), "{report:?}");
    }
}

#[test]
fn a_failed_flush_is_tried_again() {
    let (send, outcomes) = mpsc::channel::<bool>();
    let send = Mutex::new(send);
    let disk = MemoryDisk::new();
    let after_flush = move |outcome: Result<&FlushReport, &_>| send.lock().unwrap().send(outcome.is_ok()).unwrap_or(()); // the test may be over
    let stores = TestHome::memory().options(Access::Keyed).stores;
    let options = Options::new(millstream_state::Home::Memory(disk.clone()), stores);
    let idle = Duration::from_millis(5);
    let db = Db::open(Options { flush_when_idle_for: idle, after_flush: Some(Arc::new(after_flush)), ..options }).unwrap();
    let mut state = task(&db);
    disk.fail_after(Some(0));
    state.put(A, b"k", b"v");
    commit(&mut state, 1);
    let next = || outcomes.recv_timeout(Duration::from_secs(20)).unwrap();
    assert!(!next());
    disk.fail_after(None);
    while !next() {}
    assert_eq!(db.memory().dirty, 0);
}

#[test]
fn a_full_disk_holds_up_only_who_needs_room() {
    let disk = MemoryDisk::new();
    let home = millstream_state::Home::Memory(disk.clone());
    let options = || Options {
        memory_budget_bytes: 256 << 10,
        ..Options::new(home.clone(), TestHome::memory().options(Access::Keyed).stores)
    };
    let db = Db::open(options()).unwrap();
    let mut state = task(&db);
    disk.fail_after(Some(0));
    let mut written = 0_u64;
    let error = loop {
        for _ in 0..100 {
            state.put(A, &written.to_be_bytes(), &[1; 100]);
            written += 1;
        }
        commit(&mut state, written);
        match db.make_room() {
            Ok(()) => assert!(written < 10_000, "the budget must be felt"),
            Err(error) => break error,
        }
    };
    assert!(error.to_string().starts_with("state on disk could not be written: "), "{error}");
    assert!(db.make_room().is_err(), "as long as there is no space");
    disk.fail_after(None);
    db.make_room().unwrap();
    assert!(db.memory().rows <= db.memory().rows_limit, "{:?}", db.memory());
    for i in 0..written {
        assert!(state.get(A, &i.to_be_bytes()).unwrap().is_some(), "row {i}");
    }
    drop(state);
    db.close().unwrap();
    let db = Db::open(options()).unwrap();
    assert_eq!(task(&db).scan(A, Range::all(), Direction::Forward).count() as u64, written);
}
