//! Orders are made, paid, shipped, cancelled and refused as the contract says, and their users hear it.

use std::thread;

use serde_json::{Value, json};

use crate::http::Event;
use crate::shop::{Shop, eventually, fresh_id, id_of, shared};

/// The names of the next events of a stream.
fn names(stream: &mut crate::http::Stream, count: usize) -> Vec<Event> {
    (0..count).map(|_| stream.next()).collect()
}

#[track_caller]
fn is(events: &[Event], expected: &[&str]) {
    assert_eq!(events.iter().map(|event| event.name.as_str()).collect::<Vec<_>>(), expected, "{events:?}");
}

#[test]
fn an_order_goes_its_way_and_everybody_sees_it() {
    let shop = shared();
    let (user, tea, cup) = (fresh_id(), shop.product(500, 10), shop.product(1_200, 5));
    shop.post(&format!("/api/users/{user}/points"), &json!({"add": 1_000})).ok(202);
    let mut stream = shop.subscribe(user, None);
    assert_eq!(stream.next().name, "connected");
    let items = json!([{"productId": tea, "quantity": 2}, {"productId": cup, "quantity": 1}]);
    let answer = shop.post("/api/orders", &json!({"userId": user, "items": items, "usePoints": 300}));
    let (made, at) = (answer.ok(201), answer.position());
    let order = id_of(&made, "orderId");
    assert!(order < 1 << 53 && made["orderNumber"].as_str().is_some_and(|number| !number.is_empty()), "{made}");
    for (field, value) in
        [("status", json!("PENDING")), ("totalAmount", json!(2_200)), ("usePoints", json!(300)), ("amountDue", json!(1_900))]
    {
        assert_eq!(made[field], value, "{made}");
    }
    let shown = shop.get(&format!("/api/orders/{order}?at_least={at}")).ok(200);
    for field in ["orderId", "orderNumber", "totalAmount", "usePoints", "amountDue"] {
        assert_eq!(shown[field], made[field], "{shown}");
    }
    assert_eq!((&shown["userId"], &shown["status"], &shown["payments"]), (&json!(user), &json!("PENDING"), &json!([])));
    assert_eq!(shown["items"][1], json!({"productId": cup, "quantity": 1, "unitPrice": 1_200}));
    assert!(shown["saga"].is_object() && shown["history"][0]["status"] == "PENDING", "{shown}");
    // A price of tomorrow is not the order's.
    shop.post(&format!("/api/products/{cup}/price"), &json!({"price": 9_999})).ok(202);

    let paid = shop.pay(order, 1_900).ok(201);
    let payment = id_of(&paid, "paymentId");
    assert_eq!((&paid["orderId"], &paid["amount"], &paid["status"]), (&json!(order), &json!(1_900), &json!("COMPLETED")));
    let confirmed = names(&mut stream, 2);
    is(&confirmed, &["payment-completed", "order-completed"]);
    let told = confirmed[0].json();
    assert_eq!((&told["paymentId"], &told["orderId"], &told["amount"]), (&json!(payment), &json!(order), &json!(1_900)));
    let told = confirmed[1].json();
    assert_eq!(
        (&told["orderId"], &told["orderNumber"], &told["totalAmount"]),
        (&json!(order), &made["orderNumber"], &json!(2_200))
    );
    assert_eq!(told["message"], "주문이 완료되었습니다");
    let shown = shop.get(&format!("/api/orders/{order}")).ok(200);
    assert_eq!((&shown["status"], &shown["amountDue"]), (&json!("CONFIRMED"), &json!(1_900)), "{shown}");
    assert_eq!(shown["payments"], json!([{"paymentId": payment, "amount": 1_900, "status": "COMPLETED"}]));
    let seen = shop.get(&format!("/api/payments/{payment}")).ok(200);
    assert_eq!(seen, json!({"paymentId": payment, "orderId": order, "userId": user, "amount": 1_900, "status": "COMPLETED"}));
    let product = shop.get(&format!("/api/products/{tea}")).ok(200);
    assert_eq!((&product["available"], &product["reserved"], &product["sold"]), (&json!(8), &json!(0), &json!(2)));
    assert_eq!(shop.get(&format!("/api/users/{user}/points")).ok(200)["balance"], 700);
    assert_eq!(shop.get(&format!("/api/deliveries/{order}")).ok(200), json!({"orderId": order, "status": "CREATED"}));

    for (act, status, event) in [("ship", "SHIPPED", "order-shipped"), ("deliver", "DELIVERED", "order-delivered")] {
        shop.request("POST", &format!("/api/orders/{order}/{act}"), &[], b"").ok(202);
        let heard = stream.next();
        assert_eq!((heard.name.as_str(), &heard.json()["orderId"]), (event, &json!(order)));
        assert_eq!(shop.get(&format!("/api/orders/{order}")).ok(200)["status"], status);
        eventually(|| (shop.get(&format!("/api/deliveries/{order}")).ok(200)["status"] == status).then_some(()));
    }
    for act in ["cancel", "ship", "deliver"] {
        shop.request("POST", &format!("/api/orders/{order}/{act}"), &[], b"").refused(409, "ILLEGAL_TRANSITION");
    }
    shop.pay(order, 1_900).refused(409, "ORDER_NOT_PAYABLE");
    let history = shop.get(&format!("/api/orders/{order}")).ok(200)["history"].clone();
    let statuses: Vec<&Value> = history.as_array().expect("a list").iter().map(|change| &change["status"]).collect();
    assert_eq!(statuses, ["PENDING", "CONFIRMED", "SHIPPED", "DELIVERED"]);

    // What a client missed, in order, from any event on.
    let mut again = shop.subscribe(user, Some("0"));
    again.next();
    let all = names(&mut again, 4);
    is(&all, &["payment-completed", "order-completed", "order-shipped", "order-delivered"]);
    assert_eq!(all[..2], confirmed, "the same events have the same ids");
    for seen in 0..all.len() {
        let mut later = shop.subscribe(user, Some(&all[seen].id));
        assert_eq!(later.next().id, all[seen].id);
        all[seen + 1..].iter().for_each(|event| assert_eq!(later.next(), *event));
    }
}

#[test]
fn a_payment_right_after_the_order_is_never_too_early() {
    let shop = shared();
    let product = shop.product(100, 1_000);
    for _ in 0..50 {
        let made = shop.order(fresh_id(), product).ok(201);
        shop.pay(id_of(&made, "orderId"), 100).ok(201);
    }
}

#[test]
fn an_order_for_nothing_is_paid_with_nothing() {
    let shop = shared();
    let user = fresh_id();
    let free = shop.confirmed(user, shop.product(0, 1));
    assert_eq!(shop.get(&format!("/api/orders/{free}")).ok(200)["payments"][0]["amount"], 0);
}

#[test]
fn an_order_that_finds_no_stock_fails_and_gives_everything_back() {
    let shop = shared();
    let (user, plenty, scarce) = (fresh_id(), shop.product(100, 10), shop.product(100, 1));
    let mut stream = shop.subscribe(user, None);
    stream.next();
    let items = json!([{"productId": plenty, "quantity": 3}, {"productId": scarce, "quantity": 2}]);
    let order = id_of(&shop.post("/api/orders", &json!({"userId": user, "items": items})).ok(201), "orderId");
    let failed = stream.next();
    assert_eq!((failed.name.as_str(), &failed.json()["reason"]), ("order-failed", &json!("OUT_OF_STOCK")));
    let shown = shop.get(&format!("/api/orders/{order}")).ok(200);
    assert_eq!((&shown["status"], &shown["reason"]), (&json!("FAILED"), &json!("OUT_OF_STOCK")), "{shown}");
    shop.pay(order, 500).refused(409, "ORDER_NOT_PAYABLE");
    shop.get(&format!("/api/deliveries/{order}")).refused(404, "DELIVERY_NOT_FOUND");
    for (product, available) in [(plenty, 10), (scarce, 1)] {
        let product = shop.get(&format!("/api/products/{product}")).ok(200);
        assert_eq!((&product["available"], &product["reserved"], &product["sold"]), (&json!(available), &json!(0), &json!(0)));
    }
    shop.post(&format!("/api/products/{scarce}/stock"), &json!({"add": 1})).ok(202);
    shop.confirmed(user, scarce);
}

#[test]
fn an_order_of_more_points_than_there_are_is_undone_and_refunded() {
    let shop = shared();
    let (user, product) = (fresh_id(), shop.product(100, 10));
    shop.post(&format!("/api/users/{user}/points"), &json!({"add": 9})).ok(202);
    let mut stream = shop.subscribe(user, None);
    stream.next();
    let items = json!([{"productId": product, "quantity": 1}]);
    let order = id_of(&shop.post("/api/orders", &json!({"userId": user, "items": items, "usePoints": 10})).ok(201), "orderId");
    let payment = id_of(&shop.pay(order, 90).ok(201), "paymentId");
    let mut heard = names(&mut stream, 3);
    assert_eq!(heard[0].name, "payment-completed");
    heard[1..].sort_by(|a, b| a.name.cmp(&b.name));
    is(&heard[1..], &["order-failed", "payment-refunded"]);
    assert_eq!(heard[1].json()["reason"], "INSUFFICIENT_POINTS");
    let told = heard[2].json();
    assert_eq!(
        (&told["paymentId"], &told["amount"], &told["reason"]),
        (&json!(payment), &json!(90), &json!("INSUFFICIENT_POINTS"))
    );
    shop.await_status(order, "FAILED");
    assert_eq!(shop.get(&format!("/api/payments/{payment}")).ok(200)["status"], "REFUNDED");
    assert_eq!(shop.get(&format!("/api/users/{user}/points")).ok(200)["balance"], 9);
    assert_eq!(shop.get(&format!("/api/deliveries/{order}")).ok(200)["status"], "CANCELLED");
    assert_eq!(shop.get(&format!("/api/products/{product}")).ok(200)["available"], 10);
}

#[test]
fn a_cancel_takes_back_what_was_done() {
    let shop = shared();
    let (user, product) = (fresh_id(), shop.product(100, 10));
    let unpaid = id_of(&shop.order(user, product).ok(201), "orderId");
    let mut stream = shop.subscribe(user, None);
    stream.next();
    let paid = shop.confirmed(user, product);
    is(&names(&mut stream, 2), &["payment-completed", "order-completed"]);
    for order in [unpaid, paid] {
        shop.post(&format!("/api/orders/{order}/cancel"), &json!({"reason": "the colour"})).ok(202);
        let shown = shop.await_status(order, "CANCELLED");
        assert_eq!(shown["reason"], "the colour");
        for act in ["cancel", "ship", "deliver"] {
            shop.request("POST", &format!("/api/orders/{order}/{act}"), &[], b"").refused(409, "ILLEGAL_TRANSITION");
        }
        shop.pay(order, 100).refused(409, "ORDER_NOT_PAYABLE");
    }
    let mut heard = names(&mut stream, 3);
    heard.sort_by(|a, b| a.name.cmp(&b.name));
    is(&heard, &["order-cancelled", "order-cancelled", "payment-refunded"]);
    assert_eq!((&heard[2].json()["orderId"], &heard[2].json()["reason"]), (&json!(paid), &json!("the colour")));
    assert_eq!(shop.get(&format!("/api/products/{product}")).ok(200)["available"], 10);
    assert_eq!(shop.get(&format!("/api/deliveries/{paid}")).ok(200)["status"], "CANCELLED");
}

#[test]
fn of_many_payments_at_once_one_is_kept() {
    let shop = shared();
    let (user, product) = (fresh_id(), shop.product(100, 100));
    for _ in 0..5 {
        let order = id_of(&shop.order(user, product).ok(201), "orderId");
        let answers: Vec<_> = thread::scope(|scope| {
            let sent: Vec<_> = (0..6).map(|_| scope.spawn(|| shop.pay(order, 100))).collect();
            sent.into_iter().map(|answer| answer.join().expect("an answer")).collect()
        });
        let accepted: Vec<u64> =
            answers.iter().filter(|answer| answer.status == 201).map(|answer| id_of(&answer.json(), "paymentId")).collect();
        answers.iter().filter(|answer| answer.status != 201).for_each(|answer| drop(answer.refused(409, "ORDER_NOT_PAYABLE")));
        let settled = eventually(|| {
            let shown = shop.await_status(order, "CONFIRMED");
            let known = shown["payments"].as_array().expect("a list").clone();
            let over = known.iter().filter(|payment| payment["status"] == "REFUNDED").count();
            (known.len() == accepted.len() && over + 1 == accepted.len()).then_some(known)
        });
        assert!(settled.iter().all(|payment| accepted.contains(&id_of(payment, "paymentId"))), "{settled:?} {accepted:?}");
    }
}

#[test]
fn a_payment_that_failed_fails_its_order() {
    let shop = shared();
    let (user, product) = (fresh_id(), shop.product(100, 5));
    let order = id_of(&shop.order(user, product).ok(201), "orderId");
    shop.pay(order, 99).refused(422, "AMOUNT_MISMATCH");
    shop.post("/api/payments", &json!({"orderId": order, "amount": 1, "outcome": "FAILED"})).refused(422, "AMOUNT_MISMATCH");
    let failed = shop.post("/api/payments", &json!({"orderId": order, "amount": 100, "outcome": "FAILED"})).ok(201);
    assert_eq!(failed["status"], "FAILED");
    assert_eq!(shop.await_status(order, "FAILED")["reason"], "PAYMENT_FAILED");
    let seen = shop.get(&format!("/api/payments/{}", id_of(&failed, "paymentId"))).ok(200);
    assert_eq!((&seen["status"], &seen["reason"]), (&json!("FAILED"), &json!("PAYMENT_FAILED")));
}

#[test]
fn an_order_that_nobody_pays_fails_in_time_also_over_a_crash() {
    let shop = Shop::start_with(&["--payment-timeout", "2s"]);
    let user = fresh_id();
    let product = shop.product(100, 5);
    let order = id_of(&shop.order(user, product).ok(201), "orderId");
    shop.get(&format!("/api/orders/{order}")).ok(200);
    let shop = shop.kill_and_restart(); // with the timeout that the order does not need any more
    assert_eq!(shop.await_status(order, "FAILED")["reason"], "PAYMENT_TIMEOUT");
    eventually(|| (shop.get(&format!("/api/products/{product}")).ok(200)["available"] == 5).then_some(()));
}

#[test]
fn what_is_refused_for_good_is_kept_with_the_reason_and_its_user_hears() {
    let shop = Shop::start();
    let (user, product) = (fresh_id(), shop.product(100, 50));
    // Two cancels at once: both may be accepted, and one of them is refused then.
    let mut stream = shop.subscribe(user, None);
    stream.next();
    let (mut events, mut rejected) = (Vec::new(), 0);
    while rejected == 0 {
        let order = id_of(&shop.order(user, product).ok(201), "orderId");
        let path = format!("/api/orders/{order}/cancel");
        let accepted = thread::scope(|scope| {
            let sent: Vec<_> = (0..4).map(|_| scope.spawn(|| shop.request("POST", &path, &[], b"").status)).collect();
            sent.into_iter().map(|sent| sent.join().expect("an answer")).filter(|status| *status == 202).count()
        });
        let heard = names(&mut stream, accepted);
        rejected += heard.iter().filter(|event| event.name == "cancel-rejected").count();
        assert_eq!(heard.iter().filter(|event| event.name == "order-cancelled").count(), 1, "{heard:?}");
        events.extend(heard);
    }
    let told = events.iter().find(|event| event.name == "cancel-rejected").expect("one was rejected").json();
    assert_eq!(told["reason"], "ILLEGAL_TRANSITION", "{told}");
    let topics = shop.get("/dlq").ok(200);
    let topic = topics["topics"].as_array().expect("a list").iter().find(|topic| topic["topic"] == "order-events.rejected");
    assert_eq!(topic.expect("rejected events are listed")["records"], rejected, "{topics}");
    let page = shop.get("/dlq/order-events.rejected").ok(200);
    let record = &page["records"][0];
    assert!(record["cause"].as_str().is_some_and(|cause| cause.contains("ILLEGAL_TRANSITION")), "{record}");
    assert_eq!(
        (&record["headers"]["eventType"], &record["sourceTopic"]),
        (&json!("OrderCancelled"), &json!("order-events")),
        "{record}"
    );
    assert_eq!(record["value"]["orderId"].to_string(), record["key"].to_string(), "{record}");
    let orders = events.iter().filter(|event| event.name == "order-cancelled").count();
    shop.confirmed(fresh_id(), product);
    let metrics = shop.get("/metrics");
    let counted = |line: &str| assert!(metrics.text().lines().any(|known| known == line), "{line}: {}", metrics.text());
    counted(&format!("shop_rejected_events_total {rejected}"));
    for (from, to, orders) in [
        ("", "PENDING", orders + 1),
        ("PENDING", "CANCELLED", orders),
        ("PENDING", "CONFIRMED", 1),
        ("CONFIRMED", "CANCELLED", 0),
    ] {
        counted(&format!("shop_order_transitions_total{{from=\"{from}\",to=\"{to}\"}} {orders}"));
    }

    // A replay gives it to the order once more, which refuses it once more.
    let counted = shop.post("/dlq/order-events.rejected/replay", &json!({"dryRun": true})).ok(200);
    assert_eq!(counted, json!({"matched": rejected, "replayed": 0}));
    let replayed = shop.post("/dlq/order-events.rejected/replay", &json!({})).ok(200);
    assert_eq!(replayed, json!({"matched": rejected, "replayed": rejected}));
    assert_eq!(stream.next().name, "cancel-rejected");
}

#[test]
fn a_users_orders_are_listed_newest_first_in_pages() {
    let shop = shared();
    let (user, product) = (fresh_id(), shop.product(100, 100));
    let mut orders: Vec<u64> = (0..7).map(|_| id_of(&shop.order(user, product).ok(201), "orderId")).collect();
    assert!(orders.is_sorted(), "ids grow: {orders:?}");
    shop.await_status(*orders.last().expect("seven"), "PENDING");
    orders.reverse();
    for limit in [1, 3, 7, 200] {
        let (mut seen, mut next) = (Vec::new(), String::new());
        loop {
            let page = shop.get(&format!("/api/users/{user}/orders?limit={limit}{next}")).ok(200);
            seen.extend(page["orders"].as_array().expect("a list").iter().map(|order| id_of(order, "orderId")));
            match page["next"].as_str() {
                Some(token) => next = format!("&before={token}"),
                None => break,
            }
        }
        assert_eq!(seen, orders, "pages of {limit}");
    }
    let nobody = fresh_id();
    assert_eq!(shop.get(&format!("/api/users/{nobody}/orders")).ok(200), json!({"orders": []}));
    assert_eq!(shop.get(&format!("/api/users/{nobody}/points")).ok(200), json!({"balance": 0}));
}

#[test]
fn statistics_count_each_minute() {
    let shop = Shop::start();
    let user = fresh_id();
    let (product, coupon) = (shop.product(700, 10), shop.coupon(5));
    shop.confirmed(user, product);
    let unpaid = shop.order(user, product).position();
    let claimed = shop.claim(coupon, user).position();
    shop.get(&format!("/api/stats?at_least={unpaid}")).ok(200);
    shop.get(&format!("/api/stats?at_least={claimed}")).ok(200);
    let sum = |path: &str, field: &str| -> u64 {
        let stats = shop.get(path).ok(200);
        stats["windows"].as_array().expect("a list").iter().map(|window| id_of(window, field)).sum()
    };
    for path in ["/api/stats", "/api/stats?window=1m", "/api/stats?window=1h", "/api/stats?window=1d"] {
        for (field, expected) in [("ordersCreated", 2), ("ordersConfirmed", 1), ("revenue", 700), ("couponsIssued", 1)] {
            eventually(|| (sum(path, field) == expected).then_some(()));
        }
    }
    let past = shop.get("/api/stats?from=2020-01-01T00:00:00Z&to=2020-01-01T00:02:30Z").ok(200);
    let windows = past["windows"].as_array().expect("a list");
    assert_eq!(windows.len(), 3, "{past}");
    let empty = json!({"ordersCreated": 0, "ordersConfirmed": 0, "revenue": 0, "couponsIssued": 0,
        "start": "2020-01-01T00:02:00.000Z", "end": "2020-01-01T00:03:00.000Z"});
    assert_eq!(windows[2], empty);
    assert_eq!(shop.get("/api/stats?from=1577836800000&to=1577836950000").ok(200), past);
    for (query, field) in
        [("window=1s", "window"), ("window=", "window"), ("from=yesterday", "from"), ("to=x", "to"), ("from=0", "from")]
    {
        let message = shop.get(&format!("/api/stats?{query}")).refused(400, "INVALID_FIELD");
        assert!(message.contains(field), "{message}");
    }
    for store in ["order-statistics", "coupon-statistics"] {
        let minutes = shop.get(&format!("/views/{store}?from=1577836800000")).ok(200);
        assert!(!minutes["entries"].as_array().expect("a list").is_empty(), "{minutes}");
    }
}
