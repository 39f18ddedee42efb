//! The shop in several processes on a real Kafka: workers that are killed and stopped under load, an API that answers throughout, and
//! every promise kept in the end.

#[path = "../../tests/kafka/broker.rs"]
mod broker;

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use serde_json::json;
use tempfile::TempDir;

use self::broker::Broker;
use crate::cdc::{database, insert};
use crate::shop::{FREE, Shop, command, eventually, fresh_id, refusal, run};
use crate::sink::endpoint::{Endpoint, Reply};
use crate::sink::{all_of, trade};

/// Starts one process of a shop on this cluster, with a directory of its own for what it keeps.
fn start(broker: &Broker, role: &str, state: Arc<TempDir>, args: &[&str]) -> Shop {
    let dir = state.path().to_str().expect("UTF-8").to_owned();
    let address = broker.address();
    let mut command = command(&[role, "--brokers", &address, "--listen", FREE, "--log-level", "error", "--state", &dir]);
    Shop::spawn(command.args(args).stdin(Stdio::null()), state)
}

fn directory() -> Arc<TempDir> {
    Arc::new(TempDir::new().expect("a directory"))
}

#[test]
fn every_promise_is_kept_while_workers_are_killed_and_stopped() {
    const ENOUGH: Duration = Duration::from_secs(10);
    let broker = Broker::start();
    let first = start(&broker, "worker", directory(), &["--threads", "2"]);
    let second = start(&broker, "worker", directory(), &["--threads", "1", "--standbys", "1"]);
    let api = start(&broker, "api", directory(), &[]);

    // The same request is carried out once, whoever decides it.
    let coupon = api.coupon(10);
    let user = fresh_id();
    let claim = || api.post_with_key(&format!("/api/coupons/{coupon}/issue"), "k1", &json!({"userId": user}));
    let (once, again) = (claim(), claim());
    assert_eq!((once.status, &once.body), (202, &again.body));
    api.get(&format!("/api/users/{user}/coupons?at_least={}&wait_ms=10000", once.position())).ok(200);
    assert_eq!(api.coupons_of(user), [coupon]);

    let url = api.url();
    let load =
        ["load", "--coupons", "--orders", "--users", "60", "--rate", "12", "--seconds", "8", "--listeners", "10", "--url", &url];
    let load =
        command(&load).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary runs");
    let orders = || api.get("/api/stats").json()["windows"].as_array().map_or(0, Vec::len);
    eventually(|| (orders() > 0).then_some(()));

    let state = Arc::clone(&first.data);
    first.signal("KILL");
    drop(first);
    let first = start(&broker, "worker", state, &["--threads", "2"]);
    second.signal("TERM");
    assert!(second.wait(ENOUGH).success(), "a worker stops in order");

    let output = load.wait_with_output().expect("a child");
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.matches("every invariant holds").count() == 2, "{said}");
    for process in [api, first] {
        process.signal("TERM");
        assert!(process.wait(ENOUGH).success(), "{said}");
    }
}

#[test]
fn an_outbox_is_relayed_once_over_a_kill_of_the_relay() {
    const USERS: u64 = 300;
    let (broker, server) = (Broker::start(), database::shared());
    let outbox = server.database();
    let url = server.url("app", &outbox);
    let _worker = start(&broker, "worker", directory(), &["--threads", "2"]);
    let api = start(&broker, "api", directory(), &[]);
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
        let newest = || api.subscribe(*user, None).next().id;
        eventually(|| (newest() == "1").then_some(()));
    }
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
