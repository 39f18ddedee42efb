//! Reading, waiting and watching: what is seen was committed, nothing that is watched is missed, a token finds its way through topics.

use std::ops::Bound;
use std::time::Duration;

use millstream::codec::Data;
use millstream::{Direction, Range, Seen, Watched};

use super::support::{LONG, append, catch_up, events, start, sum, sums, wait};

fn number(bytes: &[u8]) -> i64 {
    i64::CODEC.decode(Some(bytes)).expect("a number")
}

#[test]
fn a_watch_gives_the_changes_of_its_key_in_order_and_the_last_one_in_the_end() {
    let dir = tempfile::tempdir().expect("a directory");
    let app = start(sums(), dir.path());
    let handle = app.handle();
    let view = handle.view("sums").expect("a store of the topology");
    let mut watch = view.watch(Watched::Key(b"a".to_vec()));
    for _ in 0..50 {
        append(&handle, "a", 1);
        append(&handle, "b", 1);
    }
    let mut seen = Vec::new();
    let mut position = None;
    wait(async {
        while seen.last() != Some(&50) {
            let change = tokio::time::timeout(LONG, watch.next()).await.expect("a change comes").expect("it keeps up");
            assert_eq!(&change.key[..], b"a");
            assert!(position < Some(change.position), "positions grow");
            position = Some(change.position);
            seen.push(number(&view.changed_value(&change).expect("it is not deleted")));
        }
    });
    assert!(seen.is_sorted_by(|a, b| a < b), "{seen:?}");
}

#[test]
fn a_row_that_is_read_after_the_watch_began_and_its_changes_leave_no_gap() {
    let dir = tempfile::tempdir().expect("a directory");
    let app = start(sums(), dir.path());
    let handle = app.handle();
    let view = handle.view("sums").expect("a store of the topology");
    // Somebody always watches something, or no change is gathered at all.
    let _other = view.watch(Watched::Key(b"other".to_vec()));
    wait(async {
        for round in 1..=200 {
            let handle = handle.clone();
            let appended = tokio::task::spawn_blocking(move || append(&handle, "a", 1));
            tokio::time::sleep(Duration::from_micros(1_500 + round as u64 % 40 * 50)).await;
            let mut watch = view.watch(Watched::Key(b"a".to_vec()));
            let read = view
                .get(b"a")
                .expect("the view answers")
                .durable()
                .await
                .expect("it is durable")
                .map_or(0, |value| number(&value));
            appended.await.expect("it is appended");
            let mut known = read;
            while known < round {
                let change = tokio::time::timeout(Duration::from_secs(5), watch.next()).await;
                let change = change.unwrap_or_else(|_| panic!("read {read} and never heard of {round}")).expect("it keeps up");
                known = number(&view.changed_value(&change).expect("it is not deleted"));
            }
        }
    });
}

#[test]
fn a_watcher_that_does_not_keep_up_is_cut_off_after_what_it_had_and_slows_nobody() {
    let dir = tempfile::tempdir().expect("a directory");
    let app = start(sums(), dir.path());
    let handle = app.handle();
    let view = handle.view("sums").expect("a store of the topology");
    let mut watch = view.watch(Watched::Prefix(Vec::new()));
    handle.append_blocking(events((0..20_000).map(|n| (format!("key-{n}"), 1)))).expect("the log takes it");
    catch_up(&handle, "sums");
    assert!(watch.lagged());
    let mut seen = 0;
    wait(async {
        while watch.next().await.is_some() {
            seen += 1;
        }
    });
    assert!((1..20_000).contains(&seen), "{seen}");
}

#[test]
fn a_watch_ends_when_the_application_stops() {
    let dir = tempfile::tempdir().expect("a directory");
    let app = start(sums(), dir.path());
    let mut watch = app.handle().view("sums").expect("a store of the topology").watch(Watched::Prefix(Vec::new()));
    app.stop();
    let end = wait(async { tokio::time::timeout(Duration::from_secs(5), watch.next()).await });
    assert_eq!(end, Ok(None));
    assert!(!watch.lagged());
}

#[test]
fn a_token_is_waited_for_through_a_repartition_topic() {
    let dir = tempfile::tempdir().expect("a directory");
    let app = start(sums(), dir.path());
    let handle = app.handle();
    let counts = handle.view("counts").expect("a store of the topology");
    wait(async {
        for n in 1..=100 {
            let token = handle.append(events([(format!("key-{n}"), 7)])).await.expect("the log takes it");
            let token = token.to_string().parse().expect("its text is a token");
            handle.at_least(&token, "counts", LONG).await.expect("the view comes so far");
            let key = counts.key_from_text("7").expect("a key");
            let count = counts.get(&key).expect("the view answers").durable().await;
            let count = count.expect("it is durable").expect("the sum came about");
            assert_eq!(u64::CODEC.decode(Some(&count)), Ok(n));
        }
    });
}

#[test]
fn a_page_is_in_the_order_of_keys_over_all_partitions() {
    let dir = tempfile::tempdir().expect("a directory");
    let app = start(sums(), dir.path());
    let handle = app.handle();
    handle.append_blocking(events((0..100).map(|n| (format!("{n:03}"), n)))).expect("the log takes it");
    catch_up(&handle, "sums");
    let view = handle.view("sums").expect("a store of the topology");
    let mut range = Range::all();
    let mut keys = Vec::new();
    loop {
        let page = view.page(&range, Direction::Reverse, 7).and_then(Seen::wait).expect("the view answers");
        let Some((last, _)) = page.last() else { break };
        range = Range::new(Bound::Unbounded, Bound::Excluded(last));
        keys.extend(page.iter().map(|(key, _)| String::from_utf8(key.to_vec()).expect("text")));
    }
    assert_eq!(keys, (0..100).rev().map(|n| format!("{n:03}")).collect::<Vec<_>>());
    assert_eq!(sum(&handle, "042"), Some(42));
}
