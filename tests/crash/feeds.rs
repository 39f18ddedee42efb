//! A feed over kills while it takes in its topic and while its rows go to disk: each event is there once, with the one before it.

use millstream::{
    App, Direction, Events, FeedEvent, Handle, Range, Record, Seen, Store, StreamBuilder, Timestamp, Topic, Topology,
};

use super::{Life, config, live};

const INPUT: Topic<u64, u64> = Topic::new("happened").partitions(2).keep_forever();
const NEWS: Topic<u64, u64> = Topic::new("news").partitions(2).keep_forever();
const HEARD: Store<(u64, u64), FeedEvent<u64>> = Store::ordered("heard").ttl_ms(86_400_000);
const USERS: u64 = 7;

fn topology() -> Topology {
    let mut builder = StreamBuilder::new("crash-feed");
    let happened = builder.stream(&INPUT);
    happened.to(&NEWS);
    happened.group_by_key().count("happened");
    builder.feed(&NEWS, &HEARD);
    builder.build().expect("the topology is valid")
}

#[test]
#[ignore = "run by the other tests of this file, in a process that they kill"]
fn child() {
    let happen = |_: &Handle, n: u64| Events::new().with(&INPUT, &Record::new(n % USERS, n, Timestamp(n as i64)));
    live(topology(), "heard", async |_| {}, happen, async |_| {});
}

#[test]
fn a_feed_has_each_event_once_and_the_one_before_it_whatever_crashes() {
    let mut life = Life::new("crash::feeds::child");
    let flush = ["frozen", "store-written", "store-synced", "positions-written", "positions-synced"];
    let flush: Vec<String> = flush.iter().map(|moment| format!("state:flush:{moment}")).collect();
    let mut points = vec![("global:taken-in", 1), ("global:taken-in", 20)];
    points.extend(flush.iter().map(|point| (point.as_str(), 1)));
    points.extend([("commit:after-log", 5), ("global:taken-in", 3)]);
    life.die_at_each(&points, 300);
    let total = life.die_at_random(400);
    life.finish(total);

    let app = App::start(topology(), config(life.dir.path())).expect("the application starts");
    let view = app.handle().view("heard").expect("a store of the topology").typed(&HEARD);
    let mut heard = Vec::new();
    for user in 0..USERS {
        let prefix = Range::prefix(&millstream::codec::prefix(&user).expect("a key"));
        let (mut rows, mut from) = (Vec::new(), prefix.clone());
        loop {
            let page = view.page(&from, Direction::Forward, 1_000).and_then(Seen::wait).expect("the view answers");
            let Some((last, _)) = page.last() else { break };
            let mut bytes = Vec::new();
            <(u64, u64) as millstream::codec::Data>::CODEC.encode(last, &mut bytes).expect("a key");
            from = Range::new(std::ops::Bound::Excluded(&bytes), prefix.bounds().1);
            rows.extend(page);
        }
        let ((_, at), head) = rows.remove(0);
        assert_eq!((at, head), (0, FeedEvent { previous: rows.last().expect("an event").0.1, value: None }));
        let mut previous = 0;
        for ((_, sequence), event) in rows {
            assert_eq!(event.previous, previous, "before event {sequence} of user {user}");
            previous = sequence;
            heard.push(event.value.expect("an event has a value"));
        }
    }
    heard.sort_unstable();
    assert_eq!(heard, (0..total).collect::<Vec<_>>(), "each is there once");
}
