//! A running application with a server over it: a table of prices, an inbox whose messages are stored for each user in order, and a feed.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use millstream::codec::{Codec, Data, Json};
use millstream::serve::{ApiError, Feed, Request, Response, Routes, Shown, application_routes};
use millstream::{
    App, Clock, Config, Events, FeedEvent, Handle, Process, ProcessError, Record, Scope, Store, StreamBuilder, TimeWindows,
    Timestamp, Token, Topic, Topology,
};
use serde_json::Value;
use tempfile::TempDir;

use super::Running;

pub const PRICES: Topic<String, u64> = Topic::new("prices").partitions(3);
pub const INBOX: Topic<u64, String> = Topic::new("inbox").partitions(2);
const RATES: Topic<String, Rate> = Topic::new("rates").partitions(2).compacted();
const TOLD: Topic<u64, String> = Topic::new("told");
const FEED: Store<(u64, u64), FeedEvent<String>> = Store::ordered("feed").ttl_ms(3_600_000);
const MESSAGES: Store<(u64, u64), String> = Store::ordered("messages");
const NEWEST: Store<u64, u64> = Store::keyed("newest");

/// A number; whoever reads 13 panics.
#[derive(Clone, serde::Serialize)]
pub struct Rate(u64);

impl<'de> serde::Deserialize<'de> for Rate {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Rate, D::Error> {
        let rate = u64::deserialize(deserializer)?;
        assert_ne!(rate, 13, "an unlucky rate");
        Ok(Rate(rate))
    }
}

impl Data for Rate {
    const CODEC: &'static dyn Codec<Rate> = &Json;
}

/// What the topology's processor obeys.
#[derive(Default)]
pub struct Switches {
    /// Held by a test, it holds up the record `wait`.
    pub gate: Mutex<()>,
    /// Whether the record `bad` has become good.
    pub cured: AtomicBool,
}

pub fn topology(switches: &Arc<Switches>) -> Topology {
    let switches = Arc::clone(switches);
    let deliver = Process::new("deliver", move |ctx: &mut Scope<'_, u64, String>, record: Record<u64, String>| {
        match record.value.as_str() {
            "wait" => drop(switches.gate.lock()),
            "bad" if !switches.cured.load(Ordering::SeqCst) => return Err(ProcessError::failed("this one is bad")),
            _ => {}
        }
        let sequence = ctx.store(&NEWEST).get(&record.key)?.unwrap_or(0) + 1;
        ctx.store(&NEWEST).put(&record.key, &sequence)?;
        ctx.store(&MESSAGES).put(&(record.key, sequence), &record.value)
    });
    let mut builder = StreamBuilder::new("post-office");
    builder.table(&PRICES, "prices");
    builder.global_table(&RATES, "rates");
    builder.feed(&TOLD, &FEED);
    let inbox = builder.stream(&INBOX);
    inbox
        .group_by_key()
        .windowed_by(TimeWindows::tumbling_ms(60_000).grace_ms(300_000))
        .retention_ms(600_000)
        .count("per-minute");
    inbox.process(deliver.store(&MESSAGES).store(&NEWEST));
    builder.build().unwrap()
}

/// The fields stop in this order.
pub struct World {
    pub server: Running,
    pub switches: Arc<Switches>,
    handle: Handle,
    _app: App,
    _dir: TempDir,
}

async fn subscribe(feed: Feed<u64, String>, request: Request) -> Result<Response, ApiError> {
    let user = request.param_id("user")?;
    feed.subscribe(&request, &user, format!("{{\"user\":{user}}}")).await
}

impl World {
    pub fn start() -> World {
        World::start_at(Clock::System)
    }

    /// With this clock.
    pub fn start_at(clock: Clock) -> World {
        let (dir, switches) = (TempDir::new().unwrap(), Arc::new(Switches::default()));
        let config = Config { clock, ..Config::embedded(dir.path()) };
        let app = App::start(topology(&switches), config).unwrap();
        let handle = app.handle();
        let show = |value: &[u8]| Ok(Shown { name: "message".into(), data: value.to_vec() });
        let feed = Feed::new(&handle, &TOLD, &FEED, show);
        let routes = Routes::new(feed).get("/feed/{user}", subscribe).merge(application_routes(&handle));
        World { server: Running::start(super::config(), routes), switches, handle, _app: app, _dir: dir }
    }

    /// Sets prices, in one transaction.
    pub fn price<N: Into<String>>(&self, prices: impl IntoIterator<Item = (N, u64)>) -> Token {
        let records = prices.into_iter().map(|(name, price)| Record::new(name.into(), price, Timestamp(1)));
        let events = records.fold(Events::new(), |events, record| events.with(&PRICES, &record));
        self.handle.append_blocking(events).unwrap()
    }

    /// Sets a rate, which is in a global table.
    pub fn rate(&self, currency: &str, rate: u64) {
        let record = Record::new(currency.to_owned(), Rate(rate), Timestamp(1));
        self.handle.append_blocking(Events::new().with(&RATES, &record)).unwrap();
    }

    /// Tells a user, in one transaction.
    pub fn tell<T: Into<String>>(&self, user: u64, texts: impl IntoIterator<Item = T>) -> Token {
        let records = texts.into_iter().map(|text| Record::new(user, text.into(), Timestamp(1)));
        self.handle.append_blocking(records.fold(Events::new(), |events, record| events.with(&TOLD, &record))).unwrap()
    }

    /// Sends messages to a user, in one transaction.
    pub fn send<T: Into<String>>(&self, user: u64, texts: impl IntoIterator<Item = T>) -> Token {
        self.send_at(user, texts.into_iter().map(|text| (text, 1)))
    }

    /// Sends messages of these times to a user, in one transaction.
    pub fn send_at<T: Into<String>>(&self, user: u64, texts: impl IntoIterator<Item = (T, i64)>) -> Token {
        let records = texts.into_iter().map(|(text, at)| Record::new(user, text.into(), Timestamp(at)));
        let events = records.fold(Events::new(), |events, record| events.with(&INBOX, &record));
        self.handle.append_blocking(events).unwrap()
    }

    /// Holds up messages `wait` until it is dropped.
    pub fn hold_up(&self) -> MutexGuard<'_, ()> {
        self.switches.gate.lock().unwrap()
    }

    /// What a path gives.
    #[track_caller]
    pub fn ok(&self, path: &str) -> Value {
        let answer = self.server.connect().get(path);
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        answer.json()
    }
}
