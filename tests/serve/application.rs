//! The routes that every application has, over a running one: views, their watches, dead letters, and what operators look at.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use millstream::serve::application_routes;
use millstream::{App, Config, Events, Record, Timestamp};
use serde_json::{Value, json};

use super::world::{INBOX, Switches, World, topology};
use super::{Client, Running, config};
use crate::app::support::eventually;

/// `a00` to `a09` and `b10` to `b19`, each with its number as its price.
fn twenty() -> Vec<(String, u64)> {
    (0..20).map(|n| (format!("{}{n:02}", if n < 10 { 'a' } else { 'b' }), n)).collect()
}

#[test]
fn a_view_shows_what_was_written_before() {
    let world = World::start();
    for (key, value) in twenty() {
        let token = world.price([(key.as_str(), value)]);
        assert_eq!(world.ok(&format!("/views/prices/{key}?at_least={token}")), json!({"key": key, "value": value}));
    }
    let stores = world.ok("/views");
    let prices = stores["stores"].as_array().unwrap().iter().find(|store| store["name"] == "prices").unwrap();
    let [kind, partitions, entries, exact] = ["kind", "partitions", "entries", "entriesExact"].map(|name| &prices[name]);
    assert_eq!((kind, partitions, entries, exact), (&json!("table"), &json!(3), &json!(20), &json!(true)));
    assert_eq!(prices["positions"].as_array().unwrap().len(), 3);
}

#[test]
fn a_view_is_paged_in_the_order_of_keys() {
    let world = World::start();
    let token = world.price(twenty());
    let values = |query: &str, limit: u32| {
        let (mut entries, mut after) = (Vec::new(), String::new());
        loop {
            let page = world.ok(&format!("/views/prices?at_least={token}&{query}&limit={limit}{after}"));
            let of_page = page["entries"].as_array().unwrap();
            assert!(of_page.len() <= limit as usize);
            entries.extend(of_page.iter().map(|e| (e["key"].as_str().unwrap().to_owned(), e["value"].as_u64().unwrap())));
            let Some(next) = page["next"].as_str() else { break };
            after = format!("&after={next}");
        }
        assert!(entries.is_sorted(), "{entries:?}");
        entries.into_iter().map(|(_, value)| value).collect::<Vec<_>>()
    };
    for limit in [1, 3, 10, 20, 500] {
        assert_eq!(values("", limit), (0..20).collect::<Vec<_>>(), "pages of {limit}");
        assert_eq!(values("prefix=b", limit), (10..20).collect::<Vec<_>>());
        assert_eq!(values("from=a05&to=b12", limit), (5..12).collect::<Vec<_>>());
        assert_eq!(values("prefix=a&from=a08", limit), [8, 9]);
        assert_eq!(values("from=b&to=a", limit), [0; 0]);
    }
}

#[test]
fn keys_of_several_parts_are_found_by_their_first() {
    let world = World::start();
    let tokens = [6, 7, 70, 8].map(|user| (user, world.send(user, ["a", "b", "c"]).to_string()));
    let read = |query: &str| {
        for (user, token) in &tokens {
            world.ok(&format!("/views/newest/{user}?at_least={token}"));
        }
        let page = world.ok(&format!("/views/messages?{query}"));
        let key = |entry: &Value| (entry["key"][0].as_u64().unwrap(), entry["key"][1].as_u64().unwrap());
        page["entries"].as_array().unwrap().iter().map(key).collect::<Vec<_>>()
    };
    assert_eq!(read("prefix=7"), [(7, 1), (7, 2), (7, 3)]);
    assert_eq!(read("prefix=7,2"), [(7, 2)]);
    assert_eq!(read("prefix=9"), []);
    assert_eq!(read("from=7&to=8"), [(7, 1), (7, 2), (7, 3)]);
    assert_eq!(read("from=7,3&to=70,2"), [(7, 3), (8, 1), (8, 2), (8, 3), (70, 1)]);
    assert_eq!(read("prefix=7&from=7,2"), [(7, 2), (7, 3)]);
    let mut client = world.server.connect();
    for query in ["prefix=x", "from=7,x", "to=7,1,2"] {
        let message = client.get(&format!("/views/messages?{query}")).refused(400, "INVALID_FIELD");
        assert!(query.starts_with(message.split(' ').next().unwrap()), "{query}: {message}");
    }
    client.get("/views/messages/7").refused(400, "INVALID_FIELD");
    let mut client = world.server.connect();
    assert_eq!(client.subscribe("/views/messages?prefix=7,2", "").status, 200);
    assert_eq!(one(&mut client)["key"], json!([7, 2]));
}

#[test]
fn a_windowed_view_is_read_by_key_and_time() {
    let world = World::start();
    let minutes = |n: i64| n * 60_000;
    world.send_at(7, (0..20).map(|n| ("x", minutes(n))).chain([("again", minutes(15) + 59_999)]));
    let token = world.send_at(8, [("x", minutes(14))]).to_string();
    let other = world.send_at(7, [("x", minutes(19) + 1)]).to_string();
    let read = |query: &str| {
        for token in [&token, &other] {
            world.ok(&format!("/views/per-minute?limit=1&at_least={token}"));
        }
        let (mut found, mut after) = (Vec::new(), String::new());
        loop {
            let page = world.ok(&format!("/views/per-minute?limit=3{query}{after}"));
            for entry in page["entries"].as_array().unwrap() {
                let (key, minute) = (entry["key"]["key"].as_u64().unwrap(), entry["key"]["start"].as_i64().unwrap() / 60_000);
                assert_eq!(entry["key"]["end"], minutes(minute + 1));
                found.push((key, minute, entry["value"].as_u64().unwrap()));
            }
            let Some(next) = page["next"].as_str() else { return found };
            after = format!("&after={next}");
        }
    };
    let all: Vec<_> = (10..20).map(|n| (7, n, if n == 15 || n == 19 { 2 } else { 1 })).chain([(8, 14, 1)]).collect();
    assert_eq!(read(""), all, "what started ten minutes before the last window started is forgotten");
    assert_eq!(read("&prefix=7"), all[..10]);
    assert_eq!(read("&from=840000&to=900001"), [(7, 14, 1), (7, 15, 2), (8, 14, 1)]);
    assert_eq!(read("&prefix=8&to=840001"), [(8, 14, 1)]);
    assert_eq!(read("&prefix=7&to=600000"), []);
    let one = world.ok("/views/per-minute/7,900000,960000");
    assert_eq!(one, json!({"key": {"key": 7, "start": 900_000, "end": 960_000}, "value": 2}));
    let mut client = world.server.connect();
    client.get("/views/per-minute/7,0,60000").refused(404, "KEY_NOT_FOUND");
    for query in ["from=x", "to=1e3", "prefix=x"] {
        let message = client.get(&format!("/views/per-minute?{query}")).refused(400, "INVALID_FIELD");
        assert!(query.starts_with(message.split(' ').next().unwrap()), "{query}: {message}");
    }
    client.get("/views/per-minute/7").refused(400, "INVALID_FIELD");
    let mut client = world.server.connect();
    assert_eq!(client.subscribe("/views/per-minute?prefix=8", "").status, 200);
    assert_eq!(one_of(&mut client), (840_000, 1));
    world.send_at(8, [("y", minutes(14) + 1)]);
    assert_eq!(one_of(&mut client), (840_000, 2));
}

/// Start and value of the next change of a watch of windows.
fn one_of(client: &mut Client) -> (i64, u64) {
    let change = one(client);
    (change["key"]["start"].as_i64().unwrap(), change["value"].as_u64().unwrap())
}

#[test]
fn what_a_view_cannot_answer_is_refused() {
    let world = World::start();
    let mut client = world.server.connect();
    client.get("/views/prices/none").refused(404, "KEY_NOT_FOUND");
    client.get("/views/none").refused(404, "STORE_NOT_FOUND");
    client.get("/views/none/a").refused(404, "STORE_NOT_FOUND");
    client.get("/views/newest/x").refused(400, "INVALID_FIELD");
    for query in ["limit=0", "limit=501", "after=*", "at_least=x", "at_least=", "wait_ms=10001", "wait_ms=x"] {
        let message = client.get(&format!("/views/prices?{query}")).refused(400, "INVALID_FIELD");
        assert!(query.starts_with(message.split(' ').next().unwrap()), "{query}: {message}");
    }
    client.get("/views/prices/a?at_least=x").refused(400, "INVALID_FIELD");
}

#[test]
fn a_view_that_is_behind_says_so_in_time() {
    let world = World::start();
    let gate = world.hold_up();
    let token = world.send(1, ["wait"]);
    let path = format!("/views/newest/1?at_least={token}");
    world.server.connect().get(&format!("{path}&wait_ms=50")).refused(504, "VIEW_BEHIND");
    drop(gate);
    assert_eq!(world.ok(&path)["value"], 1);
}

/// The next changes of a watch, at least one.
fn next(client: &mut Client) -> Vec<Value> {
    loop {
        let blocks = client.events().expect("the stream goes on");
        let changes = blocks.iter().filter(|block| !block.starts_with("retry"));
        let data =
            changes.map(|block| block.strip_prefix("event: change\ndata: ").unwrap_or_else(|| panic!("not a change: {block}")));
        let changes: Vec<Value> = data.map(|data| serde_json::from_str(data).unwrap()).collect();
        if !changes.is_empty() {
            return changes;
        }
    }
}

/// The next change of a watch that comes alone.
#[track_caller]
fn one(client: &mut Client) -> Value {
    let mut changes = next(client);
    assert_eq!(changes.len(), 1, "{changes:?}");
    changes.remove(0)
}

#[test]
fn a_watch_of_a_key_shows_the_value_now_and_every_change_after() {
    let world = World::start();
    let mut client = world.server.connect();
    assert_eq!(client.subscribe("/views/prices/tea", "").status, 200);
    let first = one(&mut client);
    assert_eq!((&first["key"], &first["value"]), (&json!("tea"), &Value::Null));
    assert_eq!(first["position"].as_str().unwrap().split(',').count(), 3, "{first:?}");
    for price in 1..=5 {
        world.price([("coffee", 99), ("tea", price)]);
        let change = one(&mut client);
        assert_eq!((&change["key"], &change["value"]), (&json!("tea"), &json!(price)));
        assert!(change["position"].as_str().unwrap().contains(':'), "{change}");
    }
}

#[test]
fn a_watch_never_shows_an_older_value_after_a_newer_one() {
    const LAST: u64 = 200;
    let world = World::start();
    std::thread::scope(|scope| {
        scope.spawn(|| (1..=LAST).for_each(|price| drop(world.price([("tea", price)]))));
        for patience in [1, 5, 50] {
            let world = &world;
            scope.spawn(move || {
                let mut last = 0;
                while last < LAST {
                    let mut client = world.server.connect();
                    client.subscribe("/views/prices/tea", "");
                    for _ in 0..patience {
                        for change in next(&mut client) {
                            let price = change["value"].as_u64().unwrap_or(0);
                            assert!(price >= last, "{price} after {last}");
                            last = price;
                        }
                        if last == LAST {
                            break;
                        }
                    }
                }
            });
        }
    });
}

#[test]
fn a_watch_of_a_prefix_shows_all_there_is_and_comes() {
    let world = World::start();
    let token = world.price((0..250).map(|n| (format!("a{n:03}"), n)));
    world.ok(&format!("/views/prices?at_least={token}"));
    let mut client = world.server.connect();
    client.subscribe("/views/prices?prefix=a", "");
    let mut seen = Vec::new();
    while seen.len() < 250 {
        seen.extend(next(&mut client).iter().map(|change| change["value"].as_u64().unwrap()));
    }
    seen.sort_unstable(); // by keys within a partition alone
    assert_eq!(seen, (0..250).collect::<Vec<_>>());
    world.price([("b", 2), ("aa", 7)]);
    assert_eq!(one(&mut client)["key"], "aa");
    let answer =
        world.server.connect().send("GET /views/prices?from=a HTTP/1.1\r\nhost: x\r\naccept: text/event-stream\r\n\r\n").answer();
    answer.refused(400, "INVALID_FIELD");
}

#[test]
fn a_watch_that_falls_behind_is_shown_all_anew_and_goes_on() {
    const ROWS: u64 = 12_000; // three times what a watch holds
    let world = World::start();
    let mut client = world.server.connect();
    client.subscribe("/views/prices?prefix=a", "");
    let mut resets = 0;
    for round in 1..=3 {
        world.price((0..ROWS).map(|n| (format!("a{n}"), round)));
        let mut left: std::collections::BTreeSet<String> = (0..ROWS).map(|n| format!("a{n}")).collect();
        while !left.is_empty() {
            for block in client.events().expect("the stream goes on") {
                if let Some(data) = block.strip_prefix("event: change\ndata: ") {
                    let change: Value = serde_json::from_str(data).unwrap();
                    if change["value"] == round {
                        left.remove(change["key"].as_str().unwrap());
                    }
                } else if let Some(data) = block.strip_prefix("event: reset\ndata: ") {
                    assert!(!serde_json::from_str::<Value>(data).unwrap()["partitions"].as_array().unwrap().is_empty());
                    resets += 1;
                }
            }
        }
    }
    println!("{resets} times");
}

#[test]
fn dead_letters_are_shown_with_their_cause_and_replayed() {
    let world = World::start();
    let token = world.send(7, ["good", "bad", "{\"json\":1}"]);
    world.ok(&format!("/views/newest/7?at_least={token}"));
    let topics = json!({"topics": [{"topic": "prices.dlq", "records": 0}, {"topic": "inbox.dlq", "records": 1}]});
    assert_eq!(world.ok("/dlq"), topics);
    let page = world.ok("/dlq/inbox.dlq");
    let letter = &page["records"][0];
    assert_eq!(
        (&letter["value"], &letter["node"], &letter["application"]),
        (&json!("bad"), &json!("deliver"), &json!("post-office"))
    );
    assert_eq!((&letter["sourceTopic"], &letter["sourceOffset"]), (&json!("inbox"), &json!(1)));
    assert!(letter["cause"].as_str().unwrap().contains("this one is bad"), "{letter}");
    assert_eq!((page["records"].as_array().unwrap().len(), &page["next"]), (1, &Value::Null));

    let mut client = world.server.connect();
    for path in ["/dlq/none", "/dlq/inbox"] {
        client.get(path).refused(404, "TOPIC_NOT_FOUND");
    }
    client.get("/dlq/inbox.dlq?after=x").refused(400, "INVALID_FIELD");
    client.post("/dlq/none/replay", "{}").refused(404, "TOPIC_NOT_FOUND");
    client.post("/dlq/inbox.dlq/replay", "{\"dryRun\":7}").refused(400, "INVALID_FIELD");
    assert_eq!(client.post("/dlq/inbox.dlq/replay", "{\"dryRun\":true}").json(), json!({"matched": 1, "replayed": 0}));
    assert_eq!(client.post("/dlq/inbox.dlq/replay", "{\"key\":\"none\"}").json(), json!({"matched": 0, "replayed": 0}));
    world.switches.cured.store(true, Ordering::SeqCst);
    let mut watch = world.server.connect();
    watch.subscribe("/views/newest/7", "");
    assert_eq!(one(&mut watch)["value"], 2);
    let replay = client.send("POST /dlq/inbox.dlq/replay HTTP/1.1\r\nhost: x\r\n\r\n").answer();
    assert_eq!(replay.json(), json!({"matched": 1, "replayed": 1}));
    assert_eq!(one(&mut watch)["value"], 3);
}

#[test]
fn dead_letters_come_in_pages() {
    let world = World::start();
    let tokens: Vec<_> = (0..10).map(|user| world.send(user, ["bad"])).collect();
    for token in tokens {
        world.ok(&format!("/views/newest?at_least={token}"));
    }
    for limit in [1, 3, 10] {
        let (mut seen, mut after) = (Vec::new(), String::new());
        loop {
            let page = world.ok(&format!("/dlq/inbox.dlq?limit={limit}{after}"));
            seen.extend(page["records"].as_array().unwrap().iter().map(|r| (r["partition"].as_u64(), r["offset"].as_u64())));
            let Some(next) = page["next"].as_str() else { break };
            after = format!("&after={next}");
        }
        assert!(seen.len() == 10 && seen.is_sorted_by(|a, b| a < b), "pages of {limit}: {seen:?}");
    }
}

#[test]
fn operators_see_topology_metrics_and_health() {
    let world = World::start();
    let mut client = world.server.connect();
    for (format, begins) in [("", ""), ("?format=text", ""), ("?format=mermaid", "flowchart"), ("?format=dot", "digraph")] {
        let answer = client.get(&format!("/topology{format}"));
        let text = String::from_utf8(answer.body).unwrap();
        assert!(text.starts_with(begins) && text.contains("inbox") && text.contains("deliver"), "{text}");
    }
    client.get("/topology?format=png").refused(400, "INVALID_FIELD");
    let metrics = client.get("/metrics");
    assert_eq!(metrics.header("content-type"), Some("application/openmetrics-text; version=1.0.0; charset=utf-8"));
    let text = String::from_utf8(metrics.body).unwrap();
    for name in ["kafka_consumer_lag", "millstream_process_seconds_total{", "millstream_end_to_end_seconds_bucket{", "# EOF\n"] {
        assert!(text.contains(name), "{name}: {text}");
    }
    for lag in ["{topic=\"inbox\",partition=\"1\"}", "{topic=\"rates\",partition=\"1\"}"] {
        assert!(text.contains(&format!("kafka_consumer_lag{lag} 0\n")), "of inputs and of global tables, {lag}: {text}");
    }
    for path in ["/healthz", "/readyz"] {
        assert_eq!(client.get(path).status, 200);
    }
}

#[test]
fn an_application_that_has_failed_says_why() {
    let world = World::start();
    world.rate("eur", 7);
    world.rate("usd", 13); // which is more than the thread that reads it can take
    for path in ["/healthz", "/readyz"] {
        eventually("it fails", || world.server.connect().get(path).status == 503);
        let message = world.server.connect().get(path).refused(503, "FAILED");
        assert!(message.contains("follower") && message.contains("an unlucky rate"), "{message}");
    }
}

#[test]
fn an_application_is_ready_once_it_has_processed_what_was_there() {
    let (dir, switches) = (tempfile::TempDir::new().unwrap(), Arc::new(Switches::default()));
    // What was there: a record that was appended while nobody could process it.
    let first = App::start(topology(&switches), Config::embedded(dir.path())).unwrap();
    first.stop();
    let log = millstream::log::embedded::Options::new(|| Timestamp(1));
    let log = millstream::log::EmbeddedLog::open(dir.path().join("log"), log).unwrap();
    append_directly(&log);
    drop(log);

    let gate = switches.gate.lock().unwrap();
    let second = App::start(topology(&switches), Config::embedded(dir.path())).unwrap();
    let server = Running::start(config(), application_routes(&second.handle()));
    let answer = server.connect().get("/readyz");
    answer.refused(503, "NOT_READY");
    assert_eq!(answer.header("retry-after"), Some("1"));
    assert_eq!(server.connect().get("/healthz").status, 200);
    drop(gate);
    let token =
        second.handle().append_blocking(Events::new().with(&INBOX, &Record::new(1, "x".to_owned(), Timestamp(1)))).unwrap();
    assert_eq!(server.connect().get(&format!("/views/newest/1?at_least={token}")).json()["value"], 2);
    assert_eq!(server.connect().get("/readyz").status, 200);
}

/// Appends a message `wait` to user 1.
fn append_directly(log: &millstream::log::EmbeddedLog) {
    use millstream::codec::Data;
    use millstream::log::{Append, Log, RecordBatch, Transaction, partition};
    let (mut key, mut value, mut batch) = (Vec::new(), Vec::new(), RecordBatch::new());
    u64::CODEC.encode(&1, &mut key).unwrap();
    String::CODEC.encode(&"wait".to_owned(), &mut value).unwrap();
    batch.push(Timestamp(1), Some(&key), Some(&value), &millstream::Headers::EMPTY);
    let topic = log.topic("inbox").unwrap().unwrap();
    let append = Append { topic: topic.id, partition: partition(Some(&key), topic.partitions, 0), batch };
    log.commit(Transaction { appends: vec![append], offsets: None, request: None }).wait().unwrap();
}
