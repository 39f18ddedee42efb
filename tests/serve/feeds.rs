//! Feeds: a client that comes back with its last id gets what it missed, in order, once.

use millstream::Clock;

use super::Client;
use super::world::World;

/// An event of a feed: its id, name and data.
type Told = (u64, String, String);

fn told(client: &mut Client) -> Vec<Told> {
    let parse = |block: &String| {
        let line = |name: &str| {
            let prefix = format!("{name}: ");
            block.lines().find_map(|line| line.strip_prefix(&prefix)).unwrap_or_else(|| panic!("no {name}: {block}")).to_owned()
        };
        (line("id").parse().unwrap(), line("event"), line("data"))
    };
    let blocks = client.events().expect("the stream goes on");
    blocks.iter().filter(|block| !block.starts_with("retry")).map(parse).collect()
}

fn tell(client: &mut Client, count: usize) -> Vec<Told> {
    let mut all = Vec::new();
    while all.len() < count {
        all.extend(told(client));
    }
    all
}

fn event(id: u64, name: &str, data: &str) -> Told {
    (id, name.to_owned(), data.to_owned())
}

fn connected(id: u64) -> Told {
    event(id, "connected", "{\"user\":5}")
}

fn message(id: u64) -> Told {
    event(id, "message", &format!("m{id}"))
}

fn open(world: &World, query: &str, id: &str) -> Client {
    let mut client = world.server.connect();
    let header = if id.is_empty() { String::new() } else { format!("last-event-id: {id}\r\n") };
    assert_eq!(client.subscribe(&format!("/feed/5{query}"), &header).status, 200);
    client
}

#[test]
fn a_feed_goes_on_from_the_client_s_id() {
    let world = World::start();
    let mut first = open(&world, "", "");
    assert_eq!(tell(&mut first, 1), [connected(0)]);
    // Several events in one transaction, and one of another subject between them.
    world.tell(5, (1..=10).map(|n| format!("m{n}")));
    world.tell(6, ["another's"]);
    world.tell(5, ["m12"]);
    let all = || (1..=10).chain([12]).map(message);
    assert_eq!(tell(&mut first, 11), all().collect::<Vec<_>>());

    let from = |query: &str, id: &str, count: usize| tell(&mut open(&world, query, id), count);
    assert_eq!(from("", "", 1), [connected(12)], "without an id, from now on");
    assert_eq!(from("", "0", 12), [connected(0)].into_iter().chain(all()).collect::<Vec<_>>());
    assert_eq!(from("", "9", 3), [connected(9), message(10), message(12)]);
    assert_eq!(from("?lastEventId=10", "", 2), [connected(10), message(12)]);
    assert_eq!(from("?lastEventId=3", "10", 2), [connected(10), message(12)], "the header wins");
    for unreadable in ["x", "-1", "13", "99999999999999999999"] {
        assert_eq!(from("", unreadable, 2), [event(12, "reset", "{}"), connected(12)], "{unreadable}");
    }
    let mut last = open(&world, "", "12");
    assert_eq!(tell(&mut last, 1), [connected(12)]);
    world.tell(5, ["m13"]);
    assert_eq!(tell(&mut last, 1), [message(13)]);
    assert_eq!(tell(&mut first, 1), [message(13)]);
}

#[test]
fn a_client_whose_missed_events_are_gone_is_told_so() {
    const MINUTE: i64 = 60_000;
    let clock = Clock::manual(Clock::System.now());
    let world = World::start_at(clock.clone());
    let from = |id: &str, count: usize| tell(&mut open(&world, "", id), count);
    world.tell(5, ["m1"]);
    clock.advance_ms(30 * MINUTE);
    world.tell(5, ["m2"]);
    assert_eq!(from("0", 3), [connected(0), message(1), message(2)]);
    // An event that is appended lets those grow old that lay there before.
    clock.advance_ms(31 * MINUTE);
    world.tell(6, ["another's"]);
    assert_eq!(from("1", 2), [connected(1), message(2)], "who had the first misses nothing");
    assert_eq!(from("0", 2), [event(2, "reset", "{}"), connected(2)]);
    clock.advance_ms(30 * MINUTE);
    world.tell(6, ["another's"]);
    assert_eq!(from("1", 2), [event(2, "reset", "{}"), connected(2)]);
    let mut kept = open(&world, "", "2");
    world.tell(5, ["m5"]);
    assert_eq!(tell(&mut kept, 2), [connected(2), message(5)], "who had all of them goes on");
    assert_eq!(from("1", 2), [event(5, "reset", "{}"), connected(5)]);
}

#[test]
fn more_events_in_one_commit_than_a_watch_holds_all_come() {
    let world = World::start();
    let mut client = open(&world, "", "");
    assert_eq!(tell(&mut client, 1), [connected(0)]);
    for first in [1, 3_001, 6_001] {
        world.tell(5, (first..first + 3_000).map(|n| format!("m{n}")));
        assert_eq!(tell(&mut client, 3_000), (first..first + 3_000).map(message).collect::<Vec<_>>());
    }
}

#[test]
fn a_client_that_comes_back_again_and_again_misses_nothing_and_gets_nothing_twice() {
    const COUNT: u64 = 1_000;
    let world = World::start();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for batch in 0..COUNT / 5 {
                world.tell(5, (1..=5).map(|n| format!("m{}", batch * 5 + n)));
            }
        });
        for patience in [1, 3, 20] {
            let world = &world;
            scope.spawn(move || {
                let mut seen = 0;
                while seen < COUNT {
                    let mut client = open(world, "", &seen.to_string());
                    let mut events = tell(&mut client, 1);
                    assert_eq!(events.remove(0), connected(seen));
                    for _ in 0..patience {
                        for told in events.drain(..) {
                            assert_eq!(told, message(seen + 1));
                            seen += 1;
                        }
                        if seen == COUNT {
                            break;
                        }
                        events = told(&mut client);
                    }
                }
            });
        }
    });
}
