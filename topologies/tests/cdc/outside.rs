//! An outside program makes orders and tells of payments by rows of its outbox, whatever comes first: they end as if they had come over HTTP.

use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::database::{Server, shared};
use super::{insert, metric, relaying};
use crate::shop::{Shop, command, eventually, fresh_id, id_of};

/// An INSERT of an event.
fn event(id: &str, aggregate: u64, event_type: &str, payload: &Value) -> String {
    insert(id, &aggregate.to_string(), event_type, &format!("'{payload}'"))
}

fn paid(payment: u64, order: u64, user: u64) -> Value {
    json!({"paymentId": payment, "orderId": order, "userId": user, "amount": 200, "paidAt": "2026-01-31T12:00:00.5+09:00"})
}

#[test]
fn a_payment_that_comes_before_its_order_pays_it() {
    let (server, user) = (shared(), fresh_id());
    let database = server.database();
    let shop = relaying(&server.url("app", &database), &[]);
    let product = shop.product(100, 10);
    let (order, payment, again) = (fresh_id(), fresh_id(), fresh_id());
    let mut stream = shop.subscribe(user, None);
    assert_eq!(stream.next().name, "connected");

    server.run(&database, &event("paid", payment, "PaymentCompleted", &paid(payment, order, user)));
    let payment_of = |id: u64| shop.get(&format!("/api/payments/{id}"));
    let known = eventually(|| Some(payment_of(payment)).filter(|answer| answer.status == 200));
    assert_eq!((&known.json()["status"], &known.json()["orderId"]), (&json!("COMPLETED"), &json!(order)));
    shop.get(&format!("/api/orders/{order}")).refused(404, "ORDER_NOT_FOUND");

    let made = json!({
        "orderId": order, "orderNumber": "OUT-1", "userId": user, "totalAmount": 200, "usePoints": 0,
        "items": [{"productId": product, "quantity": 2, "unitPrice": 100}], "createdAt": "2026-01-31T03:00:00Z",
    });
    server.run(&database, &event("made", order, "OrderCreated", &made));
    eventually(|| (shop.get(&format!("/api/orders/{order}")).status == 200).then_some(()));
    let shown = shop.await_status(order, "CONFIRMED");
    assert_eq!(shown["payments"], json!([{"paymentId": payment, "amount": 200, "status": "COMPLETED"}]), "{shown}");
    let mut hear = |name: &str| {
        let heard = stream.next();
        assert_eq!((heard.name.as_str(), &heard.json()["orderId"]), (name, &json!(order)), "{heard:?}");
        heard.json()
    };
    hear("payment-completed");
    assert_eq!(hear("order-completed")["orderNumber"], "OUT-1");

    // Told once more by another row, made once more, and paid by another payment: in one transaction.
    let rows = [
        event("paid-again", payment, "PaymentCompleted", &paid(payment, order, user)),
        event("made-again", order, "OrderCreated", &made),
        event("paid-twice", again, "PaymentCompleted", &paid(again, order, user)),
    ];
    server.run(&database, &format!("BEGIN;{};COMMIT", rows.join(";")));
    let refunded = hear("payment-refunded");
    assert_eq!((id_of(&refunded, "paymentId"), &refunded["reason"]), (again, &json!("ORDER_NOT_PAYABLE")));
    let rejected = || shop.get("/dlq/order-events.rejected").ok(200)["records"].as_array().map(Vec::len);
    eventually(|| (rejected() == Some(2)).then_some(()));
    let shown = shop.get(&format!("/api/orders/{order}")).ok(200);
    assert_eq!((&shown["status"], shown["payments"].as_array().map(Vec::len)), (&json!("CONFIRMED"), Some(2)), "{shown}");
    let product = shop.get(&format!("/api/products/{product}")).ok(200);
    assert_eq!((id_of(&product, "available"), id_of(&product, "reserved"), id_of(&product, "sold")), (8, 0, 2));
    assert_eq!(metric(&shop, "shop_cdc_rows_total{outcome=\"parked\"}"), 0.0);
}

#[test]
fn a_load_with_an_outside_program_finds_every_promise_kept_over_kills() {
    let mut server = Server::start(&[]);
    let database = server.database();
    let outbox = server.url("app", &database);
    let mut shop = relaying(&outbox, &[]);
    let (url, address) = (shop.url(), shop.address.to_string());
    let args =
        ["load", "--orders", "--outbox", &outbox, "--url", &url, "--json", "--seconds", "5", "--users", "300", "--rate", "150"];
    let mut load = command(&args);
    load.args(["--connections", "16", "--listeners", "150"]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let load = load.spawn().expect("the binary runs");
    let rows = |server: &Server| server.rows::<u64>(&database, "SELECT COUNT(*) FROM outbox_events")[0];
    eventually(|| (rows(&server) > 60).then_some(()));
    let data = Arc::clone(&shop.data);
    drop(shop); // by kill -9
    shop = Shop::start_on_with(data, &address, &["--mysql", &outbox]);
    let before = rows(&server);
    eventually(|| (rows(&server) > before + 60).then_some(()));
    server.kill_and_restart();

    let output = load.wait_with_output().expect("a child");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let result: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let (orders, verified) = (&result["orders"], &result["orders"]["verified"]);
    assert!(id_of(orders, "outside") > 40 && id_of(&orders["outboxToCompletedMs"], "samples") > 0, "{result}");
    assert_eq!(orders["made"], verified["orders"], "{result}");
    for some in ["live", "pending", "refunds", "events"] {
        assert!(id_of(verified, some) > 0, "no {some}: {result}");
    }
    shop.signal("TERM");
    assert_eq!(shop.wait(Duration::from_secs(10)).code(), Some(0));
}
