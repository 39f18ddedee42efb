//! Requests that are written to a database first: what was asked for, the outbox row that a relay makes a record of, and the answer to an
//! idempotency key, as one transaction of the database. Nothing is written to the log here, and no rule of the business is known.
//!
//! ```text
//! insert ──COMMIT──▶ done                                   nothing of it is before the COMMIT is sent: whatever goes wrong
//!    │        └─ no answer ──▶ looked up: it is, or it is not   until then is told as not written
//!    └─ the key has an answer ──▶ that one
//! ```
//! A commit whose answer was lost is looked up by its row: the lookup waits for the row's lock, so that a transaction that still
//! runs is not taken for none. Only where that cannot be done in time, the outcome is unknown.

pub mod event;
mod places;
mod retention;
mod schema;

use std::convert::Infallible;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use millstream::{Clock, Handle, Timestamp, Upstream};
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Error as SqlError, Pool, TxOpts};
use tokio::sync::watch;

pub use self::event::NewEvent;
use self::places::Relayed;
pub use self::places::follow;
pub use self::retention::LEAST as LEAST_RETENTION;
use self::retention::Retention;
pub use self::schema::Answer;
use crate::cdc::{Address, Flavor, Gtids, Position, Routing, Server, Stop, Trouble};

/// What the outbox says of itself as a part of the application.
const PART: &str = "outbox";
/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(2);
/// How long a transaction may take until its COMMIT is sent. Longer than the database lets it wait for a lock, in seconds.
const INSERT: Duration = Duration::from_secs(10);
const LOCK_WAIT_S: u32 = 9;
/// How long a COMMIT, and finding out what became of it, may take.
const COMMIT: Duration = Duration::from_secs(8);
/// Between two tries of something that the database did not do.
const PAUSE: Duration = Duration::from_millis(50);
const PAUSE_START: Duration = Duration::from_secs(1);
/// How often a transaction is tried that the database ended to let another one go on.
const TRIES: usize = 4;
/// Answers to keys are kept for a day, and a little more.
const KEEP_MS: i64 = 25 * 3_600_000;
const SWEEP_EVERY: Duration = Duration::from_secs(60);

/// A key that has an answer; a lock that was not got in time; a transaction that was in the way of another.
const DUPLICATE: u16 = 1062;
const LOCK_TIMEOUT: u16 = 1205;
const DEADLOCK: u16 = 1213;

/// Why a request was not written, or why that is not known.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It was not: the database is away, or refuses it.
    #[error("the database cannot take it now: {0}")]
    Unavailable(String),
    /// Nobody knows.
    #[error("whether the database has it is not known: {0}")]
    OutcomeUnknown(String),
    /// The key has an answer to something else.
    #[error("the key was used for another request")]
    Reused,
    /// Another transaction with the same key still runs.
    #[error("the first request of this key still runs")]
    StillRunning,
}

/// What became of a request.
pub enum Written {
    /// It was written, and lies there.
    Now {
        /// The place of its commit.
        place: String,
    },
    /// One with its key had been written before.
    Before(Kept),
}

/// An answer that is kept.
pub struct Kept {
    /// As it was given.
    pub answer: Vec<u8>,
    /// The place of its commit, by the event that it wrote.
    pub place: String,
}

/// Where requests are written.
pub struct Settings {
    /// The database, and its outbox.
    pub address: Address,
    /// The name of its relay.
    pub relay: String,
    /// How long rows stay that were relayed; `None` is for ever.
    pub retention: Option<Duration>,
}

/// A database that requests are written to.
#[derive(Clone)]
pub struct Outbox {
    shared: Arc<Shared>,
    relayed: Arc<Relayed>,
}

struct Shared {
    clock: Clock,
    pool: Pool,
    address: Address,
    /// Known once the tables are there.
    flavor: OnceLock<Flavor>,
}

/// What a transaction may still do, decided once: by who writes it, or by who waits for it.
#[derive(Default)]
struct Stage(AtomicU8);

const INSERTING: u8 = 0;
const COMMITTING: u8 = 1;
const ABANDONED: u8 = 2;

impl Stage {
    /// Whether it is now this, from inserting.
    fn enter(&self, stage: u8) -> bool {
        self.0.compare_exchange(INSERTING, stage, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

impl Outbox {
    /// The outbox at an address. How far its relay is, is told by [`follow`].
    ///
    /// Waiting for the log waits for the relay first from now on.
    #[must_use]
    pub fn open(app: &Handle, address: Address, relayed: watch::Receiver<Option<Position>>) -> Outbox {
        let setup =
            ["SET time_zone='+00:00', NAMES utf8mb4".to_owned(), format!("SET SESSION innodb_lock_wait_timeout={LOCK_WAIT_S}")];
        let pool = address.pool(&setup);
        app.report(PART, Some("the database has not been reached yet".into()));
        let shared = Arc::new(Shared { clock: app.clock(), pool, address, flavor: OnceLock::new() });
        let relayed = Arc::new(Relayed::new(Arc::clone(&shared), relayed));
        app.feed_from(Some(Arc::clone(&relayed) as Arc<dyn Upstream>));
        Outbox { shared, relayed }
    }

    /// Makes and checks the tables, then forgets old answers, and relayed rows after a time if there is one. Ends only where the database is
    /// not what it must be.
    pub async fn keep(self, app: Handle, retention: Option<Duration>) -> Stop {
        let Outbox { shared, relayed } = self;
        loop {
            match shared.prepare(retention.is_some()).await {
                Ok(flavor) => {
                    shared.flavor.get_or_init(|| flavor);
                    break;
                }
                Err(Trouble::Fatal(stop)) => return stop,
                Err(trouble) => app.report(PART, Some(trouble.to_string())),
            }
            tokio::time::sleep(PAUSE_START).await;
        }
        app.report(PART, None);
        let retention = retention.map(|keep| Retention::new(&app, Arc::clone(&shared), relayed, keep));
        let forget_rows = async {
            match retention {
                Some(retention) => retention.keep().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            never = forget_rows => match never {},
            never = shared.forget_answers() => match never {},
        }
    }

    /// The answer that was given to a key, if there is one.
    ///
    /// # Errors
    /// [`Error::Unavailable`], or [`Error::Reused`] if it was for something else.
    pub async fn answered(&self, key: [u8; 32], fingerprint: [u8; 32]) -> Result<Option<Kept>, Error> {
        let shared = &self.shared;
        let asked = tokio::time::timeout(CONNECT, async {
            shared.flavor()?;
            let mut conn = shared.pool.get_conn().await.map_err(unavailable)?;
            shared.answered(&mut conn, key, fingerprint).await
        });
        asked.await.unwrap_or_else(|_| Err(does_not_answer()))
    }

    /// Writes an event, with the answer that is to be kept if the request has a key.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn write(&self, event: NewEvent, answer: Option<Answer>) -> Result<Written, Error> {
        let stage = Arc::new(Stage::default());
        // A task of its own: whoever asked may leave, but a transaction is not left in the middle.
        let (shared, its_stage) = (Arc::clone(&self.shared), Arc::clone(&stage));
        let mut writing = tokio::spawn(async move { shared.write(&event, answer.as_ref(), &its_stage).await });
        let panicked = |panic: tokio::task::JoinError| Error::OutcomeUnknown(panic.to_string());
        if let Ok(written) = tokio::time::timeout(INSERT, &mut writing).await {
            return written.map_err(panicked)?;
        }
        if stage.enter(ABANDONED) {
            return Err(does_not_answer());
        }
        match tokio::time::timeout(COMMIT, writing).await {
            Ok(written) => written.map_err(panicked)?,
            Err(_) => Err(Error::OutcomeUnknown("it does not answer".into())),
        }
    }
}

/// What a try of a transaction came to.
enum Tried {
    Written(Written),
    /// The database ended it to let another one go on.
    Again,
}

impl Shared {
    fn flavor(&self) -> Result<Flavor, Error> {
        self.flavor.get().copied().ok_or_else(|| Error::Unavailable("it has not been reached yet".into()))
    }

    async fn prepare(&self, deletes: bool) -> Result<Flavor, Trouble> {
        let needed: Vec<String> = Routing::default().columns().map(str::to_owned).collect();
        let mut server = Server::connect(&self.address, &needed).await?;
        if !server.has_gtids {
            let why = "gtid_mode must be ON for requests to be written to it: the relay is waited for by transaction ids";
            return Err(Trouble::Fatal(Stop::Misconfigured(format!("{}: {why}", self.address.place()))));
        }
        schema::prepare(&mut server.conn, &self.address.table, deletes).await.map_err(|error| match error {
            // Whatever it refuses now, it would refuse of a request.
            SqlError::Server(error) if ![LOCK_TIMEOUT, DEADLOCK].contains(&error.code) && error.code < 2_000 => Trouble::Fatal(
                Stop::Misconfigured(format!("{}: requests cannot be written: {}", self.address.place(), error.message)),
            ),
            error => self.address.trouble(error),
        })?;
        let flavor = server.flavor;
        server.conn.disconnect().await.map_err(|error| self.address.trouble(error))?;
        Ok(flavor)
    }

    async fn forget_answers(&self) -> Infallible {
        loop {
            tokio::time::sleep(SWEEP_EVERY).await;
            if let Err(error) = self.sweep().await {
                tracing::debug!(%error, "old answers to idempotency keys are still there");
            }
        }
    }

    async fn sweep(&self) -> mysql_async::Result<()> {
        let mut conn = self.pool.get_conn().await?;
        let before = schema::datetime(Timestamp(self.clock.now().0 - KEEP_MS));
        loop {
            conn.exec_drop(schema::SWEEP, (&before,)).await?;
            if conn.affected_rows() == 0 {
                return Ok(());
            }
        }
    }

    async fn connect(&self) -> Result<Conn, Error> {
        match tokio::time::timeout(CONNECT, self.pool.get_conn()).await {
            Ok(conn) => conn.map_err(unavailable),
            Err(_) => Err(does_not_answer()),
        }
    }

    async fn answered(&self, conn: &mut Conn, key: [u8; 32], fingerprint: [u8; 32]) -> Result<Option<Kept>, Error> {
        type Row = (Vec<u8>, Vec<u8>, String);
        let row: Option<Row> = conn.exec_first(schema::ANSWERED, (key.as_slice(),)).await.map_err(unavailable)?;
        match row {
            None => Ok(None),
            Some((kept, answer, place)) if kept == fingerprint => Ok(Some(Kept { answer, place })),
            Some(_) => Err(Error::Reused),
        }
    }

    async fn write(&self, event: &NewEvent, answer: Option<&Answer>, stage: &Stage) -> Result<Written, Error> {
        let flavor = self.flavor()?;
        for _ in 0..TRIES {
            match self.try_to_write(flavor, event, answer, stage).await? {
                Tried::Written(written) => return Ok(written),
                Tried::Again => tokio::time::sleep(PAUSE).await,
            }
        }
        Err(Error::Unavailable("other transactions are in the way".into()))
    }

    async fn try_to_write(
        &self,
        flavor: Flavor,
        event: &NewEvent,
        answer: Option<&Answer>,
        stage: &Stage,
    ) -> Result<Tried, Error> {
        let mut conn = self.connect().await?;
        // To begin waits for nothing but the answer of a server that may be gone since the connection was used last.
        let begun = tokio::time::timeout(CONNECT, conn.start_transaction(TxOpts::default())).await;
        let mut transaction = begun.map_err(|_| does_not_answer())?.map_err(unavailable)?;
        let inserted = async {
            if let Some(answer) = answer {
                schema::insert_answer(&mut transaction, answer, event.id, event.at).await.map_err(|error| (true, error))?;
            }
            schema::insert(&mut transaction, &self.address.table, event).await.map_err(|error| (false, error))
        };
        if let Err((is_of_key, error)) = inserted.await {
            let code = if let SqlError::Server(error) = &error { error.code } else { 0 };
            let rolled_back = transaction.rollback().await;
            return match (code, answer) {
                (DEADLOCK, _) if rolled_back.is_ok() => Ok(Tried::Again),
                (LOCK_TIMEOUT, Some(_)) if is_of_key => Err(Error::StillRunning),
                (DUPLICATE, Some(answer)) if is_of_key => {
                    rolled_back.map_err(unavailable)?;
                    match self.answered(&mut conn, answer.key, answer.fingerprint).await? {
                        Some(kept) => Ok(Tried::Written(Written::Before(kept))),
                        None => Ok(Tried::Again), // swept at this moment
                    }
                }
                _ => {
                    // Behind the same address there may be another server by now, which takes it.
                    conn.disconnect().await.ok();
                    Err(unavailable(error))
                }
            };
        }
        if !stage.enter(COMMITTING) {
            // Whoever asked has been told that nothing was written.
            transaction.rollback().await.map_err(unavailable)?;
            return Err(Error::Unavailable("it was too slow".into()));
        }
        let committed = transaction.commit().await;
        let place = match (&committed, answer) {
            // Its event is in the answer's row: the place is the same for all who ask.
            (Ok(()), Some(_)) => Some(event.id.to_string()),
            (Ok(()), None) => places::of_last_commit(&mut conn, flavor).await.ok(),
            (Err(_), _) => None,
        };
        if let Some(place) = place {
            return Ok(Tried::Written(Written::Now { place }));
        }
        drop(conn);
        match (self.look_up(flavor, event, answer).await, committed) {
            (Some(Some(place)), _) => Ok(Tried::Written(Written::Now { place })),
            (Some(None), Err(error)) => Err(unavailable(error)),
            (None, Err(error)) => Err(Error::OutcomeUnknown(error.to_string())),
            (_, Ok(())) => Err(Error::OutcomeUnknown("the connection broke after the commit".into())),
        }
    }

    /// Whether an event is there, and a place that is not before it. `None` if the database does not say so in time.
    async fn look_up(&self, flavor: Flavor, event: &NewEvent, answer: Option<&Answer>) -> Option<Option<String>> {
        let ask = async {
            loop {
                match self.try_to_look_up(flavor, event, answer).await {
                    Ok(found) => return found,
                    Err(error) => tracing::debug!(%error, "what became of a commit is not known yet"),
                }
                tokio::time::sleep(PAUSE).await;
            }
        };
        tokio::time::timeout(COMMIT - CONNECT, ask).await.ok()
    }

    async fn try_to_look_up(&self, flavor: Flavor, event: &NewEvent, answer: Option<&Answer>) -> Result<Option<String>, Error> {
        let mut conn = self.connect().await?;
        // The lock is waited for, so a transaction that still runs has ended when this is answered.
        let query = format!("SELECT 1 FROM {} WHERE id = ? LOCK IN SHARE MODE", self.address.table.quoted());
        let found: Option<u8> = conn.exec_first(query, (event.id.to_string(),)).await.map_err(unavailable)?;
        if found.is_none() {
            return Ok(None);
        }
        if answer.is_some() {
            return Ok(Some(event.id.to_string()));
        }
        places::now(&mut conn, flavor).await.map(Some).map_err(unavailable)
    }

    /// Where the database is; it is asked again as long as it does not answer.
    async fn place_now(&self) -> Gtids {
        loop {
            let asked = async {
                let flavor = self.flavor()?;
                let mut conn = self.connect().await?;
                tokio::time::timeout(CONNECT, places::now(&mut conn, flavor))
                    .await
                    .map_err(|_| does_not_answer())?
                    .map_err(unavailable)
            };
            match asked.await.map(|place| place.parse()) {
                Ok(Ok(place)) => return place,
                Ok(Err(error)) => tracing::warn!(%error, "where the database is cannot be read"),
                Err(error) => tracing::debug!(%error, "where the database is, it does not say"),
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

fn does_not_answer() -> Error {
    Error::Unavailable("it does not answer".into())
}

fn unavailable(error: SqlError) -> Error {
    Error::Unavailable(error.to_string())
}
