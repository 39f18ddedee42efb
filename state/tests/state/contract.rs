//! What every store does, in memory and on disk, keyed and ordered.

use std::ops::Bound::{Excluded, Included, Unbounded};

use millstream_state::{Db, Direction, Error, Range, TaskId};

use crate::support::{A, B, TASK, all, all_seen, between, commit, everywhere, get, position, task, text};

#[test]
fn the_owner_reads_its_writes_and_others_read_commits() {
    everywhere(|home, access| {
        let db = home.open(access);
        let mut state = task(&db);
        state.put(A, b"k", b"1");
        state.put(B, b"k", b"one");
        let seen = || db.reader().read(TASK, |view| (all_seen(view, A), all_seen(view, B))).unwrap();
        assert_eq!(get(&state, A, "k").as_deref(), Some("1"));
        assert_eq!(seen(), (String::new(), String::new()));
        commit(&mut state, 1);
        assert_eq!(seen(), ("k=1".into(), "k=one".into()));
        state.delete(A, b"k");
        assert_eq!(get(&state, A, "k"), None);
        assert_eq!(get(&state, B, "k").as_deref(), Some("one"));
        assert_eq!(seen().0, "k=1");
        commit(&mut state, 2);
        assert_eq!(seen(), (String::new(), "k=one".into()));
        assert_eq!(state.position(A), Some(position(2)));
    });
}

#[test]
fn an_abort_drops_the_transaction() {
    everywhere(|home, access| {
        let db = home.open(access);
        let mut state = task(&db);
        state.put(A, b"kept", b"1");
        commit(&mut state, 1);
        state.put(A, b"kept", b"2");
        state.put(A, b"new", b"1");
        state.delete(A, b"kept");
        state.abort();
        assert_eq!(all(&state, A), "kept=1");
        assert_eq!(state.dirty().count(), 0);
        assert_eq!(state.dirty_bytes(), 0);
    });
}

#[test]
fn undo_goes_back_to_the_savepoint() {
    everywhere(|home, access| {
        let db = home.open(access);
        let mut state = task(&db);
        state.put(A, b"a", b"committed");
        commit(&mut state, 1);
        state.savepoint();
        state.put(A, b"b", b"first record");
        state.put(B, b"c", b"first record");
        state.savepoint();
        state.put(A, b"b", b"second record");
        state.put(A, b"b", b"second record, again");
        state.delete(A, b"a");
        state.delete(B, b"c");
        state.put(B, b"d", b"second record");
        state.undo();
        assert_eq!(all(&state, A), "a=committed b=first record");
        assert_eq!(all(&state, B), "c=first record");
        state.put(A, b"b", b"second record, retried");
        state.undo();
        assert_eq!(all(&state, A), "a=committed b=first record");
        state.savepoint();
        state.undo();
        commit(&mut state, 2);
        assert_eq!((all(&state, A), all(&state, B)), ("a=committed b=first record".into(), "c=first record".into()));
    });
}

#[test]
fn dirty_rows_are_the_last_write_of_each_key_in_order() {
    everywhere(|home, access| {
        let db = home.open(access);
        let mut state = task(&db);
        state.put(A, b"gone", b"1");
        commit(&mut state, 1);
        state.put(B, b"y", b"1");
        state.put(A, b"longer than eight bytes: b", b"1");
        state.put(A, b"longer than eight bytes: a", b"1");
        state.put(A, b"longer than eight bytes: a", b"2");
        state.put(A, b"longer", b"");
        state.delete(A, b"gone");
        state.put(B, b"x", b"1");
        let dirty: Vec<_> = state.dirty().map(|row| (row.store, row.key(), row.value())).collect();
        let expected: [(_, &[u8], Option<&[u8]>); 6] = [
            (A, b"gone", None),
            (A, b"longer", Some(b"")),
            (A, b"longer than eight bytes: a", Some(b"2")),
            (A, b"longer than eight bytes: b", Some(b"1")),
            (B, b"x", Some(b"1")),
            (B, b"y", Some(b"1")),
        ];
        assert_eq!(dirty, expected);
    });
}

#[test]
fn scans_merge_the_layers() {
    everywhere(|home, access| {
        let db = home.open(access);
        let mut state = task(&db);
        for key in ["a", "ab", "b", "c", "d", "e"] {
            state.put(A, key.as_bytes(), b"disk");
        }
        commit(&mut state, 1);
        db.flush().unwrap();
        // What was flushed is known from disk only after the database was opened again.
        drop(state);
        db.close().unwrap();
        let db = home.open(access);
        let mut state = task(&db);
        state.put(A, b"b", b"hot");
        state.put(A, b"bb", b"hot");
        state.delete(A, b"c");
        commit(&mut state, 2);
        state.put(A, b"ab", b"new");
        state.put(A, b"c", b"new");
        state.delete(A, b"d");
        let check = |range: Range, expected: &str| {
            assert_eq!(text(state.scan(A, range.clone(), Direction::Forward)), expected);
            let mut reversed: Vec<_> = expected.split_whitespace().collect();
            reversed.reverse();
            assert_eq!(text(state.scan(A, range, Direction::Reverse)), reversed.join(" "));
        };
        check(Range::all(), "a=disk ab=new b=hot bb=hot c=new e=disk");
        check(Range::prefix(b"a"), "a=disk ab=new");
        check(Range::prefix(b"b"), "b=hot bb=hot");
        check(Range::prefix(b"\xff"), "");
        check(between(Included("ab"), Excluded("bb")), "ab=new b=hot");
        check(between(Excluded("ab"), Included("bb")), "b=hot bb=hot");
        check(between(Unbounded, Included("a")), "a=disk");
        check(between(Included("d"), Unbounded), "e=disk");
        check(between(Included("e"), Included("a")), "");
        check(between(Excluded("a"), Excluded("a")), "");
        let seen = db.reader().read(TASK, |view| all_seen(view, A)).unwrap();
        assert_eq!(seen, "a=disk ab=disk b=hot bb=hot d=disk e=disk");
    });
}

#[test]
fn long_scans_go_on_over_pages() {
    everywhere(|home, access| {
        let key = |i: u32| format!("{i:05}");
        {
            let db = home.open(access);
            let mut state = task(&db);
            (0..5000).for_each(|i| state.put(A, key(i).as_bytes(), b"old"));
            commit(&mut state, 1);
            drop(state);
            db.close().unwrap();
        }
        let db = home.open(access);
        let mut state = task(&db);
        (0..5000).step_by(2).for_each(|i| state.put(A, key(i).as_bytes(), b"new"));
        commit(&mut state, 2);
        (0..5000).step_by(5).for_each(|i| state.delete(A, key(i).as_bytes()));
        let row = |i| format!("{}={}", key(i), if i % 2 == 0 { "new" } else { "old" });
        let mut expected: Vec<_> = (0..5000).filter(|i| i % 5 != 0).map(row).collect();
        assert_eq!(all(&state, A), expected.join(" "));
        expected.reverse();
        assert_eq!(text(state.scan(A, Range::all(), Direction::Reverse)), expected.join(" "));
    });
}

#[test]
fn a_clean_close_keeps_everything_and_a_drop_only_what_was_flushed() {
    everywhere(|home, access| {
        let open = || home.open(access);
        let check = |db: Db, rows: &str, offset: Option<u64>| {
            let state = task(&db);
            assert_eq!((all(&state, A), state.position(A)), (rows.into(), offset.map(position)));
        };
        let write = |value: &str, offset| {
            let db = open();
            let mut state = task(&db);
            state.put(A, b"k", value.as_bytes());
            commit(&mut state, offset);
            db
        };
        drop(write("lost", 1));
        check(open(), "", None);
        let report = write("1", 1).close().unwrap();
        assert_eq!(report.positions, [(TASK, A, position(1)), (TASK, B, position(1))]);
        assert_eq!(report.rows, 1);
        check(open(), "k=1", Some(1));
        drop(write("lost", 2));
        check(open(), "k=1", Some(1));
        let db = write("2", 2);
        let mut state = db.task(TASK, &[A, B]).unwrap();
        state.put(A, b"k", b"never committed");
        db.flush().unwrap();
        drop((state, db));
        check(open(), "k=2", Some(2));
    });
}

#[test]
fn tasks_and_stores_do_not_mix() {
    everywhere(|home, access| {
        let tasks: Vec<_> = [0, 1, 255, 256].map(|partition| TaskId { sub_topology: 0, partition }).into();
        for round in 0..2 {
            let db = home.open(access);
            for id in &tasks {
                let mut state = db.task(*id, &[A, B]).unwrap();
                let row = format!("k={} {round}", id.partition);
                if round == 0 {
                    state.put(A, b"k", format!("{} 1", id.partition).as_bytes());
                    commit(&mut state, 1);
                } else {
                    assert_eq!((all(&state, A), all(&state, B)), (row, String::new()));
                }
            }
            db.close().unwrap();
        }
        let db = home.open(access);
        let mut state = db.task(tasks[1], &[A, B]).unwrap();
        state.clear(A).unwrap();
        assert_eq!((all(&state, A), state.position(A), state.position(B)), (String::new(), None, Some(position(1))));
        assert_eq!(all(&db.task(tasks[0], &[A, B]).unwrap(), A), "k=0 1");
        assert_eq!(all(&db.task(tasks[2], &[A, B]).unwrap(), A), "k=255 1");
    });
}

#[test]
fn a_task_has_one_owner_and_keeps_what_was_committed_for_the_next() {
    everywhere(|home, access| {
        let db = home.open(access);
        let mut state = task(&db);
        state.put(A, b"k", b"1");
        commit(&mut state, 1);
        state.put(A, b"k", b"not committed");
        assert!(matches!(db.task(TASK, &[A, B]), Err(Error::Taken(TASK))));
        drop(state);
        let state = task(&db);
        assert_eq!((all(&state, A), state.position(A)), ("k=1".into(), Some(position(1))));
    });
}

#[test]
fn a_restore_takes_in_rows_again_and_again() {
    everywhere(|home, access| {
        let rows: [(&[u8], Option<&[u8]>); 4] = [(b"a", Some(b"1")), (b"b", Some(b"1")), (b"a", Some(b"2")), (b"b", None)];
        let db = home.open(access);
        let mut state = task(&db);
        for (times, end) in [(1, 4), (2, 2), (2, 4)] {
            for _ in 0..times {
                state.restore(A, rows.into_iter().take(end), position(end as u64)).unwrap();
            }
            assert_eq!(all(&state, A), if end == 4 { "a=2" } else { "a=1 b=1" });
            assert_eq!(state.position(A), Some(position(end as u64)));
            db.flush().unwrap();
        }
        drop((state, db));
        let db = home.open(access);
        let state = task(&db);
        assert_eq!((all(&state, A), state.position(A)), ("a=2".into(), Some(position(4))));
    });
}

#[test]
fn a_reader_needs_a_task_that_is_here() {
    everywhere(|home, access| {
        let db = home.open(access);
        assert!(matches!(db.reader().read(TASK, |_| ()), Err(Error::NotHere(TASK))));
        drop(task(&db));
        assert!(db.reader().read(TASK, |view| view.get(A, b"k").unwrap().is_none()).unwrap());
    });
}
