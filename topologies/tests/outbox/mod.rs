//! Requests that are written through the outbox of a real MariaDB: each is one transaction of the database, comes to the topics by the relay,
//! and keeps every promise that the log alone keeps, whatever is killed.

mod crash;
mod keys;
mod lost_answers;
mod proxy;
mod retention;

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::cdc::database::{Server, shared};
use crate::cdc::metric;
use crate::shop::{FREE, Shop, command, dev, eventually, fresh_id, id_of, refusal, run_command};

fn directory() -> Arc<TempDir> {
    Arc::new(TempDir::new().expect("a directory"))
}

/// A shop that writes through a database.
fn through(url: &str) -> Shop {
    Shop::start_on_with(directory(), FREE, &["--mysql", url])
}

/// How many rows a table has.
fn rows(server: &Server, database: &str, table: &str) -> u64 {
    server.rows(database, &format!("SELECT COUNT(*) FROM {table}"))[0]
}

/// Each event has the row of what was asked for, and the other way round.
#[track_caller]
fn nothing_is_half_done(server: &Server, database: &str) {
    for (table, id, types) in [
        ("shop_coupon_requests", "t.request_id = o.id", "'CouponIssueRequest'"),
        ("shop_orders", "t.order_id = o.aggregate_id", "'OrderCreated'"),
        ("shop_order_requests", "t.request_id = o.id", "'OrderCancelled', 'OrderShipped', 'OrderDelivered'"),
        ("shop_payments", "t.payment_id = o.aggregate_id", "'PaymentCompleted', 'PaymentFailed'"),
    ] {
        let events = format!("(SELECT * FROM outbox_events WHERE event_type IN ({types})) o");
        let alone = [
            format!("SELECT COUNT(*) FROM {events} LEFT JOIN {table} t ON {id} WHERE t.{} IS NULL", column(table)),
            format!("SELECT COUNT(*) FROM {table} t LEFT JOIN {events} ON {id} WHERE o.id IS NULL"),
        ];
        for query in alone {
            assert_eq!(server.rows::<u64>(database, &query), [0], "{query}");
        }
    }
}

fn column(table: &str) -> &'static str {
    match table {
        "shop_orders" => "order_id",
        "shop_payments" => "payment_id",
        _ => "request_id",
    }
}

#[test]
fn coupons_and_orders_go_through_the_database_and_are_read_by_their_tokens() {
    requests_go_through(shared());
}

#[test]
#[ignore = "needs MySQL 8, which comes from Maven Central: make mysql8"]
fn requests_go_through_mysql() {
    let server = Server::mysql8();
    requests_go_through(&server);
    keys::hold_over_restarts(&server);
    lost_answers::are_looked_up(&server);
    retention::deletes_what_is_old(&server);
}

fn requests_go_through(server: &Server) {
    let database = server.database();
    let shop = through(&server.url("app", &database));

    let (coupon, user) = (shop.coupon(5), fresh_id());
    let claimed = shop.claim(coupon, user);
    let request = claimed.ok(202)["requestId"].as_str().expect("an id").to_owned();
    let token = claimed.position();
    for path in [
        format!("/api/users/{user}/coupons?at_least={token}&wait_ms=10000"),
        format!("/views/coupon-claims/{coupon},{user}?at_least={token}"),
    ] {
        shop.get(&path).ok(200);
    }
    assert_eq!(shop.coupons_of(user), [coupon]);
    let written: Vec<(String, String, String)> = server.rows(&database, "SELECT id, aggregate_id, event_type FROM outbox_events");
    assert_eq!(written, [(request, coupon.to_string(), "CouponIssueRequest".to_owned())]);

    // What was just made is known to the next request, though it comes by way of the binlog.
    let product = shop.product(300, 10);
    for nth in 0..5 {
        let made = shop.order(user, product);
        let order = id_of(&made.ok(201), "orderId");
        let paid = shop.pay(order, 300);
        paid.ok(201);
        let shown = shop.get(&format!("/api/orders/{order}?at_least={}&wait_ms=10000", paid.position())).ok(200);
        assert_eq!(shown["userId"], json!(user), "order {nth}");
        shop.await_status(order, "CONFIRMED");
    }
    let cancelled = shop.confirmed(user, product);
    shop.post(&format!("/api/orders/{cancelled}/cancel"), &json!({"reason": "\u{1F375} 'quoted' \\ and so on"})).ok(202);
    assert_eq!(shop.await_status(cancelled, "CANCELLED")["reason"], "\u{1F375} 'quoted' \\ and so on");
    let delivered = shop.confirmed(user, product);
    for (step, status) in [("ship", "SHIPPED"), ("deliver", "DELIVERED")] {
        shop.post(&format!("/api/orders/{delivered}/{step}"), &json!({})).ok(202);
        shop.await_status(delivered, status);
    }
    let failed = id_of(&shop.order(user, product).ok(201), "orderId");
    shop.post("/api/payments", &json!({"orderId": failed, "amount": 300, "outcome": "FAILED"})).ok(201);
    shop.await_status(failed, "FAILED");

    nothing_is_half_done(server, &database);
    let counts = ["outbox_events", "shop_coupon_requests", "shop_orders", "shop_order_requests", "shop_payments"];
    assert_eq!(counts.map(|table| rows(server, &database, table)), [20, 1, 8, 3, 8]);
    assert_eq!(metric(&shop, "shop_cdc_rows_total{outcome=\"relayed\"}"), 20.0);

    // A refusal waits for what the database holds; a token of nothing is told.
    shop.pay(fresh_id(), 1).refused(404, "ORDER_NOT_FOUND");
    shop.get(&format!("/api/orders/{delivered}?at_least=nonsense")).refused(400, "INVALID_FIELD");
    let far = millstream::Token::upstream("0-1-99999999");
    shop.get(&format!("/api/orders/{delivered}?at_least={far}&wait_ms=50")).refused(504, "VIEW_BEHIND");
}

#[test]
fn requests_share_connections() {
    let server = shared();
    let database = server.database();
    let shop = through(&server.url("app", &database));
    let coupon = shop.coupon(21);
    let query =
        format!("SELECT id FROM information_schema.processlist WHERE db = '{database}' AND command = 'Sleep' AND info IS NULL");
    // The one that asks is not asleep.
    let connections = || -> BTreeSet<u64> { server.rows(&database, &query).into_iter().collect() };
    shop.claim(coupon, fresh_id()).ok(202);
    let first = eventually(|| Some(connections()).filter(|open| !open.is_empty()));
    for _ in 0..20 {
        shop.claim(coupon, fresh_id()).ok(202);
    }
    assert_eq!(
        eventually(|| Some(connections()).filter(|open| !open.is_empty())),
        first,
        "one after the other on one connection"
    );
}

#[test]
fn while_the_database_is_away_nothing_is_half_done_and_the_rest_goes_on() {
    let mut server = Server::start(&[]);
    let database = server.database();
    let shop = through(&server.url("app", &database));
    let (coupon, product, user) = (shop.coupon(5), shop.product(100, 10), fresh_id());
    shop.claim_and_wait(coupon, user);
    shop.order(user, product).ok(201); // the first id is given when all is known that there were before
    server.kill();
    for answer in [shop.claim(coupon, fresh_id()), shop.order(user, product)] {
        answer.refused(503, "LOG_UNAVAILABLE");
        assert!(answer.header("retry-after").is_some(), "{answer:?}");
    }
    shop.get(&format!("/api/coupons/{coupon}")).ok(200);
    eventually(|| (shop.get("/readyz").status == 503).then_some(()));
    assert_eq!(shop.get("/healthz").status, 200);
    // That there is no such order, only the database could say; as of all that may be on its way.
    shop.pay(fresh_id(), 1).refused(503, "NOT_READY");

    server.restart();
    eventually(|| (shop.get("/readyz").status == 200).then_some(()));
    let order = shop.confirmed(user, product);
    assert_eq!(id_of(&shop.get(&format!("/api/orders/{order}")).ok(200), "orderId"), order);
    nothing_is_half_done(&server, &database);
    assert_eq!([rows(&server, &database, "shop_coupon_requests"), rows(&server, &database, "shop_orders")], [1, 2]);

    // One that does not answer is not waited for.
    server.signal("STOP");
    let began = std::time::Instant::now();
    shop.claim(coupon, fresh_id()).refused(503, "LOG_UNAVAILABLE");
    assert!(began.elapsed().as_secs() < 8, "{:?}", began.elapsed());
    server.signal("CONT");
    eventually(|| (shop.claim(coupon, fresh_id()).status == 202).then_some(()));
    nothing_is_half_done(&server, &database);
}

#[test]
fn a_database_that_requests_cannot_be_written_to_is_told() {
    let server = shared();
    let check = |url: &str, words: &[&str]| {
        let said = refusal(&run_command(command(&dev(FREE, directory().path())).args(["--mysql", url])));
        words.iter().for_each(|word| assert!(said.contains(word), "{said}"));
    };
    let database = server.database();
    server.run(&database, "CREATE TABLE shop_orders (order_id INT PRIMARY KEY)");
    check(&server.url("app", &database), &["requests cannot be written", "order_number"]);

    let database = server.database();
    drop(through(&server.url("app", &database)));
    server.run(&database, "ALTER TABLE outbox_events ADD COLUMN needed INT NOT NULL");
    check(&server.url("app", &database), &["requests cannot be written", "needed"]);

    let database = server.database();
    drop(through(&server.url("app", &database)));
    server.run(
        "",
        "CREATE USER reader@'%' IDENTIFIED BY 'reader'; GRANT SELECT, REPLICATION SLAVE, BINLOG MONITOR ON *.* TO reader@'%'",
    );
    check(&server.url("reader", &database), &["requests cannot be written", "denied"]);
}

#[test]
fn an_outbox_that_is_routed_elsewhere_is_only_relayed() {
    let server = shared();
    let database = server.database();
    let url = server.url("app", &database);
    let args = ["--mysql", &url, "--cdc-option", "route.topic.replacement=other.${routedByValue}"];
    let shop = Shop::start_on_with(directory(), FREE, &args);
    let (coupon, user) = (shop.coupon(1), fresh_id());
    shop.claim_and_wait(coupon, user);
    assert_eq!(shop.coupons_of(user), [coupon]);
    assert_eq!(rows(server, &database, "outbox_events"), 0);
}

/// The answer of an order, without what differs from one to the next.
fn made(answer: &Value) -> Value {
    let mut answer = answer.clone();
    for field in ["orderId", "orderNumber"] {
        answer[field] = Value::Null;
    }
    answer
}
