//! Rows that cannot be relayed as they are: each is parked with the reason, and given back, it is relayed once.

use std::sync::Arc;

use serde_json::json;

use super::database::{Server, shared};
use super::{insert, parked, records_of, relaying, wait_for_marker};
use crate::shop::{FREE, Shop, eventually, run};

const ROUTE: [&str; 2] = ["--cdc-route", "Test=test-events"];

#[test]
fn a_parked_row_is_relayed_once_when_it_is_replayed() {
    let server = shared();
    let database = server.database();
    let url = server.url("app", &database);
    let shop = relaying(&url, &[]);
    for id in ["one", "two"] {
        server.run(&database, &insert(id, &format!("key-{id}"), "Test", r#"'{"a":  "ö"}'"#));
    }
    server.run(&database, "UPDATE outbox_events SET aggregate_type = 'ignored'");
    wait_for_marker(&shop, "two");
    // Still no topic: parked once more.
    let replay = |shop: &Shop, body| shop.post("/dlq/ecommerce.outbox_events.dlq/replay", &body).ok(200);
    assert_eq!(replay(&shop, json!({"key": "one"})), json!({"matched": 1, "replayed": 1}));
    eventually(|| (parked(&shop).len() == 3).then_some(()));
    let data = Arc::clone(&shop.data);
    shop.signal("KILL");
    drop(shop);

    let args = [&["--mysql", &url], &ROUTE[..]].concat();
    let shop = Shop::start_on_with(Arc::clone(&data), FREE, &args);
    let output = run(&["dlq", "replay", "ecommerce.outbox_events.dlq", "--key", "two", "--url", &shop.url()]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let relayed = |shop: &Shop| super::metric(shop, "shop_cdc_rows_total{outcome=\"relayed\"}");
    eventually(|| (relayed(&shop) == 1.0).then_some(()));
    shop.signal("KILL");
    drop(shop);
    // Neither is carried out again by the next start.
    let shop = Shop::start_on_with(data, FREE, &args);
    server.run(&database, &insert("last", "1", "Marker", "NULL"));
    wait_for_marker(&shop, "last");
    let records = records_of(shop).remove("test-events").expect("a topic");
    let [record] = &records[..] else { panic!("{records:?}") };
    assert_eq!(
        (record.header("id"), record.key.as_deref(), record.value.as_deref()),
        (Some("two"), Some("key-two"), Some(r#"{"a":  "ö"}"#))
    );
    let since = "SELECT TIMESTAMPDIFF(MICROSECOND, '1970-01-01', created_at) DIV 1000 FROM outbox_events WHERE id = 'two'";
    assert_eq!(server.rows::<(i64,)>(&database, since), [(record.timestamp,)]);
}

/// The cause that a row with this key was parked for.
fn cause_of(shop: &Shop, holds: &str) -> String {
    eventually(|| {
        let letters = parked(shop);
        let letter = letters.iter().find(|letter| letter["value"].to_string().contains(holds))?;
        Some(letter["cause"].as_str().expect("a cause").to_owned())
    })
}

#[test]
fn rows_of_xa_transactions_and_of_statements_are_parked_with_the_reason() {
    let server = shared();
    let database = server.database();
    let shop = relaying(&server.url("app", &database), &ROUTE);
    let within = |id: &str, end: &str| {
        let row = insert(id, "1", "Test", "NULL");
        server.run(&database, &format!("XA START '{id}'; {row}; XA END '{id}'; {end}"));
    };
    within("undecided", "XA PREPARE 'undecided'; XA ROLLBACK 'undecided'");
    within("decided", "XA PREPARE 'decided'; XA COMMIT 'decided'");
    within("at-once", "XA COMMIT 'at-once' ONE PHASE");
    server.run(&database, &format!("SET SESSION binlog_format = STATEMENT; {}", insert("by-statement", "1", "Test", "NULL")));
    server.run(&database, &insert("last", "1", "Marker", "NULL"));
    wait_for_marker(&shop, "last");
    for id in ["undecided", "decided"] {
        let cause = cause_of(&shop, id);
        assert!(cause.contains("XA transaction"), "{cause}");
    }
    let cause = cause_of(&shop, "by-statement");
    assert!(cause.contains("binlog_format=ROW"), "{cause}");
    // Whoever knows that it was committed gives it back; a statement holds no row.
    let letters = parked(&shop);
    let decided = letters.iter().find(|letter| letter["key"] == "decided").expect("it is parked");
    let replayed = shop.post("/dlq/ecommerce.outbox_events.dlq/replay", &json!({"key": decided["key"]})).ok(200);
    assert_eq!(replayed["replayed"], 1);
    eventually(|| (super::metric(&shop, "shop_cdc_rows_total{outcome=\"relayed\"}") == 2.0).then_some(()));
    let records = records_of(shop).remove("test-events").expect("a topic");
    let ids: Vec<_> = records.iter().filter_map(|record| record.header("id")).collect();
    assert_eq!(ids, ["at-once", "decided"]);
}

#[test]
fn compressed_rows_end_the_relay_with_the_reason() {
    let server = Server::start(&[]);
    let database = server.database();
    let url = server.url("app", &database);
    let shop = relaying(&url, &ROUTE);
    server.run(&database, &insert("before", "1", "Marker", "NULL"));
    wait_for_marker(&shop, "before");
    server.run("", "SET GLOBAL log_bin_compress = ON");
    server.run(&database, &insert("large", "1", "Test", &format!("'\"{}\"'", "x".repeat(2_000))));
    let data = Arc::clone(&shop.data);
    assert_eq!(shop.wait(std::time::Duration::from_secs(20)).code(), Some(1));
    // And nothing is passed over by the next start, which says why.
    server.run("", "SET GLOBAL log_bin_compress = OFF");
    let mut again = crate::shop::command(&crate::shop::dev(FREE, data.path()));
    let output = crate::shop::run_command(again.args(["--mysql", &url]).args(ROUTE));
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("log_bin_compress") && said.contains("--resnapshot"), "{said}");
    let shop = Shop::start_on_with(data, FREE, &[&["--mysql", &url, "--resnapshot"], &ROUTE[..]].concat());
    server.run(&database, &insert("after", "1", "Marker", "NULL"));
    wait_for_marker(&shop, "after");
    assert!(records_of(shop)["test-events"].iter().any(|record| record.header("id") == Some("large")));
}
