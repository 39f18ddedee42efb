//! What is out of bounds is refused by name, and writes nothing.

use serde_json::{Value, json};

use crate::shop::{fresh_id, shared};

const MAX_ID: u64 = (1 << 53) - 1;

/// Values that are no id.
fn no_ids() -> [Value; 7] {
    [json!(null), json!("1"), json!(-1), json!(1.5), json!(MAX_ID + 1), json!(true), json!([1])]
}

#[track_caller]
fn refused_field(path: &str, body: &Value, field: &str) {
    let message = shared().post(path, body).refused(400, "INVALID_FIELD");
    assert!(message.contains(field), "'{message}' does not name {field}");
}

#[test]
fn a_coupon_has_an_id_a_name_and_a_limit() {
    let coupon = fresh_id();
    let good = json!({"couponId": coupon, "name": "x", "limit": 1});
    let check = |field: &str, value: Value| {
        let mut bad = good.clone();
        bad[field] = value;
        refused_field("/api/coupons", &bad, field);
    };
    for value in no_ids() {
        check("couponId", value.clone());
        check("limit", value);
    }
    check("limit", json!(0));
    for name in [json!(null), json!(""), json!(1), json!("x".repeat(201)), json!("쿠".repeat(201))] {
        check("name", name);
    }
    for time in ["opensAt", "closesAt"] {
        for value in [json!("yesterday"), json!(1), json!("2020-01-01"), json!("")] {
            check(time, value);
        }
    }
    for field in ["couponId", "name", "limit"] {
        let mut bad = good.clone();
        bad.as_object_mut().expect("an object").remove(field);
        refused_field("/api/coupons", &bad, field);
    }
    shared().get(&format!("/api/coupons/{coupon}")).refused(404, "COUPON_NOT_FOUND");

    let mut long = good.clone();
    long["name"] = json!("쿠".repeat(200));
    long["limit"] = json!(MAX_ID);
    long["unknown"] = json!({"is": "ignored"});
    shared().post("/api/coupons", &long).ok(201);
}

#[test]
fn a_claim_names_its_user() {
    let shop = shared();
    let coupon = shop.coupon(1);
    let path = format!("/api/coupons/{coupon}/issue");
    for user in no_ids() {
        refused_field(&path, &json!({"userId": user}), "userId");
    }
    refused_field(&path, &json!({}), "userId");
    shop.post(&path, &json!({"userId": MAX_ID, "unknown": 1})).ok(202);
}

#[test]
fn ids_in_paths_are_ids() {
    let shop = shared();
    for id in ["x", "-1", "1.0", "9007199254740992", "18446744073709551616", "%31x", "%20", "0x1"] {
        for path in [format!("/api/coupons/{id}"), format!("/api/users/{id}/coupons"), format!("/api/sse/subscribe/{id}")] {
            shop.get(&path).refused(400, "INVALID_FIELD");
        }
        refused_field(&format!("/api/coupons/{id}/issue"), &json!({"userId": 1}), "couponId");
    }
}

#[test]
fn parameters_of_queries_have_bounds() {
    let shop = shared();
    let user = fresh_id();
    for path in ["/api/coupons".to_owned(), format!("/api/users/{user}/coupons"), "/views/coupons".to_owned()] {
        let too_many = if path.starts_with("/views") { "501" } else { "201" };
        for limit in ["0", too_many, "-1", "x", ""] {
            let message = shop.get(&format!("{path}?limit={limit}")).refused(400, "INVALID_FIELD");
            assert!(message.contains("limit"), "{message}");
        }
        shop.get(&format!("{path}?limit=200")).ok(200);
        for wait in ["-1", "10001", "x"] {
            let message = shop.get(&format!("{path}?wait_ms={wait}&at_least=x")).refused(400, "INVALID_FIELD");
            assert!(message.contains("wait_ms") || message.contains("at_least"), "{message}");
        }
    }
    for path in ["/api/coupons?before=!".to_owned(), format!("/api/users/{user}/coupons?before=!")] {
        let message = shop.get(&path).refused(400, "INVALID_FIELD");
        assert!(message.contains("before"), "{message}");
    }
}

#[test]
fn an_idempotency_key_is_visible_ascii() {
    let shop = shared();
    let coupon = shop.coupon(1);
    let claim = |key: &str| shop.post_with_key(&format!("/api/coupons/{coupon}/issue"), key, &json!({"userId": 1}));
    for key in ["", "a b", "키", &"k".repeat(129)] {
        let message = claim(key).refused(400, "INVALID_FIELD");
        assert!(message.to_lowercase().contains("idempotency-key"), "{message}");
    }
    claim(&"k".repeat(128)).ok(202);
}
