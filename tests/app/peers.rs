//! Processes on a real Kafka that know of each other, and ask each other for what they have over HTTP: one that cannot tell of itself, very many
//! tasks, and peers that refuse.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use millstream::log::{KafkaConfig, KafkaLog, Log};
use millstream::serve::{self, ApiError, Request, Response, Routes, StatusCode, application_routes};
use millstream::{App, Config, Events, Record, StreamBuilder, Timestamp, Topic, Topology};
use serde_json::json;

use super::support::{LONG, eventually};
use crate::log::kafka::broker::{Broker, Settings};
use crate::log::kafka::{config as kafka_config, prefix};
use crate::log::support::put;
use crate::serve::{Running, config};

/// An application whose one table has the rows of a topic.
struct Rows {
    app: &'static str,
    input: Topic<String, u64>,
}

impl Rows {
    fn new(input: &str, partitions: u32) -> Rows {
        let prefix = prefix();
        let name = |of: &str| -> &'static str { Box::leak(format!("{prefix}{of}").into_boxed_str()) };
        Rows { app: name("app"), input: Topic::new(name(input)).partitions(partitions).compacted() }
    }

    fn topology(&self) -> Topology {
        let mut builder = StreamBuilder::new(self.app);
        builder.table(&self.input, "rows");
        builder.build().expect("the topology is valid")
    }

    /// A process of it with its views over HTTP, where others find it.
    fn serve(&self, dir: &Path, threads: usize) -> (App, Running) {
        let port = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("an address");
        let config = Config { threads, advertise: Some(port.to_string()), ..Config::shared(dir) };
        let log = KafkaLog::open(kafka_config().session_timeout(3 * LONG)).expect("the broker answers");
        let app = App::start_on(self.topology(), config, Arc::new(log)).expect("the application starts");
        let server = Running::start(serve::Config::listen(port), application_routes(&app.handle()));
        (app, server)
    }
}

#[test]
fn a_thread_that_the_others_cannot_be_told_of_does_not_begin() {
    let properties = "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer\n\
                      allow.everyone.if.no.acl.found=true\n";
    let broker = Broker::with(Settings { protocol: "PLAINTEXT", properties: properties.into(), scram: String::new() });
    let (rows, dir) = (Rows::new("in", 3), tempfile::tempdir().expect("a temporary directory"));
    let log = KafkaLog::open(KafkaConfig::new(broker.address())).expect("the broker answers");
    let config = Config { threads: 1, ..Config::shared(dir.path()) };
    let app = App::start_on(rows.topology(), config, Arc::new(log)).expect("the application starts");
    let workers = format!("{}-workers", rows.app);
    // What is not allowed is refused from here on.
    let all_but_write = ["Read", "Describe", "DescribeConfigs"].map(|operation| ["--operation", operation]).concat();
    let whom = [&["--allow-principal", "User:ANONYMOUS", "--topic", &workers], &all_but_write[..]].concat();
    broker.tool("org.apache.kafka.tools.AclCommand", &[&["--add"], &whom[..]].concat(), "");
    let said = app.handle().add_thread().expect_err("nobody could end what it leaves open when it dies").to_string();
    assert!(said.contains("not allowed") && said.contains("a right on the topic"), "{said}");
    assert_eq!(app.handle().threads(), 1);
    broker.tool("org.apache.kafka.tools.AclCommand", &[&["--remove", "--force"], &whom[..]].concat(), "");
    eventually("it can tell of itself", || app.handle().add_thread().is_ok());
    assert_eq!((app.handle().threads(), app.stop()), (2, None));
}

#[test]
fn who_asks_for_very_many_tasks_asks_several_times() {
    // Their names together are longer than the head that a request may have.
    let rows = Rows::new(&"i".repeat(200), 96);
    let dirs = [(); 2].map(|()| tempfile::tempdir().expect("a temporary directory"));
    let (owner, owners) = rows.serve(dirs[0].path(), 1);
    let (asker, askers) = rows.serve(dirs[1].path(), 0);
    let events = Events::new().with(&rows.input, &Record::new("a".to_owned(), 7, Timestamp(1)));
    asker.handle().append_blocking(events).expect("the log takes it");
    eventually("it is found", || {
        let answer = askers.connect().get("/views/rows/a");
        // Until the group has given all tasks to the owner, and that has told of it.
        assert!(matches!(answer.status, 200 | 404 | 503), "{answer:?}");
        answer.status == 200 && answer.json()["value"] == 7
    });
    let page = askers.connect().get("/views/rows");
    assert_eq!((page.status, &page.json()["entries"]), (200, &json!([{"key": "a", "value": 7}])), "{page:?}");
    for (path, shown) in [("/views/rows/a", r#""key":"a","value":7"#), ("/views/rows/b", r#""key":"b","value":null"#)] {
        let mut watch = askers.connect();
        watch.subscribe(path, "");
        while !watch.events().expect("the stream goes on").iter().any(|block| block.contains(shown)) {}
    }
    drop((owners, askers));
    assert_eq!([owner.stop(), asker.stop()], [None, None]);
}

/// Refuses a watch several times, tells nothing when it is asked the fifth time, and refuses again. Says when it was asked.
fn refusing() -> (Running, mpsc::Receiver<Instant>) {
    async fn answer((asked, times): (mpsc::Sender<Instant>, Arc<AtomicUsize>), _: Request) -> Result<Response, ApiError> {
        // The test may have seen enough.
        let _ = asked.send(Instant::now());
        match times.fetch_add(1, SeqCst) {
            0 => Err(ApiError::new(StatusCode::TOO_MANY_REQUESTS, "RATE_LIMITED", "too many").retry_after(2)),
            4 => Ok(Response::events(|_| async {})),
            _ => Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "NOT_READY", "not yet")),
        }
    }
    let (asked, when) = mpsc::channel();
    let routes = Routes::new((asked, Arc::new(AtomicUsize::new(0)))).get("/views/rows/{key}", answer);
    (Running::start(config(), routes), when)
}

#[test]
fn a_process_that_refuses_a_watch_is_left_alone_for_as_long_as_it_says_or_longer_each_time() {
    let (rows, dir) = (Rows::new("in", 3), tempfile::tempdir().expect("a temporary directory"));
    let (app, server) = rows.serve(dir.path(), 0);
    // Another process has the tasks, by what it tells.
    let (peer, when) = refusing();
    let tasks = json!({rows.input.name(): [0, 1, 2]});
    let told = json!({"endpoint": peer.address.to_string(), "workers": 1, "tasks": tasks, "at": 1}).to_string();
    let log = KafkaLog::open(kafka_config()).expect("the broker answers");
    let processes = log.topic(&format!("{}-workers", rows.app)).expect("the broker answers").expect("it is there");
    put(&log, &processes, 0, &[("peer", &told)]);

    let mut watch = server.connect();
    watch.subscribe("/views/rows/a", "");
    let when: Vec<Instant> = (0..7).map(|_| when.recv_timeout(LONG).expect("it is asked")).collect();
    let pauses: Vec<Duration> = when.windows(2).map(|pair| pair[1] - pair[0]).collect();
    let at_least = [2_000, 500, 1_000, 2_000].map(Duration::from_millis);
    assert!(pauses.iter().zip(at_least).all(|(pause, least)| *pause >= least), "{pauses:?}");
    // It has told, and refused again since.
    assert!(pauses[4..].iter().all(|pause| *pause < Duration::from_secs(2)), "{pauses:?}");
    drop((watch, server, peer));
    assert_eq!(app.stop(), None);
}
