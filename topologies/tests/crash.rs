//! Whatever moment the shop is killed at, what it has acknowledged is there afterwards, once.

use std::process::Stdio;
use std::sync::Mutex;
use std::thread;

use serde_json::{Value, json};

use crate::shop::{Shop, command, eventually, fresh_id, id_of, run};

/// Sends claims on one connection, each of a user of its own, until the shop is gone; gives those that were accepted.
fn claim_until_it_dies(shop: &Shop, coupon: u64, accepted: &Mutex<Vec<u64>>) {
    let mut connection = shop.connect();
    loop {
        let user = fresh_id();
        let body = json!({"userId": user}).to_string();
        connection.send("POST", &format!("/api/coupons/{coupon}/issue"), &[], body.as_bytes());
        let Some(answer) = connection.maybe_response() else { return };
        answer.ok(202);
        accepted.lock().expect("no panic").push(user);
    }
}

#[test]
fn what_was_acknowledged_survives_a_kill() {
    const CLIENTS: usize = 8;
    let mut shop = Shop::start();
    let mut known: Vec<(u64, Vec<u64>)> = Vec::new();
    for round in 1..=4 {
        let coupon = shop.coupon(1_000_000);
        let accepted = Mutex::new(Vec::new());
        thread::scope(|scope| {
            let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(|| claim_until_it_dies(&shop, coupon, &accepted))).collect();
            eventually(|| (accepted.lock().expect("no panic").len() >= 100 * round).then_some(()));
            shop.signal("KILL");
            clients.into_iter().for_each(|client| client.join().expect("a client"));
        });
        shop = shop.kill_and_restart();
        known.push((coupon, accepted.into_inner().expect("no panic")));
        for (coupon, users) in &known {
            // The last request of each client may have been written without its answer being heard.
            let issued = shop.get(&format!("/api/coupons/{coupon}")).ok(200)["issued"].as_u64().expect("a count") as usize;
            assert!((users.len()..=users.len() + CLIENTS).contains(&issued), "{issued} issued, {} acknowledged", users.len());
        }
    }
    for (coupon, users) in known {
        for user in users {
            assert_eq!(shop.coupons_of(user), [coupon], "user {user}");
            let mut stream = shop.subscribe(user, Some("0"));
            assert_eq!(stream.next().name, "connected");
            let issued = stream.next();
            assert_eq!((issued.name.as_str(), &issued.json()["couponId"]), ("coupon-issued", &json!(coupon)));
            assert_eq!(shop.subscribe(user, None).next().id, issued.id, "user {user} heard more than one event");
        }
    }
}

/// Makes orders and pays for them on one connection until the shop is gone; gives the orders that were paid.
fn order_until_it_dies(shop: &Shop, product: u64, user: u64, paid: &Mutex<Vec<u64>>) {
    let mut connection = shop.connect();
    let mut post = |path: &str, body: Value| -> Option<Value> {
        connection.send("POST", path, &[], body.to_string().as_bytes());
        Some(connection.maybe_response()?.ok(201))
    };
    let items = json!([{"productId": product, "quantity": 1}]);
    loop {
        let Some(made) = post("/api/orders", json!({"userId": user, "items": items})) else { return };
        let order = id_of(&made, "orderId");
        if post("/api/payments", json!({"orderId": order, "amount": made["amountDue"]})).is_none() {
            return;
        }
        paid.lock().expect("no panic").push(order);
    }
}

#[test]
fn what_was_paid_is_confirmed_once_over_kills() {
    const CLIENTS: usize = 8;
    const STOCK: u64 = 1_000_000;
    let mut shop = Shop::start();
    let product = shop.product(300, STOCK);
    let users: Vec<u64> = (0..CLIENTS).map(|_| fresh_id()).collect();
    let paid = Mutex::new(Vec::new());
    for round in 1..=3 {
        thread::scope(|scope| {
            let (shop, paid) = (&shop, &paid);
            let clients: Vec<_> =
                users.iter().map(|user| scope.spawn(move || order_until_it_dies(shop, product, *user, paid))).collect();
            eventually(|| (paid.lock().expect("no panic").len() >= 60 * round).then_some(()));
            shop.signal("KILL");
            clients.into_iter().for_each(|client| client.join().expect("a client"));
        });
        shop = shop.kill_and_restart();
    }
    let paid = paid.into_inner().expect("no panic");
    for order in &paid {
        let shown = shop.await_status(*order, "CONFIRMED");
        assert_eq!(shown["payments"].as_array().map(Vec::len), Some(1), "{shown}");
        assert_eq!(shop.get(&format!("/api/deliveries/{order}")).ok(200)["status"], "CREATED");
    }
    // An order whose answer nobody heard is pending, or confirmed if its payment was written.
    let (mut confirmed, mut pending) = (0, 0);
    for user in users {
        let page = shop.get(&format!("/api/users/{user}/orders?limit=200")).ok(200);
        let statuses: Vec<&Value> = page["orders"].as_array().expect("a list").iter().map(|order| &order["status"]).collect();
        let live = statuses.iter().filter(|status| **status == "CONFIRMED").count();
        let mut stream = shop.subscribe(user, Some("0"));
        stream.next();
        let heard: Vec<_> = (0..2 * live).map(|_| stream.next()).collect();
        assert_eq!(heard.iter().filter(|event| event.name == "order-completed").count(), live, "user {user}: {heard:?}");
        let end = shop.subscribe(user, None).next().id;
        assert_eq!(heard.last().map_or("0", |last| &last.id), end, "user {user} heard more");
        confirmed += live;
        pending += statuses.len() - live;
    }
    assert!((paid.len()..=paid.len() + 3 * CLIENTS).contains(&confirmed), "{confirmed} confirmed, {} paid", paid.len());
    let (confirmed, pending) = (confirmed as u64, pending as u64);
    let counts = shop.get(&format!("/api/products/{product}")).ok(200);
    assert_eq!(
        (id_of(&counts, "available"), id_of(&counts, "reserved"), id_of(&counts, "sold")),
        (STOCK - confirmed - pending, pending, confirmed)
    );
}

#[test]
fn a_load_finds_every_promise_kept_over_kills() {
    let mut shop = Shop::start();
    let url = shop.url();
    let args = ["load", "--coupons", "--orders", "--url", &url, "--json", "--seconds", "6", "--users", "400", "--seed", "1"];
    let mut load = command(&args);
    load.args(["--connections", "32", "--listeners", "40", "--rate", "300"]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let load = load.spawn().expect("the binary runs");
    let issued = |shop: &Shop| -> u64 {
        let page = shop.get("/api/coupons?limit=200").ok(200);
        page["coupons"].as_array().expect("a list").iter().filter_map(|c| c["issued"].as_u64()).sum()
    };
    for kill in 1..=3 {
        eventually(|| (issued(&shop) > 300 * kill).then_some(()));
        shop = shop.kill_and_restart();
    }
    let output = load.wait_with_output().expect("a child");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let result: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert!(result["brokenConnections"].as_u64() > Some(0), "{result}");
    for kind in ["coupons", "orders"] {
        assert!(result[kind]["repeated"].as_u64() > Some(0) && result[kind]["bad"].as_u64() > Some(0), "{result}");
    }
    assert_eq!(result["coupons"]["verified"]["issued"], issued(&shop), "{result}");
    let verified = &result["orders"]["verified"];
    assert_eq!(result["orders"]["made"], verified["orders"], "{result}");
    for some in ["live", "pending", "cancelled", "failed", "refunds", "events"] {
        assert!(id_of(verified, some) > 0, "no {some}: {result}");
    }

    let again = run(&args);
    let said = String::from_utf8_lossy(&again.stderr);
    assert_eq!(again.status.code(), Some(1), "{said}");
    assert!(said.contains("--seed"), "{said}");
}

#[test]
fn a_load_on_nothing_fails_in_one_sentence() {
    let shop = Shop::start();
    let url = shop.url();
    drop(shop);
    let output = run(&["load", "--coupons", "--url", &url]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), said.trim().lines().count()), (Some(1), 1), "{said}");
    assert!(said.contains(&url), "{said}");
}
