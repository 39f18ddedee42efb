//! Time-to-live: reads decide by stream time, sweeps only clean up.

use millstream_state::{Access, Db, Direction, Options, Range, StoreSpec, TaskState};

use crate::support::{A, TASK, TestHome, all, all_seen, everywhere, get, position, text};

fn open(home: &TestHome, access: Access) -> Db {
    let stores = vec![StoreSpec::new("a", access).with_ttl_ms(100)];
    Db::open(Options { stores, ..home.options(access) }).unwrap()
}

fn commit(state: &mut TaskState, offset: u64) {
    state.commit(&[(A, position(offset))]);
}

#[test]
fn a_row_is_gone_when_stream_time_has_passed_its_time_to_live() {
    everywhere(|home, access| {
        {
            let db = open(&home, access);
            let mut state = db.task(TASK, &[A]).unwrap();
            state.set_stream_time_ms(1000);
            state.put(A, b"now", b"1");
            state.put_at(A, b"older", b"2", 950);
            state.put_at(A, b"too old", b"3", 900);
            assert_eq!(all(&state, A), "now=1 older=2");
            assert_eq!(state.get(A, b"older").unwrap().unwrap().into_row().time_ms(), Some(950));
            commit(&mut state, 1);
            let seen = || db.reader().read(TASK, |view| (all_seen(view, A), view.get(A, b"older").unwrap().is_some())).unwrap();
            state.set_stream_time_ms(1049);
            assert_eq!(get(&state, A, "older").as_deref(), Some("2"));
            state.set_stream_time_ms(1050);
            assert_eq!((get(&state, A, "older"), all(&state, A)), (None, "now=1".into()));
            assert_eq!(seen(), ("now=1 older=2".into(), true), "that time is not committed");
            state.savepoint();
            state.set_stream_time_ms(1100);
            assert_eq!(all(&state, A), "");
            state.undo();
            assert_eq!(state.stream_time_ms(), 1050);
            state.commit(&[]);
            assert_eq!(seen(), ("now=1".into(), false));
            state.set_stream_time_ms(5000);
            state.abort();
            assert_eq!(state.stream_time_ms(), 1050);
            drop(state);
            db.close().unwrap();
        }
        let db = open(&home, access);
        let mut state = db.task(TASK, &[A]).unwrap();
        state.set_stream_time_ms(1050);
        state.commit(&[]);
        assert_eq!((get(&state, A, "older"), all(&state, A)), (None, "now=1".into()));
        state.put(A, b"older", b"again");
        assert_eq!(text(state.scan(A, Range::prefix(b"old"), Direction::Reverse)), "older=again");
    });
}

#[test]
fn a_store_may_have_a_time_of_its_own() {
    everywhere(|home, access| {
        let db = open(&home, access);
        let mut state = db.task(TASK, &[A]).unwrap();
        let seen = |db: &Db| db.reader().read(TASK, |view| all_seen(view, A)).unwrap();
        state.set_time_ms(A, 150);
        state.set_stream_time_ms(5000);
        state.put_at(A, b"50", b"1", 50);
        state.put_at(A, b"51", b"2", 51);
        assert_eq!(all(&state, A), "51=2", "by the store's own time, whatever stream time is");
        commit(&mut state, 1);
        assert_eq!(seen(&db), "51=2");
        assert_eq!(state.expire(A, 10).unwrap().deleted, 1);
        commit(&mut state, 2);
        state.savepoint();
        state.set_time_ms(A, 151);
        assert_eq!((all(&state, A), state.time_ms(A)), (String::new(), 151));
        state.undo();
        assert_eq!((all(&state, A), state.time_ms(A)), ("51=2".into(), 150));
        state.set_time_ms(A, 151);
        state.abort();
        assert_eq!(state.time_ms(A), 150);
        drop(state);
        let mut state = db.task(TASK, &[A]).unwrap();
        assert_eq!(state.time_ms(A), 150, "the next owner knows it");
        state.set_time_ms(A, 151);
        state.commit(&[]);
        assert_eq!(seen(&db), "");
    });
}

#[test]
fn a_sweep_writes_the_tombstones_of_what_expired() {
    everywhere(|home, access| {
        let key = |i: u32| format!("{i:05}").into_bytes();
        let db = open(&home, access);
        let mut state = db.task(TASK, &[A]).unwrap();
        state.set_stream_time_ms(0);
        (0..1000).for_each(|i| state.put_at(A, &key(i), b"v", i64::from(i)));
        commit(&mut state, 1);
        drop(state);
        db.close().unwrap();
        let db = open(&home, access); // so that the rows are on disk alone, but for what comes now
        let mut state = db.task(TASK, &[A]).unwrap();
        state.set_stream_time_ms(599); // 0..500 have expired
        state.put(A, &key(7), b"young again");
        commit(&mut state, 2);
        state.put(A, &key(8), b"young again, uncommitted");
        let (mut calls, mut deleted) = (0, 0);
        loop {
            let swept = state.expire(A, 50).unwrap();
            assert!(swept.deleted <= 51, "{swept:?}");
            calls += 1;
            deleted += swept.deleted;
            if swept.finished {
                break;
            }
        }
        assert_eq!(deleted, 498);
        assert!((20..=23).contains(&calls), "{calls} calls for a thousand rows");
        let tombstones: Vec<_> = state.dirty().filter(|row| row.value().is_none()).map(|row| row.key().to_vec()).collect();
        assert_eq!(tombstones, (0..500).filter(|i| ![7, 8].contains(i)).map(key).collect::<Vec<_>>());
        commit(&mut state, 3);
        assert_eq!(state.expire(A, 10_000).unwrap().deleted, 0, "nothing is left to sweep");
        state.set_stream_time_ms(i64::MIN); // an earlier time brings back what is only hidden
        assert_eq!(state.scan(A, Range::all(), Direction::Forward).count(), 502);
    });
}

#[test]
fn a_changelog_record_without_its_time_is_refused() {
    everywhere(|home, access| {
        let db = open(&home, access);
        let mut state = db.task(TASK, &[A]).unwrap();
        assert!(state.restore([(A, &b"k"[..], Some(&b"short"[..]))], &[(A, position(1))]).is_err());
        assert_eq!(state.position(A), None);
        state.put_at(A, b"k", b"v", 5);
        let stored = state.dirty().next().unwrap().value().unwrap().to_vec();
        state.abort();
        state.restore([(A, &b"k"[..], Some(&stored[..]))], &[(A, position(1))]).unwrap();
        assert_eq!(all(&state, A), "k=v");
    });
}
