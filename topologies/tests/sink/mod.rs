//! What happens to orders arrives at somebody else's endpoint: once by its idempotency key, in order for each order, through failures of
//! either side.

mod edge;
pub mod endpoint;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use hyper_tls::native_tls::{Identity, TlsAcceptor};

use serde_json::{Value, json};
use tempfile::TempDir;

use self::endpoint::{Endpoint, Reply};
use crate::http::Response;
use crate::shop::{FREE, Shop, eventually, fresh_id, id_of, run};

/// A shop that delivers to an endpoint, with short pauses.
fn delivering(data: Arc<TempDir>, endpoint: &Endpoint, args: &[&str]) -> Shop {
    let url = endpoint.url();
    let to = ["--sink-url", &url, "--first-retry", "10ms", "--try-timeout", "400ms", "--open-for", "400ms"];
    Shop::start_on_with(data, FREE, &[&to, args].concat())
}

fn directory() -> Arc<TempDir> {
    Arc::new(TempDir::new().expect("a directory"))
}

/// Orders of which each is confirmed, shipped and delivered: three events an order.
pub fn trade(shop: &Shop, orders: usize) -> Vec<u64> {
    let product = shop.product(100, orders as u64);
    let mut made = Vec::new();
    // On a busy machine the views of an API on Kafka may be behind for a while, which it says, and has done nothing then.
    let insist = |ask: &dyn Fn() -> Response| eventually(|| Some(ask()).filter(|answer| answer.status != 503));
    for _ in 0..orders {
        let user = fresh_id();
        let order = id_of(&insist(&|| shop.order(user, product)).ok(201), "orderId");
        insist(&|| shop.pay(order, 100)).ok(201);
        made.push(order);
    }
    for (step, status) in [("ship", "CONFIRMED"), ("deliver", "SHIPPED")] {
        for order in &made {
            shop.await_status(*order, status);
            insist(&|| shop.post(&format!("/api/orders/{order}/{step}"), &json!({}))).ok(202);
        }
    }
    made
}

/// The idempotency keys of an order that went all the way, in order.
pub fn all_of(order: u64) -> Vec<String> {
    ["CONFIRMED", "SHIPPED", "DELIVERED"].iter().map(|status| format!("{order}-{status}")).collect()
}

/// A sample of the shop's metrics.
fn sample(shop: &Shop, name: &str) -> f64 {
    let metrics = shop.get("/metrics");
    let found = metrics.text().lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
    found.unwrap_or_else(|| panic!("no {name} in {}", metrics.text()))
}

/// The dead letters; none before there is a topic for them.
fn parked(shop: &Shop) -> Vec<Value> {
    let answer = shop.get("/dlq/data-platform.dlq?limit=500");
    if answer.status == 404 { Vec::new() } else { answer.ok(200)["records"].as_array().expect("a list").clone() }
}

#[test]
fn an_endpoint_that_fails_and_hangs_gets_everything_once_and_in_order() {
    const ORDERS: usize = 25;
    let endpoint = Endpoint::start(|_, request| if request % 5 < 3 { Reply::status(500) } else { Reply::TAKE });
    let alerts = Endpoint::start(|_, _| Reply::status(200));
    let shop = delivering(directory(), &endpoint, &["--alert-url", &alerts.url()]);
    let orders = trade(&shop, ORDERS);
    let is_open = || sample(&shop, r#"shop_sink_circuit{state="closed"}"#) == 0.0;
    eventually(|| is_open().then_some(()));

    // Nobody answers any more: after the tries that are out, only probes come, and nothing is given up.
    endpoint.turn(|_, _| Reply::Hang);
    eventually(|| (sample(&shop, r#"shop_sink_circuit{state="open"}"#) == 1.0).then_some(()));
    let (given_up, before) = (parked(&shop).len(), endpoint.seen().requests.len());
    let begun = Instant::now();
    eventually(|| (endpoint.seen().requests.len() >= before + 3).then_some(()));
    let (probes, took) = (endpoint.seen().requests.len() - before, begun.elapsed());
    assert!(probes <= 3 * (2 + took.as_millis() as usize / 400), "{probes} tries within {took:?} of an open circuit");

    endpoint.turn(|_, _| Reply::TAKE);
    let is_done = || endpoint.seen().taken.len() + parked(&shop).len() >= 3 * ORDERS;
    eventually(|| is_done().then_some(()));
    assert_eq!(parked(&shop).len(), given_up, "events were given up while the circuit was open");
    // Of each order everything in order, but for what was parked while the circuit was closed.
    let given_up: Vec<String> = parked(&shop).iter().map(|letter| key_of(&letter["value"])).collect();
    let seen = endpoint.seen();
    for (order, taken) in seen.by_order() {
        let expected: Vec<String> = all_of(order).into_iter().filter(|key| !given_up.contains(key)).collect();
        assert_eq!(taken, expected, "{given_up:?}");
    }
    assert_eq!((seen.by_order().len() <= orders.len(), &seen.differing), (true, &Vec::new()));
    drop(seen);

    // The operator is told, and replays.
    eventually(|| (!is_open()).then_some(()));
    let told = || alerts.seen().taken.join("\n");
    eventually(|| (told().contains("circuit-open") && told().contains("circuit-closed")).then_some(()));
    let replayed = shop.post("/dlq/data-platform.dlq/replay", &json!({})).ok(200);
    assert_eq!(replayed["replayed"], given_up.len(), "{replayed}");
    eventually(|| (endpoint.seen().taken.len() == 3 * ORDERS).then_some(()));
    assert_eq!(sample(&shop, "shop_sink_in_flight"), 0.0);
    eventually(|| ((0..3).all(|p| sample(&shop, &format!(r#"shop_sink_lag{{partition="{p}"}}"#)) == 0.0)).then_some(()));
}

fn key_of(event: &Value) -> String {
    format!("{}-{}", event["orderId"], event["status"].as_str().expect("a status"))
}

#[test]
fn a_kill_in_the_middle_loses_and_reorders_nothing() {
    const ORDERS: usize = 25;
    let slowly = |_: &str, _| Reply::Take(Duration::from_millis(20));
    let endpoint = Endpoint::start(slowly);
    let data = directory();
    let mut shop = delivering(Arc::clone(&data), &endpoint, &["--concurrency", "4"]);
    let orders = trade(&shop, ORDERS);
    for _ in 0..3 {
        let before = endpoint.seen().taken.len();
        if before < 3 * ORDERS {
            eventually(|| (endpoint.seen().taken.len() > before).then_some(()));
        }
        shop.signal("KILL");
        drop(shop);
        shop = delivering(Arc::clone(&data), &endpoint, &["--concurrency", "4"]);
    }
    eventually(|| (endpoint.seen().taken.len() == 3 * ORDERS).then_some(()));
    let seen = endpoint.seen();
    for order in orders {
        assert_eq!(seen.by_order()[&order], all_of(order));
    }
    assert_eq!(seen.differing, [""; 0]);
    drop(seen);
    assert_eq!(parked(&shop), [json!(null); 0]);

    // What was delivered is not delivered again by a shop that stopped in order, which finishes what is out.
    let order = trade(&shop, 1)[0];
    eventually(|| endpoint.seen().requests.iter().any(|(_, key)| *key == format!("{order}-DELIVERED")).then_some(()));
    shop.signal("TERM");
    assert!(shop.wait(Duration::from_secs(10)).success());
    let requests = endpoint.seen().requests.len();
    assert_eq!(endpoint.seen().taken.len(), 3 * (ORDERS + 1));
    let shop = delivering(data, &endpoint, &[]);
    let next = trade(&shop, 1)[0];
    eventually(|| endpoint.seen().by_order().get(&next).is_some_and(|taken| taken.len() == 3).then_some(()));
    assert_eq!(endpoint.seen().requests.len(), requests + 3);
}

#[test]
fn an_endpoint_says_when_to_come_back_and_what_it_never_takes() {
    let asks = |_: &str, request| match request {
        0 => Reply::Refuse(429, vec![("retry-after", "1".into())]),
        1 => Reply::Refuse(503, vec![("retry-after", in_two_seconds())]),
        _ => Reply::TAKE,
    };
    let endpoint = Endpoint::start(asks);
    let shop = delivering(directory(), &endpoint, &[]);
    let order = trade(&shop, 1)[0];
    eventually(|| (endpoint.seen().by_order().get(&order) == Some(&all_of(order))).then_some(()));
    let times: Vec<Instant> = endpoint.seen().requests.iter().map(|(at, _)| *at).collect();
    assert!(times[1] - times[0] >= Duration::from_secs(1), "seconds: {:?}", times[1] - times[0]);
    // A date has whole seconds.
    assert!(times[2] - times[1] >= Duration::from_millis(900), "a date: {:?}", times[2] - times[1]);

    // Never taken: parked at once, and what comes after it goes on. Fixed, it is replayed to the sink alone.
    endpoint.turn(|key, _| if key.ends_with("SHIPPED") { Reply::status(422) } else { Reply::TAKE });
    let order = trade(&shop, 1)[0];
    let refused = format!("{order}-SHIPPED");
    eventually(|| (parked(&shop).len() == 1).then_some(()));
    let letter = parked(&shop).remove(0);
    assert_eq!(
        (key_of(&letter["value"]), &letter["node"], &letter["sourceTopic"]),
        (refused.clone(), &json!("sink"), &json!("data-platform"))
    );
    assert!(
        letter["cause"].as_str().is_some_and(|cause| cause.contains("422") && cause.contains("as the test wants it")),
        "{letter}"
    );
    assert_eq!(letter["headers"]["eventType"], "OrderStatusChanged", "{letter}");
    eventually(|| endpoint.seen().taken.contains(&format!("{order}-DELIVERED")).then_some(()));
    let tries = |key: &str| endpoint.seen().requests.iter().filter(|(_, asked)| asked == key).count();
    assert_eq!(tries(&refused), 1);
    endpoint.turn(|_, _| Reply::TAKE);
    let dlq = |args: &[&str]| {
        let output = run(&[&["dlq"], args, &["--url", &shop.url()]].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert!(dlq(&["list"]).contains("data-platform.dlq"));
    assert!(dlq(&["show", "data-platform.dlq"]).contains("422"));
    dlq(&["replay", "data-platform.dlq", "--key", &order.to_string()]);
    eventually(|| endpoint.seen().taken.contains(&refused).then_some(()));
    assert_eq!(tries(&refused), 2);
    assert_eq!(endpoint.seen().differing, [""; 0]);
}

fn in_two_seconds() -> String {
    let at = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(2);
    at.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

#[test]
fn alert_rules_ask_for_metrics_that_there_are() {
    let endpoint = Endpoint::start(|_, _| Reply::TAKE);
    let shop = delivering(directory(), &endpoint, &[]);
    let metrics = shop.get("/metrics");
    let families: Vec<&str> = metrics.text().lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    let rules = include_str!("../../operations/prometheus-alerts-sink.yml");
    let words = rules
        .lines()
        .filter(|line| line.contains("expr:"))
        .flat_map(|line| line.split(|c: char| !(c.is_ascii_lowercase() || c == '_')));
    let asked: Vec<&str> = words.filter(|word| word.starts_with("shop_")).collect();
    assert_eq!(asked.len(), 3, "{asked:?}");
    for name in asked {
        assert!(families.contains(&name.trim_end_matches("_total")), "{name} in {families:?}");
    }
}

#[test]
fn what_cannot_be_delivered_to_is_refused_at_the_start() {
    for (args, says) in
        [(["--sink-url", "ftp://somewhere/"], "--sink-url"), (["--sink-url", "http://user:secret@host/"], "--sink-url")]
    {
        let said = crate::shop::refusal(&run(&[&["dev", "--listen", FREE], &args[..]].concat()));
        assert!(said.contains(says) && !said.contains("secret"), "{said}");
    }
    let said = crate::shop::refusal(&run(&["sink", "--brokers", "127.0.0.1:9", "--listen", FREE]));
    assert!(said.contains("--url"), "{said}");
}

#[test]
fn https_is_spoken_and_a_certificate_of_nobody_is_refused() {
    let data = directory();
    let file = |name: &str| data.path().join(name).to_str().expect("UTF-8").to_owned();
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"])
        .args(["-addext", "subjectAltName=DNS:localhost", "-keyout", &file("key.pem"), "-out", &file("cert.pem")])
        .output()
        .expect("openssl is installed");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let bytes = |name| std::fs::read(file(name)).expect("it was made");
    let identity = Identity::from_pkcs8(&bytes("cert.pem"), &bytes("key.pem")).expect("a key and its certificate");
    let acceptor = TlsAcceptor::new(identity).expect("TLS");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("https://localhost:{}/", listener.local_addr().expect("it is bound").port());
    // Ends with the tests.
    thread::spawn(move || {
        for stream in listener.incoming() {
            // Who does not trust the certificate hangs up.
            let Ok(mut stream) = acceptor.accept(stream.expect("a connection")) else { continue };
            let (mut request, mut bytes) = (Vec::new(), [0; 4096]);
            while !request.ends_with(b"}") {
                let read = stream.read(&mut bytes).expect("a request");
                request.extend_from_slice(&bytes[..read]);
            }
            stream.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n").expect("somebody listens");
        }
    });
    let args = ["--sink-url", &url, "--first-retry", "10ms"];
    let shop = Shop::start_with(&args);
    trade(&shop, 1);
    eventually(|| (!parked(&shop).is_empty()).then_some(()));
    let cause = parked(&shop)[0]["cause"].as_str().expect("a cause").to_owned();
    assert!(cause.contains("certificate"), "{cause}");
    let mut trusting = crate::shop::command(&crate::shop::dev(FREE, data.path()));
    let trusting = trusting.args(args).env("SSL_CERT_FILE", file("cert.pem")).stdin(Stdio::null());
    let shop = Shop::spawn(trusting, Arc::clone(&data));
    trade(&shop, 1);
    eventually(|| (sample(&shop, r#"shop_sink_deliveries_total{outcome="delivered"}"#) == 3.0).then_some(()));
}
