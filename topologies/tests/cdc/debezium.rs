//! Debezium's Outbox Event Router and the relay are interchangeable: of the same rows they make the same records. What the router made of
//! `debezium/rows.sql` was recorded from the real one (`benches/peers/debezium/record.sh`), with this placement of its columns.

use std::collections::BTreeMap;

use serde_json::Value;

use super::database::{Server, shared};
use super::records::Stored;
use super::{insert, records_of, relaying, wait_for_marker};

const ROWS: &str = include_str!("debezium/rows.sql");
const MARIADB: &str = include_str!("debezium/mariadb.jsonl");
const MYSQL: &str = include_str!("debezium/mysql.jsonl");
const MORE_ROWS: &str = include_str!("debezium/more-rows.sql");
const MORE: &str = include_str!("debezium/mariadb-more.jsonl");

const TOPICS: [&str; 2] = ["--cdc-option", "route.topic.replacement=fixture-${routedByValue}"];

fn placement() -> String {
    let columns = ["tiny", "int", "uint", "big", "ubig", "text", "binary", "blob"];
    let times = ["datetime", "datetime3", "datetime6", "timestamp", "timestamp6"];
    let rest: String = columns.iter().chain(&times).map(|name| format!(",c_{name}:header:{name}")).collect();
    format!(
        "table.fields.additional.placement=aggregate_type:header:aggregateType,event_type:header:eventType,created_at:header:createdAt{rest}"
    )
}

/// The recorded records by topic and id. The router writes a null header where a column is null, and the relay none; and it writes numbers
/// beyond 2^63 as negative ones, and the relay as they are.
fn recorded(text: &str) -> BTreeMap<(String, String), Stored> {
    let record = |line: &str| {
        let record: Value = serde_json::from_str(line).expect("JSON");
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let headers = record["headers"].as_array().expect("headers").iter().filter_map(|header| {
            let (name, value) = (text(&header[0]).expect("a name"), text(&header[1])?);
            let value = if (name.as_str(), value.as_str()) == ("ubig", "-1") { u64::MAX.to_string() } else { value };
            Some((name, value))
        });
        let stored = Stored {
            key: text(&record["key"]),
            value: text(&record["value"]),
            timestamp: record["timestamp"].as_i64().expect("a timestamp"),
            headers: headers.collect(),
        };
        let id = stored.header("id").expect("an id").to_owned();
        ((record["topic"].as_str().expect("a topic").to_owned(), id), stored)
    };
    text.lines().map(record).collect()
}

/// The records of a shop's topics, likewise.
fn stored(records: BTreeMap<String, Vec<Stored>>) -> BTreeMap<(String, String), Stored> {
    let mut all = BTreeMap::new();
    for (topic, records) in records {
        let Some(topic) = topic.strip_prefix("fixture-") else { continue };
        for record in records {
            let id = record.header("id").expect("an id").to_owned();
            assert_eq!(all.insert((topic.to_owned(), id), record), None, "once");
        }
    }
    all
}

/// Relays the rows on a server, from the binlog and then from a snapshot, and compares.
fn check(url: &str, run: &dyn Fn(&str), text: &str) {
    let (table, rows) = ROWS.split_once("INSERT INTO").expect("a table, then rows");
    run(table);
    let placement = placement();
    let args = [&TOPICS[..], &["--cdc-option", &placement]].concat();
    let shop = relaying(url, &args);
    run(&format!("INSERT INTO{rows}"));
    // The marker has no topic, since its name is none.
    run(&insert("marker", "1", "no topic", "NULL"));
    wait_for_marker(&shop, "marker");
    let relayed = stored(records_of(shop));
    let expected = recorded(text);
    assert_eq!(relayed.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    for (key, record) in &expected {
        assert_eq!(&relayed[key], record, "{key:?}");
    }

    // What was there before is the same record, but that MySQL gives its JSON with spaces then.
    let shop = relaying(url, &args);
    wait_for_marker(&shop, "marker");
    let again = stored(records_of(shop));
    let unchanged = |record: &&Stored| !matches!(record.key.as_deref(), Some("1" | "2"));
    let compact = |value: &Option<String>| value.as_ref().map(|value| serde_json::from_str::<Value>(value).expect("JSON"));
    assert_eq!(again.values().filter(unchanged).count(), 3);
    for (key, record) in again.iter().filter(|(_, record)| unchanged(record)) {
        let expected = &expected[key];
        assert_eq!((&record.key, record.timestamp, &record.headers), (&expected.key, expected.timestamp, &expected.headers));
        if record.key.as_deref() != Some("7") {
            assert_eq!(compact(&record.value), compact(&expected.value), "{key:?}");
        }
    }
}

#[test]
fn columns_of_all_kinds_become_the_headers_that_debezium_makes() {
    let server = shared();
    let database = server.database();
    let (table, rows) = MORE_ROWS.split_once("INSERT INTO").expect("a table, then rows");
    server.run(&database, table);
    let names = table.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).filter_map(|word| word.strip_prefix("c_"));
    let columns: String = names.map(|name| format!(",c_{name}:header:{name}")).collect();
    let placement = "aggregate_type:header:aggregateType,event_type:header:eventType,created_at:header:createdAt";
    let placement = format!("table.fields.additional.placement={placement}{columns}");
    let args = [&TOPICS[..], &["--cdc-option", &placement]].concat();
    let expected = recorded(MORE);
    assert!(expected.len() == 4 && columns.matches(':').count() == 28, "{columns}");
    // From the binlog, and then from a snapshot.
    for rows in [format!("INSERT INTO{rows}"), String::new()] {
        let shop = relaying(&server.url("app", &database), &args);
        server.run(&database, &rows);
        server.run(&database, &insert(&format!("marker-{}", rows.len()), "1", "no topic", "NULL"));
        wait_for_marker(&shop, &format!("marker-{}", rows.len()));
        assert_eq!(stored(records_of(shop)), expected);
    }
}

#[test]
fn rows_of_mariadb_become_the_records_that_debezium_makes() {
    let server = shared();
    let database = server.database();
    check(&server.url("app", &database), &|statements| server.run(&database, statements), MARIADB);
}

#[test]
#[ignore = "needs MySQL 8, which comes from Maven Central: make mysql8"]
fn rows_of_mysql_become_the_records_that_debezium_makes() {
    let server = Server::mysql8();
    let run = |statements: &str| server.run("app", statements);
    for by in ["gtid", "file"] {
        println!("by {by}");
        check(&server.url("cdc", "app"), &run, MYSQL);
        // This one writes requests there, too, which takes more rights.
        super::relaying::goes_on_where_it_stopped(&server.url("app", "app"), by, &run);
    }
}
