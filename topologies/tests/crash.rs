//! Whatever moment the shop is killed at, what it has acknowledged is there afterwards, once.

use std::process::Stdio;
use std::sync::Mutex;
use std::thread;

use serde_json::{Value, json};

use crate::shop::{Shop, command, eventually, fresh_id, run};

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

#[test]
fn a_load_finds_every_promise_kept_over_a_kill() {
    let shop = Shop::start();
    let url = shop.url();
    let args =
        ["load", "--coupons", "--url", &url, "--json", "--seconds", "4", "--users", "400", "--connections", "16", "--seed", "1"];
    let mut load = command(&args);
    load.args(["--listeners", "40", "--rate", "800"]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let load = load.spawn().expect("the binary runs");
    let issued = |shop: &Shop| -> u64 {
        let page = shop.get("/api/coupons?limit=200").ok(200);
        page["coupons"].as_array().expect("a list").iter().filter_map(|c| c["issued"].as_u64()).sum()
    };
    eventually(|| (issued(&shop) > 500).then_some(()));
    let shop = shop.kill_and_restart();
    let output = load.wait_with_output().expect("a child");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let result: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert!(result["brokenConnections"].as_u64() > Some(0), "{result}");
    assert!(result["coupons"]["repeated"].as_u64() > Some(0) && result["coupons"]["bad"].as_u64() > Some(0), "{result}");
    assert_eq!(result["coupons"]["verified"]["issued"], issued(&shop), "{result}");

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
