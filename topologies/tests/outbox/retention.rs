//! Old rows of the outbox are deleted once they were relayed, and no others, whatever is killed meanwhile; and nobody notices it but the table.

use std::collections::BTreeSet;
use std::sync::Arc;

use millstream::log::{KafkaConfig, KafkaLog};
use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use serde_json::json;

use super::{directory, rows, through};
use crate::cdc::database::{Server, shared, wait};
use crate::cdc::{metric, records, records_of};
use crate::kafka::broker::Broker;
use crate::shop::{FREE, Shop, command, dev, eventually, fresh_id, refusal, run_command};

const OLD: &str = "2020-01-31 12:00:00";
/// Which commit of a start the first position of a relay is that passes over what there is.
const FIRST_POSITION: u32 = 1;

/// Claims of a coupon, as an outside program writes them that says when they were.
fn insert_claims(server: &Server, database: &str, coupon: u64, created_at: &str, ids: std::ops::Range<u32>) {
    let row = |number: u32| {
        let payload = json!({"couponId": coupon, "userId": fresh_id(), "requestedAt": "2026-01-31T12:00:00Z"});
        format!("('outside-{number:05}', 'Coupon', '{coupon}', 'CouponIssueRequest', '{payload}', '{created_at}')")
    };
    let all: Vec<String> = ids.map(row).collect();
    let columns = "id, aggregate_type, aggregate_id, event_type, payload, created_at";
    server.run(database, &format!("INSERT INTO outbox_events ({columns}) VALUES {}", all.join(",")));
}

fn old_rows(server: &Server, database: &str) -> u64 {
    server.rows(database, &format!("SELECT COUNT(*) FROM outbox_events WHERE created_at = '{OLD}'"))[0]
}

/// Holds a row so that nobody deletes it, until the connection is closed: whoever is at it stands in the middle.
fn hold(server: &Server, database: &str, id: &str) -> Conn {
    wait(async {
        let mut conn = server.connect(database).await.expect("a connection");
        conn.query_drop("BEGIN").await.expect("a transaction");
        let held = format!("SELECT 1 FROM outbox_events WHERE id = '{id}' FOR UPDATE");
        assert_eq!(conn.query_first::<u8, _>(held).await.expect("a row"), Some(1));
        conn
    })
}

#[test]
fn relayed_rows_that_are_old_are_deleted_over_kills_of_either_side() {
    let mut server = Server::start(&[]);
    let database = server.database();
    let url = server.url("app", &database);
    let shop = through(&url);
    let (data, address) = (Arc::clone(&shop.data), shop.address.to_string());
    let (coupon, user) = (shop.coupon(10_000), fresh_id());
    let path = format!("/api/coupons/{coupon}/issue");
    let claim = |shop: &Shop| shop.post_with_key(&path, "old", &json!({"userId": user}));
    let first = claim(&shop);
    first.ok(202);
    let is_old = format!("UPDATE outbox_events SET created_at = '{OLD}'");
    server.run(&database, &is_old); // which is not relayed
    shop.claim(coupon, fresh_id()).ok(202); // is young
    insert_claims(&server, &database, coupon, OLD, 0..3_000);
    drop(shop); // by kill -9, with much on its way
    insert_claims(&server, &database, coupon, OLD, 3_000..3_400);
    insert_claims(&server, &database, coupon, "2036-01-31 12:00:00", 3_400..3_500);

    let held = hold(&server, &database, "outside-01500");
    let shop = Shop::start_on_with(Arc::clone(&data), &address, &["--mysql", &url]);
    eventually(|| (old_rows(&server, &database) < 2_000).then_some(()));
    drop(shop); // by kill -9, in the middle of a transaction that deletes
    wait(held.disconnect()).expect("a connection");
    assert!(old_rows(&server, &database) > 1_500, "it went past the row that was held");

    let held = hold(&server, &database, "outside-02500");
    let shop = Shop::start_on_with(data, &address, &["--mysql", &url]);
    eventually(|| (old_rows(&server, &database) < 1_000).then_some(()));
    server.kill_and_restart();
    drop(held);
    eventually(|| (old_rows(&server, &database) == 0).then_some(()));
    assert_eq!(rows(&server, &database, "outbox_events"), 101, "the young ones");
    assert!(metric(&shop, "shop_outbox_pruned_total") > 1_000.0);

    // The answer to a key is what it was, though its row is gone.
    let again = claim(&shop);
    assert_eq!((again.status, again.text(), again.position()), (202, first.text(), first.position()));
    shop.get(&format!("/api/users/{user}/coupons?at_least={}&wait_ms=10000", again.position())).ok(200);
    assert_eq!(shop.coupons_of(user), [coupon]);
    assert_eq!(rows(&server, &database, "shop_requests"), 1);

    // What was written and deleted is in its topic, once, and nothing came of the deletes.
    let claims = records_of(shop).remove("coupon-issue").expect("a topic");
    let ids: BTreeSet<&str> = claims.iter().filter_map(|claim| claim.header("id")).collect();
    assert_eq!((claims.len(), ids.len()), (3_502, 3_502));
}

/// Without kills, on whatever server.
pub fn deletes_what_is_old(server: &Server) {
    let database = server.database();
    let url = server.url("app", &database);
    drop(through(&url));
    insert_claims(server, &database, 7, OLD, 0..1_500);
    insert_claims(server, &database, 7, "2036-01-31 12:00:00", 1_500..1_510);
    let shop = through(&url);
    eventually(|| (old_rows(server, &database) == 0).then_some(()));
    assert_eq!(rows(server, &database, "outbox_events"), 10);
    let claims = records_of(shop).remove("coupon-issue").expect("a topic");
    assert_eq!(claims.len(), 1_510);
}

#[test]
fn rows_that_nobody_has_relayed_stay_however_old_they_are() {
    const ROWS: u32 = 250;
    let (broker, server) = (Broker::start(), Server::start(&[]));
    let database = server.database();
    let url = server.url("app", &database);
    drop(through(&url)); // made the tables; its relay is another one, of another log
    insert_claims(&server, &database, 7, OLD, 0..ROWS);
    // What is asked of the database is to be seen: that the rows were looked at, and then where they stand in the binlog.
    server.run("", "SET GLOBAL log_output = 'TABLE'; SET GLOBAL general_log = ON");
    let start = |role: &str| crate::kafka::start(&broker, role, directory(), &["--mysql", &url]);
    let api = start("api");
    let asked = |what: &str, since: &str| {
        let of = format!("FROM mysql.general_log WHERE argument LIKE '%{what}%' AND argument NOT LIKE '%general_log%'");
        server.rows::<Option<String>>("", &format!("SELECT CAST(MIN(event_time) AS CHAR) {of} AND event_time >= '{since}'"))[0]
            .clone()
    };
    let looked = eventually(|| asked("ORDER BY id LIMIT", "2000-01-01"));
    eventually(|| asked("@@GLOBAL.gtid_binlog_pos", &looked));
    assert_eq!(old_rows(&server, &database), u64::from(ROWS));
    assert_eq!(asked("DELETE FROM % WHERE created_at <", "2000-01-01"), None);

    let relay = start("cdc");
    eventually(|| (old_rows(&server, &database) == 0).then_some(()));
    assert_eq!(metric(&api, "shop_outbox_pruned_total"), f64::from(ROWS));
    assert_eq!(metric(&relay, "shop_cdc_rows_total{outcome=\"relayed\"}"), f64::from(ROWS));
    let log = KafkaLog::open(KafkaConfig::new(broker.address())).expect("the broker answers");
    assert_eq!(records::of(&log, "coupon-issue").len(), ROWS as usize);
}

/// Later than [`OLD`], and old.
const LATER: &str = "2020-02-01 12:00:00";

fn ids_created_at(server: &Server, database: &str, created_at: &str) -> BTreeSet<String> {
    let query = format!("SELECT id FROM outbox_events WHERE created_at = '{created_at}'");
    server.rows(database, &query).into_iter().collect()
}

fn ids(range: std::ops::Range<u32>) -> BTreeSet<String> {
    range.map(|number| format!("outside-{number:05}")).collect()
}

#[test]
fn rows_that_a_first_start_passed_over_stay_until_they_are_relayed_over_crashes_and_kills() {
    let mut server = Server::start(&[]);
    let database = server.database();
    let url = server.url("app", &database);
    drop(through(&url)); // made the tables; its relay is another one, of another log
    insert_claims(&server, &database, 7, OLD, 0..1_200);
    let data = directory();
    let args = ["--mysql", &url, "--cdc-snapshot", "no_data"];

    // Crashes right before and right after the first position is in the log: what comes between them is passed over, too.
    for (moment, row) in [("before-write", 1_200), ("after-write", 1_201)] {
        let fault = format!("log:commit:{moment}:{FIRST_POSITION}:abort");
        let output = run_command(command(&dev(FREE, data.path())).args(args).env("MILLSTREAM_FAULT", &fault));
        assert_eq!(output.status.code(), None, "{fault}: {}", String::from_utf8_lossy(&output.stderr));
        let has_position = records::read(data.path()).get("shop.cdc-position").is_some_and(|records| !records.is_empty());
        assert_eq!(has_position, moment == "after-write");
        insert_claims(&server, &database, 7, OLD, row..row + 1);
    }
    // This one is relayed, and stays as what is not later than what was passed over; these are relayed and go.
    let stay = ids(0..1_202);
    insert_claims(&server, &database, 7, LATER, 1_202..2_600);
    let held = hold(&server, &database, "outside-02000");
    let shop = Shop::start_on_with(Arc::clone(&data), FREE, &args);
    eventually(|| (ids_created_at(&server, &database, LATER).len() < 1_000).then_some(()));
    drop(shop); // by kill -9, in the middle of a transaction that deletes
    server.kill_and_restart();
    drop(held);
    let shop = Shop::start_on_with(Arc::clone(&data), FREE, &args);
    eventually(|| ids_created_at(&server, &database, LATER).is_empty().then_some(()));
    assert_eq!(ids_created_at(&server, &database, OLD), stay);
    let of_topic = |shop: Shop| -> Vec<String> {
        let claims = records_of(shop).remove("coupon-issue").expect("a topic");
        claims.iter().filter_map(|claim| claim.header("id").map(str::to_owned)).collect()
    };
    let relayed = of_topic(shop);
    assert_eq!((relayed.len(), relayed.into_iter().collect()), (1_399, ids(1_201..2_600)));

    // Asked for, they are relayed, and then go: with the next pass, which is at the next start.
    let shop = Shop::start_on_with(Arc::clone(&data), FREE, &[&args[..], &["--resnapshot"]].concat());
    eventually(|| (metric(&shop, "shop_cdc_rows_total{outcome=\"relayed\"}") == 1_202.0).then_some(()));
    drop(shop); // by kill -9
    let shop = Shop::start_on_with(data, FREE, &args);
    eventually(|| (rows(&server, &database, "outbox_events") == 0).then_some(()));
    let relayed = of_topic(shop);
    assert_eq!((relayed.len(), relayed.into_iter().collect()), (2_601, ids(0..2_600)), "the one of before twice");
}

#[test]
fn what_a_relay_passed_over_an_api_keeps() {
    const ROWS: u32 = 50;
    let (broker, server) = (Broker::start(), shared());
    let database = server.database();
    let url = server.url("app", &database);
    drop(through(&url));
    insert_claims(server, &database, 7, OLD, 0..ROWS);
    let state = directory();
    let relay = || crate::kafka::start(&broker, "cdc", Arc::clone(&state), &["--mysql", &url, "--cdc-snapshot", "no_data"]);
    let passing_over = relay();
    eventually(|| (metric(&passing_over, "shop_cdc_connected") == 1.0).then_some(()));
    drop(passing_over); // by kill -9
    insert_claims(server, &database, 7, LATER, ROWS..2 * ROWS);
    let relay = relay();
    let api = crate::kafka::start(&broker, "api", directory(), &["--mysql", &url]);
    eventually(|| ids_created_at(server, &database, LATER).is_empty().then_some(()));
    assert_eq!(ids_created_at(server, &database, OLD), ids(0..ROWS));
    assert_eq!(metric(&api, "shop_outbox_pruned_total"), f64::from(ROWS));
    assert_eq!(metric(&relay, "shop_cdc_rows_total{outcome=\"relayed\"}"), f64::from(ROWS));
}

#[test]
fn rows_stay_where_they_are_to_or_where_deleting_is_not_allowed() {
    let server = shared();
    let database = server.database();
    let url = server.url("app", &database);
    drop(through(&url));
    insert_claims(server, &database, 7, OLD, 0..3);
    server.run(
        "",
        &format!(
            "CREATE USER keeper@'%' IDENTIFIED BY 'keeper'; GRANT REPLICATION SLAVE, BINLOG MONITOR ON *.* TO keeper@'%';
             GRANT SELECT, INSERT, UPDATE, CREATE ON {database}.* TO keeper@'%'; GRANT DELETE ON {database}.shop_requests TO keeper@'%'"
        ),
    );
    let keeper = server.url("keeper", &database);
    let said = refusal(&run_command(command(&dev(FREE, directory().path())).args(["--mysql", &keeper])));
    assert!(said.contains("DELETE") && said.contains("outbox_events"), "{said}");
    let off = ["--mysql", &keeper, "--outbox-retention", "off"];
    let shop = Shop::start_on_with(directory(), FREE, &off);
    let coupon = shop.coupon(1);
    shop.claim_and_wait(coupon, fresh_id());
    assert_eq!((old_rows(server, &database), rows(server, &database, "outbox_events")), (3, 4));
    let said = refusal(&run_command(command(&dev(FREE, directory().path())).args(["--outbox-retention", "59m"])));
    assert!(said.contains("--outbox-retention"), "{said}");
}
