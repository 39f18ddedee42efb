//! A request with an idempotency key is one event in the database, however often it is sent and to whichever process.

use std::sync::Arc;
use std::thread;

use serde_json::json;

use super::{directory, made, rows, through};
use crate::cdc::database::{Server, shared};
use crate::http::Response;
use crate::shop::{FREE, Shop, fresh_id};

#[track_caller]
fn same(first: &Response, second: &Response) {
    assert_eq!((first.status, first.text()), (second.status, second.text()));
    assert_eq!(first.position(), second.position());
}

#[test]
fn a_key_is_for_one_request_over_restarts_and_over_what_the_log_keeps() {
    hold_over_restarts(shared());
}

pub fn hold_over_restarts(server: &Server) {
    let database = server.database();
    let url = server.url("app", &database);
    let shop = through(&url);
    let (coupon, user) = (shop.coupon(5), fresh_id());
    let path = format!("/api/coupons/{coupon}/issue");
    let claim = |shop: &Shop| shop.post_with_key(&path, "claim", &json!({"userId": user}));
    let first = claim(&shop);
    first.ok(202);
    same(&first, &claim(&shop));
    shop.post_with_key(&path, "claim", &json!({"userId": user + 1})).refused(422, "IDEMPOTENCY_KEY_REUSED");
    // The catalogue's keys are kept by the log.
    let terms = json!({"couponId": fresh_id(), "name": "x", "limit": 1});
    shop.post_with_key("/api/coupons", "claim", &terms).refused(422, "IDEMPOTENCY_KEY_REUSED");
    shop.post_with_key("/api/coupons", "create", &terms).ok(201);
    shop.post_with_key(&path, "create", &json!({"userId": user})).refused(422, "IDEMPOTENCY_KEY_REUSED");
    // A refusal frees the key.
    let unknown = format!("/api/coupons/{}/issue", fresh_id());
    shop.post_with_key(&unknown, "free", &json!({"userId": user})).refused(404, "COUPON_NOT_FOUND");
    shop.post_with_key(&path, "free", &json!({"userId": user + 1})).ok(202);

    let (data, address) = (Arc::clone(&shop.data), shop.address.to_string());
    drop(shop); // by kill -9
    let shop = Shop::start_on_with(data, &address, &["--mysql", &url]);
    same(&first, &claim(&shop));
    shop.get(&format!("/api/users/{user}/coupons?at_least={}&wait_ms=10000", first.position())).ok(200);
    assert_eq!((shop.coupons_of(user), rows(server, &database, "outbox_events")), (vec![coupon], 2));
}

#[test]
fn one_key_in_two_processes_at_the_same_time_is_one_event() {
    let server = shared();
    let database = server.database();
    let url = server.url("app", &database);
    // Each has a log of its own, and both relay the one outbox.
    let shops = [(); 2].map(|()| Shop::start_on_with(directory(), FREE, &["--mysql", &url]));
    let (coupon, product) = (fresh_id(), fresh_id());
    for shop in &shops {
        shop.post("/api/coupons", &json!({"couponId": coupon, "name": "x", "limit": 100})).ok(201);
        shop.post("/api/products", &json!({"productId": product, "name": "x", "price": 5, "stock": 100})).ok(201);
    }
    for round in 1..=8 {
        let (key, user) = (format!("key-{round}"), fresh_id());
        let (path, body) = if round % 2 == 0 {
            (format!("/api/coupons/{coupon}/issue"), json!({"userId": user}))
        } else {
            ("/api/orders".to_owned(), json!({"userId": user, "items": [{"productId": product, "quantity": 1}]}))
        };
        let answers: Vec<Response> = thread::scope(|scope| {
            let send = |nth: usize| shops[nth % 2].post_with_key(&path, &key, &body);
            let sent: Vec<_> = (0..6).map(|nth| scope.spawn(move || send(nth))).collect();
            sent.into_iter().map(|answer| answer.join().expect("an answer")).collect()
        });
        let status = if round % 2 == 0 { 202 } else { 201 };
        let first = answers[0].ok(status);
        answers.iter().for_each(|answer| same(&answers[0], answer));
        assert_eq!(made(&first), made(&answers[1].json()));
        assert_eq!(rows(server, &database, "outbox_events"), round, "one event each");
        assert_eq!(rows(server, &database, "shop_requests"), round);
    }
}
