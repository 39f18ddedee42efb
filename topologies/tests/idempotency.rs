//! A request with an `Idempotency-Key` happens once, however often it is sent, and is answered the same way each time.

use std::thread;

use serde_json::json;

use crate::http::Response;
use crate::shop::{Shop, fresh_id, shared};

#[track_caller]
fn same(first: &Response, second: &Response) {
    assert_eq!(first.status, second.status);
    assert_eq!(first.text(), second.text());
    assert_eq!(first.position(), second.position());
}

fn key() -> String {
    format!("key-{}", fresh_id())
}

#[test]
fn a_repeated_request_gets_the_first_answer_and_happens_once() {
    let shop = shared();
    let (coupon, user, key) = (shop.coupon(5), fresh_id(), key());
    let path = format!("/api/coupons/{coupon}/issue");
    let first = shop.post_with_key(&path, &key, &json!({"userId": user}));
    first.ok(202);
    shop.get(&format!("/api/coupons/{coupon}?at_least={}", first.position())).ok(200);
    // By now a claim without the key is refused.
    shop.claim(coupon, user).refused(409, "COUPON_ALREADY_ISSUED");
    same(&first, &shop.post_with_key(&path, &key, &json!({"userId": user})));
    let spaced = format!("{{ \"userId\" :\t{user} }}");
    same(&first, &shop.request("POST", &path, &[("Idempotency-Key", &key)], spaced.as_bytes()));

    let mut events = shop.subscribe(user, Some("0"));
    assert_eq!(events.next().name, "connected");
    let issued = events.next();
    assert_eq!(issued.name, "coupon-issued");
    assert_eq!(shop.subscribe(user, None).next().id, issued.id, "a repetition was an event of its own");
}

#[test]
fn a_key_belongs_to_one_request() {
    let shop = shared();
    let (coupon, other, user, key) = (shop.coupon(5), shop.coupon(5), fresh_id(), key());
    let path = format!("/api/coupons/{coupon}/issue");
    shop.post_with_key(&path, &key, &json!({"userId": user})).ok(202);
    shop.post_with_key(&path, &key, &json!({"userId": user + 1})).refused(422, "IDEMPOTENCY_KEY_REUSED");
    shop.post_with_key(&path, &key, &json!({"userId": user, "x": 1})).refused(422, "IDEMPOTENCY_KEY_REUSED");
    let path = format!("/api/coupons/{other}/issue");
    shop.post_with_key(&path, &key, &json!({"userId": user})).refused(422, "IDEMPOTENCY_KEY_REUSED");
    let terms = json!({"couponId": fresh_id(), "name": "x", "limit": 1});
    shop.post_with_key("/api/coupons", &key, &terms).refused(422, "IDEMPOTENCY_KEY_REUSED");
}

#[test]
fn a_refusal_frees_the_key() {
    let shop = shared();
    let (coupon, key) = (fresh_id(), key());
    let path = format!("/api/coupons/{coupon}/issue");
    shop.post_with_key(&path, &key, &json!({"userId": 1})).refused(404, "COUPON_NOT_FOUND");
    shop.post_with_key(&path, &key, &json!({})).refused(400, "INVALID_FIELD");
    let created = shop.post_with_key("/api/coupons", &key, &json!({"couponId": coupon, "name": "x", "limit": 1}));
    created.ok(201);
    same(&created, &shop.post_with_key("/api/coupons", &key, &json!({"limit": 1, "name": "x", "couponId": coupon})));
}

#[test]
fn requests_with_one_key_at_the_same_time_are_one() {
    let shop = shared();
    let coupon = shop.coupon(100);
    for _ in 0..10 {
        let (user, key) = (fresh_id(), key());
        let path = format!("/api/coupons/{coupon}/issue");
        let send = || shop.post_with_key(&path, &key, &json!({"userId": user}));
        let answers: Vec<_> = thread::scope(|scope| {
            let sent: Vec<_> = (0..8).map(|_| scope.spawn(send)).collect();
            sent.into_iter().map(|answer| answer.join().expect("an answer")).collect()
        });
        answers[0].ok(202);
        answers.iter().for_each(|answer| same(&answers[0], answer));
    }
}

#[test]
fn keys_outlive_a_crash() {
    let shop = Shop::start();
    let (coupon, user) = (fresh_id(), fresh_id());
    let (path, terms) = (format!("/api/coupons/{coupon}/issue"), json!({"couponId": coupon, "name": "x", "limit": 1}));
    let send = |shop: &Shop| {
        let created = shop.post_with_key("/api/coupons", "create", &terms);
        created.ok(201);
        let claimed = shop.post_with_key(&path, "claim", &json!({"userId": user}));
        claimed.ok(202);
        [created, claimed]
    };
    let first = send(&shop);
    let shop = shop.kill_and_restart();
    let second = send(&shop);
    first.iter().zip(&second).for_each(|(first, second)| same(first, second));
    shop.get(&format!("/api/users/{user}/coupons?at_least={}", second[1].position())).ok(200);
    shop.post_with_key(&path, "claim", &json!({"userId": user + 1})).refused(422, "IDEMPOTENCY_KEY_REUSED");
    assert_eq!(shop.coupons_of(user), [coupon]);
}
