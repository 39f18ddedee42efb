//! A running application from outside: appending events, reading views, waiting for positions. Cheap to clone, usable from any thread.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::RwLock;
use prometheus_client::registry::Registry;
use tokio::sync::watch;

use super::Shared;
use super::progress::Behind;
use super::seen::Seen;
use super::state::AppState;
use super::threads::ThreadError;
use super::token::{Place, Token};
use super::upstream::Upstream;
use super::view::{QueryError, View};
use crate::clock::Clock;
use crate::codec::{self, Presence};
use crate::log::{
    self, Append, Committed, Limits, Log, Pending, RecordBatch, Request, TopicId, TopicInfo, Transaction, partition,
};
use crate::record::{Headers, Offset, Partition, Record, Timestamp};
use crate::requests::CommandEvent;
use crate::topic::Topic;
use crate::topology::{TopicIndex, Topology};

/// A handle on a running application.
#[derive(Clone)]
pub struct Handle {
    pub(crate) shared: Arc<Shared>,
}

/// Why nothing was appended, or why that is unknown.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// The log refused it, was away, or does not know ([`log::Error::is_outcome_unknown`]).
    #[error("{0}")]
    Log(log::Error),
    /// Where processes share the log, requests by key need a topology that accepts them: `StreamBuilder::accept_requests`.
    #[error("the topology accepts no requests by key")]
    NoRequests,
    /// What was asked before cannot be looked up now.
    #[error("requests cannot be looked up now: {0}")]
    Requests(QueryError),
    /// A key or value does not encode, or decode.
    #[error("topic {topic:?}: {error}")]
    Codec {
        /// The topic.
        topic: String,
        /// What is wrong.
        error: codec::Error,
    },
}

/// Records to be appended as one transaction.
#[derive(Default)]
pub struct Events {
    events: Vec<Event>,
}

struct Event {
    topic: String,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    timestamp: Timestamp,
    headers: Headers,
    mistake: Option<codec::Error>,
}

impl Events {
    /// No records.
    #[must_use]
    pub fn new() -> Events {
        Events::default()
    }

    /// These records and one more.
    #[must_use]
    pub fn with<K: 'static, V: 'static>(mut self, topic: &Topic<K, V>, record: &Record<K, V>) -> Events {
        let mut mistake = None;
        let mut bytes = |result: Result<Presence, codec::Error>, bytes: Vec<u8>| match result {
            Ok(Presence::Present) => Some(bytes),
            Ok(Presence::Null) => None,
            Err(error) => {
                mistake = Some(error);
                None
            }
        };
        let (mut key, mut value) = (Vec::new(), Vec::new());
        let key = bytes(topic.key_codec().encode(&record.key, &mut key), key);
        let value = bytes(topic.value_codec().encode(&record.value, &mut value), value);
        let (topic, timestamp, headers) = (topic.name().to_owned(), record.timestamp, record.headers.clone());
        self.events.push(Event { topic, key, value, timestamp, headers, mistake });
        self
    }
}

impl Events {
    /// The same records for the task that appends them.
    pub(super) fn into_command(self) -> Result<Vec<CommandEvent>, AppendError> {
        let command = |event: Event| match event.mistake {
            Some(error) => Err(AppendError::Codec { topic: event.topic, error }),
            None => Ok(CommandEvent {
                topic: event.topic,
                key: event.key,
                value: event.value,
                timestamp_ms: event.timestamp.0,
                headers: event.headers.iter().map(|(name, value)| (name.to_owned(), value.to_vec())).collect(),
            }),
        };
        self.events.into_iter().map(command).collect()
    }
}

/// One store, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreStatus {
    /// Its name, and its view's.
    pub name: String,
    /// The Rust type of its keys.
    pub key_type: &'static str,
    /// The Rust type of its values.
    pub value_type: &'static str,
    /// `key-value`, `table` (values have timestamps), `window` and `session` (keys have a window, too),
    /// `join` (what a side of a join has seen), `global-table` (a table that every process has whole), or `feed` (events by key and sequence).
    pub kind: &'static str,
    /// How many partitions.
    pub partitions: u32,
    /// How many rows, as far as that can be told without looking at them: see [`TaskView::entries`](millstream_state::TaskView::entries).
    pub entries: u64,
    /// Whether they were counted; else RocksDB has estimated a part of them.
    pub entries_exact: bool,
    /// The end of the changelog that each partition's readers see.
    pub positions: Vec<(Partition, Offset)>,
}

/// How an application is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// It works.
    Up,
    /// It cannot commit at the moment, or a part of the program does not work, and tries again.
    Degraded(String),
    /// It has stopped for this reason and must be started again.
    Failed(String),
}

/// How long a topic beside the topology is taken for what it was; a producer of Kafka's own takes five minutes.
const KNOWN_FOR: Duration = Duration::from_secs(10);
const MAX_KNOWN: usize = 1_000;

/// How much of a topic is read at once, in bytes.
const FETCH_BYTES: usize = 1 << 20;
/// How long a transaction that is open may hold back who looks for the last value of a key, and the pause between two looks.
const PATIENCE: Duration = Duration::from_secs(10);
const WAIT: Duration = Duration::from_millis(20);

impl Handle {
    /// The topology that runs.
    #[must_use]
    pub fn topology(&self) -> &Topology {
        &self.shared.topology
    }

    /// A number that tells this start of a process from every other of the application on a shared log; 0 where one process has the log.
    #[must_use]
    pub fn start_number(&self) -> u64 {
        self.shared.start
    }

    /// The wall clock of the application.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.shared.config.clock.now()
    }

    /// The clock itself, for what outlives the application.
    #[must_use]
    pub fn clock(&self) -> Clock {
        self.shared.config.clock.clone()
    }

    /// Appends the records as one transaction, and waits until they are durable. The answer is where they end.
    ///
    /// # Errors
    /// See [`AppendError`]; nothing was appended unless the outcome is unknown.
    pub async fn append(&self, events: Events) -> Result<Token, AppendError> {
        self.append_with(events, None).await
    }

    /// The same for a thread that may block.
    ///
    /// # Errors
    /// As [`Handle::append`].
    pub fn append_blocking(&self, events: Events) -> Result<Token, AppendError> {
        let (pending, places) = self.submit(events, None)?;
        let committed = pending.wait()?;
        Ok(self.appended(places, committed))
    }

    pub(super) async fn append_with(&self, events: Events, request: Option<Request>) -> Result<Token, AppendError> {
        let (pending, places) = self.submit(events, request)?;
        let committed = pending.await?;
        Ok(self.appended(places, committed))
    }

    /// Counts what was appended, one record at each place, and says where it ends.
    fn appended(&self, places: Vec<(TopicId, Partition)>, committed: Committed) -> Token {
        for (id, _) in &places {
            if let Some(topic) = self.shared.topics.iter().position(|topic| topic.id == *id) {
                self.shared.metrics.sent(TopicIndex(topic), 1);
            }
        }
        self.token(places.into_iter().zip(committed.base_offsets).map(|((topic, p), base)| (topic, p, base.next())))
    }

    fn submit(&self, events: Events, request: Option<Request>) -> Result<(Pending, Vec<(TopicId, Partition)>), AppendError> {
        let mut appends = Vec::with_capacity(events.events.len());
        for event in events.events {
            if let Some(error) = event.mistake {
                return Err(AppendError::Codec { topic: event.topic, error });
            }
            let topic = self.topic(&event.topic)?;
            let partition = partition(event.key.as_deref(), topic.partitions, event.timestamp.0 as u32);
            let (key, value) = (event.key.as_deref(), event.value.as_deref());
            self.shared.limits.check(&topic, partition, event.timestamp, key, value, &event.headers)?;
            let mut batch = RecordBatch::new();
            batch.push(event.timestamp, event.key.as_deref(), event.value.as_deref(), &event.headers);
            appends.push(Append { topic: topic.id, partition, batch });
        }
        let places = appends.iter().map(|append| (append.topic, append.partition)).collect();
        Ok((self.shared.log.commit(Transaction { appends, offsets: None, request }), places))
    }

    /// The topic of this name. One that the topology does not have is looked up again from time to time only: on a cluster that is two requests.
    fn topic(&self, name: &str) -> Result<TopicInfo, log::Error> {
        if let Some(topic) = self.shared.topics.iter().find(|topic| *topic.name == *name) {
            return Ok(topic.clone());
        }
        let mut others = self.shared.others.lock();
        if let Some((topic, _)) = others.get(name).filter(|(_, at)| at.elapsed() < KNOWN_FOR) {
            return Ok(topic.clone());
        }
        let found = self.shared.log.topic(name)?.ok_or_else(|| log::Error::UnknownTopic { topic: name.to_owned() })?;
        // Names may come from anywhere: what is not known again is looked up again.
        if others.len() >= MAX_KNOWN {
            others.clear();
        }
        others.insert(name.to_owned(), (found.clone(), Instant::now()));
        Ok(found)
    }

    /// Makes a topic that the topology does not have, or finds it as it is: for what the program itself appends to, and reads.
    ///
    /// # Errors
    /// If the log refuses its name, has it otherwise, or is away.
    pub fn create_topic<K: 'static, V: 'static>(&self, topic: &Topic<K, V>) -> Result<(), log::Error> {
        self.shared.log.create_topic(&topic.spec()).map(drop)
    }

    /// Whether the log has a topic of this name.
    ///
    /// # Errors
    /// If the log cannot be asked.
    pub fn has_topic(&self, name: &str) -> Result<bool, log::Error> {
        Ok(self.shared.log.topic(name)?.is_some())
    }

    /// The log itself, for a part of the program that reads topics as a group of its own.
    #[must_use]
    pub fn log(&self) -> &Arc<dyn Log> {
        &self.shared.log
    }

    /// What the log refuses to append.
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.shared.limits
    }

    /// The value of the last committed record of a key, for a program that keeps its own position in a compacted topic. It reads the
    /// key's partition through, and waits for transactions that are open there: what was committed before the call is seen, also if the
    /// log does not show it yet. `None` if there is none, or a null.
    ///
    /// # Errors
    /// If there is no such topic, a key or value is not what its codec reads, or the log cannot be read. [`log::Error::Unavailable`] if a
    /// transaction stays open for longer than 10 s.
    pub fn last<K: 'static, V: 'static>(&self, topic: &Topic<K, V>, key: &K) -> Result<Option<V>, AppendError> {
        let log = &self.shared.log;
        let name = || topic.name().to_owned();
        let codec = |error| AppendError::Codec { topic: name(), error };
        let mut bytes = Vec::new();
        topic.key_codec().encode(key, &mut bytes).map_err(codec)?;
        let info = log.topic(topic.name())?.ok_or_else(|| log::Error::UnknownTopic { topic: name() })?;
        let partition = partition(Some(&bytes), info.partitions, 0);
        let end = log.owned_end(info.id, partition)?.end;
        let mut next = log.bounds(info.id, partition)?.start;
        let (mut last, mut came) = (None, Instant::now());
        while next < end {
            let seen = log.version();
            let fetched = log.fetch(info.id, partition, next, FETCH_BYTES)?;
            let records = fetched.batches.iter().flat_map(|batch| batch.records_from(next));
            if let Some(record) = records.filter(|record| record.key == Some(&bytes)).last() {
                last = record.value.map(<[u8]>::to_vec);
            }
            if fetched.next > next {
                (next, came) = (fetched.next, Instant::now());
            } else {
                if came.elapsed() >= PATIENCE {
                    let cause = format!("a transaction in {}-{partition} at offset {next} has no end yet", info.name);
                    return Err(log::Error::Unavailable { cause: cause.into() }.into());
                }
                log.wait(seen, WAIT);
            }
        }
        last.map(|value| topic.value_codec().decode(Some(&value))).transpose().map_err(codec)
    }

    /// Says that a part of the program which the application depends on does not work, and why, until it is told `None`: then the
    /// application is [`Health::Degraded`], and not ready.
    pub fn report(&self, part: &'static str, trouble: Option<String>) {
        let mut parts = self.shared.parts.lock();
        match trouble {
            Some(trouble) => parts.insert(part, trouble),
            None => parts.remove(part),
        };
    }

    /// The partition of a topic that records of this key go to, and so the one of the stores of whoever reads it.
    ///
    /// # Errors
    /// If there is no such topic, or the key does not encode.
    pub fn partition<K: 'static, V: 'static>(&self, topic: &Topic<K, V>, key: &K) -> Result<Partition, AppendError> {
        let mut bytes = Vec::new();
        let presence = topic.key_codec().encode(key, &mut bytes);
        let presence = presence.map_err(|error| AppendError::Codec { topic: topic.name().to_owned(), error })?;
        let known = self.shared.topics.iter().find(|known| *known.name == *topic.name());
        let known = known.ok_or_else(|| log::Error::UnknownTopic { topic: topic.name().to_owned() })?;
        Ok(partition((presence == Presence::Present).then_some(&bytes), known.partitions, 0))
    }

    /// A token of offsets that lie right after what was appended.
    pub(super) fn token(&self, ends: impl Iterator<Item = (TopicId, Partition, Offset)>) -> Token {
        let tag = |id: TopicId| {
            let topic = self.shared.topics.iter().find(|topic| topic.id == id)?;
            topic.uuid.first_chunk().copied()
        };
        Token(Place::Log(ends.filter_map(|(topic, partition, end)| Some((tag(topic)?, partition, end))).collect()))
    }

    /// Done once all is durable that was seen by now: for who was [ahead](super::Seen::ahead) and appends nothing, such as for a refusal.
    ///
    /// # Errors
    /// If the log fails before.
    pub async fn settled(&self) -> Result<(), AppendError> {
        Ok(self.shared.log.durable(self.shared.log.written()).await?)
    }

    /// The view of a store, if there is one of this name.
    #[must_use]
    pub fn view(&self, store: &str) -> Option<View> {
        let (index, sub) = self.shared.topology.store(store)?;
        Some(View::new(Arc::clone(&self.shared), index, sub))
    }

    /// All stores that have a view.
    pub fn stores(&self) -> Seen<Vec<StoreStatus>> {
        let status = self.shared.topology.stores.iter().filter_map(|store| {
            let kind = store.kind.shown()?;
            let view = self.view(&store.name)?;
            let entries = view.entries();
            Some(StoreStatus {
                name: store.name.clone(),
                key_type: store.key_type,
                value_type: store.value_type,
                kind,
                partitions: view.partitions(),
                entries: entries.rows,
                entries_exact: entries.exact,
                positions: view.positions().ahead(),
            })
        });
        let status = status.collect();
        Seen::new(&self.shared, status, self.shared.log.written())
    }

    /// Waits until the store's view includes everything up to the token.
    ///
    /// # Errors
    /// [`Behind`] if that takes longer than `deadline`, or the token is not of this log.
    ///
    /// # Panics
    /// If there is no such store.
    pub async fn at_least(&self, token: &Token, store: &str, deadline: Duration) -> Result<(), Behind> {
        self.shared.at_least(token, self.owner(store), deadline).await
    }

    /// The same for these partitions alone: those of the others may be in other processes.
    #[cfg(feature = "http")]
    pub(crate) async fn at_least_in(
        &self,
        token: &Token,
        store: &str,
        partitions: &[Partition],
        deadline: Duration,
    ) -> Result<(), Behind> {
        self.shared.at_least_in(token, self.owner(store), partitions, deadline).await
    }

    /// From now on, what has happened there is waited for before what the log holds, until it is told `None`.
    pub fn feed_from(&self, upstream: Option<Arc<dyn Upstream>>) {
        *self.shared.upstream.lock() = upstream;
    }

    /// Waits until the store's view includes everything that the log holds now, and what feeds it, if something does.
    ///
    /// # Errors
    /// [`Behind::TimedOut`] if that takes longer than `deadline`.
    ///
    /// # Panics
    /// If there is no such store.
    pub async fn caught_up(&self, store: &str, deadline: Duration) -> Result<(), Behind> {
        self.shared.caught_up(self.owner(store), deadline).await
    }

    fn owner(&self, store: &str) -> usize {
        self.shared.topology.store(store).unwrap_or_else(|| panic!("there is no store {store:?}")).1
    }

    /// Whether everything that the log held at the start has been processed.
    #[must_use]
    pub fn ready(&self) -> bool {
        self.shared.ready()
    }

    /// How the application is.
    #[must_use]
    pub fn health(&self) -> Health {
        self.shared.health()
    }

    /// What the application is doing.
    #[must_use]
    pub fn state(&self) -> AppState {
        self.shared.state()
    }

    /// The same, to be followed: Kafka Streams' state listener. Who looks seldom sees the last state and not all between.
    #[must_use]
    pub fn states(&self) -> watch::Receiver<AppState> {
        self.shared.lifecycle.watch()
    }

    /// Stops processing in this process until [`Handle::resume`]: no record, timer or punctuation. What was processed is committed. Tasks
    /// are still taken, restored and given up, so they do not go to others; views, watches and appends go on. A restart is not paused.
    pub fn pause(&self) {
        self.shared.set_paused(true);
    }

    /// Goes on after [`Handle::pause`].
    pub fn resume(&self) {
        self.shared.set_paused(false);
    }

    /// How many worker threads there are.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.shared.threads.count()
    }

    /// Adds a worker thread, and gives its number. Where a group shares out tasks it is one more member; else the tasks are dealt anew, for
    /// which all threads commit first. It blocks until that is done.
    ///
    /// # Errors
    /// See [`ThreadError`].
    pub fn add_thread(&self) -> Result<usize, ThreadError> {
        self.shared.add_thread()
    }

    /// Removes a worker thread, and gives the number that it had. It commits and leaves its group, or the tasks are dealt anew. It blocks
    /// until that is done.
    ///
    /// # Errors
    /// See [`ThreadError`].
    pub fn remove_thread(&self) -> Result<usize, ThreadError> {
        self.shared.remove_thread()
    }

    /// The metrics; an application may register more.
    #[must_use]
    pub fn registry(&self) -> &RwLock<Registry> {
        &self.shared.registry
    }
}
