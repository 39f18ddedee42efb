//! What every store does, in memory and on disk, keyed and ordered.

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Included, Unbounded};

use millstream_state::{Access, Db, Direction, Entries, Error, Home, Options, Range, TaskId, TaskState};

use crate::support::{A, B, TASK, TestHome, all, all_seen, between, commit, everywhere, get, position, task, text};

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

/// Writes every second of 5,000 old rows anew, commits, and deletes every fifth; what there is then, in the order of keys.
fn written_over(state: &mut TaskState, key: impl Fn(u32) -> String) -> Vec<String> {
    (0..5000).step_by(2).for_each(|i| state.put(A, key(i).as_bytes(), b"new"));
    commit(state, 2);
    (0..5000).step_by(5).for_each(|i| state.delete(A, key(i).as_bytes()));
    let row = |i| format!("{}={}", key(i), if i % 2 == 0 { "new" } else { "old" });
    (0..5000).filter(|i| i % 5 != 0).map(row).collect()
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
        let mut expected = written_over(&mut state, key);
        assert_eq!(all(&state, A), expected.join(" "));
        expected.reverse();
        assert_eq!(text(state.scan(A, Range::all(), Direction::Reverse)), expected.join(" "));
    });
}

#[test]
fn a_large_group_is_read_within_its_bounds() {
    let home = TestHome::directory();
    let access = Access::Grouped { suffix: 5 };
    let key = |i: u32| format!("group{i:05}");
    {
        let db = home.open(access);
        let mut state = task(&db);
        (0..5000).for_each(|i| state.put(A, key(i).as_bytes(), b"old"));
        state.put(A, b"grou00001", b"another");
        state.put(A, b"group\x000001", b"another");
        commit(&mut state, 1);
        drop(state);
        db.close().unwrap();
    }
    let db = home.open(access);
    let mut state = task(&db);
    let rows = written_over(&mut state, key);
    let check = |from: u32, to: u32| {
        let within = key(from)..=key(to);
        let mut expected: Vec<&str> =
            rows.iter().map(String::as_str).filter(|row| within.contains(&row[..key(0).len()].to_owned())).collect();
        let range = Range::within(b"group", format!("{from:05}").as_bytes(), format!("{to:05}").as_bytes());
        assert_eq!(text(state.scan(A, range.clone(), Direction::Forward)), expected.join(" "));
        expected.reverse();
        assert_eq!(text(state.scan(A, range, Direction::Reverse)), expected.join(" "));
    };
    check(0, 99_999);
    check(17, 3999);
    check(1000, 1001);
    check(4999, 5000);
    check(5000, 99_999);
    let nobody = Range::within(b"nobody", b"", b"99999");
    assert_eq!(text(state.scan(A, nobody, Direction::Forward)), "");
    // Row by row the group goes again.
    (0..5000).for_each(|i| state.delete(A, key(i).as_bytes()));
    commit(&mut state, 3);
    db.flush().unwrap();
    assert_eq!(text(state.scan(A, Range::within(b"group", b"0", b"9"), Direction::Forward)), "");
    assert_eq!(all(&state, A), "grou00001=another group\u{0}0001=another");
}

#[test]
fn a_large_store_is_paged_through_while_it_changes() {
    const ROWS: u64 = 30_000; // more than are put in order for each page
    for access in [Access::Keyed, Access::Ordered, Access::Grouped { suffix: 1 }] {
        for budget in [64 << 20, 1 << 20] {
            let home = TestHome::memory();
            let db = Db::open(Options { memory_budget_bytes: budget, ..home.options(access) }).unwrap();
            let mut state = task(&db);
            let mut random = 7_u64;
            let mut random = move |below: u64| {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (random >> 33) % below
            };
            let mut model = BTreeMap::new();
            let mut offset = 0;
            let mut write = |state: &mut TaskState, model: &mut BTreeMap<Vec<u8>, Vec<u8>>, writes: u64| {
                for _ in 0..writes {
                    let (key, value) = (format!("{:08}", random(2 * ROWS)).into_bytes(), random(1000).to_string().into_bytes());
                    if random(4) == 0 {
                        state.delete(A, &key);
                        model.remove(&key);
                    } else {
                        state.put(A, &key, &value);
                        model.insert(key, value);
                    }
                }
                offset += 1;
                commit(state, offset);
                match random(8) {
                    0 => drop(db.flush().unwrap()),
                    1 => db.make_room().unwrap(),
                    2 => assert!(state.get(A, format!("{:08}", random(2 * ROWS)).as_bytes()).is_ok()), // kept in memory, perhaps
                    _ => {}
                }
            };
            write(&mut state, &mut model, 2 * ROWS);
            for direction in [Direction::Forward, Direction::Reverse] {
                let (mut rest, mut pages) = (Range::all(), 0);
                loop {
                    let in_model = model.range::<[u8], _>(rest.bounds());
                    let row = |(key, value): (&Vec<u8>, &Vec<u8>)| (key.clone(), value.clone());
                    let expected: Vec<_> = match direction {
                        Direction::Forward => in_model.take(300).map(row).collect(),
                        Direction::Reverse => in_model.rev().take(300).map(row).collect(),
                    };
                    let page: Vec<_> = db
                        .reader()
                        .read(TASK, |view| {
                            let rows = view.scan(A, rest.clone(), direction).take(300).map(Result::unwrap);
                            rows.map(|row| (row.key().to_vec(), row.value().to_vec())).collect()
                        })
                        .unwrap();
                    assert_eq!(page, expected, "page {pages}, {access:?}, {direction:?}, budget {budget}");
                    let Some((last, _)) = page.last() else { break };
                    rest = match direction {
                        Direction::Forward => Range::new(Excluded(last), Unbounded),
                        Direction::Reverse => Range::new(Unbounded, Excluded(last)),
                    };
                    db.reader().index(TASK, A);
                    write(&mut state, &mut model, 700); // soon more than an index outlives
                    pages += 1;
                }
                assert!(pages > 50);
            }
            let owner = state.scan(A, Range::all(), Direction::Forward).map(Result::unwrap);
            assert!(owner.map(|row| (row.key().to_vec(), row.value().to_vec())).eq(model));
        }
    }
}

#[test]
fn rows_are_counted_while_all_are_in_memory_and_estimated_else() {
    everywhere(|home, access| {
        let db = home.open(access);
        let mut state = task(&db);
        let entries = |db: &Db| db.reader().read(TASK, |view| view.entries(A)).unwrap().unwrap();
        assert_eq!(entries(&db), Entries { rows: 0, exact: true });
        (0..1000_u32).for_each(|i| state.put(A, &i.to_be_bytes(), b"1"));
        commit(&mut state, 1);
        (0..100_u32).for_each(|i| state.delete(A, &i.to_be_bytes()));
        (500..600_u32).for_each(|i| state.put(A, &i.to_be_bytes(), b"2"));
        state.delete(A, b"never there");
        assert_eq!(entries(&db), Entries { rows: 1000, exact: true }, "what is not committed is not counted");
        commit(&mut state, 2);
        assert_eq!(entries(&db), Entries { rows: 900, exact: true });
        db.flush().unwrap();
        assert_eq!(entries(&db), Entries { rows: 900, exact: true });
        let mut other = db.task(TaskId { sub_topology: 0, partition: TASK.partition + 1 }, &[A, B]).unwrap();
        (0..300_u32).for_each(|i| other.put(A, &i.to_be_bytes(), b"1"));
        commit(&mut other, 1);
        drop((state, other));
        db.close().unwrap();
        let db = home.open(access);
        let state = task(&db);
        let Entries { rows, exact } = entries(&db);
        assert!(!exact && (700..=1100).contains(&rows), "{rows} rows, which are 900");
        drop(state);
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
fn a_task_that_comes_back_restores_only_what_was_added_meanwhile() {
    everywhere(|home, access| {
        let db = home.open(access);
        let mut state = task(&db);
        state.put(A, b"kept", b"1");
        state.put(A, b"changed", b"1");
        commit(&mut state, 2);
        state.put(A, b"kept", b"never committed");
        drop(state);
        // Nobody owns it: readers see it as it was, and what was dirty is flushed.
        assert_eq!(db.reader().read(TASK, |view| all_seen(view, A)).unwrap(), "changed=1 kept=1");
        assert_eq!(db.flush().unwrap().rows, 2);
        let check = |db: Db| {
            let mut state = task(&db);
            assert_eq!(state.position(A), Some(position(2)));
            state.restore([(A, &b"changed"[..], Some(&b"2"[..]))], &[(A, position(3))]).unwrap();
            assert_eq!(all(&state, A), "changed=2 kept=1");
        };
        check(db);
        check(home.open(access));
    });
}

#[test]
fn a_task_that_is_removed_leaves_nothing() {
    everywhere(|home, access| {
        let other = TaskId { sub_topology: 0, partition: TASK.partition + 1 };
        let db = home.open(access);
        for id in [TASK, other] {
            let mut state = db.task(id, &[A, B]).unwrap();
            state.put(A, b"flushed", b"1");
            state.put(B, b"flushed", b"1");
            commit(&mut state, 1);
        }
        db.flush().unwrap();
        let before = db.memory().rows;
        let mut state = task(&db);
        state.put(A, b"in memory", &[7; 100_000]);
        commit(&mut state, 2);
        state.put(B, b"in the transaction", &[7; 100_000]);
        state.remove().unwrap();
        assert!(db.memory().rows < before && db.memory().dirty == 0);
        assert!(matches!(db.reader().read(TASK, |_| ()), Err(Error::NotHere(TASK))));
        let check = |db: Db| {
            let there = [A, B].map(|store| ((store, other.partition), position(1)));
            assert_eq!(db.positions().unwrap(), BTreeMap::from(there));
            let state = task(&db);
            assert_eq!((all(&state, A), all(&state, B), state.position(A)), (String::new(), String::new(), None));
            assert_eq!(all(&db.task(other, &[A, B]).unwrap(), A), "flushed=1");
        };
        check(db);
        check(home.open(access));
    });
}

#[test]
fn what_is_here_is_listed_whether_it_was_taken_or_not() {
    everywhere(|home, access| {
        let tasks = [0, 7, 300].map(|partition| TaskId { sub_topology: 0, partition });
        let db = home.open(access);
        assert!(db.positions().unwrap().is_empty());
        for id in tasks {
            let mut state = db.task(id, &[A, B]).unwrap();
            state.put(A, b"k", b"1");
            state.commit(&[(A, position(1))]); // B is empty and has no position
        }
        let listed =
            |offsets: [u64; 3]| BTreeMap::from_iter(tasks.iter().zip(offsets).map(|(id, at)| ((A, id.partition), position(at))));
        assert_eq!(db.positions().unwrap(), listed([1, 1, 1]), "in memory");
        db.flush().unwrap();
        let mut state = db.task(tasks[1], &[A, B]).unwrap();
        state.commit(&[(A, position(2))]);
        assert_eq!(db.positions().unwrap(), listed([1, 2, 1]), "memory is newer than the disk");
        drop((state, db));
        let db = home.open(access);
        assert_eq!(db.positions().unwrap(), listed([1, 1, 1]), "on disk, none taken");
        db.task(tasks[2], &[A, B]).unwrap().clear(A).unwrap();
        assert_eq!(db.positions().unwrap().len(), 2);
    });
}

#[test]
fn rows_without_a_position_do_not_outlive_an_opening() {
    for access in [Access::Keyed, Access::Ordered, Access::Grouped { suffix: 1 }] {
        let home = TestHome::memory();
        let Home::Memory(disk) = &home.home else { unreachable!("made in memory") };
        let db = home.open(access);
        let empty = db.bytes_on_disk();
        let mut state = task(&db);
        state.put(A, b"k", b"1");
        commit(&mut state, 1);
        disk.fail_after(Some(3)); // the two stores are written and synced, the positions are not
        assert!(db.flush().is_err());
        drop((state, db));
        disk.crash(|family| family == "default");
        let db = home.open(access);
        assert_eq!((db.positions().unwrap().len(), db.bytes_on_disk()), (0, empty));
    }
}

#[test]
fn a_restore_takes_in_rows_again_and_again() {
    everywhere(|home, access| {
        let rows: [(&[u8], Option<&[u8]>); 4] = [(b"a", Some(b"1")), (b"b", Some(b"1")), (b"a", Some(b"2")), (b"b", None)];
        let db = home.open(access);
        let mut state = task(&db);
        for (times, end) in [(1, 4), (2, 2), (2, 4)] {
            for _ in 0..times {
                state
                    .restore(rows.into_iter().take(end).map(|(key, value)| (A, key, value)), &[(A, position(end as u64))])
                    .unwrap();
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
