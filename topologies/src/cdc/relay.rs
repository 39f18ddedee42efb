//! The relay: connects, goes on from the position in the log, and appends what was committed, batch by batch, each with the position that
//! follows it as one transaction. After any trouble it begins again from the position in the log, so it never has to know what became of
//! a transaction.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use millstream::codec::{Optional, RawBytes};
use millstream::{AppendError, Events, Failure, Handle, Headers, Offset, Partition, Record, Timestamp, Topic, log};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::binlog::{Group, Happened, Reader, Stopped};
use super::position::{COLUMNS, POSITIONS, Position};
use super::replays::{self, REPLAYED, Replays};
use super::routing::{Routed, Routing};
use super::server::{SILENCE, Server};
use super::snapshot::{self, Snapshot, Wanted};
use super::status::{self, Status};
use super::stream::Broken;
use super::table::{Column, Columns, Row};
use super::{Settings, Stop, Trouble, failed};

/// The topic of a row as it was, where somebody wants it, and the name of the dead-letter topic.
const RAW_TOPIC: &str = "ecommerce.outbox_events";
const DEAD_LETTERS: &str = "ecommerce.outbox_events.dlq";
/// The node that dead letters name.
const NODE: &str = "cdc";
/// A batch goes out when so many rows have come, or so many bytes of them, or none is left.
const BATCH_ROWS: usize = 2_000;
const BATCH_BYTES: usize = 1 << 20;
/// What waits for the log: at most so many transactions, and about so many KiB of rows.
const QUEUE: usize = 4_096;
const QUEUE_KIB: u32 = 1 << 10;
/// A position that moved without rows is written this often at most: a start is not to read old binlogs again, and who waits for the
/// relay may wait for it.
const POSITION_EVERY_MS: i64 = 100;
const SNAPSHOT_BYTES: usize = 128 << 20;
/// The longest piece of a dead letter: a row that no topic takes because of its size is kept in several.
const PIECE_BYTES: usize = 512 << 10;
/// What a record takes in the log beyond its bytes, at most, for each header.
const HEADER_BYTES: usize = 16;

type Bytes = Option<Vec<u8>>;
type RawTopic = Topic<Bytes, Bytes>;

const BYTES: &Optional<Vec<u8>> = &Optional(&RawBytes);

/// Follows one outbox.
pub struct Relay {
    app: Handle,
    settings: Settings,
    status: Arc<Status>,
    topics: HashMap<String, Result<RawTopic, String>>,
    /// Columns that are to be kept with the next position.
    columns: Option<Columns>,
    /// The table's columns as they were when it connected.
    table: Columns,
    /// The columns that are kept do not fit the rows that come: the table as it is now may.
    rereads: bool,
}

/// What goes into the log as one transaction.
struct Batch {
    events: Events,
    rows: u64,
    parked: u64,
    bytes: usize,
    committed_ms: Option<i64>,
    position: Option<Position>,
}

/// What the reader found, and where it then stood; and its room among what waits.
type Found = (Result<(Happened, Position), Stopped>, OwnedSemaphorePermit);

impl Relay {
    /// A relay into this application's log, whose metrics are among the application's.
    #[must_use]
    pub fn new(app: &Handle, settings: Settings) -> Relay {
        let status = Arc::new(Status::default());
        status::register(&status, app, &mut app.registry().write());
        app.report(NODE, Some("the relay has not connected to the database yet".into()));
        Relay { app: app.clone(), settings, status, topics: HashMap::new(), columns: None, table: [].into(), rereads: false }
    }

    /// Relays until something stands in the way for good. It may be dropped at any moment: what is in the log says how far it came.
    pub async fn run(mut self) -> Stop {
        let backoff = || {
            let backoff =
                ExponentialBuilder::new().with_min_delay(Duration::from_millis(50)).with_max_delay(Duration::from_secs(1));
            backoff.with_jitter().without_max_times().build()
        };
        let mut delays = backoff();
        let mut changed_at = None;
        loop {
            let relayed = self.status.relayed.load(Relaxed);
            let trouble = self.follow().await;
            self.status.is_connected.store(false, Relaxed);
            self.status.troubles.fetch_add(1, Relaxed);
            if self.status.relayed.load(Relaxed) > relayed {
                delays = backoff();
            }
            let delay = match &trouble {
                Trouble::Fatal(stop) => return stop.clone(),
                Trouble::Passing(_) => delays.next().unwrap_or_default(),
                Trouble::TableChanged(why) => {
                    let at = self.status.position();
                    self.rereads = true;
                    if changed_at.replace(at.clone()) == Some(at) {
                        return Stop::Failed(format!(
                            "{why}, and what it was then is not known: set binlog_row_metadata=FULL, and start with --resnapshot"
                        ));
                    }
                    Duration::ZERO
                }
            };
            tracing::warn!("the relay pauses for {} ms: {trouble}", delay.as_millis());
            self.app.report(NODE, Some(trouble.to_string()));
            tokio::time::sleep(delay).await;
        }
    }

    /// Follows the binlog on one connection, until there is trouble.
    async fn follow(&mut self) -> Trouble {
        let needed: Vec<String> = self.settings.routing.columns().map(str::to_owned).collect();
        let start = async {
            self.create_topics()?;
            let mut server = Server::connect(&self.settings.address, &needed).await?;
            if !server.syncs_binlog && self.status.position().is_none() {
                tracing::warn!("the database does not have sync_binlog=1: a crash of its machine may take back what was relayed");
            }
            let (position, kept) = match self.last_position().await? {
                (Some(position), kept) if !self.settings.resnapshot => (position, kept),
                _ => (self.snapshot(&mut server).await?, None),
            };
            let columns = match kept.filter(|_| !self.rereads) {
                Some(kept) => kept.into(),
                None => server.columns.clone(),
            };
            self.columns = Some(columns.clone());
            self.table = server.columns.clone();
            self.status.stands_at(&position);
            let server_id = self.settings.server_id.unwrap_or_else(random_server_id);
            let events = server.follow(&position, server_id, self.settings.prefers_gtids).await?;
            tracing::info!("follows the binlog from {position}");
            Ok(Reader::new(events, SILENCE, self.settings.address.table.clone(), columns, position))
        };
        let reader = match start.await {
            Ok(reader) => reader,
            Err(trouble) => return trouble,
        };
        let (found, mut finds) = mpsc::channel(QUEUE);
        let reading = Reading(tokio::spawn(read(reader, found)));
        let trouble = self.relay(&mut finds).await;
        drop(reading);
        trouble
    }

    fn create_topics(&self) -> Result<(), Trouble> {
        self.app.create_topic(&POSITIONS).map_err(of_log)?;
        self.app.create_topic(&COLUMNS).map_err(of_log)?;
        self.app.create_topic(&raw(DEAD_LETTERS).keep_forever()).map_err(of_log)?;
        self.app.create_topic(&raw(&self.app.replay_topic(NODE)).keep_forever()).map_err(of_log)?;
        self.app.create_topic(&REPLAYED).map_err(of_log)?;
        if self.settings.raw_topic { self.app.create_topic(&raw(RAW_TOPIC)).map_err(of_log) } else { Ok(()) }
    }

    /// Where the relay stands, and the table's columns there.
    async fn last_position(&self) -> Result<(Option<Position>, Option<Vec<Column>>), Trouble> {
        let (app, name) = (self.app.clone(), self.settings.name.clone());
        let read = move || Ok((app.last(&POSITIONS, &name)?, app.last(&COLUMNS, &name)?.flatten()));
        let read = tokio::task::spawn_blocking(read).await;
        read.map_err(|panic| failed(panic.to_string()))?.map_err(of_append)
    }

    /// Relays the rows that are there, and says where the binlog goes on.
    async fn snapshot(&mut self, server: &mut Server) -> Result<Position, Trouble> {
        let Settings { address, routing, snapshot_rows, resnapshot, .. } = &self.settings;
        let Routing { timestamp, id, .. } = routing;
        let order: Vec<&str> = timestamp.iter().chain([id]).map(String::as_str).collect();
        let wanted = Wanted { rows: *snapshot_rows || *resnapshot, order: &order, max_bytes: SNAPSHOT_BYTES };
        let Snapshot { rows, position } = snapshot::take(server, address, &wanted).await?;
        tracing::info!(rows = rows.len(), "takes the snapshot of {} at {position}", address.table);
        if let Some(latest) = &position.passed_over {
            tracing::info!("passes over the rows that are there, which stay: the latest was created at {latest}");
        }
        let mut batch = Batch::new();
        let now = self.app.now();
        for row in &rows {
            self.add_row(&mut batch, row, now, None, &position)?;
        }
        batch.position = Some(position.clone());
        self.append(batch).await?;
        self.settings.resnapshot = false;
        Ok(position)
    }

    /// Appends what the reader finds.
    async fn relay(&mut self, finds: &mut mpsc::Receiver<Found>) -> Trouble {
        let mut written_ms = self.app.now().0;
        let mut moved = None;
        loop {
            let mut batch = Batch::new();
            let mut next = match &moved {
                None => finds.recv().await,
                // Nothing more may come for a while.
                Some(_) => {
                    let due_ms = (written_ms + POSITION_EVERY_MS - self.app.now().0).clamp(0, POSITION_EVERY_MS);
                    let due = Duration::from_millis(due_ms.cast_unsigned());
                    tokio::time::timeout(due, finds.recv()).await.ok().flatten()
                }
            };
            let (mut trouble, mut idle) = (None, false);
            while let Some((found, _room)) = next {
                match found {
                    Ok((happened, position)) => {
                        idle |= happened == Happened::Idle;
                        self.connected();
                        if let Err(trouble) = self.take(&mut batch, &mut moved, happened, position) {
                            return trouble;
                        }
                    }
                    Err(stopped) => {
                        trouble = Some(stopped);
                        break;
                    }
                }
                let is_full = batch.rows + batch.parked >= BATCH_ROWS as u64 || batch.bytes >= BATCH_BYTES;
                next = if is_full { None } else { finds.try_recv().ok() };
            }
            if idle
                && trouble.is_none()
                && let Err(trouble) = self.add_replays(&mut batch).await
            {
                return trouble;
            }
            let now = self.app.now();
            if batch.position.is_some() || trouble.is_some() || now.0 - written_ms >= POSITION_EVERY_MS {
                batch.position = moved.take().or(batch.position);
            }
            if let Some(Stopped::TableChanged(_)) = &trouble {
                let unknown = Record::new(self.settings.name.clone(), None, now);
                batch.events = std::mem::take(&mut batch.events).with(&COLUMNS, &unknown);
                self.columns = None;
            }
            if batch.position.is_some() {
                written_ms = now.0;
                if let Err(trouble) = self.append(batch).await {
                    return trouble;
                }
            }
            if let Some(stopped) = trouble {
                return self.judge(stopped).await;
            }
            if finds.is_closed() && finds.is_empty() {
                return Trouble::Passing("the reader of the binlog failed".into());
            }
        }
    }

    fn connected(&self) {
        if !self.status.is_connected.swap(true, Relaxed) {
            self.app.report(NODE, None);
        }
    }

    fn take(
        &mut self,
        batch: &mut Batch,
        moved: &mut Option<Position>,
        happened: Happened,
        position: Position,
    ) -> Result<(), Trouble> {
        match happened {
            Happened::Idle => self.status.caught_up(self.app.now()),
            Happened::Ignored => {
                self.status.ignored.fetch_add(1, Relaxed);
                tracing::debug!("an outbox row was updated or deleted, which is ignored");
            }
            Happened::Moved => *moved = Some(position),
            Happened::Committed(Group { rows, position, committed_ms, undecided }) => {
                for row in &rows {
                    self.add_row(batch, row, Timestamp(committed_ms), undecided, &position)?;
                }
                batch.committed_ms = Some(committed_ms);
                batch.position = Some(position);
                *moved = None;
            }
        }
        Ok(())
    }

    /// Adds what was given back of the dead letters: routed as the rows they were, or parked again. Whoever replays rows whose transaction was
    /// undecided has decided.
    async fn add_replays(&mut self, batch: &mut Batch) -> Result<(), Trouble> {
        let (app, name, table) = (self.app.clone(), self.settings.name.clone(), self.settings.address.table.to_string());
        let columns = Columns::clone(&self.table);
        let read = tokio::task::spawn_blocking(move || replays::read(&app, NODE, &name, &table, &columns)).await;
        let replays = read.map_err(|panic| failed(panic.to_string()))?.map_err(of_append)?;
        let (Some(Replays { rows, next }), Some(stands)) = (replays, self.status.position()) else { return Ok(()) };
        let position = batch.position.get_or_insert(stands).clone();
        for row in rows {
            match row {
                Ok(row) => {
                    let routed = self.settings.routing.route(&row, self.app.now());
                    self.add_routed(batch, &row, routed, &position)?;
                }
                Err(why) => tracing::error!("a dead letter of the outbox cannot be replayed, and stays where it is: {why}"),
            }
        }
        let done = Record::new(self.settings.name.clone(), next, self.app.now());
        batch.events = std::mem::take(&mut batch.events).with(&REPLAYED, &done);
        Ok(())
    }

    /// Adds a row's record, or its dead letter.
    fn add_row(
        &mut self,
        batch: &mut Batch,
        row: &Row,
        committed_at: Timestamp,
        undecided: Option<&str>,
        position: &Position,
    ) -> Result<(), Trouble> {
        if self.settings.raw_topic {
            let key = row.cell(&self.settings.routing.key).and_then(super::cell::Cell::to_text).map(String::into_bytes);
            let record = Record::new(key, Some(row.to_json().into_bytes()), committed_at);
            let fits = size(&record.key, &record.value, &record.headers) <= self.app.limits().max_record_bytes;
            if fits {
                batch.push(&raw(RAW_TOPIC), &record);
            }
        }
        let routed = match undecided {
            None => self.settings.routing.route(row, committed_at),
            Some(why) => Err(why.to_owned()),
        };
        self.add_routed(batch, row, routed, position)
    }

    fn add_routed(
        &mut self,
        batch: &mut Batch,
        row: &Row,
        routed: Result<Routed, String>,
        position: &Position,
    ) -> Result<(), Trouble> {
        batch.bytes += row.size();
        match routed.and_then(|routed| self.check(routed)) {
            Ok(Routed { topic, key, value, timestamp, headers }) => match self.topic(&topic)? {
                Ok(topic) => {
                    batch.rows += 1;
                    let record = Record { key: Some(key), value, timestamp, headers };
                    batch.events = std::mem::take(&mut batch.events).with(topic, &record);
                }
                Err(why) => {
                    let why = why.clone();
                    self.park(batch, row, &why, position);
                }
            },
            Err(why) => self.park(batch, row, &why, position),
        }
        Ok(())
    }

    /// What the log would refuse is known before.
    fn check(&self, routed: Routed) -> Result<Routed, String> {
        let (size, max) = (size(&Some(routed.key.clone()), &routed.value, &routed.headers), self.app.limits().max_record_bytes);
        if size > max { Err(format!("the record has {size} bytes, and a topic takes {max}")) } else { Ok(routed) }
    }

    /// The topic of a name, made where it is missing; or why there can be none.
    fn topic(&mut self, name: &str) -> Result<&Result<RawTopic, String>, Trouble> {
        if !self.topics.contains_key(name) {
            let is_internal = name.starts_with("shop-") || name == POSITIONS.name() || name.ends_with(".dlq");
            let found = if is_internal {
                Err(format!("topic {name:?} is the application's own"))
            } else if self.app.has_topic(name).map_err(of_log)? {
                Ok(raw(name))
            } else {
                match self.app.create_topic(&raw(name)) {
                    Ok(()) => Ok(raw(name)),
                    Err(error @ log::Error::InvalidTopic { .. }) => Err(error.to_string()),
                    Err(error) => return Err(of_log(error)),
                }
            };
            // Names come from rows: what is not known again is looked up again.
            if self.topics.len() >= 1_000 {
                self.topics.clear();
            }
            self.topics.insert(name.to_owned(), found);
        }
        Ok(&self.topics[name])
    }

    /// Keeps a row that has no topic, whole, with the cause.
    fn park(&self, batch: &mut Batch, row: &Row, why: &str, position: &Position) {
        tracing::error!("a row of the outbox is parked in {DEAD_LETTERS}: {why}");
        batch.parked += 1;
        let now = self.app.now();
        let key = row.cell(&self.settings.routing.id).and_then(super::cell::Cell::to_text).filter(|id| id.len() < 1_000);
        let row = row.to_json();
        let mut pieces = Vec::new();
        let mut rest = row.as_str();
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(rest.floor_char_boundary(PIECE_BYTES));
            pieces.push(piece);
            rest = after;
        }
        for (number, piece) in pieces.iter().enumerate() {
            let failure = Failure {
                cause: format!("{why} (transaction that ends at {}:{})", position.file, position.offset),
                application: self.app.topology().application().to_owned(),
                node: NODE.to_owned(),
                topic: self.settings.address.table.to_string(),
                partition: Partition(0),
                offset: Offset(position.offset),
            };
            let original = match pieces.len() {
                1 => Headers::EMPTY,
                count => Headers::from_iter([("piece", format!("{} of {count}", number + 1))]),
            };
            let headers = failure.headers("Unroutable", now, original);
            let key = key.clone().map(String::into_bytes);
            let record = Record { key, value: Some(piece.as_bytes().to_vec()), timestamp: now, headers };
            batch.push(&raw(DEAD_LETTERS), &record);
        }
    }

    /// Appends a batch and its position as one transaction.
    async fn append(&mut self, batch: Batch) -> Result<(), Trouble> {
        let Batch { mut events, rows, parked, committed_ms, position, .. } = batch;
        let Some(position) = position else { return Ok(()) };
        if let Some(columns) = &self.columns {
            events = events.with(&COLUMNS, &Record::new(self.settings.name.clone(), Some(columns.to_vec()), self.app.now()));
        }
        let stands = Record::new(self.settings.name.clone(), position.clone(), self.app.now());
        self.app.append(events.with(&POSITIONS, &stands)).await.map_err(of_append)?;
        self.columns = None;
        self.rereads = false;
        self.status.stands_at(&position);
        self.status.relayed.fetch_add(rows, Relaxed);
        self.status.parked.fetch_add(parked, Relaxed);
        if let Some(committed_ms) = committed_ms {
            self.status.relayed(committed_ms, self.app.now());
        }
        Ok(())
    }

    /// Whether another connection may do better.
    async fn judge(&self, stopped: Stopped) -> Trouble {
        match stopped {
            // Fatal error reading the binlog: the position is gone, or another replica has this one's id.
            Stopped::Broken(Broken::Sql(mysql_async::Error::Server(error))) if matches!(error.code, 1236 | 1789) => {
                self.judge_position(&error.message).await
            }
            Stopped::Broken(Broken::Sql(error)) => self.settings.address.trouble(error),
            Stopped::Broken(broken) => Trouble::Passing(broken.to_string()),
            // A packet may have been damaged on its way; if not, it is the same the next time, and somebody must look.
            Stopped::Unreadable { .. } => Trouble::Passing(stopped.to_string()),
            Stopped::TableChanged(_) => Trouble::TableChanged(stopped.to_string()),
            Stopped::Incident(_) | Stopped::Unsupported(_) => failed(stopped.to_string()),
        }
    }

    async fn judge_position(&self, said: &str) -> Trouble {
        let Some(position) = self.status.position() else { return Trouble::Passing(said.to_owned()) };
        let needed: Vec<String> = self.settings.routing.columns().map(str::to_owned).collect();
        let still_has = match Server::connect(&self.settings.address, &needed).await {
            Ok(mut server) => server.still_has(&position).await,
            Err(trouble) => Err(trouble),
        };
        match still_has {
            Ok(true) => Trouble::Passing(said.to_owned()),
            Err(Trouble::Passing(why)) => Trouble::Passing(why),
            Ok(false) | Err(_) => failed(format!(
                "the database no longer has the binlog at {position}, where the relay stood, so rows may be missing: start with --resnapshot ({said})"
            )),
        }
    }
}

impl Batch {
    fn new() -> Batch {
        Batch { events: Events::new(), rows: 0, parked: 0, bytes: 0, committed_ms: None, position: None }
    }

    fn push(&mut self, topic: &RawTopic, record: &Record<Bytes, Bytes>) {
        self.events = std::mem::take(&mut self.events).with(topic, record);
    }
}

/// Ends the reader with the connection's use.
struct Reading(JoinHandle<()>);

impl Drop for Reading {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn read(mut reader: Reader, found: mpsc::Sender<Found>) {
    let room = Arc::new(Semaphore::new(QUEUE_KIB as usize));
    loop {
        let next = reader.next().await.map(|happened| (happened, reader.position().clone()));
        let is_over = next.is_err();
        let bytes = match &next {
            Ok((Happened::Committed(group), _)) => group.rows.iter().map(Row::size).sum(),
            _ => 0,
        };
        let kib = u32::try_from(bytes >> 10).unwrap_or(QUEUE_KIB).clamp(1, QUEUE_KIB);
        let Ok(room) = Arc::clone(&room).acquire_many_owned(kib).await else { return };
        if found.send((next, room)).await.is_err() || is_over {
            return;
        }
    }
}

fn raw(name: &str) -> RawTopic {
    Topic::named(name, BYTES, BYTES)
}

fn size(key: &Bytes, value: &Bytes, headers: &Headers) -> usize {
    let bytes = |bytes: &Bytes| bytes.as_ref().map_or(0, Vec::len);
    bytes(key) + bytes(value) + headers.iter().map(|(name, value)| name.len() + value.len() + HEADER_BYTES).sum::<usize>()
}

/// An id that no other replica is likely to have.
fn random_server_id() -> u32 {
    let [a, b, c, d, ..] = *Uuid::new_v4().as_bytes();
    u32::from_be_bytes([a, b, c, d]) | 1 << 30
}

fn of_log(error: log::Error) -> Trouble {
    of_append(AppendError::Log(error))
}

fn of_append(error: AppendError) -> Trouble {
    match &error {
        AppendError::Log(log) if log.is_retriable() || log.is_outcome_unknown() => Trouble::Passing(error.to_string()),
        _ => failed(error.to_string()),
    }
}
