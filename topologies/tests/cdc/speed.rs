//! How fast the relay is, measured from outside: not a test that can fail on a slow machine, but what is printed where somebody asks for it.
//! How much memory it takes does not depend on the machine, and is tested.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use mysql_async::prelude::Queryable;
use tempfile::TempDir;

use super::database::{Server, connect, wait};
use super::{insert, metric};
use crate::kafka::broker::Broker;
use crate::shop::{FREE, Shop, eventually};

const PAYLOAD: &str = r#"'{"order_id": 1234567, "customer": "c-98765", "amount": 199.95, "currency": "EUR", "lines": [{"sku": "A-1", "n": 2}, {"sku": "A-1", "n": 2}, {"sku": "A-1", "n": 2}]}'"#;
/// A topic whose records HTTP shows.
const ROUTE: [&str; 2] = ["--cdc-route", "Test=speed.rejected"];

fn setting(name: &str, default: u32) -> u32 {
    std::env::var(name).map_or(default, |value| value.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// When each row was seen in the topic: it is asked for what is new again and again.
fn watch(shop: &Shop, stop: &AtomicBool) -> HashMap<String, Instant> {
    let (mut seen, mut after) = (HashMap::new(), String::new());
    let mut connection = shop.connect();
    while !stop.load(Relaxed) {
        connection.send("GET", &format!("/dlq/speed.rejected?limit=500{after}"), &[], b"");
        let page = connection.response().ok(200);
        let now = Instant::now();
        let records = page["records"].as_array().expect("records");
        for record in records {
            let id = record["headers"]["id"].as_str().expect("an id");
            seen.insert(id.to_owned(), now);
        }
        if let Some(last) = records.last() {
            after = format!("&after={}:{}", last["partition"], last["offset"]);
        }
    }
    seen
}

/// Inserts rows one by one at a rate; gives when each insert's commit was told.
async fn insert_at(port: u16, database: &str, rows: u32, every: Duration) -> HashMap<String, Instant> {
    let mut conn = connect(port, database).await.expect("a connection");
    let (mut told, mut at) = (HashMap::new(), tokio::time::Instant::now());
    for row in 0..rows {
        tokio::time::sleep_until(at).await;
        at += every;
        let id = format!("latency-{row}");
        conn.query_drop(insert(&id, &(row % 1_000).to_string(), "Test", PAYLOAD)).await.expect("an insert");
        told.insert(id, Instant::now());
    }
    told
}

/// Inserts rows in transactions of 500.
async fn insert_many(port: u16, database: &str, round: u32, rows: u32) {
    let mut conn = connect(port, database).await.expect("a connection");
    for batch in 0..rows.div_ceil(500) {
        let row = |row: u32| format!("('{round}-{batch}-{row}', 'Test', 'o-{}', 'Test', {PAYLOAD})", row % 1_000);
        let values: Vec<String> = (0..500.min(rows - batch * 500)).map(row).collect();
        let statement = "INSERT INTO outbox_events (id, aggregate_type, aggregate_id, event_type, payload) VALUES ";
        conn.query_drop(format!("{statement}{}", values.join(","))).await.expect("an insert");
    }
}

/// The CPU seconds that a process has used, and the most memory it had, in MiB.
fn used(process: u32) -> (f64, u64) {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).expect("a running process");
    let fields: Vec<&str> = stat.rsplit(')').next().expect("fields").split_whitespace().collect();
    let ticks: f64 = fields[11].parse::<f64>().expect("a number") + fields[12].parse::<f64>().expect("a number");
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("a running process");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    (ticks / 100.0, peak.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") / 1024)
}

#[test]
fn a_backlog_is_relayed_to_kafka_in_little_memory() {
    const ROWS: u32 = 50_000;
    /// In MiB, of which the program itself is two thirds; a fifteenth of Debezium's is the aim.
    const LIMIT: u64 = 44;
    let (broker, server) = (Broker::start(), Server::start(&[]));
    let database = server.database();
    let url = server.url("app", &database);
    let relay = crate::kafka::start(&broker, "cdc", crate::kafka::directory(), &["--mysql", &url, "--cdc-route", "Test=speed"]);
    eventually(|| (metric(&relay, "shop_cdc_connected") == 1.0).then_some(()));
    for round in 0..2 {
        relay.signal("STOP");
        wait(insert_many(server.port, &database, round, ROWS));
        relay.signal("CONT");
        let relayed = f64::from(ROWS) * f64::from(round + 1);
        eventually(|| (metric(&relay, "shop_cdc_rows_total{outcome=\"relayed\"}") == relayed).then_some(()));
    }
    let (_, peak) = used(relay.id());
    assert!(peak < LIMIT, "{peak} MiB");
}

#[test]
#[ignore = "measures: make bench-cdc"]
fn latency_and_throughput() {
    let (rows, latency_rows) = (setting("CDC_BENCH_ROWS", 50_000), setting("CDC_BENCH_LATENCY_ROWS", 2_500));
    let server = Server::start(&["--innodb-flush-log-at-trx-commit=1"]);
    let database = server.database();
    let url = server.url("app", &database);
    let data = Arc::new(TempDir::new().expect("a directory"));
    let args = [&["--mysql", &url], &ROUTE[..]].concat();
    let shop = Shop::start_on_with(Arc::clone(&data), FREE, &args);
    server.run(&database, &insert("first", "1", "Test", PAYLOAD));
    eventually(|| (metric(&shop, "shop_cdc_rows_total{outcome=\"relayed\"}") == 1.0).then_some(()));

    let stop = AtomicBool::new(false);
    let (told, seen) = std::thread::scope(|scope| {
        let watcher = scope.spawn(|| watch(&shop, &stop));
        let told = wait(insert_at(server.port, &database, latency_rows, Duration::from_millis(2)));
        std::thread::park_timeout(Duration::from_secs(1));
        stop.store(true, Relaxed);
        (told, watcher.join().expect("a watcher"))
    });
    let mut late: Vec<f64> =
        told.iter().map(|(id, told)| seen[id].saturating_duration_since(*told).as_secs_f64() * 1_000.0).collect();
    late.sort_by(f64::total_cmp);
    let at = |part: f64| late[((late.len() - 1) as f64 * part) as usize];
    println!(
        "latency rows={} rate=500/s p50={:.1} p90={:.1} p99={:.1} max={:.1} ms",
        late.len(),
        at(0.5),
        at(0.9),
        at(0.99),
        at(1.0)
    );

    for round in 0..setting("CDC_BENCH_ROUNDS", 3) {
        let data = Arc::clone(&shop.data);
        shop.signal("STOP");
        wait(insert_many(server.port, &database, round, rows));
        let (cpu, _) = used(shop.id());
        let before = f64::from(1 + latency_rows + round * rows);
        let began = Instant::now();
        shop.signal("CONT");
        eventually(|| (metric(&shop, "shop_cdc_rows_total{outcome=\"relayed\"}") >= before + f64::from(rows)).then_some(()));
        let took = began.elapsed().as_secs_f64();
        let (cpu_after, peak) = used(shop.id());
        println!(
            "backlog rows={rows} {took:.2} s ({:.0}/s), {:.1} s of CPU, {peak} MiB at most",
            f64::from(rows) / took,
            cpu_after - cpu
        );
        drop(data);
    }
}
