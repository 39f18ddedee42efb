//! A user's stream of events, followed over every crash and reconnection: it has to be one growing sequence, and the same one
//! however often it is read.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde::Deserialize;
use tokio::time::{Instant, timeout_at};

use super::caller::Retry;
use super::ledger::{Decision, Heard};
use super::plan::Random;
use super::{Error, PATIENCE, Rush, SETTLE, locked};
use crate::client::{Connection, Event, EventStream};

/// After how many events, on average, a listener drops its connection and comes back from somewhere before.
const EVENTS_PER_CONNECTION: u64 = 64;

/// Where a connection begins.
#[derive(Clone, Copy, PartialEq, Eq)]
enum From {
    /// After the event of this id, told by `Last-Event-ID`, or by `?lastEventId=`.
    Header(u64),
    /// Likewise, told by `?lastEventId=`.
    Query(u64),
    /// With what happens from now on.
    Now,
}

/// A connection to a user's events that has been told `connected`.
struct Stream {
    events: EventStream,
    user: u64,
    /// Id of the last event, or where the stream began.
    last: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Connected {
    user_id: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Decided {
    coupon_id: u64,
}

impl Stream {
    /// Subscribes, trying again while the shop is away.
    async fn open(rush: &Rush, user: u64, from: From) -> Result<Stream, Error> {
        let path = match from {
            From::Query(id) => format!("/api/sse/subscribe/{user}?lastEventId={id}"),
            _ => format!("/api/sse/subscribe/{user}"),
        };
        let extra = match from {
            From::Header(id) => format!("accept: text/event-stream\r\nlast-event-id: {id}\r\n"),
            _ => "accept: text/event-stream\r\n".to_owned(),
        };
        let mut request = Vec::new();
        rush.target.write_request(&mut request, "GET", &path, &extra, b"");
        let mut retry = Retry::new(&rush.target, PATIENCE);
        let (events, first) = loop {
            let attempt = async {
                let mut events = Connection::open(&rush.target).await?.subscribe(&request).await?;
                let first = events.next().await?;
                Ok::<_, std::io::Error>((events, first))
            };
            match attempt.await {
                Ok(opened) => break opened,
                Err(error) => {
                    rush.faults.broken.fetch_add(1, Relaxed);
                    retry.pause(&error.to_string(), Duration::ZERO).await?;
                }
            }
        };
        let begins = match from {
            From::Header(id) | From::Query(id) => Some(id),
            From::Now => None,
        };
        let id = first.id.parse().ok();
        let connected: Option<Connected> = serde_json::from_str(&first.data).ok();
        match (id, connected) {
            (Some(last), Some(c)) if first.name == "connected" && c.user_id == user && begins.is_none_or(|b| b == last) => {
                Ok(Stream { events, user, last })
            }
            _ => Err(Error::Broken(format!("user {user}'s stream from {begins:?} began with {first:?} and not with connected"))),
        }
    }

    /// The next event of a claim, or `None` when the connection is lost.
    async fn next(&mut self, rush: &Rush) -> Result<Option<Decision>, Error> {
        let Ok(event) = self.events.next().await else { return Ok(None) };
        let decision = read(rush, &event).map_err(|why| Error::Broken(format!("user {} heard {event:?}: {why}", self.user)))?;
        Ok(Some(decision))
    }
}

fn read(rush: &Rush, event: &Event) -> Result<Decision, String> {
    let issued = match event.name.as_str() {
        "coupon-issued" => true,
        "coupon-rejected" => false,
        _ => return Err("an event of no claim".into()),
    };
    let id = event.id.parse().map_err(|_| "its id is not a number")?;
    let decided: Decided = serde_json::from_str(&event.data).map_err(|error| error.to_string())?;
    Ok(Decision { id, coupon: rush.state().ledger.coupon_number(decided.coupon_id)?, issued })
}

/// Listens to a user until it is aborted, going back now and then to what was heard before.
pub async fn listen(rush: Arc<Rush>, user: u32, heard: Arc<Mutex<Heard>>) -> Result<(), Error> {
    let id = rush.id(user);
    let mut random = Random(id);
    let mut from = From::Now;
    loop {
        let mut stream = {
            let _permit = rush.doors.acquire().await.expect("the semaphore is never closed");
            Stream::open(&rush, id, from).await?
        };
        rush.listening.fetch_add(1, Relaxed);
        let mut leaves = false;
        while !leaves && let Some(decision) = stream.next(&rush).await? {
            if user >= rush.users {
                return Err(Error::Broken(format!("user {id} claimed nothing, but heard {decision:?}")));
            }
            if locked(&heard).take(id, stream.last, decision)? {
                rush.delivered(user, &decision);
            }
            stream.last = decision.id;
            leaves = random.below(EVENTS_PER_CONNECTION) == 0;
        }
        rush.listening.fetch_sub(1, Relaxed);
        from = position(&mut random, &locked(&heard), leaves);
    }
}

/// Where to go on: after a lost connection at the end of what was heard, otherwise anywhere in it.
fn position(random: &mut Random, heard: &Heard, anywhere: bool) -> From {
    let decisions = heard.decisions();
    let id = match random.below(decisions.len() as u64 + 1) {
        at if anywhere && at > 0 => decisions[at as usize - 1].id,
        _ if anywhere => 0,
        _ => heard.last(),
    };
    if random.below(2) == 0 { From::Header(id) } else { From::Query(id) }
}

/// Reads a user's events from the first to the last, waiting for as many as are due.
pub async fn replay(rush: &Rush, user: u64, heard: &mut Heard, due: usize) -> Result<(), Error> {
    let mut last = 0;
    let mut until = Instant::now() + SETTLE;
    let mut stream = Stream::open(rush, user, From::Query(0)).await?;
    loop {
        if heard.decisions().len() >= due && last == heard.last() && Stream::open(rush, user, From::Now).await?.last <= last {
            return Ok(());
        }
        match timeout_at(until, stream.next(rush)).await {
            Ok(read) => match read? {
                Some(decision) => {
                    heard.take(user, last, decision)?;
                    last = decision.id;
                    until = Instant::now() + SETTLE;
                }
                None => stream = Stream::open(rush, user, From::Header(last)).await?,
            },
            Err(_) => return Ok(()),
        }
    }
}
