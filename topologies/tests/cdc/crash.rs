//! Relay, database and log are killed at random moments while several clients write rows in transactions: afterwards every committed row is in
//! its topic exactly once, in the order of commits for each aggregate, and no row that was rolled back.
//!
//! `CDC_ROWS` and `CDC_KILLS` make it longer (`make crashcdc` has 50,000 and 40), `CDC_SEED` repeats its choices.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use millstream::log::{KafkaConfig, KafkaLog, Log};
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, TxOpts};
use tempfile::TempDir;
use tokio::sync::watch;

use super::database::{Server, connect, shared, spawn, wait};
use super::records::{self, Stored};
use super::{insert, metric, records_of, wait_for_marker};
use crate::kafka::broker::Broker;
use crate::kafka::{directory, pass, start};
use crate::shop::{FREE, Shop, command, dev, run_command};

const CLIENTS: u32 = 4;
const DATABASE: &str = "crash";
/// Rows are relayed all the time, but for a start of a server.
const LONG: Duration = Duration::from_secs(60);
/// A broker of several that stands still for so long leads nothing any more, and goes on this long after it.
const OTHERS_LEAD: Duration = Duration::from_millis(2_500);
const GOES_ON: Duration = Duration::from_millis(500);

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

/// Writes while all have written fewer rows than they may, whatever happens to the server.
async fn client(port: u16, client: u32, seed: u64, written: Arc<AtomicU64>, mut allowed: watch::Receiver<u64>) {
    let (mut random, mut number) = (Random(seed ^ u64::from(client)), 0);
    while allowed.wait_for(|allowed| written.load(Relaxed) < *allowed).await.is_ok() {
        let Ok(mut conn) = connect(port, DATABASE).await else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        while allowed.wait_for(|allowed| written.load(Relaxed) < *allowed).await.is_ok()
            && let Ok(rows) = transact(&mut conn, &mut random, client, &mut number).await
        {
            written.fetch_add(rows, Relaxed);
        }
    }
}

/// Rows of each aggregate: their numbers, ids and payloads.
type Rows = BTreeMap<String, Vec<(u64, String, String)>>;

fn by_aggregate(rows: impl IntoIterator<Item = (String, String, String)>) -> Rows {
    let mut all = Rows::new();
    for (aggregate, id, payload) in rows {
        let number = id.split('-').nth(1).and_then(|number| number.parse().ok()).expect("a number");
        all.entry(aggregate).or_default().push((number, id, payload));
    }
    all
}

/// Waits for longer than others: servers are being started.
fn wait_until(done: impl Fn() -> bool, what: &str) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < LONG, "not within {LONG:?}: {what}");
        std::thread::park_timeout(Duration::from_millis(2));
    }
}

/// An outbox that clients write to while whatever relays it is killed.
struct Trial {
    seed: u64,
    rows: u64,
    kills: u64,
    random: Random,
    server: Server,
    written: Arc<AtomicU64>,
    /// How many rows there may be; none any more in the end.
    allowed: watch::Sender<u64>,
}

impl Trial {
    fn new() -> Trial {
        let seed = setting("CDC_SEED", u64::from(std::process::id()));
        let (rows, kills) = (setting("CDC_ROWS", 3_000), setting("CDC_KILLS", 6));
        println!("CDC_SEED={seed} CDC_ROWS={rows} CDC_KILLS={kills}");
        let server = Server::start(&[]);
        server.run("", &format!("CREATE DATABASE {DATABASE} CHARACTER SET utf8mb4"));
        Trial { seed, rows, kills, random: Random(seed), server, written: Arc::default(), allowed: watch::Sender::new(0) }
    }

    /// The database of the relay, and its settings.
    fn relay_args(&mut self) -> [String; 6] {
        let position = ["gtid", "file"][self.random.below(2) as usize];
        let url = self.server.url("app", DATABASE);
        ["--mysql", &url, "--cdc-route", "Test=test-events", "--cdc-position", position].map(str::to_owned)
    }

    /// Strikes again and again while clients write and the relay relays. `strike` kills some of it, starts that again, and gives the relay that
    /// runs then.
    fn run(&mut self, mut relay: Shop, mut strike: impl FnMut(&mut Random, &mut Server, Shop) -> Shop) -> Shop {
        let client = |number| client(self.server.port, number, self.seed, Arc::clone(&self.written), self.allowed.subscribe());
        let clients: Vec<_> = (0..CLIENTS).map(|number| spawn(client(number))).collect();
        let share = self.rows / self.kills;
        for _ in 0..self.kills {
            // Each comes when so many more rows were relayed, and while more are written, so that it finds all at work.
            let wanted = 1 + self.random.below(share);
            self.relays(&relay, share, wanted);
            relay = strike(&mut self.random, &mut self.server, relay);
        }
        self.allowed.send_replace(self.rows);
        wait_until(|| self.written.load(Relaxed) >= self.rows, "the last rows are written");
        self.allowed.send_replace(0);
        drop(std::mem::take(&mut self.allowed));
        clients.into_iter().for_each(|client| wait(client).expect("a client"));
        self.server.run(DATABASE, &insert("marker", "1", "Marker", "NULL"));
        relay
    }

    /// Allows the clients so many more rows, and waits until so many more were relayed.
    fn relays(&self, relay: &Shop, allowed: u64, wanted: u64) {
        let relayed = || metric(relay, "shop_cdc_rows_total{outcome=\"relayed\"}") as u64;
        let before = relayed();
        self.allowed.send_replace(self.written.load(Relaxed) + allowed);
        wait_until(|| relayed() >= before + wanted, "rows are relayed");
    }

    /// Compares what lies in the topic with what was committed.
    fn check(&self, records: &[Stored]) {
        let query = "SELECT aggregate_id, id, payload FROM outbox_events WHERE event_type = 'Test'";
        let committed: Vec<(String, String, String)> = self.server.rows(DATABASE, query);
        println!("{} rows committed", committed.len());
        assert!(committed.len() as u64 >= self.rows, "{} rows", committed.len());
        let mut expected = by_aggregate(committed);
        // A client numbers its rows in the order in which it commits them.
        expected.values_mut().for_each(|rows| rows.sort_unstable());
        let row = |record: &Stored| {
            let id = record.header("id").expect("an id").to_owned();
            (record.key.clone().expect("a key"), id, record.value.clone().expect("a value"))
        };
        let relayed = by_aggregate(records.iter().map(row));
        for (aggregate, rows) in &expected {
            assert_eq!(relayed.get(aggregate), Some(rows), "aggregate {aggregate}, CDC_SEED={}", self.seed);
        }
        assert_eq!(relayed.len(), expected.len());
    }
}

#[test]
fn every_committed_row_is_relayed_once_whatever_is_killed() {
    let mut trial = Trial::new();
    let args = trial.relay_args();
    let args = args.each_ref().map(String::as_str);
    let shop = Shop::start_on_with(directory(), FREE, &args);
    let address = shop.address.to_string();
    let shop = trial.run(shop, |random, server, shop| {
        if random.below(2) == 0 {
            server.kill_and_restart();
            return shop;
        }
        let data = Arc::clone(&shop.data);
        drop(shop); // by kill -9
        Shop::start_on_with(data, &address, &args)
    });
    wait_for_marker(&shop, "marker");
    trial.check(&records_of(shop)["test-events"]);
}

#[test]
fn every_committed_row_is_in_kafka_once_whatever_is_killed() {
    relayed_to_kafka(&mut [Broker::mortal()]);
}

#[test]
fn every_committed_row_is_in_a_cluster_once_whatever_is_killed_or_stands_still() {
    relayed_to_kafka(&mut Broker::three());
}

fn relayed_to_kafka(brokers: &mut [Broker]) {
    let mut trial = Trial::new();
    let args = trial.relay_args();
    let args = [&args.each_ref().map(String::as_str)[..], &["--cdc-route", "Marker=markers"]].concat();
    let relay = start(&brokers[0], "cdc", directory(), &args);
    let (mut struck, mut stood_still) = ([0; 3], 0);
    let _relay = trial.run(relay, |random, server, relay| {
        // One of them, two or all, at the same moment.
        let killed = 1 + random.below(7);
        let [strikes_broker, kills_server, kills_relay] = [1, 2, 4].map(|bit| killed & bit != 0);
        for (count, is_struck) in struck.iter_mut().zip([strikes_broker, kills_server, kills_relay]) {
            *count += u32::from(is_struck);
        }
        // One of several may stand still instead, until others lead, and go on while a relay begins.
        let number = random.below(brokers.len() as u64) as usize;
        let stands_still = strikes_broker && brokers.len() > 1 && random.below(2) == 0;
        stood_still += u32::from(stands_still);
        let state = Arc::clone(&relay.data);
        let survivor = (!kills_relay).then_some(relay); // dropped, it is killed by kill -9
        if stands_still {
            brokers[number].freeze();
            pass(OTHERS_LEAD);
        } else if strikes_broker {
            brokers[number].kill();
        }
        if kills_server {
            server.kill_and_restart();
        }
        if strikes_broker && !stands_still {
            brokers[number].restart();
        }
        std::thread::scope(|scope| {
            let broker = &brokers[number];
            if stands_still {
                scope.spawn(|| {
                    pass(GOES_ON);
                    broker.thaw();
                });
            }
            survivor.unwrap_or_else(|| start(broker, "cdc", state, &args))
        })
    });
    let [by_broker, by_server, by_relay] = struck;
    println!("a broker was struck {by_broker} times ({stood_still} stood still), the database {by_server}, the relay {by_relay}");
    let log = KafkaLog::open(KafkaConfig::new(brokers[0].address())).expect("the broker answers");
    let is_there = |topic| log.topic(topic).expect("the broker answers").is_some();
    wait_until(|| is_there("markers") && !records::of(&log, "markers").is_empty(), "the last row is relayed");
    trial.check(&records::of(&log, "test-events"));
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
