//! Views show what was committed, wait for what a client has written, and can be watched.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::anywhere::pages;
use crate::http::Stream;
use crate::shop::{Shop, eventually, fresh_id, shared};

#[test]
fn a_token_makes_a_view_wait_for_its_write() {
    let shop = shared();
    let coupon = shop.coupon(50);
    for n in 1..=50 {
        let user = fresh_id();
        let token = shop.claim(coupon, user).position();
        let counts = shop.get(&format!("/api/coupons/{coupon}?at_least={token}&wait_ms=10000")).ok(200);
        assert_eq!(counts["issued"], n);
        let value = shop.get(&format!("/views/coupons/{coupon}?at_least={token}")).ok(200);
        assert_eq!(value["value"]["issued"], n, "{value}");
    }
}

#[test]
fn a_token_that_cannot_be_read_is_refused() {
    let shop = shared();
    let coupon = shop.coupon(1);
    let paths = [format!("/api/coupons/{coupon}"), "/api/coupons".into(), "/api/users/1/coupons".into(), "/views/coupons".into()];
    for path in paths {
        for token in ["nonsense", "", "%00", "AAAA", "-1"] {
            let message = shop.get(&format!("{path}?at_least={token}")).refused(400, "INVALID_FIELD");
            assert!(message.contains("at_least"), "{message}");
        }
    }
}

#[test]
fn a_view_that_is_behind_says_so_in_time() {
    let (ahead, behind) = (Shop::start(), Shop::start());
    let coupon = ahead.coupon(1);
    let tokens: Vec<String> =
        (1..20).map(|user| ahead.claim(coupon, user)).filter(|c| c.status == 202).map(|c| c.position()).collect();
    behind.post("/api/coupons", &json!({"couponId": coupon, "name": "x", "limit": 1})).ok(201);
    let token = tokens.last().expect("the first is accepted");
    let began = Instant::now();
    let answer = behind.get(&format!("/api/coupons/{coupon}?at_least={token}&wait_ms=200"));
    if answer.status == 400 {
        // A token of another log may well be unreadable.
        answer.refused(400, "INVALID_FIELD");
    } else {
        answer.refused(504, "VIEW_BEHIND");
        assert!((200..2000).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
    }
}

#[test]
fn the_coupons_are_a_store_by_id() {
    let shop = Shop::start();
    let coupons: Vec<u64> = (0..5).map(|_| shop.coupon(1)).collect();
    shop.get(&format!("/api/coupons/{}", coupons[4])).ok(200); // the view has them all
    let stores = shop.get("/views").ok(200);
    let stores = stores["stores"].as_array().expect("a list");
    let store = stores.iter().find(|s| s["name"] == "coupons").expect("the coupons");
    for text in ["keyType", "valueType", "kind"] {
        assert!(store[text].as_str().is_some_and(|t| !t.is_empty()), "{store}");
    }
    assert_eq!(store["partitions"], 3, "{store}");
    assert!(!store["positions"].is_null() && store["entries"].is_u64(), "{store}");

    let one = shop.get(&format!("/views/coupons/{}", coupons[2])).ok(200);
    assert_eq!((&one["key"], &one["value"]["limit"]), (&json!(coupons[2]), &json!(1)), "{one}");
    assert_eq!(shop.get(&format!("/views/coupons/{}", fresh_id())).status, 404);
    assert_eq!(shop.get("/views/nonsense").status, 404);
    assert_eq!(shop.get("/views/nonsense/1").status, 404);
    shop.get("/views/coupons/nonsense").refused(400, "INVALID_FIELD");

    let seen = |query: &str| -> Vec<u64> {
        let (mut seen, mut after) = (Vec::new(), String::new());
        loop {
            let page = shop.get(&format!("/views/coupons?{query}{after}")).ok(200);
            seen.extend(page["entries"].as_array().expect("a list").iter().map(|e| e["key"].as_u64().expect("an id")));
            match &page["next"] {
                Value::Null => return seen,
                Value::String(token) => after = format!("&after={token}"),
                number => after = format!("&after={number}"),
            }
        }
    };
    let sorted = |query: &str| {
        let mut keys = seen(query);
        keys.sort_unstable();
        keys
    };
    assert_eq!(sorted("limit=200"), coupons);
    for limit in 1..=6 {
        assert_eq!(sorted(&format!("limit={limit}")), coupons, "a key is missing or double in pages of {limit}");
        assert_eq!(sorted(&format!("limit={limit}&from={}&to={}", coupons[1], coupons[4])), coupons[1..4], "pages of {limit}");
    }
}

#[test]
fn a_watch_shows_the_value_now_and_then_every_change() {
    let shop = shared();
    let coupon = fresh_id();
    let mut watch = Stream::open(shop.address, &format!("/views/coupons/{coupon}"), &[]);
    let mut next = || {
        let event = watch.next();
        assert_eq!(event.name, "change");
        let change = event.json();
        assert_eq!(change["key"], coupon, "{change}");
        assert!(!change["position"].is_null(), "{change}");
        change["value"].clone()
    };
    assert_eq!(next(), Value::Null);
    shop.post("/api/coupons", &json!({"couponId": coupon, "name": "x", "limit": 3})).ok(201);
    assert_eq!(next()["limit"], 3);
    for n in 1..=3 {
        shop.claim_and_wait(coupon, n);
        assert_eq!(next()["issued"], n);
    }
}

#[test]
fn a_watch_of_a_busy_key_ends_at_its_last_value() {
    let shop = shared();
    let coupon = shop.coupon(200);
    shop.get(&format!("/api/coupons/{coupon}")).ok(200); // the view has it
    let mut watch = Stream::open(shop.address, &format!("/views/coupons/{coupon}"), &[]);
    (0..200).for_each(|_| drop(shop.claim(coupon, fresh_id()).position()));
    let (began, mut last) = (Instant::now(), 0);
    while last < 200 {
        let issued = watch.next().json()["value"]["issued"].as_u64().expect("a number");
        assert!(issued >= last, "{issued} after {last}");
        last = issued;
        assert!(began.elapsed() < Duration::from_secs(20), "{last}");
    }
}

#[test]
fn a_page_may_end_between_the_rows_of_one_key() {
    let shop = Shop::start();
    let product = shop.product(1_000, 100);
    for _ in 0..12 {
        shop.confirmed(fresh_id(), product);
    }
    eventually(|| {
        let all = shop.get("/views/order-counts?limit=500").ok(200)["entries"].as_array().expect("a list").clone();
        let of_one_key = all.chunk_by(|a, b| a["key"] == b["key"]).map(<[Value]>::len).max();
        assert!(of_one_key > Some(1), "several partitions have a key: {all:?}");
        // What is on its way yet may be counted in between.
        (1..=all.len()).all(|limit| pages(&shop, "order-counts", limit).expect("all is here") == all).then_some(())
    });
}
