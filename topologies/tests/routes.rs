//! Every route with its answers and its refusals, as a table, and what each kind of caller may do with it. The tables are checked to be
//! complete against the routes that the program declares, and the codes against those of the contract.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::auth::{LATER, SECRET, token};
use crate::shop::{Shop, fresh_id, id_of};

/// The routes that the program declares: what its source says, so that none can be forgotten here.
fn declared() -> BTreeSet<(String, String)> {
    let sources = [include_str!("../src/api/mod.rs"), include_str!("../../src/serve/application/mod.rs")];
    let routes = sources.iter().flat_map(|source| source.lines()).filter_map(|line| {
        let (method, rest) = line.trim().strip_prefix('.')?.split_once("(\"")?;
        let (path, _) = rest.split_once('"')?;
        ["get", "post"].contains(&method).then(|| (method.to_uppercase(), path.to_owned()))
    });
    let routes: BTreeSet<_> = routes.collect();
    assert!(routes.len() > 30, "{routes:?}");
    routes
}

/// Requests of routes, and which were tried.
struct Table<'a> {
    shop: &'a Shop,
    ids: BTreeMap<&'static str, Value>,
    tried: BTreeSet<(String, String)>,
    refused: BTreeSet<String>,
}

impl Table<'_> {
    fn path(&self, route: &str) -> String {
        let mut path = route.to_owned();
        for (name, id) in &self.ids {
            path = path.replace(&format!("{{{name}}}"), id.to_string().trim_matches('"'));
        }
        path
    }

    /// Sends a request to a route, with the ids as they are; `code` is empty for a good answer.
    #[track_caller]
    fn check(&mut self, method: &str, route: &str, query: &str, body: &Value, (status, code): (u16, &str)) -> Value {
        let bytes = if body.is_null() { String::new() } else { body.to_string() };
        let answer = self.shop.request(method, &(self.path(route) + query), &[], bytes.as_bytes());
        if code.is_empty() {
            assert_eq!(answer.status, status, "{method} {route}{query} {body}: {answer:?}");
            self.tried.insert((method.to_owned(), route.to_owned()));
        } else {
            answer.refused(status, code);
            self.refused.insert(format!("{method} {route}"));
        }
        if answer.header("content-type").is_some_and(|kind| kind.starts_with("application/json")) {
            answer.json()
        } else {
            Value::Null
        }
    }

    /// The same with another id in the path.
    #[track_caller]
    fn check_with(&mut self, name: &'static str, id: Value, (method, route): (&str, &str), body: &Value, expected: (u16, &str)) {
        let before = self.ids.insert(name, id);
        self.check(method, route, "", body, expected);
        if let Some(before) = before {
            self.ids.insert(name, before);
        }
    }
}

#[test]
fn every_route_answers_and_refuses_as_the_contract_says() {
    let shop = Shop::start();
    let mut table = Table { shop: &shop, ids: BTreeMap::new(), tried: BTreeSet::new(), refused: BTreeSet::new() };
    let (user, unknown) = (fresh_id(), json!(fresh_id()));
    table.ids.extend([("couponId", json!(fresh_id())), ("productId", json!(fresh_id())), ("userId", json!(user))]);
    table.ids.extend([("store", json!("coupons")), ("topic", json!("order-events.rejected"))]);
    let (ids, null, field) = (table.ids.clone(), Value::Null, (400, "INVALID_FIELD"));

    let coupon = json!({"couponId": ids["couponId"], "name": "x", "limit": 1});
    let other = |terms: &Value, name: &str, value: Value| {
        let mut other = terms.clone();
        other[name] = value;
        other
    };
    table.check("POST", "/api/coupons", "", &coupon, (201, ""));
    table.check("POST", "/api/coupons", "", &coupon, (200, ""));
    table.check("POST", "/api/coupons", "", &other(&coupon, "limit", json!(2)), (409, "COUPON_EXISTS"));
    table.check("POST", "/api/coupons", "", &json!({}), field);
    let issue = ("POST", "/api/coupons/{couponId}/issue");
    table.check_with("couponId", unknown.clone(), issue, &json!({"userId": user}), (404, "COUPON_NOT_FOUND"));
    table.check(issue.0, issue.1, "", &json!({"userId": user}), (202, ""));
    table.check(issue.0, issue.1, "", &json!({"userId": -1}), field);
    shop.get(&format!("/api/coupons/{}", ids["couponId"])).ok(200);
    crate::shop::eventually(|| (shop.coupons_of(user).len() == 1).then_some(()));
    table.check(issue.0, issue.1, "", &json!({"userId": user}), (409, "COUPON_ALREADY_ISSUED"));
    table.check(issue.0, issue.1, "", &json!({"userId": user + 1_000_000}), (409, "COUPON_SOLD_OUT"));
    let closed = json!({"couponId": fresh_id(), "name": "x", "limit": 1, "opensAt": "2999-01-01T00:00:00Z"});
    table.check("POST", "/api/coupons", "", &closed, (201, ""));
    table.check_with("couponId", closed["couponId"].clone(), issue, &json!({"userId": user}), (409, "COUPON_NOT_OPEN"));
    table.check("GET", "/api/coupons", "?limit=1", &null, (200, ""));
    table.check("GET", "/api/coupons", "?limit=0", &null, field);
    table.check("GET", "/api/coupons/{couponId}", "", &null, (200, ""));
    table.check_with("couponId", unknown.clone(), ("GET", "/api/coupons/{couponId}"), &null, (404, "COUPON_NOT_FOUND"));

    let product = json!({"productId": ids["productId"], "name": "x", "price": 100, "stock": 50});
    table.check("POST", "/api/products", "", &product, (201, ""));
    table.check("POST", "/api/products", "", &product, (200, ""));
    table.check("POST", "/api/products", "", &other(&product, "price", json!(101)), (409, "PRODUCT_EXISTS"));
    for (name, bad) in [("name", json!("")), ("price", json!(-1)), ("stock", json!(1.5)), ("productId", json!(1_u64 << 53))] {
        table.check("POST", "/api/products", "", &other(&product, name, bad), field);
    }
    for (route, good, bad) in [
        ("/api/products/{productId}/stock", json!({"add": 1}), json!({"add": 0})),
        ("/api/products/{productId}/price", json!({"price": 100}), json!({"price": -1})),
    ] {
        table.check("POST", route, "", &good, (202, ""));
        table.check("POST", route, "", &bad, field);
        table.check_with("productId", unknown.clone(), ("POST", route), &good, (404, "PRODUCT_NOT_FOUND"));
    }
    table.check("GET", "/api/products", "?limit=200", &null, (200, ""));
    table.check("GET", "/api/products", "?before=x", &null, field);
    table.check("GET", "/api/products/{productId}", "", &null, (200, ""));
    table.check_with("productId", unknown.clone(), ("GET", "/api/products/{productId}"), &null, (404, "PRODUCT_NOT_FOUND"));

    let points = "/api/users/{userId}/points";
    table.check("POST", points, "", &json!({"add": 10}), (202, ""));
    table.check("POST", points, "", &json!({"add": 0}), field);
    crate::shop::eventually(|| (shop.get(&format!("/api/users/{user}/points")).ok(200)["balance"] == 10).then_some(()));
    table.check("POST", points, "", &json!({"add": (1_u64 << 53) - 1}), field);
    table.check("GET", points, "", &null, (200, ""));
    for list in ["/api/users/{userId}/orders", "/api/users/{userId}/coupons"] {
        table.check("GET", list, "?limit=5", &null, (200, ""));
        table.check("GET", list, "?limit=201", &null, field);
        table.check("GET", list, "?at_least=nonsense", &null, field);
    }

    let lines = |lines: Vec<Value>| json!({"userId": user, "items": lines});
    let line = |quantity: u64| json!({"productId": ids["productId"], "quantity": quantity});
    let order = lines(vec![line(2)]);
    let made = table.check("POST", "/api/orders", "", &order, (201, ""));
    let id = id_of(&made, "orderId");
    table.ids.insert("orderId", json!(id));
    let hundred_and_one: Vec<Value> = (0..101).map(|n| json!({"productId": n, "quantity": 1})).collect();
    for bad in [
        json!({}),
        lines(vec![]),
        lines(hundred_and_one),
        lines(vec![line(1), line(1)]),
        lines(vec![line(0)]),
        lines(vec![line(1_000_001)]),
        other(&order, "userId", json!("7")),
        other(&order, "usePoints", json!(201)),
        other(&order, "usePoints", json!(-1)),
    ] {
        table.check("POST", "/api/orders", "", &bad, field);
    }
    table.check(
        "POST",
        "/api/orders",
        "",
        &lines(vec![json!({"productId": unknown, "quantity": 1})]),
        (404, "PRODUCT_NOT_FOUND"),
    );
    let dear = json!({"productId": fresh_id(), "name": "x", "price": (1_u64 << 53) - 1, "stock": 5});
    table.check("POST", "/api/products", "", &dear, (201, ""));
    table.check("POST", "/api/orders", "", &lines(vec![json!({"productId": dear["productId"], "quantity": 2})]), field);
    table.check("GET", "/api/orders/{orderId}", "", &null, (200, ""));
    table.check_with("orderId", unknown.clone(), ("GET", "/api/orders/{orderId}"), &null, (404, "ORDER_NOT_FOUND"));
    table.check_with("orderId", json!("x"), ("GET", "/api/orders/{orderId}"), &null, field);

    let early = ["/api/orders/{orderId}/ship", "/api/orders/{orderId}/deliver"];
    for route in early {
        table.check("POST", route, "", &null, (409, "ILLEGAL_TRANSITION"));
    }
    let pay = |amount: Value| json!({"orderId": id, "amount": amount});
    table.check("GET", "/api/deliveries/{orderId}", "", &null, (404, "DELIVERY_NOT_FOUND"));
    for bad in [pay(json!(-1)), json!({"orderId": id}), other(&pay(json!(200)), "outcome", json!("MAYBE"))] {
        table.check("POST", "/api/payments", "", &bad, field);
    }
    table.check("POST", "/api/payments", "", &json!({"orderId": unknown, "amount": 1}), (404, "ORDER_NOT_FOUND"));
    table.check("POST", "/api/payments", "", &pay(json!(199)), (422, "AMOUNT_MISMATCH"));
    let paid = table.check("POST", "/api/payments", "", &pay(json!(200)), (201, ""));
    shop.await_status(id, "CONFIRMED");
    table.check("POST", "/api/payments", "", &pay(json!(200)), (409, "ORDER_NOT_PAYABLE"));
    table.ids.insert("paymentId", paid["paymentId"].clone());
    table.check("GET", "/api/payments/{paymentId}", "", &null, (200, ""));
    table.check_with("paymentId", unknown.clone(), ("GET", "/api/payments/{paymentId}"), &null, (404, "PAYMENT_NOT_FOUND"));
    table.check("GET", "/api/deliveries/{orderId}", "", &null, (200, ""));
    for route in early {
        table.check("POST", route, "", &null, (202, ""));
        table.check_with("orderId", unknown.clone(), ("POST", route), &null, (404, "ORDER_NOT_FOUND"));
    }
    let cancel = "/api/orders/{orderId}/cancel";
    table.check("POST", cancel, "", &json!({"reason": "x"}), (409, "ILLEGAL_TRANSITION"));
    let another = id_of(&table.check("POST", "/api/orders", "", &order, (201, "")), "orderId");
    table.check_with("orderId", json!(another), ("POST", cancel), &json!({"reason": ""}), field);
    table.check_with("orderId", json!(another), ("POST", cancel), &json!({"reason": "x"}), (202, ""));
    table.check_with("orderId", unknown.clone(), ("POST", cancel), &null, (404, "ORDER_NOT_FOUND"));

    table.check("GET", "/api/stats", "?window=5m", &null, (200, ""));
    table.check("GET", "/api/stats", "?window=5", &null, field);
    table.check("GET", "/views", "", &null, (200, ""));
    let stores = shop.get("/views").ok(200);
    let names: Vec<&str> =
        stores["stores"].as_array().expect("a list").iter().filter_map(|store| store["name"].as_str()).collect();
    for (store, key) in [
        ("coupons", &ids["couponId"]),
        ("orders", &table.ids["orderId"].clone()),
        ("products", &ids["productId"]),
        ("points", &json!(user)),
        ("payments", &paid["paymentId"]),
        ("deliveries", &table.ids["orderId"].clone()),
    ] {
        assert!(names.contains(&store), "{store} in {names:?}");
        table.ids.extend([("store", json!(store)), ("key", key.clone())]);
        table.check("GET", "/views/{store}", "?limit=10", &null, (200, ""));
        let row = table.check("GET", "/views/{store}/{key}", "", &null, (200, ""));
        assert_eq!(&row["key"], key, "{row}");
        table.check_with("key", json!(fresh_id()), ("GET", "/views/{store}/{key}"), &null, (404, "KEY_NOT_FOUND"));
    }
    for route in ["/views/{store}", "/views/{store}/{key}"] {
        table.check_with("store", json!("nonsense"), ("GET", route), &null, (404, "STORE_NOT_FOUND"));
    }
    table.check("GET", "/dlq", "", &null, (200, ""));
    table.check("GET", "/dlq/{topic}", "", &null, (200, ""));
    table.check("POST", "/dlq/{topic}/replay", "", &json!({"dryRun": true}), (200, ""));
    for (method, route) in [("GET", "/dlq/{topic}"), ("POST", "/dlq/{topic}/replay")] {
        table.check_with("topic", json!("order-events"), (method, route), &null, (404, "TOPIC_NOT_FOUND"));
    }
    table.check("GET", "/topology", "?format=dot", &null, (200, ""));
    table.check("GET", "/topology", "?format=gif", &null, field);
    for route in ["/", "/metrics", "/healthz", "/readyz"] {
        table.check("GET", route, "", &null, (200, ""));
    }
    assert_eq!(table.check("POST", "/pause", "", &null, (200, ""))["state"], "PAUSED");
    assert_eq!(table.check("POST", "/resume", "", &null, (200, ""))["state"], "RUNNING");
    table.check_with("userId", json!("x"), ("GET", "/api/sse/subscribe/{userId}"), &null, field);
    assert_eq!(shop.subscribe(user, None).next().name, "connected");
    table.tried.insert(("GET".into(), "/api/sse/subscribe/{userId}".into()));

    assert_eq!(table.tried, declared(), "a route is not in this table");
    for (method, route) in &table.tried {
        let never = ["/", "/views", "/dlq", "/metrics", "/healthz", "/readyz", "/pause", "/resume"];
        assert!(
            never.contains(&route.as_str()) || table.refused.contains(&format!("{method} {route}")) || route == points,
            "{method} {route}"
        );
    }
}

/// All Rust files of a directory of the repository.
fn sources(directory: &str) -> Vec<(PathBuf, String)> {
    let mut all = Vec::new();
    let mut open = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(directory)];
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(fs::read_dir(&path).expect("a directory").map(|entry| entry.expect("an entry").path()));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).expect("a source file");
            all.push((path, text));
        }
    }
    all
}

/// The codes in a line: what stands in quotes and in capitals.
fn codes(line: &str) -> impl Iterator<Item = &str> {
    let is_code = |text: &&str| text.len() > 4 && text.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_');
    line.split('"').skip(1).step_by(2).filter(is_code)
}

/// Every code that an error is made with, as the sources of server, application and shop say it: so none can be forgotten here.
fn answered() -> BTreeSet<String> {
    let files = ["src/serve", "topologies/src/api", "topologies/src/orders/machine.rs"].into_iter().flat_map(sources);
    let mut all = BTreeSet::new();
    for (_, text) in files {
        let program = text.split("#[cfg(test)]").next().unwrap_or_default();
        let errors = ["ApiError::", "StatusCode::", "Refusal::"];
        let lines = program.lines().filter(|line| errors.iter().any(|error| line.contains(error)) && !line.contains("///"));
        all.extend(lines.flat_map(codes).map(str::to_owned));
    }
    // Whoever makes an order by the API never gets an id that there is: it is a reason of events that are rejected.
    assert!(all.remove("ORDER_EXISTS") && all.len() > 30, "{all:?}");
    // Where a process of the same program answers another with nonsense, which no test has.
    all.remove("PEER_FAILED");
    all
}

#[test]
fn every_code_is_in_the_readme_and_is_seen_from_outside_by_a_test() {
    let codes = answered();
    let readme = include_str!("../../README.md");
    let tests: Vec<_> = ["topologies/tests", "tests/serve"].into_iter().flat_map(sources).collect();
    for code in &codes {
        // As every such test has it: `answer.refused(404, "ORDER_NOT_FOUND")`.
        let refusal = |text: &str| text.match_indices(&format!("\"{code}\"")).any(|(at, _)| status_before(&text[..at]));
        assert!(tests.iter().any(|(_, text)| refusal(text)), "no test is refused with {code}");
        assert!(readme.contains(code), "README does not tell of {code}");
    }
    // Those that the contract names.
    for code in [
        "INVALID_JSON",
        "INVALID_FIELD",
        "COUPON_EXISTS",
        "COUPON_ALREADY_ISSUED",
        "COUPON_SOLD_OUT",
        "COUPON_NOT_OPEN",
        "COUPON_NOT_FOUND",
        "PRODUCT_EXISTS",
        "PRODUCT_NOT_FOUND",
        "ORDER_NOT_FOUND",
        "ORDER_NOT_PAYABLE",
        "AMOUNT_MISMATCH",
        "ILLEGAL_TRANSITION",
        "IDEMPOTENCY_KEY_REUSED",
        "NOT_READY",
        "LOG_UNAVAILABLE",
        "OUTCOME_UNKNOWN",
        "VIEW_BEHIND",
    ] {
        assert!(codes.contains(code), "no error has the code {code}");
    }
}

/// Whether what precedes a code is a status: three digits, a comma and a space.
fn status_before(text: &str) -> bool {
    let status = text.strip_suffix(", ").and_then(|text| text.get(text.len().saturating_sub(3)..));
    status.is_some_and(|status| status.len() == 3 && status.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Who asks: nobody, user 7 whose everything is, user 8, a service, an admin.
const CALLERS: [(&str, &str); 5] = [("", ""), ("7", "user"), ("8", "user"), ("9", "service"), ("1", "admin")];

/// What each may do: 200 stands for whatever the route answers to who may.
const MATRIX: &[(&str, &str, [u16; 5])] = &[
    ("GET", "/", [200, 200, 200, 200, 200]),
    ("GET", "/healthz", [200, 200, 200, 200, 200]),
    ("GET", "/readyz", [200, 200, 200, 200, 200]),
    ("GET", "/api/coupons", [200, 200, 200, 200, 200]),
    ("GET", "/api/coupons/{couponId}", [200, 200, 200, 200, 200]),
    ("GET", "/api/products", [200, 200, 200, 200, 200]),
    ("GET", "/api/products/{productId}", [200, 200, 200, 200, 200]),
    ("POST", "/api/coupons", [401, 403, 403, 403, 200]),
    ("POST", "/api/products", [401, 403, 403, 403, 200]),
    ("POST", "/api/products/{productId}/stock", [401, 403, 403, 403, 200]),
    ("POST", "/api/products/{productId}/price", [401, 403, 403, 403, 200]),
    ("POST", "/api/coupons/{couponId}/issue", [401, 200, 403, 403, 200]),
    ("POST", "/api/orders", [401, 200, 403, 403, 200]),
    ("GET", "/api/orders/{orderId}", [401, 200, 404, 200, 200]),
    ("POST", "/api/orders/{orderId}/cancel", [401, 200, 404, 403, 200]),
    ("POST", "/api/orders/{orderId}/ship", [401, 403, 403, 200, 200]),
    ("POST", "/api/orders/{orderId}/deliver", [401, 403, 403, 200, 200]),
    ("POST", "/api/payments", [401, 403, 403, 200, 200]),
    ("GET", "/api/payments/{paymentId}", [401, 200, 404, 200, 200]),
    ("GET", "/api/deliveries/{orderId}", [401, 200, 404, 200, 200]),
    ("GET", "/api/users/{userId}/orders", [401, 200, 403, 200, 200]),
    ("GET", "/api/users/{userId}/coupons", [401, 200, 403, 403, 200]),
    ("GET", "/api/users/{userId}/points", [401, 200, 403, 403, 200]),
    ("POST", "/api/users/{userId}/points", [401, 403, 403, 200, 200]),
    ("GET", "/api/sse/subscribe/{userId}", [401, 200, 403, 403, 200]),
    ("GET", "/api/stats", [401, 403, 403, 403, 200]),
    ("GET", "/views", [401, 403, 403, 403, 200]),
    ("GET", "/views/{store}", [401, 403, 403, 403, 200]),
    ("GET", "/views/{store}/{key}", [401, 403, 403, 403, 200]),
    ("GET", "/dlq", [401, 403, 403, 403, 200]),
    ("GET", "/dlq/{topic}", [401, 403, 403, 403, 200]),
    ("POST", "/dlq/{topic}/replay", [401, 403, 403, 403, 200]),
    ("GET", "/topology", [401, 403, 403, 403, 200]),
    ("GET", "/metrics", [401, 403, 403, 403, 200]),
    ("POST", "/pause", [401, 403, 403, 403, 200]),
    ("POST", "/resume", [401, 403, 403, 403, 200]),
];

#[test]
fn every_caller_may_do_on_every_route_what_the_contract_says() {
    let listed: BTreeSet<_> = MATRIX.iter().map(|(method, route, _)| ((*method).to_owned(), (*route).to_owned())).collect();
    assert_eq!(listed, declared(), "a route is not in this matrix");

    let dir = TempDir::new().expect("a directory");
    let file = dir.path().join("secret");
    fs::write(&file, SECRET).expect("a write");
    let shop = Shop::start_with(&["--auth-secret-file", file.to_str().expect("UTF-8")]);
    let headers = |(sub, role): (&str, &str)| if role.is_empty() { String::new() } else { token(sub, role, LATER) };
    let send = |caller: (&str, &str), method: &str, path: &str, body: &Value| {
        let authorization = headers(caller);
        let headers: Vec<_> =
            Some(("authorization", authorization.as_str())).filter(|(_, t)| !t.is_empty()).into_iter().collect();
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let mut connection = shop.connect();
        connection.send(method, path, &headers, body.as_bytes());
        // A stream of events has no end.
        if path.contains("/sse/") { connection.head().expect("an answer") } else { connection.response() }
    };
    let admin = CALLERS[4];
    let coupon = json!({"couponId": 1, "name": "x", "limit": 100});
    let product = json!({"productId": 1, "name": "x", "price": 100, "stock": 1000});
    let order = json!({"userId": 7, "items": [{"productId": 1, "quantity": 1}]});
    send(admin, "POST", "/api/coupons", &coupon).ok(201);
    send(admin, "POST", "/api/products", &product).ok(201);
    let id = id_of(&send(admin, "POST", "/api/orders", &order).ok(201), "orderId");
    let pay = json!({"orderId": id, "amount": 100});
    let payment = id_of(&send(admin, "POST", "/api/payments", &pay).ok(201), "paymentId");
    let delivery = format!("/api/deliveries/{id}");
    crate::shop::eventually(|| (send(admin, "GET", &delivery, &Value::Null).status == 200).then_some(()));
    for (method, route, expected) in MATRIX {
        let path = [
            ("{couponId}", "1"),
            ("{productId}", "1"),
            ("{userId}", "7"),
            ("{orderId}", &id.to_string()),
            ("{paymentId}", &payment.to_string()),
            ("{store}", "orders"),
            ("{key}", &id.to_string()),
            ("{topic}", "order-events.rejected"),
        ]
        .into_iter()
        .fold((*route).to_owned(), |path, (name, value)| path.replace(name, value));
        let body = match (*method, *route) {
            ("GET", _) => Value::Null,
            (_, "/api/coupons") => coupon.clone(),
            (_, "/api/products") => product.clone(),
            (_, "/api/coupons/{couponId}/issue") => json!({"userId": 7}),
            (_, "/api/orders") => order.clone(),
            (_, "/api/payments") => pay.clone(),
            (_, "/api/products/{productId}/price") => json!({"price": 100}),
            (_, "/api/products/{productId}/stock" | "/api/users/{userId}/points") => json!({"add": 1}),
            _ => json!({}),
        };
        for (caller, expected) in CALLERS.into_iter().zip(expected) {
            let answer = send(caller, method, &path, &body);
            let allowed = (200..300).contains(&answer.status) || answer.status == 409;
            let shown = if allowed { 200 } else { answer.status };
            assert_eq!(shown, *expected, "{caller:?} {method} {route}: {answer:?}");
        }
    }
}
