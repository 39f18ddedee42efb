//! A running application on a real Kafka, as operators see it: pause, threads, a reset, what is refused and why, and what
//! Kafka's own tools show. One broker is shared; each test has an application and topics of its own.

mod versions;

use std::convert::Infallible;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use millstream::log::kafka::Mechanism;
use millstream::log::{KafkaConfig, KafkaLog, Log};
use millstream::{
    Accepted, App, AppState, Config, Events, Handle, Headers, Offset, Partition, Process, Record, RequestError, RequestKey,
    Reset, ResetError, ResetTo, Scope, Seen, Store, StreamBuilder, Timestamp, Topic,
};
use millstream_state::fault::{self, Action};
use rdkafka::producer::{BaseRecord, Producer};

use super::support::{LONG, eventually, pass, wait};
use crate::log::kafka::broker::{Broker, Settings};
use crate::log::kafka::transactions::producer;
use crate::log::kafka::{config as kafka_config, prefix, shared_broker};

const SUMS: Store<String, i64> = Store::keyed("sums");

/// The names of an application that no other test has.
#[derive(Clone, Copy)]
struct Names {
    app: &'static str,
    input: &'static str,
    output: &'static str,
    more: &'static str,
}

impl Names {
    fn new() -> Names {
        let prefix = prefix();
        let name = |of: &str| -> &'static str { Box::leak(format!("{prefix}{of}").into_boxed_str()) };
        Names { app: name("app"), input: name("in"), output: name("out"), more: name("more") }
    }

    fn input(self) -> Topic<String, i64> {
        Topic::new(self.input).partitions(4).keep_forever()
    }

    fn output(self) -> Topic<String, i64> {
        Topic::new(self.output).partitions(4).keep_forever()
    }

    /// Adds up by key into `sums`, and writes every sum to `out`; counts how often each came about, through a repartition topic.
    fn sums(self) -> StreamBuilder {
        let mut builder = StreamBuilder::new(self.app);
        let process = Process::new("sum", |ctx: &mut Scope<'_, String, i64>, record: Record<String, i64>| {
            let sum = ctx.store(&SUMS).get(&record.key)?.unwrap_or(0) + record.value;
            ctx.store(&SUMS).put(&record.key, &sum)?;
            ctx.forward(record.with_value(sum))
        });
        let sums = builder.stream(&self.input()).process(process.store(&SUMS));
        sums.to(&self.output());
        sums.group_by("by-sum", |_, sum| *sum).count("counts");
        builder
    }

    fn events(self, records: impl IntoIterator<Item = (String, i64)>) -> Events {
        records.into_iter().fold(Events::new(), |events, (key, value)| {
            events.with(&self.input(), &Record { key, value, timestamp: Timestamp(1_000), headers: Headers::EMPTY })
        })
    }

    fn append(self, handle: &Handle, key: &str, value: i64) {
        handle.append_blocking(self.events([(key.to_owned(), value)])).expect("the log takes it");
    }

    /// What was written to `out` for a key, in order.
    fn written(self, log: &KafkaLog, key: &str) -> Vec<i64> {
        let topic = self.output();
        let info = log.topic(self.output).expect("the log answers").expect("it is there");
        let mut values = Vec::new();
        for partition in (0..info.partitions).map(Partition) {
            let bounds = log.bounds(info.id, partition).expect("the log answers");
            let mut next = bounds.start;
            while next < bounds.end {
                let fetched = log.fetch(info.id, partition, next, 1 << 20).expect("the topic can be read");
                for record in fetched.batches.iter().flat_map(|batch| batch.records_from(next)) {
                    if topic.key_codec().decode(record.key).expect("a key") == key {
                        values.push(topic.value_codec().decode(record.value).expect("a value"));
                    }
                }
                next = fetched.next;
            }
        }
        values
    }
}

fn log_with(config: KafkaConfig) -> KafkaLog {
    KafkaLog::open(config).expect("the broker answers")
}

fn start(builder: StreamBuilder, dir: &Path, threads: usize) -> App {
    try_start(builder, dir, threads).expect("the application starts")
}

fn try_start(builder: StreamBuilder, dir: &Path, threads: usize) -> Result<App, millstream::StartError> {
    let log = log_with(kafka_config().session_timeout(Duration::from_secs(2)));
    App::start_on(builder.build().expect("the topology is valid"), Config { threads, ..Config::shared(dir) }, Arc::new(log))
}

fn refusal(builder: StreamBuilder, dir: &Path) -> String {
    let said = try_start(builder, dir, 1).map(|_| ()).expect_err("it is refused").to_string();
    assert!(!said.contains('\n'), "one sentence: {said}");
    said
}

fn catch_up(handle: &Handle) {
    running(handle);
    wait(handle.caught_up("counts", LONG)).expect("the view catches up");
}

fn sum(handle: &Handle, key: &str) -> Option<i64> {
    handle.view("sums").expect("a store").typed(&SUMS).get(&key.to_owned()).and_then(Seen::wait).expect("it is here")
}

fn running(handle: &Handle) {
    let all = |handle: &Handle| handle.view("sums").expect("a store").typed(&SUMS).get(&"-".to_owned()).is_ok();
    eventually("it runs", || handle.state() == AppState::Running && all(handle));
}

#[test]
fn what_is_paused_keeps_its_tasks_and_kafkas_tools_show_its_lag() {
    let (names, dir) = (Names::new(), tempfile::tempdir().expect("a temporary directory"));
    let app = start(names.sums(), dir.path(), 1);
    let handle = app.handle();
    running(&handle);
    names.append(&handle, "a", 1);
    catch_up(&handle);
    handle.pause();
    assert_eq!(handle.state(), AppState::Paused);
    for _ in 0..3 {
        names.append(&handle, "a", 10);
    }
    // Beyond the session timeout: whoever did not say that it lives would be out of the group by then.
    pass(Duration::from_secs(3));
    assert_eq!((sum(&handle, "a"), handle.state()), (Some(1), AppState::Paused));
    let said = shared_broker().tool(
        "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand",
        &["--describe", "--group", names.app],
        "",
    );
    // GROUP TOPIC PARTITION CURRENT-OFFSET LOG-END-OFFSET LAG CONSUMER-ID HOST CLIENT-ID
    let of_input: Vec<Vec<&str>> = said.lines().map(|line| line.split_whitespace().collect()).collect();
    let of_input: Vec<_> = of_input.into_iter().filter(|columns: &Vec<&str>| columns.get(1) == Some(&names.input)).collect();
    let lag: u64 = of_input.iter().filter_map(|columns| columns[5].parse::<u64>().ok()).sum();
    // Each append is a transaction, whose mark has an offset, too.
    assert!(lag >= 3, "{said}");
    assert!(of_input.len() == 4 && of_input.iter().all(|columns| columns[8].starts_with("millstream-worker")), "{said}");
    handle.resume();
    catch_up(&handle);
    assert_eq!(sum(&handle, "a"), Some(31));
    assert_eq!(app.stop(), None);
}

/// Appends to every key again and again while `meanwhile` runs. How often.
fn under_load(names: Names, keys: usize, meanwhile: impl FnOnce(&AtomicUsize)) -> usize {
    let (rounds, done) = (AtomicUsize::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // A program of its own, which runs no task.
            let (dir, log) = (tempfile::tempdir().expect("a temporary directory"), log_with(kafka_config()));
            let topology = names.sums().build().expect("the topology is valid");
            let app =
                App::start_on(topology, Config { threads: 0, ..Config::shared(dir.path()) }, Arc::new(log)).expect("it starts");
            while !done.load(SeqCst) {
                let one = names.events((0..keys).map(|key| (key.to_string(), 1)));
                app.handle().append_blocking(one).expect("the log takes it");
                rounds.fetch_add(1, SeqCst);
            }
        });
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| meanwhile(&rounds)));
        done.store(true, SeqCst);
        if let Err(panic) = outcome {
            std::panic::resume_unwind(panic);
        }
    });
    rounds.into_inner()
}

fn check_each_once(names: Names, keys: usize, rounds: usize) {
    let log = log_with(kafka_config());
    for key in 0..keys {
        assert_eq!(
            names.written(&log, &key.to_string()),
            (1..=rounds as i64).collect::<Vec<_>>(),
            "of {key}, over {rounds} rounds"
        );
    }
}

fn await_rounds(rounds: &AtomicUsize, more: usize) {
    let wanted = rounds.load(SeqCst) + more;
    eventually("the load goes on", || rounds.load(SeqCst) >= wanted);
}

#[test]
fn threads_come_and_go_under_load_and_nothing_is_lost_or_done_twice() {
    const KEYS: usize = 8;
    let (names, dir) = (Names::new(), tempfile::tempdir().expect("a temporary directory"));
    let app = start(names.sums(), dir.path(), 1);
    let handle = app.handle();
    running(&handle);
    let rounds = under_load(names, KEYS, |rounds| {
        for count in [2, 3] {
            handle.add_thread().expect("a thread more");
            assert_eq!(handle.threads(), count);
            await_rounds(rounds, 5);
        }
        for count in [2, 1] {
            handle.remove_thread().expect("a thread less");
            assert_eq!(handle.threads(), count);
            await_rounds(rounds, 5);
        }
        assert_eq!(handle.add_thread().expect("a thread more"), 1, "the number that is free");
        await_rounds(rounds, 5);
    });
    running(&handle);
    catch_up(&handle);
    assert_eq!(sum(&handle, "0"), Some(rounds as i64));
    assert_eq!(app.stop(), None);
    check_each_once(names, KEYS, rounds);
}

#[test]
fn a_reset_forgets_and_begins_anew() {
    let (names, dir) = (Names::new(), tempfile::tempdir().expect("a temporary directory"));
    let topology = || names.sums().build().expect("the topology is valid");
    let log = log_with(kafka_config());
    let app = start(names.sums(), dir.path(), 1);
    let handle = app.handle();
    for value in 1..=3 {
        names.append(&handle, "a", value);
    }
    catch_up(&handle);

    let running = Reset::default().run(&topology(), &log).expect_err("it runs");
    assert!(matches!(&running, ResetError::Running { processes, .. } if processes.len() == 2), "{running}");
    drop(handle);
    assert_eq!(app.stop(), None);
    let no_input = Reset { inputs: Some(vec!["nothing".into()]), ..Reset::default() };
    let no_input = no_input.run(&topology(), &log).expect_err("it is no input").to_string();
    assert!(no_input.contains("\"nothing\" is not read") && no_input.contains(names.input), "{no_input}");

    let planned = Reset { dry_run: true, ..Reset::default() }.run(&topology(), &log).expect("nothing runs");
    assert!(planned.forgotten.contains(&format!("{}-{}-changelog", names.app, names.input)), "{planned:?}");
    assert!(planned.begins.len() == 4 && planned.begins.iter().all(|begin| begin.offset == Offset(0) && begin.is_input));
    let app = start(names.sums(), dir.path(), 1);
    catch_up(&app.handle());
    assert_eq!(sum(&app.handle(), "a"), Some(6), "a plan changes nothing");
    app.stop();

    // Cut off anywhere, it must be repeated, and nobody starts before that.
    for step in ["reset:marked", "reset:deleted", "reset:made"] {
        fault::arm(step, 1, Action::Fail);
        assert!(Reset::default().run(&topology(), &log).is_err());
        fault::disarm(step);
        let said = refusal(names.sums(), dir.path());
        assert!(said.contains("begun and not finished"), "{said}");
    }
    let done = Reset::default().run(&topology(), &log).expect("nothing runs");
    assert_eq!(done.begins, planned.begins);
    // From the beginning: the same once more, in the state directory of the life before.
    let app = start(names.sums(), dir.path(), 1);
    catch_up(&app.handle());
    assert_eq!(sum(&app.handle(), "a"), Some(6));
    assert_eq!(names.written(&log, "a"), [1, 3, 6, 1, 3, 6]);
    app.stop();

    // From the end, and what fits to nothing of before: the name of a store that held something else.
    Reset { to: ResetTo::Latest, ..Reset::default() }.run(&topology(), &log).expect("nothing runs");
    let offsets = log.offsets(names.app).expect("the log answers");
    assert_eq!(offsets.len(), 4, "tools see where it begins: {offsets:?}");
    let app = start(names.sums(), dir.path(), 1);
    let handle = app.handle();
    catch_up(&handle);
    assert_eq!(sum(&handle, "a"), None);
    names.append(&handle, "a", 5);
    catch_up(&handle);
    assert_eq!(sum(&handle, "a"), Some(5));
    drop(handle);
    app.stop();

    // Who comes at the wrong moment hears of it and fails, and nothing of what it knew is in the new life.
    let (began, late) = mpsc::channel();
    let data = dir.path().to_owned();
    fault::on_visit("reset:alone", move || {
        let app = start(names.sums(), &data, 1);
        catch_up(&app.handle());
        began.send(app).expect("the test waits");
    });
    Reset::default().run(&topology(), &log).expect("whoever is there goes");
    fault::disarm("reset:alone");
    assert!(log.members(names.app).expect("the log answers").is_empty(), "nobody is there any more");
    let failed = late.recv().expect("it has begun").stop().expect("it has failed");
    assert!(failed.contains("was reset") && failed.contains("start it again"), "{failed}");
    let app = start(names.sums(), dir.path(), 1);
    catch_up(&app.handle());
    assert_eq!(sum(&app.handle(), "a"), Some(11), "from the beginning");
    app.stop();

    // From a time that all records have, which is their beginning; from one that none has, which is the end.
    for (at, expected) in [(1_000, Some(11)), (1_001, None)] {
        let to = ResetTo::Time(Timestamp(at));
        Reset { to, ..Reset::default() }.run(&topology(), &log).expect("nothing runs");
        let app = start(names.sums(), dir.path(), 1);
        catch_up(&app.handle());
        assert_eq!(sum(&app.handle(), "a"), expected, "from {at} on");
        app.stop();
    }
}

#[test]
fn an_output_that_is_larger_than_its_topic_takes_is_a_dead_letter() {
    let (names, dir) = (Names::new(), tempfile::tempdir().expect("a temporary directory"));
    let args = ["--create", "--topic", names.output, "--partitions", "1", "--config", "max.message.bytes=20000"];
    shared_broker().tool("org.apache.kafka.tools.TopicCommand", &args, "");
    let [input, output] = [names.input, names.output].map(|name| Topic::<String, String>::new(name).partitions(1));
    let mut builder = StreamBuilder::new(names.app);
    builder.stream(&input).to(&output);
    let app = start(builder, dir.path(), 1);
    for value in ["first".to_owned(), "x".repeat(30_000), "last".to_owned()] {
        let record = Record { key: "k".to_owned(), value, timestamp: Timestamp(1_000), headers: Headers::EMPTY };
        app.handle().append_blocking(Events::new().with(&input, &record)).expect("the log takes it");
    }
    let log = log_with(kafka_config());
    let found = log.topic(names.output).expect("the log answers").expect("it is there").id;
    eventually("all is processed", || log.bounds(found, Partition(0)).expect("the log answers").end >= Offset(3));
    let letters = app.handle().dead_letters().read(&format!("{}.dlq", names.input), None, 10);
    let letters = letters.expect("the log answers").expect("it has letters");
    assert_eq!(letters.iter().map(|letter| letter.value.as_ref().map(|value| value.len())).collect::<Vec<_>>(), [Some(30_000)]);
    let cause = &letters[0].failure.as_ref().expect("the engine wrote it").cause;
    assert!(cause.contains("Unwritable") && cause.contains("is larger than"), "{cause}");
    assert_eq!(app.stop(), None);
}

/// Whoever asked first was told nothing, or that the outcome is not known.
#[test]
fn a_request_that_is_to_be_refused_is_answered_if_it_was_asked_before_and_is_carried_out_only_now() {
    let (names, dir) = (Names::new(), tempfile::tempdir().expect("a temporary directory"));
    let mut builder = names.sums();
    builder.accept_requests(2, |requests| requests.sink(&names.input()));
    let app = start(builder, dir.path(), 1);
    let handle = app.handle();
    running(&handle);
    handle.pause();
    let request = || RequestKey { key: b"key".to_vec(), fingerprint: [0; 32], keep_ms: 3_600_000 };
    assert!(matches!(wait(handle.asked_before(&request(), LONG)), Ok(None)), "nobody has asked");

    let accepted = move || async move {
        let events = names.events([("a".to_owned(), 1)]);
        Ok::<_, Infallible>(Accepted { events, answer: b"first".to_vec() })
    };
    let asking = handle.clone();
    let first = std::thread::spawn(move || wait(asking.once(&request(), accepted)).map(|answer| answer.answer));
    let log = log_with(kafka_config());
    let topic = log.topic(&format!("{}-requests", names.app)).expect("the log answers").expect("it is there").id;
    let asked = |partition| log.bounds(topic, Partition(partition)).expect("the log answers").end > Offset(0);
    eventually("the request is in the log", || asked(0) || asked(1));
    let too_soon = wait(handle.asked_before(&request(), Duration::from_millis(50)));
    assert!(matches!(too_soon, Err(RequestError::Refused(_))), "it is not known yet: {too_soon:?}");
    let again = handle.clone();
    let again = std::thread::spawn(move || wait(again.asked_before(&request(), LONG)));
    handle.resume();
    let answer = again.join().expect("no panic").expect("the task decides").expect("it was asked before");
    assert_eq!(answer.answer, b"first");
    assert!(matches!(first.join().expect("no panic"), Ok(answer) if answer == b"first"));
    assert_eq!(app.stop(), None);
}

#[test]
fn what_was_requested_before_a_reset_is_not_carried_out_again() {
    let (names, dir) = (Names::new(), tempfile::tempdir().expect("a temporary directory"));
    let with_requests = || {
        let mut builder = names.sums();
        builder.accept_requests(2, |requests| requests.sink(&names.input()));
        builder
    };
    let add = |handle: &Handle, key: &str, value: i64| {
        let request = RequestKey { key: key.as_bytes().to_vec(), fingerprint: [0; 32], keep_ms: 3_600_000 };
        let events = || names.events([("a".to_owned(), value)]);
        let accepted = || async { Ok::<_, Infallible>(Accepted { events: events(), answer: Vec::new() }) };
        running(handle);
        wait(handle.once(&request, accepted)).expect("it is carried out");
        catch_up(handle);
    };
    let app = start(with_requests(), dir.path(), 1);
    for key in ["1", "2", "3"] {
        add(&app.handle(), key, 1);
    }
    assert_eq!(sum(&app.handle(), "a"), Some(3));
    app.stop();

    let log = log_with(kafka_config());
    let topology = with_requests().build().expect("the topology is valid");
    let done = Reset::default().run(&topology, &log).expect("nothing runs");
    let requests = format!("{}-requests", names.app);
    let begins: Vec<_> = done.begins.iter().filter(|begin| begin.topic == requests).collect();
    assert!(begins.len() == 2 && begins.iter().all(|begin| !begin.is_input), "{begins:?}");
    let app = start(with_requests(), dir.path(), 1);
    catch_up(&app.handle());
    assert_eq!(sum(&app.handle(), "a"), None);
    // Their keys are free again.
    add(&app.handle(), "1", 7);
    assert_eq!(sum(&app.handle(), "a"), Some(7));
    assert_eq!(names.written(&log, "a"), [1, 2, 3, 7]);
    app.stop();
}

#[test]
fn topics_that_are_not_what_they_were_are_named() {
    let (names, dir) = (Names::new(), tempfile::tempdir().expect("a temporary directory"));
    let app = start(names.sums(), dir.path(), 1);
    names.append(&app.handle(), "a", 1);
    catch_up(&app.handle());
    app.stop();
    let alter = |topic: &str, partitions: &str| {
        let args = ["--alter", "--topic", topic, "--partitions", partitions];
        shared_broker().tool("org.apache.kafka.tools.TopicCommand", &args, "");
    };
    // An input that others have given more partitions: its keys are elsewhere now, and tasks would be without their state.
    alter(names.input, "6");
    let said = refusal(names.sums(), dir.path());
    assert!(said.contains(&format!("{} with 4 partitions, and is now {} with 6", names.input, names.input)), "{said}");

    let repartition = format!("{}-by-sum-repartition", names.app);
    alter(&repartition, "5");
    let said = refusal(names.sums(), dir.path());
    assert!(said.contains(&format!("internal topic {repartition:?} has 5 partitions in place of 4")), "{said}");

    let changelog = format!("{}-by-sum-changelog", names.app);
    let log = log_with(kafka_config());
    log.delete_topics(&[&changelog, &repartition]).expect("the topics are deleted");
    let said = refusal(names.sums(), dir.path());
    assert!(said.contains("is missing") && said.contains("reset"), "{said}");
    // What it says helps: the input has six partitions now, and all that was appended is there.
    Reset::default().run(&names.sums().build().expect("the topology is valid"), &log).expect("nothing runs");
    let app = start(names.sums(), dir.path(), 1);
    catch_up(&app.handle());
    assert_eq!(sum(&app.handle(), "a"), Some(1));
    app.stop();
}

/// A broker that asks who comes, and lets the administrator alone do anything.
fn guarded() -> Broker {
    let users = "username=\"admin\" password=\"a\" user_admin=\"a\" user_bob=\"b\"";
    let properties = format!(
        "listener.security.protocol.map=CONTROLLER:PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT\n\
         security.inter.broker.protocol=SASL_PLAINTEXT\n\
         sasl.enabled.mechanisms=PLAIN\n\
         sasl.mechanism.inter.broker.protocol=PLAIN\n\
         listener.name.sasl_plaintext.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required {users};\n\
         authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer\n\
         super.users=User:admin;User:ANONYMOUS\n"
    );
    Broker::with(Settings { protocol: "SASL_PLAINTEXT", properties, scram: String::new() })
}

#[test]
fn each_right_that_is_missing_is_named_until_there_are_all() {
    let (broker, names, dir) = (guarded(), Names::new(), tempfile::tempdir().expect("a temporary directory"));
    let (prefix, _) = names.app.split_once("app").expect("it ends so");
    let as_admin = dir.path().join("admin.properties");
    let login = "org.apache.kafka.common.security.plain.PlainLoginModule required username=\"admin\" password=\"a\";";
    let properties = format!("security.protocol=SASL_PLAINTEXT\nsasl.mechanism=PLAIN\nsasl.jaas.config={login}\n");
    std::fs::write(&as_admin, properties).expect("a file");
    let allow = |what: &[&str]| {
        let who = ["--command-config", as_admin.to_str().expect("UTF-8"), "--add", "--allow-principal", "User:bob"];
        let how = ["--operation", "All", "--resource-pattern-type", "prefixed"];
        broker.tool("org.apache.kafka.tools.AclCommand", &[&who[..], &how, what].concat(), "");
    };
    let start = || {
        let config = KafkaConfig::new(broker.address()).sasl(Mechanism::Plain, "bob", "b").instance("process");
        let log = Arc::new(KafkaLog::open(config).expect("he is known"));
        App::start_on(
            names.sums().build().expect("a topology"),
            Config { threads: 1, ..Config::shared(dir.path().join("state")) },
            log,
        )
    };
    let refused = || start().map(|_| ()).expect_err("a right is missing").to_string();

    let said = refused();
    assert!(said.contains("not allowed") && said.contains(&format!("{}-control (a right on the topic", names.app)), "{said}");
    allow(&["--topic", prefix]);
    let said = refused();
    assert!(
        said.contains("not allowed")
            && said.contains("millstream-process-writer")
            && said.contains("(WRITE on the transactional id"),
        "{said}"
    );
    allow(&["--transactional-id", "millstream-process-"]);
    let said = refused();
    assert!(said.contains(&format!("{}-process-0", names.app)) && said.contains("(WRITE on the transactional id"), "{said}");
    allow(&["--transactional-id", prefix]);
    // Who may not be in the group is told so when it has joined.
    let app = start().expect("it starts");
    eventually("it has failed", || app.handle().state() == AppState::Error);
    let said = app.stop().expect("it has failed");
    assert!(said.contains("not allowed") && said.contains("READ on the group"), "{said}");
    allow(&["--group", prefix]);
    let app = start().expect("it starts");
    names.append(&app.handle(), "a", 1);
    catch_up(&app.handle());
    assert_eq!((sum(&app.handle(), "a"), app.stop()), (Some(1), None));
}

/// A transaction that is decided, and not marked yet, looks like one that is open.
#[test]
fn the_last_value_of_a_key_waits_for_what_is_open() {
    let (names, dir) = (Names::new(), tempfile::tempdir().expect("a temporary directory"));
    let app = start(names.sums(), dir.path(), 1);
    let handle = app.handle();
    let positions: Topic<String, i64> = Topic::new(names.more).compacted();
    handle.create_topic(&positions).expect("the topic is made");
    let (key, at) = ("relay".to_owned(), |value| Record::new("relay".to_owned(), value, Timestamp(1_000)));
    assert_eq!(handle.last(&positions, &key).expect("the log answers"), None);
    handle.append_blocking(Events::new().with(&positions, &at(1))).expect("the log takes it");
    assert_eq!(handle.last(&positions, &key).expect("the log answers"), Some(1));

    let other = producer(&(prefix() + "other"));
    let (mut encoded_key, mut encoded) = (Vec::new(), Vec::new());
    positions.key_codec().encode(&key, &mut encoded_key).expect("a key");
    positions.value_codec().encode(&2, &mut encoded).expect("a value");
    let record = BaseRecord::to(names.more).key(&encoded_key).payload(&encoded).partition(0);
    other.begin_transaction().expect("a transaction");
    other.send(record).map_err(|(error, _)| error).expect("it is sent");
    other.flush(LONG).expect("it is there");
    let (told, hears) = mpsc::channel();
    std::thread::scope(|scope| {
        scope.spawn(|| told.send(handle.last(&positions, &key).expect("the log answers")));
        let early = hears.recv_timeout(Duration::from_millis(300));
        assert!(early.is_err(), "nobody knows yet, and it said {early:?}");
        other.commit_transaction(LONG).expect("it is committed");
        assert_eq!(hears.recv_timeout(LONG), Ok(Some(2)));
    });
    assert_eq!(app.stop(), None);
}
