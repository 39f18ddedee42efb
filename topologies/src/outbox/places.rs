//! Places in the database's binlog, and how far the relay has come: what a token of a write names, and what is waited for before the log is. How
//! far the relay is, its position in the log says, whichever process relays.
//!
//! A place is a list of transaction ids. Those are known only after a commit; where the place is to be kept in the transaction itself, it is
//! the id of the event, and then all that the database has when it is waited for is waited for.

use std::convert::Infallible;
use std::sync::Arc;

use millstream::codec::Data;
use millstream::{Handle, UnreadableToken, Upstream, Waiting, Watched};
use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use tokio::sync::{Mutex, watch};
use tokio::time::Instant;
use uuid::Uuid;

use super::Shared;
use crate::api::known::view;
use crate::cdc::{CDC_POSITIONS, Flavor, Gtids, Position};

/// What is said where the database answers otherwise than it must.
const NO_IDS: &str = "the database tells no transaction ids";

/// Where the last commit of this connection is.
///
/// # Errors
/// The database's.
pub async fn of_last_commit(conn: &mut Conn, flavor: Flavor) -> mysql_async::Result<String> {
    match flavor {
        Flavor::MariaDb => ask(conn, "SELECT @@last_gtid").await,
        // Which of the server's own it is, is not told afterwards; the last one of them is not before it in the binlog.
        Flavor::MySql => {
            let query = "SELECT @@server_uuid, @@GLOBAL.gtid_executed";
            let answer: Option<(String, String)> = conn.query_first(query).await?;
            let (server, executed) = answer.ok_or_else(|| mysql_async::Error::Other(NO_IDS.into()))?;
            let last = Gtids::mysql(&executed).ok().and_then(|ids| ids.last_of(&server));
            last.map(|ids| ids.to_string()).ok_or_else(|| mysql_async::Error::Other(NO_IDS.into()))
        }
    }
}

/// Where the last commit of all is.
///
/// # Errors
/// The database's.
pub async fn now(conn: &mut Conn, flavor: Flavor) -> mysql_async::Result<String> {
    match flavor {
        Flavor::MariaDb => ask(conn, "SELECT @@GLOBAL.gtid_binlog_pos").await,
        Flavor::MySql => ask(conn, "SELECT @@GLOBAL.gtid_executed").await,
    }
}

async fn ask(conn: &mut Conn, query: &str) -> mysql_async::Result<String> {
    conn.query_first(query).await?.ok_or_else(|| mysql_async::Error::Other(NO_IDS.into()))
}

/// How far the relay has come.
pub struct Relayed {
    database: Arc<Shared>,
    relayed: watch::Receiver<Option<Position>>,
    /// Where the database was when it was asked last, and when that was: whoever came before that needs no answer of its own.
    asked: Mutex<Option<(Instant, Gtids)>>,
}

impl Relayed {
    pub fn new(database: Arc<Shared>, relayed: watch::Receiver<Option<Position>>) -> Relayed {
        Relayed { database, relayed, asked: Mutex::default() }
    }

    /// Until when rows were created that were passed over and not relayed, if there are any.
    pub fn passed_over(&self) -> Option<String> {
        self.relayed.borrow().as_ref()?.passed_over.clone()
    }

    async fn has_passed(&self, place: &Gtids) {
        let mut relayed = self.relayed.clone();
        let has_passed = |relayed: &Option<Position>| {
            let gtids = relayed.as_ref().and_then(|position| position.gtids.as_ref());
            gtids.is_some_and(|relayed| relayed.covers(place))
        };
        let process_stops = relayed.wait_for(has_passed).await.is_err();
        if process_stops {
            std::future::pending().await
        }
    }

    /// Where the database is at some moment after this was asked; waits as long as it does not answer.
    async fn place_now(&self) -> Gtids {
        let came = Instant::now();
        let mut asked = self.asked.lock().await;
        if let Some((at, place)) = &*asked
            && *at >= came
        {
            return place.clone();
        }
        let at = Instant::now();
        let place = self.database.place_now().await;
        *asked = Some((at, place.clone()));
        place
    }
}

impl Upstream for Relayed {
    fn passed<'a>(&'a self, place: &'a str) -> Waiting<'a, Result<(), UnreadableToken>> {
        Box::pin(async move {
            match (place.parse::<Uuid>(), place.parse::<Gtids>()) {
                (Ok(_event), _) => self.drained().await,
                (Err(_), Ok(place)) => self.has_passed(&place).await,
                (Err(_), Err(_)) => return Err(UnreadableToken),
            }
            Ok(())
        })
    }

    fn drained(&self) -> Waiting<'_, ()> {
        Box::pin(async move {
            let place = self.place_now().await;
            self.has_passed(&place).await;
        })
    }
}

/// Follows the relay of this name, until it is dropped.
pub async fn follow(app: Handle, name: String, relayed: watch::Sender<Option<Position>>) -> Infallible {
    let positions = view(&app, &CDC_POSITIONS);
    let mut key = Vec::new();
    String::CODEC.encode(&name, &mut key).expect("a text has bytes");
    loop {
        let mut changes = positions.untyped().watch(Watched::Key(key.clone()));
        loop {
            match positions.get(&name) {
                Ok(position) => {
                    // Global tables hold what is durable.
                    let position = position.ahead();
                    relayed.send_if_modified(|known| {
                        let is_new = *known != position;
                        *known = position;
                        is_new
                    });
                }
                Err(error) => tracing::warn!(%error, "how far the relay is cannot be read now"),
            }
            if changes.next().await.is_none() {
                break;
            }
        }
        // Cut off, since more has changed than was looked at: look again. Not at once, for at the end of the process that is for good.
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}
