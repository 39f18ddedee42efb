//! A user's stream of events, followed over every crash and reconnection: it has to be one growing sequence, and the same one
//! however often it is read.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde::Deserialize;
use tokio::time::{Instant, timeout_at};

use super::caller::Retry;
use super::heard::{Heard, Told};
use super::random::Random;
use super::{Broken, Error, PATIENCE, Run, SETTLE, locked};
use crate::client::{Connection, Event, EventStream};

/// After how many events, on average, a listener drops its connection and comes back from somewhere before.
const EVENTS_PER_CONNECTION: u64 = 64;

/// A load whose users listen.
pub trait Audience: Send + Sync + 'static {
    /// What they hear.
    type Told: Told;

    /// What all loads of this run share.
    fn run(&self) -> &Run;

    /// The id of a user.
    fn user_id(&self, user: u32) -> u64;

    /// Reads an event.
    ///
    /// # Errors
    /// Why nobody may hear such a thing.
    fn read(&self, event: &Event) -> Result<Self::Told, Broken>;

    /// A listener has heard something new.
    ///
    /// # Errors
    /// Why this user may not hear it.
    fn heard(&self, user: u32, told: &Self::Told) -> Result<(), Broken>;
}

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

impl Stream {
    /// Subscribes, trying again while the shop is away.
    async fn open(run: &Run, user: u64, from: From) -> Result<Stream, Error> {
        let path = match from {
            From::Query(id) => format!("/api/sse/subscribe/{user}?lastEventId={id}"),
            _ => format!("/api/sse/subscribe/{user}"),
        };
        let extra = match from {
            From::Header(id) => format!("accept: text/event-stream\r\nlast-event-id: {id}\r\n"),
            _ => "accept: text/event-stream\r\n".to_owned(),
        };
        let mut request = Vec::new();
        run.target.write_request(&mut request, "GET", &path, &extra, b"");
        let mut retry = Retry::new(&run.target, PATIENCE);
        let (events, first) = loop {
            let attempt = async {
                let mut events = Connection::open(&run.target).await?.subscribe(&request).await?;
                let first = events.next().await?;
                Ok::<_, std::io::Error>((events, first))
            };
            match attempt.await {
                Ok(opened) => break opened,
                Err(error) => {
                    run.faults.broken.fetch_add(1, Relaxed);
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

    /// The next event, or `None` when the connection is lost.
    async fn next<A: Audience>(&mut self, audience: &A) -> Result<Option<A::Told>, Error> {
        let Ok(event) = self.events.next().await else { return Ok(None) };
        let told = audience.read(&event).map_err(|why| Error::Broken(format!("user {} heard {event:?}: {why}", self.user)))?;
        Ok(Some(told))
    }
}

/// Listens to a user until it is aborted, going back now and then to what was heard before.
pub async fn listen<A: Audience>(audience: Arc<A>, user: u32, heard: Arc<Mutex<Heard<A::Told>>>) -> Result<(), Error> {
    let (id, run) = (audience.user_id(user), audience.run());
    let mut random = Random(id);
    let mut from = From::Now;
    loop {
        let mut stream = {
            let _permit = run.doors.acquire().await.expect("the semaphore is never closed");
            Stream::open(run, id, from).await?
        };
        run.listening.fetch_add(1, Relaxed);
        let mut leaves = false;
        while !leaves && let Some(told) = stream.next(&*audience).await? {
            let (place, is_new) = (told.id(), locked(&heard).take(id, stream.last, told.clone())?);
            if is_new {
                audience.heard(user, &told)?;
            }
            stream.last = place;
            leaves = random.below(EVENTS_PER_CONNECTION) == 0;
        }
        run.listening.fetch_sub(1, Relaxed);
        from = position(&mut random, &locked(&heard), leaves);
    }
}

/// Where to go on: after a lost connection at the end of what was heard, otherwise anywhere in it.
fn position<T: Told>(random: &mut Random, heard: &Heard<T>, anywhere: bool) -> From {
    let all = heard.all();
    let id = match random.below(all.len() as u64 + 1) {
        at if anywhere && at > 0 => all[at as usize - 1].id(),
        _ if anywhere => 0,
        _ => heard.last(),
    };
    if random.below(2) == 0 { From::Header(id) } else { From::Query(id) }
}

/// Reads a user's events from the first to the last, waiting for as many as are due.
pub async fn replay<A: Audience>(audience: &A, user: u64, heard: &mut Heard<A::Told>, due: usize) -> Result<(), Error> {
    let run = audience.run();
    let mut last = 0;
    let mut until = Instant::now() + SETTLE;
    let mut stream = Stream::open(run, user, From::Query(0)).await?;
    loop {
        if heard.all().len() >= due && last == heard.last() && Stream::open(run, user, From::Now).await?.last <= last {
            return Ok(());
        }
        match timeout_at(until, stream.next(audience)).await {
            Ok(read) => match read? {
                Some(told) => {
                    let place = told.id();
                    heard.take(user, last, told)?;
                    last = place;
                    until = Instant::now() + SETTLE;
                }
                None => stream = Stream::open(run, user, From::Header(last)).await?,
            },
            Err(_) => return Ok(()),
        }
    }
}
