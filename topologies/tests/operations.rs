//! What an operator looks at: health, metrics, dead letters, the topology, limits and the demo.

use serde_json::{Value, json};

use crate::shop::{Shop, eventually, fresh_id, run, shared};

#[test]
fn it_is_healthy_and_ready() {
    for path in ["/healthz", "/readyz"] {
        assert_eq!(shared().get(path).status, 200);
    }
}

/// The sum of the samples of a metric, or `None` where there is none.
fn metric(shop: &Shop, name: &str) -> Option<f64> {
    let answer = shop.get("/metrics");
    assert_eq!(answer.status, 200);
    assert!(answer.header("content-type").is_some_and(|t| t.starts_with("application/openmetrics-text")), "{answer:?}");
    assert!(answer.text().ends_with("# EOF\n"));
    let samples = answer.text().lines().filter_map(|line| {
        let rest = line.strip_prefix(name).filter(|rest| rest.starts_with([' ', '{']))?;
        rest.rsplit_once(' ').and_then(|(_, value)| value.parse::<f64>().ok())
    });
    samples.reduce(|a, b| a + b)
}

/// Waits until a metric has a value.
#[track_caller]
fn await_metric(shop: &Shop, name: &str, expected: f64) {
    eventually(|| (metric(shop, name) == Some(expected)).then_some(()));
}

#[test]
fn metrics_have_the_promised_names_and_count() {
    let shop = Shop::start();
    for name in ["kafka_consumer_lag", "kafka_producer_record_send_total", "order_completed_count"] {
        assert!(metric(&shop, name).is_some(), "no {name}");
    }
    let coupon = shop.coupon(2);
    let streams: Vec<_> = (1..=3).map(|user| shop.subscribe(user, None)).collect();
    (1..=3).for_each(|user| drop(shop.claim(coupon, user)));
    await_metric(&shop, "coupon_issue_count", 2.0);
    await_metric(&shop, "sse_connection_count", 3.0);
    await_metric(&shop, "kafka_consumer_lag", 0.0);
    assert!(metric(&shop, "kafka_producer_record_send_total") >= Some(3.0));
    drop(streams);
    // A stream that is gone is noticed when it is written to.
    let coupon = shop.coupon(3);
    (1..=3).for_each(|user| drop(shop.claim(coupon, user)));
    await_metric(&shop, "sse_connection_count", 0.0);
}

#[test]
fn dashboard_and_alerts_ask_for_metrics_that_there_are() {
    let shop = shared();
    let metrics = shop.get("/metrics");
    let families: Vec<&str> = metrics.text().lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    for (file, text) in [
        ("grafana-dashboard.json", include_str!("../operations/grafana-dashboard.json")),
        ("prometheus-alerts.yml", include_str!("../operations/prometheus-alerts.yml")),
    ] {
        let expressions = text
            .lines()
            .filter(|line| line.trim_start().starts_with(["expr:", "\"expr\":"][usize::from(file.ends_with("json"))]));
        let names = expressions.flat_map(|line| line.split(|c: char| !(c.is_ascii_lowercase() || c == '_')));
        let ours = ["kafka_", "millstream_", "shop_", "sse_", "coupon_issue_", "order_completed_"];
        let mut asked = 0;
        for name in names.filter(|name| ours.iter().any(|prefix| name.starts_with(prefix))) {
            let family = name.trim_end_matches("_bucket").trim_end_matches("_total");
            assert!(families.contains(&family), "{file} asks for {name}");
            asked += 1;
        }
        assert!(asked >= 10, "{file} asks for {asked} metrics");
    }
}

#[test]
fn dead_letters_can_be_listed() {
    let shop = shared();
    let topics = shop.get("/dlq").ok(200);
    for topic in topics["topics"].as_array().expect("a list") {
        assert_eq!(topic["records"], 0, "there is a dead letter: {topic}");
        let page = shop.get(&format!("/dlq/{}", topic["topic"].as_str().expect("a name"))).ok(200);
        assert_eq!((&page["records"], &page["next"]), (&json!([]), &Value::Null));
    }
    assert_eq!(shop.get("/dlq/nonsense").status, 404);
    assert_eq!(shop.post("/dlq/nonsense/replay", &json!({})).status, 404);
    let url = shop.url();
    assert_eq!(run(&["dlq", "list", "--url", &url]).status.code(), Some(0));
    for args in [&["dlq", "show", "nonsense", "--url", &url][..], &["dlq", "replay", "nonsense", "--dry-run", "--url", &url]] {
        let output = run(args);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), said.trim().lines().count()), (Some(1), 1), "{said}");
        assert!(said.contains("404"), "{said}");
    }
}

#[test]
fn the_topology_can_be_printed() {
    for (format, begins) in [("text", ""), ("mermaid", "flowchart"), ("dot", "digraph")] {
        let output = run(&["topology", "--format", format]);
        let printed = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(printed.starts_with(begins) && printed.contains("coupon-issue"), "{printed}");
    }
}

#[test]
fn a_caller_beyond_the_rate_is_told_when_to_come_back() {
    let shop = Shop::start_with(&["--rate-limit", "5"]);
    let mut connection = shop.connect();
    let refused = (0..100).find_map(|_| {
        connection.send("GET", "/api/coupons", &[], b"");
        Some(connection.response()).filter(|answer| answer.status != 200)
    });
    let refused = refused.expect("100 requests are more than 5 a second");
    refused.refused(429, "RATE_LIMITED");
    assert!(refused.header("retry-after").is_some_and(|s| s.parse::<u64>().is_ok()), "{refused:?}");
}

#[test]
fn only_chosen_origins_may_call_from_a_page() {
    let shop = Shop::start_with(&["--cors-origin", "https://a.example", "--cors-origin", "https://b.example"]);
    for (origin, allowed) in [("https://a.example", true), ("https://b.example", true), ("https://c.example", false)] {
        let answer = shop.request("GET", "/api/coupons", &[("origin", origin)], b"");
        assert_eq!(answer.header("access-control-allow-origin"), allowed.then_some(origin));
        let preflight =
            [("origin", origin), ("access-control-request-method", "POST"), ("access-control-request-headers", "content-type")];
        let answer = shop.request("OPTIONS", "/api/coupons", &preflight, b"");
        assert_eq!(answer.header("access-control-allow-origin"), allowed.then_some(origin));
        assert_eq!(answer.header("access-control-allow-methods").is_some_and(|m| m.contains("POST")), allowed, "{answer:?}");
    }
    let closed = shared().request("GET", "/api/coupons", &[("origin", "https://a.example")], b"");
    assert_eq!(closed.header("access-control-allow-origin"), None);
}

#[test]
fn the_demo_has_coupons_claims_and_orders() {
    let shop = Shop::start_with(&["--demo"]);
    eventually(|| {
        let page = shop.get("/api/coupons").ok(200);
        let rows = page["coupons"].as_array().expect("a list");
        rows.iter().any(|c| c["issued"].as_u64() > Some(1)).then_some(())
    });
    eventually(|| {
        let page = shop.get("/api/products").ok(200);
        page["products"].as_array().expect("a list").iter().any(|product| product["sold"].as_u64() > Some(0)).then_some(())
    });
}

#[test]
fn requests_of_unused_ids_leave_no_trace() {
    let shop = Shop::start();
    let entries = || {
        shop.get("/views").ok(200)["stores"].as_array().expect("a list").iter().map(|s| s["entries"].clone()).collect::<Vec<_>>()
    };
    let before = entries();
    (0..20).for_each(|_| {
        let id = fresh_id();
        shop.claim(id, id).refused(404, "COUPON_NOT_FOUND");
        shop.get(&format!("/api/users/{id}/coupons")).ok(200);
        drop(shop.subscribe(id, None));
    });
    assert_eq!(entries(), before);
}
