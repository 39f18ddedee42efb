//! Coupons are created, claimed, refused and shown as the contract says.

use std::thread;

use serde_json::json;

use crate::shop::{Shop, eventually, fresh_id, shared};

#[test]
fn a_coupon_is_created_once_under_its_terms() {
    let shop = shared();
    let coupon = fresh_id();
    let terms = json!({"couponId": coupon, "name": "여름 세일", "limit": 100, "opensAt": "2020-01-01T00:00:00Z"});
    let created = shop.post("/api/coupons", &terms);
    assert_eq!(created.ok(201)["couponId"], coupon);
    let token = created.position();

    let shown = shop.get(&format!("/api/coupons/{coupon}?at_least={token}")).ok(200);
    assert_eq!(shown["couponId"], coupon);
    assert_eq!(shown["name"], "여름 세일");
    assert_eq!(shown["limit"], 100);
    assert_eq!(shown["issued"], 0);
    assert_eq!(shown["remaining"], 100);
    let opens = shown["opensAt"].as_str().and_then(|t| t.parse::<jiff::Timestamp>().ok());
    assert_eq!(opens, "2020-01-01T00:00:00Z".parse().ok(), "{shown}");
    assert!(shown["closesAt"].is_null(), "{shown}");

    shop.post("/api/coupons", &terms).ok(200);
    for (field, value) in [
        ("name", json!("other")),
        ("limit", json!(99)),
        ("opensAt", json!("2020-01-01T00:00:01Z")),
        ("opensAt", json!(null)),
        ("closesAt", json!("2030-01-01T00:00:00Z")),
    ] {
        let mut others = terms.clone();
        others[field] = value;
        shop.post("/api/coupons", &others).refused(409, "COUPON_EXISTS");
    }
    assert_eq!(shop.get(&format!("/api/coupons/{coupon}")).ok(200), shown, "a refusal has changed the coupon");
}

#[test]
fn a_claim_is_accepted_then_decided_and_shown() {
    let shop = shared();
    let (coupon, user) = (shop.coupon(5), fresh_id());
    let claimed = shop.claim(coupon, user);
    let token = claimed.position();
    let body = claimed.ok(202);
    assert_eq!((&body["couponId"], &body["userId"], &body["status"]), (&json!(coupon), &json!(user), &json!("ACCEPTED")));
    assert!(body["requestId"].as_str().is_some_and(|id| !id.is_empty()), "{body}");

    let counts = shop.get(&format!("/api/coupons/{coupon}?at_least={token}")).ok(200);
    assert_eq!((&counts["issued"], &counts["remaining"]), (&json!(1), &json!(4)));
    let owned = shop.get(&format!("/api/users/{user}/coupons?at_least={token}")).ok(200);
    let owned = owned["coupons"].as_array().expect("a list");
    assert_eq!(owned.len(), 1);
    assert_eq!((&owned[0]["couponId"], &owned[0]["couponName"]), (&json!(coupon), &json!(format!("Coupon {coupon}"))));
    let issued_at = owned[0]["issuedAt"].as_str().expect("a text");
    assert!(issued_at.len() == 24 && issued_at.ends_with('Z') && issued_at.parse::<jiff::Timestamp>().is_ok(), "{issued_at}");
}

#[test]
fn claims_that_cannot_be_met_are_refused() {
    let shop = shared();
    let coupon = shop.coupon(1);
    let [first, second] = [fresh_id(), fresh_id()];
    shop.claim_and_wait(coupon, first);
    shop.claim(coupon, first).refused(409, "COUPON_ALREADY_ISSUED");
    shop.claim(coupon, second).refused(409, "COUPON_SOLD_OUT");
    shop.claim(fresh_id(), first).refused(404, "COUPON_NOT_FOUND");
    shop.get(&format!("/api/coupons/{}", fresh_id())).refused(404, "COUPON_NOT_FOUND");
    assert!(shop.coupons_of(second).is_empty());

    let closed = |key: &str, time: &str| {
        let coupon = fresh_id();
        shop.post("/api/coupons", &json!({"couponId": coupon, "name": "x", "limit": 1, key: time})).ok(201);
        shop.claim(coupon, first).refused(409, "COUPON_NOT_OPEN");
    };
    closed("opensAt", "2999-01-01T00:00:00Z");
    closed("closesAt", "2020-01-01T00:00:00Z");
}

#[test]
fn a_coupon_can_be_claimed_as_soon_as_its_creation_is_answered() {
    let shop = shared();
    for user in 1..20 {
        let coupon = shop.coupon(1);
        shop.claim(coupon, user).ok(202);
    }
}

#[test]
fn a_rush_gets_exactly_the_limit() {
    let shop = shared();
    let coupon = shop.coupon(10);
    let users: Vec<u64> = (0..40).map(|_| fresh_id()).collect();
    let claims: Vec<_> = thread::scope(|scope| {
        let claims: Vec<_> =
            users.iter().map(|user| scope.spawn(|| [shop.claim(coupon, *user), shop.claim(coupon, *user)])).collect();
        claims.into_iter().flat_map(|claim| claim.join().expect("a claim")).collect()
    });
    let accepted: Vec<_> = claims.iter().filter(|c| c.status == 202).collect();
    assert!(accepted.len() >= 10 && claims.iter().all(|c| [202, 409].contains(&c.status)), "{claims:?}");
    for claim in accepted {
        shop.get(&format!("/api/coupons/{coupon}?at_least={}", claim.position())).ok(200);
    }
    let counts = shop.get(&format!("/api/coupons/{coupon}")).ok(200);
    assert_eq!((&counts["issued"], &counts["remaining"]), (&json!(10), &json!(0)));
    let owned = || users.iter().flat_map(|user| shop.coupons_of(*user)).collect::<Vec<_>>();
    eventually(|| (owned().len() >= 10).then_some(())); // the users' lists are another topology's, a hop further
    assert_eq!(owned(), [coupon; 10]);
}

#[test]
fn lists_come_newest_first_in_pages() {
    let shop = Shop::start();
    let user = fresh_id();
    let mut coupons: Vec<u64> = (0..7)
        .map(|_| {
            let coupon = shop.coupon(1);
            shop.claim_and_wait(coupon, user);
            coupon
        })
        .collect();
    coupons.reverse();
    for path in ["/api/coupons".to_owned(), format!("/api/users/{user}/coupons")] {
        for limit in [1, 3, 7, 200] {
            let (mut seen, mut next, mut pages) = (Vec::new(), String::new(), 0);
            loop {
                let page = shop.get(&format!("{path}?limit={limit}{next}")).ok(200);
                let rows = page["coupons"].as_array().expect("a list");
                assert!(rows.len() <= limit);
                seen.extend(rows.iter().map(|row| row["couponId"].as_u64().expect("an id")));
                pages += 1;
                match &page["next"] {
                    serde_json::Value::Null => break,
                    serde_json::Value::String(token) => next = format!("&before={token}"),
                    number => next = format!("&before={number}"),
                }
            }
            assert_eq!(seen, coupons, "{path} by {limit}");
            assert_eq!(pages, 7_usize.div_ceil(limit), "{path} by {limit}: a page after the last");
        }
        assert_eq!(shop.get(&path).ok(200)["coupons"].as_array().map(Vec::len), Some(7));
    }
}

#[test]
fn a_user_without_history_has_nothing() {
    let body = shared().get(&format!("/api/users/{}/coupons", fresh_id())).ok(200);
    assert_eq!(body["coupons"], json!([]));
    assert!(body["next"].is_null());
}
