//! The shop in several processes on a real Kafka: workers that are killed and stopped under load, an API that answers throughout, and
//! every promise kept in the end.

#[path = "../../tests/kafka/broker.rs"]
mod broker;

use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tempfile::TempDir;

use self::broker::Broker;
use crate::cdc::{database, insert};
use crate::shop::{FREE, Shop, command, eventually, fresh_id, refusal, run};

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
    let api = start(&broker, "api", directory(), &["--mysql", &url]);
    let state = directory();
    let relay = start(&broker, "cdc", Arc::clone(&state), &["--mysql", &url]);
    let coupon = api.coupon(USERS);
    let users: Vec<u64> = (0..USERS).map(|_| fresh_id()).collect();
    let claims: Vec<String> = users
        .iter()
        .map(|user| {
            let payload = json!({"couponId": coupon, "userId": user, "requestedAt": "2026-01-31T12:00:00Z"});
            insert(&format!("claim-{user}"), &coupon.to_string(), "CouponIssueRequest", &format!("'{payload}'"))
        })
        .collect();
    let issued = || api.get(&format!("/api/coupons/{coupon}")).ok(200)["issued"].as_u64().expect("a count");
    let (first, rest) = claims.split_at(100);
    server.run(&outbox, &first.join(";"));
    eventually(|| (issued() > 0).then_some(()));
    relay.signal("KILL");
    drop(relay);
    server.run(&outbox, &rest.join(";"));
    let _relay = start(&broker, "cdc", state, &["--mysql", &url]);
    eventually(|| (issued() == USERS).then_some(()));
    // Each has heard of it once, and nothing else: a claim that came twice would have been refused.
    for user in users {
        let newest = || api.subscribe(user, None).next().id;
        eventually(|| (newest() == "1").then_some(()));
    }

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
