//! The shop in several processes on a real Kafka: workers that are killed and stopped under load, a broker that freezes and dies, an API
//! that answers, and every promise kept in the end.

#[path = "../../tests/kafka/broker.rs"]
pub mod broker;

use std::collections::BTreeSet;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use millstream::Partition;
use millstream::log::{KafkaConfig, KafkaLog, Log};
use serde_json::json;
use tempfile::TempDir;

use self::broker::{Broker, Settings};
use crate::cdc::{database, insert, metric, records};
use crate::http::Stream;
use crate::shop::{FREE, Shop, command, eventually, fresh_id, refusal, run};
use crate::sink::endpoint::{Endpoint, Reply};
use crate::sink::{all_of, trade};

/// Starts one process of a shop on this cluster, with a directory of its own for what it keeps.
pub fn start(broker: &Broker, role: &str, state: Arc<TempDir>, args: &[&str]) -> Shop {
    let dir = state.path().to_str().expect("UTF-8").to_owned();
    let address = broker.address();
    let mut command = command(&[role, "--brokers", &address, "--listen", FREE, "--log-level", "error", "--state", &dir]);
    Shop::spawn(command.args(args).stdin(Stdio::null()), state)
}

pub fn directory() -> Arc<TempDir> {
    Arc::new(TempDir::new().expect("a directory"))
}

/// `KAFKA_TESTS=long` is five minutes of it, on a cluster whose brokers freeze and die one at a time. A dead worker is noticed sooner than by
/// default, and so before the next is killed: a refusal waits for what all tasks have to say, and would else hardly ever come.
#[test]
fn every_promise_is_kept_while_workers_are_killed_and_stopped() {
    const ENOUGH: Duration = Duration::from_secs(10);
    let is_long = std::env::var("KAFKA_TESTS").is_ok_and(|length| length == "long");
    let (seconds, every, frozen, users, rate) = if is_long { (300, 12, 15, "2000", "12") } else { (15, 3, 2, "90", "12") };
    let (every, frozen) = (Duration::from_secs(every), Duration::from_secs(frozen));
    let mut brokers = if is_long { Broker::three().into() } else { vec![Broker::mortal()] };
    let quick = ["--session-timeout", "2s"];
    let flags = [["--threads", "2"], ["--threads", "1"], ["--standbys", "1"]].map(|flags| [&flags[..], &quick].concat());
    let mut workers: Vec<Shop> = flags.iter().map(|flags| start(&brokers[0], "worker", directory(), flags)).collect();
    let api = start(&brokers[0], "api", directory(), &quick);

    // The same request is carried out once, whoever decides it.
    let coupon = api.coupon(10);
    let user = fresh_id();
    let claim = || api.post_with_key(&format!("/api/coupons/{coupon}/issue"), "k1", &json!({"userId": user}));
    let (once, again) = (claim(), claim());
    assert_eq!((once.status, &once.body), (202, &again.body));
    api.get(&format!("/api/users/{user}/coupons?at_least={}&wait_ms=10000", once.position())).ok(200);
    assert_eq!(api.coupons_of(user), [coupon]);

    let (url, length) = (api.url(), seconds.to_string());
    let load = ["load", "--coupons", "--orders", "--users", users, "--rate", rate, "--listeners", "10", "--seconds", &length];
    let mut load = command(&[&load[..], &["--url", &url]].concat());
    let mut load = load.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary runs");
    let has_orders = |window: &serde_json::Value| window["ordersCreated"] != 0;
    eventually(|| api.get("/api/stats").json()["windows"].as_array()?.iter().any(has_orders).then_some(()));

    let mut random = random();
    let (begun, mut kills, mut troubles) = (Instant::now(), 0, 0);
    let is_over = |troubles| troubles > 1 && begun.elapsed() + every >= Duration::from_secs(seconds);
    while !is_over(troubles) && load.try_wait().expect("a child").is_none() {
        let number = random(workers.len() as u64) as usize;
        let state = Arc::clone(&workers[number].data);
        // A worker that was killed is started again while the others go on; it is ready when it has what the group gives it.
        drop(workers.remove(number));
        workers.insert(number, start(&brokers[0], "worker", state, &flags[number]));
        kills += 1;
        // Each quarter of the time, or half a minute, a broker stands still or dies in turn, and all is well again before the next does.
        let share = if is_long { 10 } else { 4 };
        if begun.elapsed() > Duration::from_secs(seconds) * (troubles + 1) / share {
            let number = random(brokers.len() as u64) as usize;
            let broker = &mut brokers[number];
            if troubles % 2 == 0 {
                broker.freeze();
                pass(frozen);
                broker.thaw();
            } else {
                broker.kill();
                broker.restart();
            }
            troubles += 1;
        }
        pass(every);
    }
    println!("{kills} kills; a broker stood still for {frozen:?} or died {troubles} times");
    let last = workers.pop().expect("three workers");
    last.signal("TERM");
    assert!(last.wait(ENOUGH).success(), "a worker stops in order");

    let output = load.wait_with_output().expect("a child");
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.matches("every invariant holds").count() == 2, "{said}");
    assert!(kills > 0 && troubles > 1, "the machine is too slow for this");
    println!("{said}");
    outputs_are_counted(&brokers[0]);
    for process in workers.into_iter().chain([api]) {
        process.signal("TERM");
        assert!(process.wait(ENOUGH).success(), "{said}");
    }
}

/// In the middle of work, with an event stream that is open.
#[test]
fn who_is_asked_to_stop_does_so_in_time_also_where_no_broker_answers() {
    const ENOUGH: Duration = Duration::from_secs(10);
    let mut broker = Broker::start();
    let endpoint = Endpoint::start(|_, _| Reply::TAKE);
    let deliveries = endpoint.url();
    let states = [directory(), directory(), directory()];
    let begin = |broker: &Broker| {
        let [worker, api, sink] = &states;
        [
            start(broker, "worker", Arc::clone(worker), &["--threads", "1"]),
            start(broker, "api", Arc::clone(api), &[]),
            start(broker, "sink", Arc::clone(sink), &["--url", &deliveries]),
        ]
    };
    let processes = begin(&broker);
    let api = &processes[1];
    let (coupon, user) = (api.coupon(10), fresh_id());
    let _stream = Stream::open(api.address, &format!("/api/sse/subscribe/{user}"), &[]);
    let accepted = api.claim(coupon, user).position();
    let url = api.url();
    let load = ["load", "--url", &url, "--coupons", "--orders", "--rate", "40", "--users", "90", "--seconds", "60"];
    let mut load = command(&load).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it runs");
    eventually(|| (endpoint.seen().taken.len() > 3).then_some(()));

    broker.freeze();
    let asked = Instant::now();
    processes.iter().for_each(|process| process.signal("TERM"));
    for process in processes {
        assert!(process.wait(ENOUGH.saturating_sub(asked.elapsed())).success());
    }
    load.kill().expect("it is killed");
    load.wait().expect("a child");
    broker.kill();
    broker.restart();
    let [_worker, api, _sink] = begin(&broker);
    api.get(&format!("/api/users/{user}/coupons?at_least={accepted}&wait_ms=10000")).ok(200);
    assert_eq!(api.coupons_of(user), [coupon], "what was accepted is there");
}

#[test]
fn a_user_hears_the_same_from_every_api_also_after_a_kill() {
    const COUPONS: usize = 12;
    let broker = Broker::start();
    let _worker = start(&broker, "worker", directory(), &["--threads", "2"]);
    let state = directory();
    let mut api = start(&broker, "api", Arc::clone(&state), &[]);
    let users: Vec<u64> = (0..8).map(|_| fresh_id()).collect();
    for round in 1..=COUPONS {
        let coupon = api.coupon(100);
        users.iter().for_each(|user| _ = api.claim(coupon, *user).ok(202));
        if round % 4 == 0 {
            // What they are to hear is on its way.
            drop(api);
            api = start(&broker, "api", Arc::clone(&state), &[]);
        }
    }
    let other = start(&broker, "api", directory(), &[]);
    for user in users {
        let after = |api: &Shop, id: &str, count: usize| {
            let mut stream = api.subscribe(user, Some(id));
            assert_eq!(stream.next().name, "connected");
            (0..count).map(|_| stream.next()).collect::<Vec<_>>()
        };
        let all = after(&api, "0", COUPONS);
        let coupons: BTreeSet<String> = all.iter().map(|event| event.json()["couponId"].to_string()).collect();
        assert!(coupons.len() == COUPONS && all.iter().all(|event| event.name == "coupon-issued"), "each once: {all:?}");
        assert_eq!(after(&other, "0", COUPONS), all, "another process, which has read it all at once");
        assert_eq!(after(&other, &all[4].id, COUPONS - 5), all[5..], "whoever goes from one to the other misses nothing");
        for api in [&api, &other] {
            assert_eq!(api.subscribe(user, None).next().id, all[COUPONS - 1].id, "and nothing is heard twice");
        }
    }
}

/// Looks at the topics themselves: each claim was told of once, and no event came about twice.
fn outputs_are_counted(broker: &Broker) {
    let log = KafkaLog::open(KafkaConfig::new(broker.address())).expect("the broker answers");
    let claims = records::of(&log, "coupon-issue").len();
    let news = records::of(&log, "shop.notifications");
    let of_claims = |value: &str| ["coupon-issued", "coupon-rejected"].iter().any(|news| value.contains(news));
    let told = news.iter().filter(|record| record.value.as_deref().is_some_and(of_claims)).count();
    assert_eq!((claims, true), (told, claims > 0), "each claim is answered once");
    for topic in ["order-events", "payment-events", "coupon-issue"] {
        let events = records::of(&log, topic);
        let ids: BTreeSet<&str> = events.iter().filter_map(|record| record.header("id")).collect();
        assert!(!events.is_empty() && ids.len() == events.len(), "{topic}: {} events of {} ids", events.len(), ids.len());
    }
}

/// Numbers below what is asked for, from a seed that is printed.
fn random() -> impl FnMut(u64) -> u64 {
    let seed = std::env::var("CRASH_SEED").map_or(u64::from(std::process::id()), |text| text.parse().expect("a number"));
    println!("CRASH_SEED={seed}");
    let mut random = seed;
    move |n| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % n
    }
}

/// Lets time pass: that is what is tested.
pub fn pass(time: Duration) {
    let until = Instant::now() + time;
    while Instant::now() < until {
        std::thread::park_timeout(until.saturating_duration_since(Instant::now()));
    }
}

#[test]
fn an_outbox_is_relayed_once_over_a_kill_of_the_relay() {
    const USERS: u64 = 300;
    let (broker, server) = (Broker::start(), database::shared());
    let outbox = server.database();
    let url = server.url("app", &outbox);
    let _worker = start(&broker, "worker", directory(), &["--threads", "2"]);
    let api = start(&broker, "api", directory(), &["--mysql", &url]);
    let state = directory();
    let relay = start(&broker, "cdc", Arc::clone(&state), &["--mysql", &url]);
    let coupon = api.coupon(USERS);
    let users: Vec<u64> = (0..USERS).map(|_| fresh_id()).collect();
    let claims = claims(coupon, &users);
    let issued = || api.get(&format!("/api/coupons/{coupon}")).ok(200)["issued"].as_u64().expect("a count");
    let (first, rest) = claims.split_at(100);
    server.run(&outbox, &first.join(";"));
    eventually(|| (issued() > 0).then_some(()));
    relay.signal("KILL");
    drop(relay);
    server.run(&outbox, &rest.join(";"));
    let _relay = start(&broker, "cdc", state, &["--mysql", &url]);
    eventually(|| (issued() == USERS).then_some(()));
    each_heard_once(&api, &users);

    // Requests go the same way, are read by their tokens, and are the same in every process.
    let other = start(&broker, "api", directory(), &["--mysql", &url]);
    let (coupon, user) = (api.coupon(1), fresh_id());
    let claim = |api: &Shop| api.post_with_key(&format!("/api/coupons/{coupon}/issue"), "k1", &json!({"userId": user}));
    let (first, again) = (claim(&api), claim(&other));
    first.ok(202);
    assert_eq!((again.status, again.text(), again.position()), (202, first.text(), first.position()));
    for api in [&api, &other] {
        api.get(&format!("/api/users/{user}/coupons?at_least={}&wait_ms=10000", first.position())).ok(200);
        assert_eq!(api.coupons_of(user), [coupon]);
    }
}

/// Rows by which each user claims the coupon.
fn claims(coupon: u64, users: &[u64]) -> Vec<String> {
    let claim = |user: &u64| {
        let payload = json!({"couponId": coupon, "userId": user, "requestedAt": "2026-01-31T12:00:00Z"});
        insert(&format!("claim-{user}"), &coupon.to_string(), "CouponIssueRequest", &format!("'{payload}'"))
    };
    users.iter().map(claim).collect()
}

/// Each has heard of its coupon once, and of nothing else: a claim that came twice would have been refused.
fn each_heard_once(api: &Shop, users: &[u64]) {
    for user in users {
        let mut stream = api.subscribe(*user, Some("0"));
        stream.next();
        let heard = stream.next();
        assert_eq!(heard.name, "coupon-issued");
        assert_eq!(api.subscribe(*user, None).next().id, heard.id, "user {user} heard more");
    }
}

/// Runs `shop` to its end, which must be good, and gives what it printed.
/// What a command that must succeed prints.
pub fn printed(args: &[&str]) -> String {
    let output = run(args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

#[test]
fn operators_pause_look_after_dead_letters_and_reset() {
    const TOPIC: &str = "coupon-issue.dlq";
    let broker = Broker::start();
    let address = broker.address();
    let worker_state = directory();
    let worker = start(&broker, "worker", Arc::clone(&worker_state), &["--threads", "2"]);
    let api = start(&broker, "api", directory(), &[]);
    let coupon = api.coupon(5);
    let issued = |api: &Shop| api.get(&format!("/api/coupons/{coupon}")).json()["issued"].as_u64();
    eventually(|| (issued(&api) == Some(0)).then_some(()));

    // Its two threads may still be sharing out the tasks among them, which goes before; while one takes some, it is not ready.
    let comes_to = |state: &str| {
        eventually(|| {
            let said = worker.get("/readyz");
            (said.status == 200 && said.json()["state"] == state).then_some(())
        });
    };
    worker.post("/pause", &json!({})).ok(200);
    comes_to("PAUSED");
    let token = api.claim(coupon, fresh_id()).position();
    assert_eq!(api.get(&format!("/api/coupons/{coupon}?at_least={token}&wait_ms=1000")).status, 504, "nothing is processed");
    worker.post("/resume", &json!({})).ok(200);
    comes_to("RUNNING");
    eventually(|| (issued(&api) == Some(1)).then_some(()));

    let address_of_worker = worker.address.to_string();
    let tasks = || printed(&["topology", "coupons", "--brokers", &address]);
    let owned = |said: &str| said.matches(&format!("(owner: {address_of_worker}, lag: ")).count() == 3;
    eventually(|| owned(&tasks()).then_some(()));

    // What another program writes and nobody understands is parked, and dealt with without a running shop's help.
    broker.tool("org.apache.kafka.tools.ConsoleProducer", &["--topic", "coupon-issue"], "nonsense\n");
    let list = || printed(&["dlq", "list", "--brokers", &address]);
    eventually(|| list().lines().any(|line| line.trim() == format!("1 {TOPIC}")).then_some(()));
    let shown = printed(&["dlq", "show", TOPIC, "--brokers", &address]);
    assert!(shown.lines().count() == 1 && shown.contains("\"value\":\"nonsense\"") && shown.contains("cause"), "{shown}");
    let replay = |more: &[&str]| printed(&[&["dlq", "replay", TOPIC, "--brokers", &address], more].concat());
    assert_eq!(replay(&["--dry-run"]), "1 matched, 0 replayed\n");
    assert_eq!(replay(&["--key", "another"]), "0 matched, 0 replayed\n");
    assert_eq!(replay(&["--to", "1"]), "0 matched, 0 replayed\n");
    assert_eq!(replay(&[]), "1 matched, 1 replayed\n");
    // It still cannot be processed.
    eventually(|| list().lines().any(|line| line.trim() == format!("2 {TOPIC}")).then_some(()));
    let unknown = run(&["dlq", "show", "order-events", "--brokers", &address]);
    assert!(!unknown.status.success() && String::from_utf8_lossy(&unknown.stderr).contains("order-events"), "{unknown:?}");

    let reset = |more: &[&str]| run(&[&["reset", "--brokers", &address], more].concat());
    let said = refusal(&reset(&[]));
    assert!(said.contains("\"shop\" runs: stop") && said.matches("process").count() == 2, "{said}");
    // Nobody is thrown out, and what was refused has done nothing.
    let said = refusal(&reset(&["--force"]));
    assert!(said.matches("member").count() == 2 && said.matches("process").count() == 2, "{said}");
    let token = api.claim(coupon, fresh_id()).position();
    assert_eq!(api.get(&format!("/api/coupons/{coupon}?at_least={token}&wait_ms=10000")).ok(200)["issued"], 2);
    for process in [worker, api] {
        process.signal("TERM");
        assert!(process.wait(Duration::from_secs(20)).success());
    }
    let planned = printed(&["reset", "--brokers", &address, "--to", "latest", "--dry-run"]);
    assert!(
        planned.contains("shop-shop.coupons-changelog would be forgotten") && planned.contains("shop.coupons would begin at"),
        "{planned}"
    );
    let goes_on = |line: &str| line.starts_with("shop-requests ") && line.ends_with(", its end");
    assert!(planned.lines().any(goes_on), "what was asked for and answered is not done once more: {planned}");
    assert_eq!(
        printed(&["reset", "--brokers", &address, "--to", "latest"]),
        planned.replace("would be ", "").replace("would begin", "begins")
    );
    let worker = start(&broker, "worker", Arc::clone(&worker_state), &["--threads", "2"]);
    let api = start(&broker, "api", directory(), &[]);
    eventually(|| (api.get(&format!("/api/coupons/{coupon}")).status == 404).then_some(()));
    let coupon = api.coupon(5);
    let token = api.claim(coupon, fresh_id()).position();
    let found = api.get(&format!("/api/coupons/{coupon}?at_least={token}&wait_ms=10000")).ok(200);
    assert_eq!(found["issued"], 1);

    // Who was killed is in the group for a while yet.
    drop((worker, api));
    let said = refusal(&reset(&[]));
    assert!(said.contains("member"), "{said}");
    let forced = printed(&["reset", "--brokers", &address, "--force", "--input-topics", "shop.coupons"]);
    assert!(
        forced.contains("shop-shop.coupons-changelog forgotten") && forced.contains("shop.coupons begins at 0 0 0\n"),
        "{forced}"
    );
    let log = KafkaLog::open(KafkaConfig::new(&address)).expect("the broker answers");
    let catalogue = log.topic("shop.coupons").expect("the log answers").expect("it stays").id;
    let offsets = log.offsets("shop").expect("the log answers");
    let begins: Vec<u64> = offsets.iter().filter(|(topic, ..)| *topic == catalogue).map(|(.., offset)| offset.0).collect();
    assert_eq!(begins, [0; 3], "the group begins anew, too: {offsets:?}");
    drop(log);
    let _worker = start(&broker, "worker", worker_state, &["--threads", "2"]);
    let api = start(&broker, "api", directory(), &[]);
    eventually(|| (api.get(&format!("/api/coupons/{coupon}")).status == 200).then_some(()));
}

#[test]
fn of_two_relays_of_an_outbox_one_relays_and_the_other_ends() {
    const USERS: u64 = 300;
    const ENOUGH: Duration = Duration::from_secs(20);
    let (broker, server) = (Broker::start(), database::shared());
    let outbox = server.database();
    let url = server.url("app", &outbox);
    let _worker = start(&broker, "worker", directory(), &["--threads", "2"]);
    let api = start(&broker, "api", directory(), &[]);
    let states = [directory(), directory()];
    let relay = |state: usize| start(&broker, "cdc", Arc::clone(&states[state]), &["--mysql", &url]);
    let mut relays = relay(0);
    let coupon = api.coupon(USERS);
    let users: Vec<u64> = (0..USERS).map(|_| fresh_id()).collect();
    let issued = || api.get(&format!("/api/coupons/{coupon}")).ok(200)["issued"].as_u64().expect("a count");
    let claims = claims(coupon, &users);
    // Rows are written all the while, and whoever starts last takes over: the other hears of it with its next commit.
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            claims.chunks(5).for_each(|claims| server.run(&outbox, &claims.join(";")));
            for number in 0..1_200 {
                if done.load(Relaxed) {
                    return;
                }
                server.run(&outbox, &insert(&format!("marker-{number}"), "1", "Marker", "NULL"));
                std::thread::park_timeout(Duration::from_millis(50));
            }
        });
        for (state, wanted) in [(1, USERS / 10), (0, USERS / 2)] {
            eventually(|| (issued() >= wanted).then_some(()));
            let before = std::mem::replace(&mut relays, relay(state));
            assert_eq!(before.wait(ENOUGH).code(), Some(1), "who was replaced ends");
        }
        done.store(true, Relaxed);
    });
    eventually(|| (issued() == USERS).then_some(()));
    each_heard_once(&api, &users);
    // Nor was a row relayed by two.
    let log = KafkaLog::open(KafkaConfig::new(broker.address())).expect("the broker answers");
    assert_eq!(records::of(&log, "coupon-issue").len() as u64, USERS);
}

#[test]
fn a_relay_that_stood_still_for_longer_than_its_transaction_lasts_goes_on() {
    let properties = "transaction.abort.timed.out.transaction.cleanup.interval.ms=200\n".to_owned();
    let broker = Broker::with(Settings { protocol: "PLAINTEXT", properties, scram: String::new() });
    let server = database::shared();
    let outbox = server.database();
    let relay = start(&broker, "cdc", directory(), &["--mysql", &server.url("app", &outbox), "--cdc-route", "Test=relayed"]);
    eventually(|| (metric(&relay, "shop_cdc_connected") == 1.0).then_some(()));
    let log = KafkaLog::open(KafkaConfig::new(broker.address())).expect("the broker answers");
    let position = log.topic("shop.cdc-position").expect("the broker answers").expect("it is there");
    let place = (position.id, Partition(0));
    let ended = || log.bounds(place.0, place.1).expect("the broker answers").end;
    let mut written = 0_u32;
    // It stands still within a transaction.
    loop {
        let rows: Vec<String> = (0..100).map(|row| insert(&format!("{written}-{row}"), "1", "Test", "NULL")).collect();
        server.run(&outbox, &rows.join(";"));
        written += 1;
        relay.signal("STOP");
        let (stood, open) = (Instant::now(), log.open_ends(&[place]).expect("the broker answers")[0]);
        eventually(|| (ended() >= open).then_some(()));
        relay.signal("CONT");
        if stood.elapsed() > Duration::from_secs(5) {
            break;
        }
    }
    server.run(&outbox, &insert("last", "1", "Test", "NULL"));
    let relayed = || metric(&relay, "shop_cdc_rows_total{outcome=\"relayed\"}");
    eventually(|| (relayed() == f64::from(written * 100 + 1)).then_some(()));
    assert_eq!(records::of(&log, "relayed").len(), written as usize * 100 + 1, "each once");
}

#[test]
fn a_sink_may_be_the_first_of_all() {
    // Before anybody has asked for the coordinator of a group, brokers have none: they answer that it is elsewhere.
    let broker = Broker::start();
    let endpoint = Endpoint::start(|_, _| Reply::TAKE);
    let sink = start(&broker, "sink", directory(), &["--url", &endpoint.url()]);
    sink.get("/healthz").ok(200);
    let _worker = start(&broker, "worker", directory(), &["--threads", "1"]);
    let api = start(&broker, "api", directory(), &[]);
    let order = trade(&api, 1)[0];
    eventually(|| (endpoint.seen().by_order().get(&order) == Some(&all_of(order))).then_some(()));
}

#[test]
fn two_sinks_share_the_events_and_one_takes_over_from_the_other() {
    const ORDERS: usize = 30;
    let broker = Broker::start();
    let _worker = start(&broker, "worker", directory(), &["--threads", "2"]);
    let api = start(&broker, "api", directory(), &[]);
    let endpoint = Endpoint::start(|_, _| Reply::Take(Duration::from_millis(100)));
    let url = endpoint.url();
    let sink = |state| start(&broker, "sink", state, &["--url", &url, "--concurrency", "1", "--first-retry", "10ms"]);
    let [first, second] = [directory(), directory()].map(&sink);
    // Both have delivered something.
    let has_some = |sink: &Shop| sink.get("/metrics").text().contains("shop_sink_lag{");
    let orders = trade(&api, ORDERS);
    eventually(|| (has_some(&first) && has_some(&second)).then_some(()));
    assert!(endpoint.seen().taken.len() < 3 * ORDERS, "it is killed too late");
    first.signal("KILL");
    drop(first);
    eventually(|| (endpoint.seen().taken.len() == 3 * ORDERS).then_some(()));
    let seen = endpoint.seen();
    for order in &orders {
        assert_eq!(seen.by_order()[order], all_of(*order));
    }
    assert_eq!(seen.differing, [""; 0]);
    drop(seen);

    // What is parked by one is replayed through any process, to the sink.
    endpoint.turn(|_, _| Reply::status(410));
    let order = trade(&api, 1)[0];
    let parked = || api.get("/dlq/data-platform.dlq").ok(200)["records"].as_array().map_or(0, Vec::len);
    eventually(|| (parked() == 3).then_some(()));
    endpoint.turn(|_, _| Reply::TAKE);
    let replayed = api.post("/dlq/data-platform.dlq/replay", &json!({})).ok(200);
    assert_eq!(replayed["replayed"], 3, "{replayed}");
    eventually(|| (endpoint.seen().by_order().get(&order) == Some(&all_of(order))).then_some(()));
    second.signal("TERM");
    assert!(second.wait(Duration::from_secs(10)).success());
}

#[test]
fn a_cluster_that_is_not_there_is_named() {
    let state = directory();
    let dir = state.path().to_str().expect("UTF-8");
    for role in ["worker", "api"] {
        let said = refusal(&run(&[role, "--brokers", "127.0.0.1:9", "--listen", FREE, "--log-level", "error", "--state", dir]));
        assert!(said.contains("127.0.0.1:9"), "{said}");
    }
    let said = refusal(&run(&[
        "worker",
        "--brokers",
        "127.0.0.1:9",
        "--listen",
        FREE,
        "--state",
        dir,
        "--topologies",
        "orders,nonsense",
    ]));
    assert!(said.contains("--topologies") && said.contains("nonsense"), "{said}");
}
