//! Bad, slow and hostile HTTP gets an error and writes nothing, and the shop goes on serving everybody else.

use serde_json::json;

use crate::http::Connection;
use crate::shop::{fresh_id, shared};

const LIMIT: usize = 64 * 1024;

#[test]
fn what_there_is_not_is_not_found() {
    for path in
        ["/nonsense", "/api", "/api/coupons/", "//api/coupons", "/api/coupons/1/issue/2", "/api/sse/subscribe", "/API/coupons"]
    {
        shared().get(path).refused(404, "NOT_FOUND");
    }
}

#[test]
fn a_method_a_route_does_not_take_is_told_which_it_takes() {
    let shop = shared();
    let id = fresh_id();
    for (method, path, allowed) in [
        ("DELETE", "/api/coupons".to_owned(), &["GET", "POST"][..]),
        ("PUT", "/api/coupons".to_owned(), &["GET", "POST"]),
        ("POST", format!("/api/coupons/{id}"), &["GET"]),
        ("GET", format!("/api/coupons/{id}/issue"), &["POST"]),
        ("PUT", format!("/api/coupons/{id}/issue"), &["POST"]),
        ("POST", format!("/api/users/{id}/coupons"), &["GET"]),
        ("POST", format!("/api/sse/subscribe/{id}"), &["GET"]),
        ("POST", "/views".to_owned(), &["GET"]),
        ("DELETE", "/views/coupons/1".to_owned(), &["GET"]),
        ("POST", "/healthz".to_owned(), &["GET"]),
        ("POST", "/metrics".to_owned(), &["GET"]),
        ("PATCH", "/dlq".to_owned(), &["GET"]),
    ] {
        let answer = shop.request(method, &path, &[], b"");
        answer.refused(405, "METHOD_NOT_ALLOWED");
        let allow = answer.header("allow").unwrap_or_else(|| panic!("{method} {path}: no Allow"));
        let allow: Vec<_> = allow.split(',').map(str::trim).collect();
        assert!(allowed.iter().all(|m| allow.contains(m)) && !allow.contains(&method), "{method} {path}: {allow:?}");
    }
}

#[test]
fn head_is_get_without_the_body_and_options_tells_the_methods() {
    let shop = shared();
    let path = format!("/api/coupons/{}", shop.coupon(1));
    let mut connection = shop.connect();
    connection.send("HEAD", &path, &[], b"");
    assert_eq!(connection.head().expect("an answer").status, 200);
    // A body would be read as the head of the next answer.
    connection.send("GET", &path, &[], b"");
    connection.response().ok(200);
    connection.send("OPTIONS", "/api/coupons", &[], b"");
    let options = connection.response();
    assert!([200, 204].contains(&options.status), "{options:?}");
    assert!(options.header("allow").is_some_and(|allow| allow.contains("GET") && allow.contains("POST")), "{options:?}");
}

#[test]
fn a_body_is_json_and_says_so() {
    let shop = shared();
    let coupon = shop.coupon(100);
    let path = format!("/api/coupons/{coupon}/issue");
    let claim = json!({"userId": 1}).to_string();
    for kind in ["text/plain", "application/x-www-form-urlencoded", "", "application/jsonx", "multipart/form-data; boundary=x"] {
        shop.request("POST", &path, &[("content-type", kind)], claim.as_bytes()).refused(415, "UNSUPPORTED_MEDIA_TYPE");
    }
    let nested = "[".repeat(30_000);
    for body in
        ["{", "}", "userId=1", "{\"userId\":1}}", "{\"userId\":1,}", "{'userId':1}", "{\"userId\":NaN}", "\u{feff}{}", &nested]
    {
        shop.request("POST", &path, &[], body.as_bytes()).refused(400, "INVALID_JSON");
    }
    shop.request("POST", &path, &[], b"{\"userId\":1,\"x\":\"\xff\"}").refused(400, "INVALID_JSON");
    for body in ["[]", "1", "null", "\"x\""] {
        assert_eq!(shop.request("POST", &path, &[], body.as_bytes()).status, 400, "{body}");
    }
    let mut empty = shop.connect();
    empty.send_raw(format!("POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 0\r\n\r\n"));
    empty.response().refused(400, "INVALID_JSON");
    assert!(shop.coupons_of(1).iter().all(|c| *c != coupon));

    for (user, kind) in (10..).zip(["application/json; charset=utf-8", "APPLICATION/JSON"]) {
        let claim = json!({"userId": user}).to_string();
        shop.request("POST", &path, &[("content-type", kind)], claim.as_bytes()).ok(202);
    }
}

#[test]
fn a_body_has_at_most_64_kib() {
    let shop = shared();
    let path = format!("/api/coupons/{}/issue", shop.coupon(2));
    let padded = |length: usize| format!("{{\"userId\":{}{}}}", fresh_id(), " ".repeat(length - 18)).into_bytes();
    let whole = padded(LIMIT);
    assert_eq!(whole.len(), LIMIT);
    shop.request("POST", &path, &[], &whole).ok(202);
    shop.request("POST", &path, &[], &padded(LIMIT + 1)).refused(413, "BODY_TOO_LARGE");

    let head = |framing: &str| format!("POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n{framing}\r\n\r\n");
    let mut announced = shop.connect();
    announced.send_raw(head("content-length: 10000000000"));
    announced.response().refused(413, "BODY_TOO_LARGE");

    let mut chunked = shop.connect();
    chunked.send_raw(head("transfer-encoding: chunked"));
    for _ in 0..=LIMIT / 1024 {
        chunked.send_raw(format!("400\r\n{}\r\n", " ".repeat(1024)));
    }
    chunked.response().refused(413, "BODY_TOO_LARGE");

    let mut small = shop.connect();
    let body = json!({"userId": fresh_id()}).to_string();
    small.send_raw(head("transfer-encoding: chunked") + &format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len()));
    small.response().ok(202);
}

#[test]
fn a_body_that_does_not_come_is_given_up() {
    let shop = shared();
    let path = format!("/api/coupons/{}/issue", shop.coupon(2));
    let mut slow = shop.connect();
    slow.send_raw(format!(
        "POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 20\r\n\r\n{{\"use"
    ));
    slow.response().refused(408, "REQUEST_TIMEOUT");
}

#[test]
fn a_head_that_does_not_come_is_given_up() {
    let mut slow = shared().connect();
    slow.send_raw("GET /healthz HTTP/1.1\r\nhost:");
    assert!(slow.maybe_response().is_none_or(|answer| answer.status == 408));
}

#[test]
fn what_is_not_http_is_refused_or_cut_off() {
    let shop = shared();
    let coupon = shop.coupon(1000);
    let claim = |head: &str| {
        format!("POST /api/coupons/{coupon}/issue HTTP/1.1\r\ncontent-type: application/json\r\n{head}\r\n\r\n{{\"userId\":1}}")
    };
    let many: String = (0..2000).map(|n| format!("x-{n}: 1\r\n")).collect();
    for bad in [
        "nonsense\r\n\r\n".to_owned(),
        "\0\0\0\0\r\n\r\n".to_owned(),
        "GET /healthz HTTP/9.9\r\nhost: x\r\n\r\n".to_owned(),
        "GET /healthz\r\n\r\n".to_owned(),
        "GET /health\x01z HTTP/1.1\r\nhost: x\r\n\r\n".to_owned(),
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(),
        "\x16\x03\x01\x02\x00\x01\x00\x01\r\n\r\n".to_owned(),
        format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", "x".repeat(1 << 20)),
        format!("GET /healthz HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "x".repeat(1 << 20)),
        format!("GET /healthz HTTP/1.1\r\nhost: x\r\n{many}\r\n"),
        claim("host: x\r\ncontent-length: twelve"),
        claim("host: x\r\ncontent-length: -1"),
        claim("host: x\r\ncontent-length: 12\r\ncontent-length: 13"),
        claim("host: x\r\ntransfer-encoding: chunked"),
        claim("host: x\r\ncontent-length: 12\r\nbad header: x"),
    ] {
        let mut connection = shop.connect();
        connection.send_raw(&bad);
        let shown = bad.chars().take(100).collect::<String>();
        if let Some(answer) = connection.maybe_response() {
            assert!((400..500).contains(&answer.status) || answer.status == 505, "{shown:?}: {answer:?}");
        }
        assert_eq!(shop.get("/healthz").status, 200, "{shown:?}");
    }
    assert_eq!(shop.get(&format!("/api/coupons/{coupon}")).ok(200)["issued"], 0);
}

#[test]
fn a_connection_is_of_use_after_a_refusal_and_answers_in_order() {
    let shop = shared();
    let (coupon, user) = (shop.coupon(5), fresh_id());
    let path = format!("/api/coupons/{coupon}/issue");
    let mut connection = shop.connect();
    for (body, status) in [("{", 400), ("{}", 400), ("{\"userId\":-1}", 400)] {
        connection.send("POST", &path, &[], body.as_bytes());
        assert_eq!(connection.response().status, status);
    }
    let claim = |user: u64| {
        let body = json!({"userId": user}).to_string();
        format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    connection.send_raw((0..4).map(|n| claim(user + n)).collect::<String>());
    for n in 0..4 {
        assert_eq!(connection.response().ok(202)["userId"], user + n);
    }
}

#[test]
fn clients_that_hang_up_or_do_nothing_disturb_nobody() {
    let shop = shared();
    let path = format!("/api/coupons/{}/issue", shop.coupon(1));
    let idle: Vec<Connection> = (0..200).map(|_| shop.connect()).collect();
    for _ in 0..50 {
        shop.connect().send_raw(format!("POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 50\r\n\r\n{{"));
        drop(shop.subscribe(fresh_id(), None));
    }
    shop.claim_and_wait(shop.coupon(1), fresh_id());
    drop(idle);
}
