//! Who may do what, where the shop asks for tokens.

use std::fs;

use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::http::Response;
use crate::shop::Shop;

pub const SECRET: &str = "a secret of at least thirty-two bytes";

pub fn token(sub: &str, role: &str, expires: u64) -> String {
    let claims = json!({"sub": sub, "role": role, "exp": expires});
    let token = encode(&Header::default(), &claims, &EncodingKey::from_secret(SECRET.as_bytes())).expect("a token");
    format!("Bearer {token}")
}

/// In the year 2999.
pub const LATER: u64 = 32_472_144_000;

#[test]
fn callers_may_do_what_their_role_says() {
    let dir = TempDir::new().expect("a directory");
    let file = dir.path().join("secret");
    fs::write(&file, SECRET).expect("a write");
    let shop = Shop::start_with(&["--auth-secret-file", file.to_str().expect("UTF-8")]);
    let (user, admin) = (token("7", "user", LATER), token("1", "admin", LATER));
    let call = |token: &str, method: &str, path: &str, body: Value| -> Response {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let headers: Vec<_> = Some(("authorization", token)).filter(|(_, t)| !t.is_empty()).into_iter().collect();
        shop.request(method, path, &headers, body.as_bytes())
    };
    let terms = json!({"couponId": 1, "name": "x", "limit": 5});
    call("", "POST", "/api/coupons", terms.clone()).refused(401, "UNAUTHORIZED");
    call(&user, "POST", "/api/coupons", terms.clone()).refused(403, "FORBIDDEN");
    call(&admin, "POST", "/api/coupons", terms).ok(201);

    for open in ["/healthz", "/readyz", "/api/coupons", "/api/coupons/1"] {
        assert_eq!(call("", "GET", open, Value::Null).status, 200, "{open}");
    }
    let claim = "/api/coupons/1/issue";
    call("", "POST", claim, json!({"userId": 7})).refused(401, "UNAUTHORIZED");
    call(&user, "POST", claim, json!({"userId": 8})).refused(403, "FORBIDDEN");
    call(&user, "POST", claim, json!({"userId": 7})).ok(202);
    call(&user, "GET", "/api/users/7/coupons", Value::Null).ok(200);
    call(&user, "GET", "/api/users/8/coupons", Value::Null).refused(403, "FORBIDDEN");
    call(&user, "GET", "/api/sse/subscribe/8", Value::Null).refused(403, "FORBIDDEN");
    for path in ["/views", "/dlq", "/metrics"] {
        call("", "GET", path, Value::Null).refused(401, "UNAUTHORIZED");
        call(&user, "GET", path, Value::Null).refused(403, "FORBIDDEN");
        assert_eq!(call(&admin, "GET", path, Value::Null).status, 200, "{path}");
    }
    for bad in
        [token("7", "user", 1), token("7", "emperor", LATER), "Bearer nonsense".to_owned(), user.replace("Bearer ", "Basic ")]
    {
        call(&bad, "GET", "/api/users/7/coupons", Value::Null).refused(401, "UNAUTHORIZED");
    }
    // A browser's EventSource can set no header.
    let query = user.trim_start_matches("Bearer ");
    let mut stream = crate::http::Stream::open(shop.address, &format!("/api/sse/subscribe/7?access_token={query}"), &[]);
    assert_eq!(stream.next().name, "connected");
}
