//! Shop and database are killed at random moments while several clients write rows in transactions: afterwards every committed row is in its
//! topic exactly once, in the order of commits for each aggregate, and no row that was rolled back.
//!
//! `CDC_ROWS` and `CDC_KILLS` make it longer (`make crashcdc` has 50,000 and 40), `CDC_SEED` repeats its choices.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, TxOpts};
use tempfile::TempDir;

use super::database::{Server, connect, shared, spawn, wait};
use super::{insert, records_of, wait_for_marker};
use crate::shop::{FREE, Shop, command, dev, run_command};

const CLIENTS: u32 = 4;
const DATABASE: &str = "crash";
/// Clients write all the time, but for a start of the server.
const LONG: Duration = Duration::from_secs(60);

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % end
    }
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// One transaction of a few rows of the client's own aggregates, numbered in order; one in five is rolled back.
async fn transact(conn: &mut Conn, random: &mut Random, client: u32, number: &mut u64) -> mysql_async::Result<u64> {
    let rows = 1 + random.below(6);
    let mut transaction = conn.start_transaction(TxOpts::default()).await?;
    for _ in 0..rows {
        *number += 1;
        let aggregate = u64::from(client) * 100 + random.below(3);
        let payload = format!("'{{\"number\": {number}}}'");
        transaction.query_drop(insert(&format!("{client}-{number}"), &aggregate.to_string(), "Test", &payload)).await?;
    }
    if random.below(5) == 0 {
        transaction.rollback().await?;
        return Ok(0);
    }
    transaction.commit().await?;
    Ok(rows)
}

/// Writes until it is told to stop, whatever happens to the server.
async fn client(port: u16, client: u32, seed: u64, written: Arc<AtomicU64>, stop: Arc<AtomicBool>) {
    let (mut random, mut number) = (Random(seed ^ u64::from(client)), 0);
    while !stop.load(Relaxed) {
        let Ok(mut conn) = connect(port, DATABASE).await else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        while !stop.load(Relaxed)
            && let Ok(rows) = transact(&mut conn, &mut random, client, &mut number).await
        {
            written.fetch_add(rows, Relaxed);
        }
    }
}

#[test]
fn every_committed_row_is_relayed_once_whatever_is_killed() {
    let seed = setting("CDC_SEED", u64::from(std::process::id()));
    let rows = setting("CDC_ROWS", 3_000);
    let kills = setting("CDC_KILLS", 6);
    println!("CDC_SEED={seed} CDC_ROWS={rows} CDC_KILLS={kills}");
    let mut random = Random(seed);
    let mut server = Server::start(&[]);
    server.run("", &format!("CREATE DATABASE {DATABASE} CHARACTER SET utf8mb4"));
    let url = server.url("app", DATABASE);
    let args = ["--mysql", &url, "--cdc-route", "Test=test-events", "--cdc-position", ["gtid", "file"][random.below(2) as usize]];
    let mut shop = Shop::start_on_with(Arc::new(TempDir::new().expect("a directory")), FREE, &args);
    let address = shop.address.to_string();

    let (written, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let clients: Vec<_> =
        (0..CLIENTS).map(|number| spawn(client(server.port, number, seed, Arc::clone(&written), Arc::clone(&stop)))).collect();
    let wait_for = |rows: u64| {
        let (mut last, mut since) = (0, Instant::now());
        while last < rows {
            std::thread::park_timeout(Duration::from_millis(2));
            let now = written.load(Relaxed);
            if now > last {
                (last, since) = (now, Instant::now());
            }
            assert!(since.elapsed() < LONG, "nobody has written a row for {LONG:?}, after {now}");
        }
    };
    // Each kill comes once so many more rows are written, so that it finds all at work.
    for _ in 0..kills {
        wait_for(written.load(Relaxed) + 1 + random.below(rows / kills));
        if random.below(2) == 0 {
            server.kill_and_restart();
        } else {
            let data = Arc::clone(&shop.data);
            drop(shop); // by kill -9
            shop = Shop::start_on_with(data, &address, &args);
        }
    }
    wait_for(rows);
    stop.store(true, Relaxed);
    clients.into_iter().for_each(|client| wait(client).expect("a client"));
    server.run(DATABASE, &insert("marker", "1", "Marker", "NULL"));
    wait_for_marker(&shop, "marker");
    let records = records_of(shop);

    let committed: Vec<(String, String, String)> =
        server.rows(DATABASE, "SELECT aggregate_id, id, payload FROM outbox_events WHERE event_type = 'Test'");
    println!("{} rows committed", committed.len());
    assert!(committed.len() as u64 >= rows, "{} rows", committed.len());
    // A client numbers its rows in the order in which it commits them.
    let mut expected: BTreeMap<String, Vec<(u64, String, String)>> = BTreeMap::new();
    for (aggregate, id, payload) in committed {
        let number = id.split('-').nth(1).and_then(|number| number.parse().ok()).expect("a number");
        expected.entry(aggregate).or_default().push((number, id, payload));
    }
    expected.values_mut().for_each(|rows| rows.sort_unstable());
    let mut relayed: BTreeMap<String, Vec<(u64, String, String)>> = BTreeMap::new();
    for record in &records["test-events"] {
        let id = record.header("id").expect("an id").to_owned();
        let number = id.split('-').nth(1).and_then(|number| number.parse().ok()).expect("a number");
        let row = (number, id, record.value.clone().expect("a value"));
        relayed.entry(record.key.clone().expect("a key")).or_default().push(row);
    }
    for (aggregate, rows) in &expected {
        assert_eq!(relayed.get(aggregate), Some(rows), "aggregate {aggregate}, CDC_SEED={seed}");
    }
    assert_eq!(relayed.len(), expected.len());
}

#[test]
fn a_crash_at_each_commit_of_a_large_transaction_changes_nothing() {
    const ROWS: usize = 20;
    let server = shared();
    let database = server.database();
    let url = server.url("app", &database);
    let args = ["--mysql", &url, "--cdc-route", "Test=test-events"];
    let data = Arc::new(TempDir::new().expect("a directory"));
    drop(Shop::start_on_with(Arc::clone(&data), FREE, &args));
    let payload = format!("'\"{}\"'", "z".repeat(900_000)); // ten of them are more than is relayed at once
    let mut expected = Vec::new();
    for (moment, nth) in [("before-write", 2), ("after-write", 1), ("after-write", 2), ("before-write", 3)] {
        let ids: Vec<String> = (0..ROWS).map(|row| format!("{moment}-{nth}-{row:02}")).collect();
        let rows: Vec<String> = ids.iter().map(|id| insert(id, "1", "Test", &payload)).collect();
        server.run(&database, &format!("BEGIN;{};COMMIT", rows.join(";")));
        expected.extend(ids);
        let fault = format!("log:commit:{moment}:{nth}:abort");
        let output = run_command(command(&dev(FREE, data.path())).args(args).env("MILLSTREAM_FAULT", &fault));
        assert_eq!(output.status.code(), None, "{fault}: {}", String::from_utf8_lossy(&output.stderr));
    }
    let shop = Shop::start_on_with(data, FREE, &args);
    server.run(&database, &insert("marker", "1", "Marker", "NULL"));
    wait_for_marker(&shop, "marker");
    let records = records_of(shop);
    let relayed: Vec<&str> = records["test-events"].iter().filter_map(|record| record.header("id")).collect();
    assert_eq!(relayed, expected);
}
