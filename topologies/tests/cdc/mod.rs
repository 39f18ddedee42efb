//! Change data capture from a real MariaDB: whatever a program commits to the outbox is in its topic, once, in order, and nothing else.

mod crash;
pub mod database;
mod debezium;
mod odd;
mod outside;
pub mod records;
mod refusals;
mod relaying;
mod speed;

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use self::records::Stored;
use crate::shop::{FREE, Shop, eventually};

/// An INSERT of one row of the outbox.
pub fn insert(id: &str, aggregate: &str, event_type: &str, payload: &str) -> String {
    format!(
        "INSERT INTO outbox_events (id, aggregate_type, aggregate_id, event_type, payload) VALUES ('{id}', 'Test', '{aggregate}', '{event_type}', {payload})"
    )
}

/// A number of the shop's metrics.
pub fn metric(shop: &Shop, name: &str) -> f64 {
    let metrics = shop.get("/metrics");
    let line = metrics.text().lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name} in {}", metrics.text())).parse().expect("a number")
}

/// What is parked because it has no topic.
fn parked(shop: &Shop) -> Vec<Value> {
    let page = shop.get("/dlq/ecommerce.outbox_events.dlq?limit=500").ok(200);
    page["records"].as_array().expect("a list").clone()
}

/// Waits until the relay has passed a row: one without a topic, which is seen in the dead letters.
fn wait_for_marker(shop: &Shop, id: &str) {
    eventually(|| parked(shop).iter().any(|letter| letter["key"] == id).then_some(()));
}

/// Ends a shop in order, and reads what it has written.
pub fn records_of(shop: Shop) -> std::collections::BTreeMap<String, Vec<Stored>> {
    let data = Arc::clone(&shop.data);
    shop.signal("TERM");
    assert_eq!(shop.wait(Duration::from_secs(10)).code(), Some(0));
    records::read(data.path())
}

/// A shop that relays a database, with further arguments.
fn relaying(url: &str, args: &[&str]) -> Shop {
    let data = Arc::new(TempDir::new().expect("a directory"));
    Shop::start_on_with(data, FREE, &[&["--mysql", url], args].concat())
}
