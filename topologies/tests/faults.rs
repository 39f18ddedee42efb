//! A log that takes no more: every request hears what became of it, and what was acknowledged is there afterwards, once.

use serde_json::json;

use crate::http::Response;
use crate::shop::{Shop, eventually, fresh_id, id_of};

/// From the `nth` write on, the log fails as a full disk does.
fn failing(nth: usize) -> Shop {
    Shop::start_in(&[("MILLSTREAM_FAULT", &format!("log:commit:before-write:{nth}:fail"))])
}

#[test]
fn a_log_that_fails_is_told_and_loses_nothing() {
    let (mut unknown, mut unavailable, mut not_ready, mut behind) = (false, false, false, false);
    for nth in 60..70 {
        let shop = failing(nth);
        let (user, product) = (fresh_id(), shop.product(100, 10_000));
        let body = json!({"userId": user, "items": [{"productId": product, "quantity": 1}]});
        let (mut made, mut last) = (Vec::new(), None);
        // Its own writes and those of the topologies come to an end of what the log takes.
        let refused = eventually(|| {
            let key = format!("order-{}", made.len());
            let answer = shop.post_with_key("/api/orders", &key, &body);
            if answer.status == 201 {
                last = Some(answer.position());
                made.push(id_of(&answer.json(), "orderId"));
                return None;
            }
            Some(answer)
        });
        let mut told = |answer: &Response| match answer.status {
            504 => {
                answer.refused(504, "OUTCOME_UNKNOWN");
                unknown = true;
            }
            _ => {
                answer.refused(503, "LOG_UNAVAILABLE");
                assert!(answer.header("retry-after").is_some(), "{answer:?}");
                unavailable = true;
            }
        };
        told(&refused);
        (0..3).for_each(|_| told(&shop.post_with_key("/api/orders", &format!("order-{}", made.len()), &body)));
        assert_eq!(shop.get("/readyz").status, 503);
        let health = shop.get("/healthz");
        assert!(health.status == 200 && health.text().contains("degraded"), "{health:?}");
        shop.get(&format!("/api/products/{product}")).ok(200); // views are still served
        if let Some(token) = &last
            && shop.get(&format!("/api/orders/{}?at_least={token}&wait_ms=1", made[made.len() - 1])).status == 504
        {
            shop.get(&format!("/api/users/{user}/orders?at_least={token}&wait_ms=1")).refused(504, "VIEW_BEHIND");
            behind = true;
            // What the view does not know cannot be said not to be: the log holds more than it has seen.
            let answer = shop.pay(fresh_id(), 1);
            answer.refused(503, "NOT_READY");
            assert!(answer.header("retry-after").is_some(), "{answer:?}");
            not_ready = true;
        }

        let shop = shop.kill_and_restart();
        for (nth, order) in made.iter().enumerate() {
            let again = shop.post_with_key("/api/orders", &format!("order-{nth}"), &body).ok(201);
            assert_eq!(id_of(&again, "orderId"), *order, "the same request has the same answer");
        }
        let last = shop.post_with_key("/api/orders", &format!("order-{}", made.len()), &body);
        made.push(id_of(&last.ok(201), "orderId"));
        let page = shop.get(&format!("/api/users/{user}/orders?limit=200&at_least={}", last.position())).ok(200);
        let mut listed: Vec<u64> =
            page["orders"].as_array().expect("a list").iter().map(|order| id_of(order, "orderId")).collect();
        listed.sort_unstable();
        assert_eq!(listed, made, "each order once");
        if unknown && unavailable && not_ready && behind {
            return;
        }
    }
    panic!("seen: unknown {unknown}, unavailable {unavailable}, not ready {not_ready}, behind {behind}");
}
