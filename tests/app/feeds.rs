//! A feed in a running application: who hears of an event finds what was written with it, and it is there again after a restart.

use millstream::{App, Direction, FeedEvent, Range, Seen, Store, Watched};

use super::support::{LONG, OUT, append, start, sum, sums, wait};

const HEARD: Store<(String, u64), FeedEvent<i64>> = Store::ordered("heard").ttl_ms(86_400_000);

fn builder() -> millstream::StreamBuilder {
    let mut builder = sums();
    builder.feed(&OUT, &HEARD);
    builder
}

#[test]
fn who_hears_of_an_event_finds_what_was_written_with_it() {
    const EVENTS: i64 = 2_000;
    let dir = tempfile::tempdir().expect("a temporary directory");
    let app = start(builder(), dir.path());
    let handle = app.handle();
    let view = handle.view("heard").expect("it has a view");
    let mut watch = view.watch(Watched::Prefix(millstream::codec::prefix(&"a".to_owned()).expect("a key")));
    std::thread::scope(|scope| {
        scope.spawn(|| (0..EVENTS).for_each(|_| append(&handle, "a", 1)));
        let mut heard = 0;
        while heard < EVENTS {
            let change = wait(async { tokio::time::timeout(LONG, watch.next()).await.expect("an event comes") });
            let change = change.expect("it keeps up");
            // The head of the key's events changes with them.
            let row = view.changed_value(&change).expect("nothing is deleted");
            let Some(value) = <FeedEvent<i64> as millstream::codec::Data>::CODEC.decode(Some(&row)).expect("an event").value
            else {
                continue;
            };
            assert_eq!(value, heard + 1, "in order");
            heard = value;
            let found = sum(&handle, "a").expect("it has a sum");
            assert!(found >= value, "{value} was heard when {found} could be read");
        }
    });
    let rows = |app: &App| {
        let view = app.handle().view("heard").expect("it has a view").typed(&HEARD);
        view.page(&Range::all(), Direction::Forward, 1_000).and_then(Seen::wait).expect("the view answers")
    };
    let before = rows(&app);
    assert_eq!(before.len(), 1_000);
    assert_eq!(before[0], (("a".to_owned(), 0), FeedEvent { previous: EVENTS as u64, value: None }));
    assert_eq!(before[7], (("a".to_owned(), 7), FeedEvent { previous: 6, value: Some(7) }));
    drop((view, watch, handle));
    assert_eq!(app.stop(), None);
    let app = start(builder(), dir.path());
    assert_eq!(rows(&app), before);
}
