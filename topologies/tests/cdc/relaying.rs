//! What comes of rows, without anything failing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::database::{Server, shared};
use super::{insert, metric, parked, records_of, relaying, wait_for_marker};
use crate::shop::{FREE, Shop, eventually, fresh_id};

/// Rows of every event type of the test go to one topic.
const ROUTE: [&str; 2] = ["--cdc-route", "Test=test-events"];

#[test]
fn a_program_inserts_and_a_browser_hears() {
    let (server, user) = (shared(), fresh_id());
    let database = server.database();
    let shop = relaying(&server.url("app", &database), &[]);
    let coupon = shop.coupon(1);
    let mut stream = shop.subscribe(user, None);
    assert_eq!(stream.next().name, "connected");
    let payload = json!({"couponId": coupon, "userId": user, "requestedAt": "2026-01-31T12:00:00Z"}).to_string();
    server.run(&database, &insert("claim-1", &coupon.to_string(), "CouponIssueRequest", &format!("'{payload}'")));
    let heard = stream.next();
    assert_eq!((heard.name.as_str(), &heard.json()["couponId"]), ("coupon-issued", &json!(coupon)));
    // A client may see the event before the relay's commit is counted.
    eventually(|| (metric(&shop, "shop_cdc_rows_total{outcome=\"relayed\"}") == 1.0).then_some(()));
    assert_eq!(metric(&shop, "shop_cdc_connected"), 1.0);
    eventually(|| (metric(&shop, "shop_cdc_lag_ms") == 0.0).then_some(()));
    let alerts = include_str!("../../operations/prometheus-alerts-cdc.yml");
    let expressions = alerts.lines().filter_map(|line| line.trim_start().strip_prefix("expr: "));
    let asked: Vec<&str> = expressions.flat_map(|line| line.split(|c: char| !(c.is_ascii_lowercase() || c == '_'))).collect();
    let asked = asked.into_iter().filter(|word| word.starts_with("shop_"));
    let metrics = shop.get("/metrics");
    assert!(asked.inspect(|name| assert!(metrics.text().contains(name), "{name}")).count() == 4);
}

#[test]
fn rows_before_during_and_after_the_snapshot_are_relayed_once() {
    let server = shared();
    let database = server.database();
    let url = server.url("app", &database);
    drop(relaying(&url, &[])); // makes the table
    let stop = std::sync::atomic::AtomicBool::new(false);
    let written = std::thread::scope(|scope| {
        let write = || {
            let mut count = 0;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                server.run(&database, &insert(&format!("row-{count}"), &(count % 7).to_string(), "Test", "'{}'"));
                count += 1;
            }
            count
        };
        let writer = scope.spawn(write);
        let count = || server.rows::<u64>(&database, "SELECT COUNT(*) FROM outbox_events")[0];
        eventually(|| (count() > 50).then_some(()));
        let shop = relaying(&url, &ROUTE);
        let seen = count();
        eventually(|| (count() > seen + 50).then_some(()));
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        let written = writer.join().expect("a writer");
        server.run(&database, &insert("marker", "1", "Marker", "NULL"));
        wait_for_marker(&shop, "marker");
        let records = records_of(shop);
        let mut ids: Vec<&str> = records["test-events"].iter().filter_map(|record| record.header("id")).collect();
        ids.sort_unstable();
        let mut expected: Vec<String> = (0..written).map(|row| format!("row-{row}")).collect();
        expected.sort_unstable();
        assert_eq!(ids, expected);
        written
    });

    // Later starts go on where the last one stopped; a snapshot that is asked for repeats what is there; one that is not wanted is not taken.
    let data = Arc::new(tempfile::TempDir::new().expect("a directory"));
    let again = |args: &[&str]| Shop::start_on_with(Arc::clone(&data), FREE, &[&["--mysql", &url], &ROUTE[..], args].concat());
    let mut shop = again(&["--cdc-snapshot", "no_data"]);
    for (args, marker) in [(&[][..], "m1"), (&["--cdc-position", "file"], "m2"), (&["--resnapshot"], "m3")] {
        shop.signal("TERM");
        shop.wait(Duration::from_secs(10));
        server.run(&database, &insert(&format!("{marker}-before"), "1", "Test", "NULL"));
        shop = again(args);
        server.run(&database, &insert(marker, "1", "Marker", "NULL"));
        wait_for_marker(&shop, marker);
    }
    let records = records_of(shop);
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for record in &records["test-events"] {
        *counts.entry(record.header("id").expect("an id")).or_default() += 1;
    }
    assert_eq!((counts.get("m1-before"), counts.get("m2-before"), counts.get("m3-before")), (Some(&2), Some(&2), Some(&1)));
    assert_eq!(counts.len(), written + 3, "rows of before, by the last snapshot");
    assert!(counts.iter().filter(|(id, _)| id.starts_with("row-")).all(|(_, count)| *count == 1));
}

#[test]
fn what_has_no_topic_is_parked_whole_and_the_rest_goes_on() {
    let server = shared();
    let database = server.database();
    let shop = relaying(&server.url("app", &database), &["--cdc-option", "route.topic.replacement=test.${routedByValue}"]);
    let large = "x".repeat(1_500_000);
    for (id, event_type, payload) in [
        ("good-1", "a", "'{}'".to_owned()),
        ("bad-topic", "my topic/é", "'{}'".to_owned()),
        ("large", "a", format!("'\"{large}\"'")),
        ("good-2", "a", "NULL".to_owned()),
    ] {
        server.run(&database, &insert(id, "1", event_type, &payload));
    }
    server.run(&database, "INSERT INTO outbox_events VALUES ('old', 'T', '1', 'a', '{}', '1969-12-31 23:59:59')");
    wait_for_marker(&shop, "old");
    let letters = parked(&shop);
    let cause = |id: &str| letters.iter().find(|letter| letter["key"] == id).map(|letter| letter["cause"].to_string()).expect(id);
    assert!(cause("bad-topic").contains("my topic/é"));
    assert!(cause("large").contains("bytes"));
    assert!(cause("old").contains("1970"));
    assert_eq!(metric(&shop, "shop_cdc_rows_total{outcome=\"parked\"}"), 3.0);

    let records = records_of(shop);
    let pieces: String = records["ecommerce.outbox_events.dlq"]
        .iter()
        .filter(|letter| letter.key.as_deref() == Some("large"))
        .filter_map(|letter| letter.value.as_deref())
        .collect();
    let row: serde_json::Value = serde_json::from_str(&pieces).expect("a row");
    assert_eq!(row["payload"].as_str().map(str::len), Some(large.len() + 2));
    let good: Vec<_> =
        records["test.a"].iter().map(|record| (record.header("id").unwrap_or_default(), record.value.as_deref())).collect();
    assert_eq!(good, [("good-1", Some("{}")), ("good-2", None)]);
}

#[test]
fn transactions_are_whole_large_or_rolled_back_over_rotation_and_change_of_the_table() {
    let server = Server::start(&[]);
    let database = server.database();
    let url = server.url("app", &database);
    let shop = relaying(&url, &[&ROUTE[..], &["--raw-topic"]].concat());
    let row = |id: &str| insert(id, "1", "Test", "'{}'");
    let large = |id: &str| insert(id, "1", "Test", &format!("'\"{}\"'", "y".repeat(900_000)));
    let many: Vec<String> = (0..25).map(|number| large(&format!("large-{number:02}"))).collect();
    for statements in [
        vec!["BEGIN".into(), row("a-1"), row("a-2"), "COMMIT".into()],
        vec!["BEGIN".into(), row("gone-1"), "ROLLBACK".into()],
        vec![
            "BEGIN".into(),
            row("b-1"),
            "SAVEPOINT s".into(),
            row("gone-2"),
            "ROLLBACK TO s".into(),
            row("b-2"),
            "COMMIT".into(),
        ],
        vec!["FLUSH BINARY LOGS".into()],
        [vec!["BEGIN".into()], many, vec!["COMMIT".into()]].concat(), // beyond what is relayed at once
        vec![
            row("c-1"),
            "UPDATE outbox_events SET payload = '[]' WHERE id = 'c-1'".into(),
            "DELETE FROM outbox_events WHERE id = 'a-1'".into(),
        ],
        vec!["ALTER TABLE outbox_events ADD extra INT FIRST, MODIFY aggregate_id VARCHAR(100) AFTER payload".into()],
        vec!["INSERT INTO outbox_events VALUES (7, 'd-1', 'T', 'Test', NULL, '1', '2026-01-02 03:04:05.678901')".into()],
        vec!["FLUSH BINARY LOGS".into(), row("marker").replace("'Test', '{}'", "'Marker', '{}'")],
    ] {
        server.run(&database, &statements.join(";"));
    }
    wait_for_marker(&shop, "marker");
    // The server drops the connection: the relay comes back.
    let dumps: Vec<u64> =
        server.rows(&database, "SELECT id FROM information_schema.processlist WHERE command LIKE 'Binlog Dump%'");
    dumps.iter().for_each(|id| server.run(&database, &format!("KILL {id}")));
    server.run(&database, &insert("marker-2", "1", "Marker", "NULL"));
    wait_for_marker(&shop, "marker-2");
    assert!(!dumps.is_empty() && metric(&shop, "shop_cdc_troubles_total") >= 1.0);
    eventually(|| (metric(&shop, "shop_cdc_rows_total{outcome=\"ignored\"}") == 2.0).then_some(()));
    let records = records_of(shop);
    let ids: Vec<&str> = records["test-events"].iter().filter_map(|record| record.header("id")).collect();
    let expected: Vec<String> = ["a-1", "a-2", "b-1", "b-2"]
        .map(String::from)
        .into_iter()
        .chain((0..25).map(|number| format!("large-{number:02}")))
        .chain(["c-1".into(), "d-1".into()])
        .collect();
    assert_eq!(ids, expected);
    let last = records["test-events"].last().expect("records");
    assert_eq!((last.key.as_deref(), last.value.as_deref(), last.timestamp), (Some("1"), None, 1_767_323_045_678));
    assert_eq!(last.header("occurredAt"), Some("2026-01-02T03:04:05.678Z"));
    assert!(
        records["ecommerce.outbox_events"].iter().any(|raw| raw.value.as_deref().is_some_and(|row| row.contains("\"extra\":7")))
    );
}

/// A shop that is stopped and started again relays what was written meanwhile, and nothing twice.
pub fn goes_on_where_it_stopped(url: &str, by: &str, run: &dyn Fn(&str)) {
    run("DROP TABLE outbox_events");
    let data = Arc::new(tempfile::TempDir::new().expect("a directory"));
    let start = || Shop::start_on_with(Arc::clone(&data), FREE, &[&["--mysql", url, "--cdc-position", by], &ROUTE[..]].concat());
    let table = "CREATE TABLE outbox_events (id CHAR(36) PRIMARY KEY, aggregate_type VARCHAR(64) NOT NULL, aggregate_id VARCHAR(64) NOT NULL,
        event_type VARCHAR(64) NOT NULL, payload JSON NULL, created_at DATETIME(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6))";
    run(table);
    for round in 0..3 {
        run(&insert(&format!("before-{round}"), "1", "Test", "'[]'"));
        let shop = start();
        run(&insert(&format!("after-{round}"), "1", "Test", "'[]'"));
        run(&insert(&format!("marker-{round}"), "1", "Marker", "NULL"));
        wait_for_marker(&shop, &format!("marker-{round}"));
        drop(shop); // by kill -9
    }
    let ids: Vec<String> = super::records::read(data.path())["test-events"]
        .iter()
        .filter_map(|record| record.header("id").map(str::to_owned))
        .collect();
    assert_eq!(ids, ["before-0", "after-0", "before-1", "after-1", "before-2", "after-2"]);
}
