//! Records of other programs that are as large as a record may be, on a real Kafka: what cannot be processed or delivered is parked as it is,
//! with headers that say why on top, replayed, and holds nobody up. So is what is larger than any topic of the shop takes, from topics that others
//! have made; and of what is larger than its dead-letter topic was told of, the letter says where it lies. What can be delivered, `shop receive` takes.

use std::process::Stdio;
use std::time::Duration;

use millstream::log::{Append, Error, KafkaConfig, KafkaLog, Limits, Log, RecordBatch, Transaction};
use millstream::{Headers, Partition, Timestamp};
use serde_json::json;

use super::endpoint::{Endpoint, Reply};
use crate::kafka::broker::Broker;
use crate::kafka::{directory, start};
use crate::shop::{FREE, Shop, command, eventually, fresh_id};

/// What a program may write at most through this library; and what topics of the shop take at most from anybody, nearly.
const SIZES: [usize; 2] = [1 << 20, (2 << 20) - (24 << 10)];

/// Appends a record of this many bytes as another program would. `value` makes one that is so long.
fn append(log: &KafkaLog, topic: &str, key: &str, bytes: usize, value: impl Fn(usize) -> String) {
    let info = log.topic(topic).expect("the broker answers").expect("the topic exists");
    let headers = Headers::EMPTY.with("eventType", "x".repeat(1_000));
    // How much of that is not the value, a log that takes nothing says.
    let nothing = Limits { max_record_bytes: 0 };
    let refused = nothing.check(&info, Partition(0), Timestamp(1), Some(key.as_bytes()), Some(b""), &headers);
    let Err(Error::RecordTooLarge { bytes: around, .. }) = refused else { panic!("{refused:?}") };
    let value = value(bytes - around);
    let mut batch = RecordBatch::new();
    batch.push(Timestamp(1_000), Some(key.as_bytes()), Some(value.as_bytes()), &headers);
    let appends = vec![Append { topic: info.id, partition: Partition(0), batch }];
    log.commit(Transaction { appends, ..Transaction::default() }).wait().expect("the broker takes it");
}

/// A change of an order's status of so many bytes.
fn change(order: u64, bytes: usize) -> String {
    let change = |text: &str| json!({"orderId": order, "status": "CONFIRMED", "text": text}).to_string();
    change(&"x".repeat(bytes - change("").len()))
}

#[test]
fn records_of_the_largest_size_are_parked_and_replayed() {
    let broker = Broker::start();
    let endpoint = Endpoint::start(|_, _| Reply::status(413));
    let _worker = start(&broker, "worker", directory(), &["--threads", "2"]);
    let api = start(&broker, "api", directory(), &[]);
    let url = endpoint.url();
    let _sink = start(&broker, "sink", directory(), &["--url", &url, "--first-retry", "10ms"]);
    let log = KafkaLog::open(KafkaConfig::new(broker.address())).expect("the broker answers");
    for (nth, bytes) in SIZES.into_iter().enumerate() {
        append(&log, "data-platform", &nth.to_string(), bytes, |bytes| change(nth as u64, bytes));
        append(&log, "coupon-issue", &nth.to_string(), bytes, |bytes| "x".repeat(bytes));
    }
    let parked = |topic: &str| {
        let answer = api.get(&format!("/dlq/{topic}.dlq"));
        if answer.status == 404 { Vec::new() } else { answer.ok(200)["records"].as_array().expect("a list").clone() }
    };
    for topic in ["data-platform", "coupon-issue"] {
        let letters = eventually(|| Some(parked(topic)).filter(|letters| letters.len() == SIZES.len()));
        for letter in letters {
            assert_eq!(
                (&letter["sourceTopic"], letter["headers"]["eventType"].as_str().map(str::len)),
                (&json!(topic), Some(1_000))
            );
        }
    }
    assert_eq!(endpoint.seen().requests.len(), SIZES.len(), "each was tried once");

    // A letter is replayed as it is: to the sink alone, or to the topology, which parks it once more.
    endpoint.turn(|_, _| Reply::TAKE);
    for (topic, again) in [("data-platform", 0), ("coupon-issue", SIZES.len())] {
        assert_eq!(api.post(&format!("/dlq/{topic}.dlq/replay"), &json!({})).ok(200)["replayed"], SIZES.len());
        eventually(|| (parked(topic).len() == SIZES.len() + again).then_some(()));
    }
    eventually(|| (endpoint.seen().taken.len() == SIZES.len()).then_some(()));
    assert_eq!(endpoint.seen().differing, [""; 0]);

    // And whoever comes after them is served, in each partition.
    for _ in 0..6 {
        let (coupon, user) = (api.coupon(1), fresh_id());
        let token = api.claim(coupon, user).position();
        api.get(&format!("/api/users/{user}/coupons?at_least={token}&wait_ms=10000")).ok(200);
        assert_eq!(api.coupons_of(user), [coupon]);
    }
}

/// `shop receive`.
fn receiving() -> Shop {
    Shop::spawn(command(&["receive", "--listen", FREE, "--log-level", "error"]).stdin(Stdio::null()), directory())
}

#[test]
fn the_endpoint_to_try_it_with_takes_events_of_the_largest_size() {
    let (broker, endpoint) = (Broker::start(), receiving());
    let url = format!("{}/events", endpoint.url());
    let _worker = start(&broker, "worker", directory(), &["--threads", "1"]);
    let sink = start(&broker, "sink", directory(), &["--url", &url, "--first-retry", "10ms"]);
    let log = KafkaLog::open(KafkaConfig::new(broker.address())).expect("the broker answers");
    for (nth, bytes) in SIZES.into_iter().enumerate() {
        append(&log, "data-platform", &nth.to_string(), bytes, |bytes| change(nth as u64, bytes));
    }
    let counts = || endpoint.get("/events").ok(200);
    eventually(|| (counts()["taken"] == SIZES.len()).then_some(()));
    let delivered = |shop: &Shop| super::sample(shop, r#"shop_sink_deliveries_total{outcome="delivered"}"#);
    eventually(|| (delivered(&sink) == SIZES.len() as f64).then_some(()));
    let expected = json!({"requests": 2, "failed": 0, "taken": 2, "repeated": 0, "differing": 0});
    assert_eq!(counts(), expected, "each was tried once");
}

#[test]
fn the_endpoint_to_try_it_with_takes_2_mib_and_no_more() {
    const LIMIT: usize = 2 << 20;
    let endpoint = receiving();
    let post = |bytes: usize| endpoint.request("POST", "/events", &[("x-idempotency-key", "1-PAID")], &vec![b' '; bytes]);
    assert_eq!(post(LIMIT).ok(200)["taken"], 1);
    let said = post(LIMIT + 1).refused(413, "BODY_TOO_LARGE");
    assert!(said.contains("2097152 bytes"), "{said}");
    let mut chunked = endpoint.connect();
    chunked.send_raw("POST /events HTTP/1.1\r\nhost: x\r\nx-idempotency-key: 2-PAID\r\ntransfer-encoding: chunked\r\n\r\n");
    let chunk = [b"10000\r\n", &[b' '; 0x10000][..], b"\r\n"].concat();
    (0..=LIMIT / 0x10000).for_each(|_| chunked.send_raw(&chunk));
    chunked.response().refused(413, "BODY_TOO_LARGE");
    // What is refused is none of what came.
    assert_eq!(endpoint.get("/events").ok(200)["requests"], 1);
}

#[test]
fn records_that_no_topic_of_the_shop_would_take_are_parked_too() {
    const TAKEN: usize = 6 << 20;
    const LATER: usize = 16 << 20;
    let broker = Broker::start();
    let topics = ["coupon-issue", "data-platform"];
    for topic in topics {
        let max = format!("max.message.bytes={TAKEN}");
        let args = ["--create", "--topic", topic, "--partitions", "3", "--config", &max];
        broker.tool("org.apache.kafka.tools.TopicCommand", &args, "");
    }
    // As any program would.
    let write = |topic: &str, key: &str, bytes: usize| {
        let most = format!("max.request.size={LATER}");
        let properties = ["--command-property", &most, "--reader-property", "parse.key=true"];
        let args = [&["--topic", topic][..], &properties, &["--reader-property", "key.separator=;"]].concat();
        let value = if topic == "data-platform" { change(1, bytes) } else { "x".repeat(bytes) };
        broker.tool("org.apache.kafka.tools.ConsoleProducer", &args, &format!("{key};{value}\n"));
    };
    let endpoint = Endpoint::start(|_, _| Reply::status(413));
    let worker = start(&broker, "worker", directory(), &["--threads", "1"]);
    let api = start(&broker, "api", directory(), &[]);
    let url = endpoint.url();
    let sink = start(&broker, "sink", directory(), &["--url", &url, "--first-retry", "10ms"]);
    let parked = |topic: &str, count: usize| {
        eventually(|| {
            let answer = api.get(&format!("/dlq/{topic}.dlq"));
            let answer = (answer.status == 200).then(|| answer.ok(200))?;
            answer["records"].as_array().filter(|letters| letters.len() == count).cloned()
        })
    };
    let replayed = |topic: &str| {
        let said = api.post(&format!("/dlq/{topic}.dlq/replay"), &json!({})).ok(200);
        (said["matched"].as_u64(), said["replayed"].as_u64())
    };
    for topic in topics {
        write(topic, "1", 4 << 20);
        let letters = parked(topic, 1);
        let long = letters[0]["value"].to_string().len();
        assert!(long >= 4 << 20, "{topic}: the value is there, {long} bytes of it");
        assert_eq!(replayed(topic), (Some(1), Some(1)));
        // It still cannot be processed.
        parked(topic, 2);
    }
    // What is raised while all of it runs.
    for topic in topics {
        let max = format!("max.message.bytes={LATER}");
        let args = ["--alter", "--entity-type", "topics", "--entity-name", topic, "--add-config", &max];
        broker.tool("kafka.admin.ConfigCommand", &args, "");
        write(topic, "2", 12 << 20);
        let letters = parked(topic, 3);
        let short = letters.iter().find(|letter| letter["value"].is_null()).expect("one has no value");
        let cause = short["cause"].as_str().expect("a cause");
        assert!(cause.contains("are more than") && short["key"].to_string().contains('2'), "{short}");
        assert_eq!(short["sourceTopic"], topic);
        assert!(short["sourceOffset"].is_u64() && short["sourcePartition"].is_u64(), "{short}");
        assert_eq!(replayed(topic), (Some(3), Some(2)), "what is not there is not replayed");
        parked(topic, 5);
    }
    let coupon = api.coupon(1);
    let token = api.claim(coupon, fresh_id()).position();
    assert_eq!(api.get(&format!("/api/coupons/{coupon}?at_least={token}&wait_ms=10000")).ok(200)["issued"], 1);
    for process in [sink, worker] {
        process.signal("TERM");
        assert!(process.wait(Duration::from_secs(20)).success(), "nobody ended");
    }
}
