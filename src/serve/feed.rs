//! A store of events, keyed by (subject, sequence), as an event stream for each subject that a client can come back to.
//!
//! **Invariant.** A client gets the events of its subject in the order of their sequence, each once, and none is missing between the id that
//! it came with and the last one that it got. The watch is attached first, then the store is read: what was committed before is in the
//! store, what comes after is in the watch, and what is in both has a sequence that was sent already. Several events of one commit may come
//! from the watch in any order; so a change that is not the next in line only says that the store is to be read on.

use std::borrow::Cow;
use std::ops::Bound;
use std::sync::Arc;

use crate::codec::{self, Data};
use crate::runtime::{QueryError, View, Watch, Watched};

use super::error::ApiError;
use super::events::{Event, Events};
use super::request::Request;
use super::response::Response;
use millstream_state::{Direction, Range};

/// How many events are read at a time.
const PAGE: usize = 100;

/// What a client sees of a stored event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// The event's name.
    pub name: Cow<'static, str>,
    /// Its data, mostly JSON.
    pub data: Vec<u8>,
}

type Show = dyn Fn(&[u8]) -> Result<Shown, codec::Error> + Send + Sync;

/// A store of events to be streamed. Cheap to clone.
///
/// The store's key is a pair of the subject and a `u64` that grows by one with each event of the subject, from 1. Beside it stands a store
/// of the newest sequence by subject, which remembers what was given when the events themselves are gone.
/// ```no_run
/// use millstream::serve::{ApiError, Feed, Request, Response, Shown};
///
/// # fn example(app: millstream::Handle) -> Option<()> {
/// // (user, sequence) -> JSON, and user -> sequence
/// let feed = Feed::new(app.view("messages")?, app.view("message-counts")?, |value| {
///     Ok(Shown { name: "message".into(), data: value.to_vec() })
/// });
/// # Some(()) }
///
/// async fn subscribe(feed: Feed, request: Request) -> Result<Response, ApiError> {
///     let user = request.param_id("userId")?;
///     feed.subscribe(&request, &user, format!("{{\"userId\":{user}}}")).await
/// }
/// ```
#[derive(Clone)]
pub struct Feed {
    events: View,
    newest: View,
    show: Arc<Show>,
}

impl Feed {
    /// A feed of this store, with the newest sequences of that one, shown by this function of a stored value's bytes.
    pub fn new(events: View, newest: View, show: impl Fn(&[u8]) -> Result<Shown, codec::Error> + Send + Sync + 'static) -> Feed {
        Feed { events, newest, show: Arc::new(show) }
    }

    /// Streams the events of a subject: `connected` with `greeting` as its data and the id that the stream goes on from, then what came
    /// after the `Last-Event-ID` (or `?lastEventId=`) of the client, then what comes. Where the client's id is unreadable, or events after
    /// it are gone, `reset` goes before that, and the stream goes on from now.
    ///
    /// # Errors
    /// 500 if the stores cannot be read, 503 while what they hold cannot be made durable, 400 if the subject is no key of theirs.
    pub async fn subscribe<S: Data>(
        &self,
        request: &Request,
        subject: &S,
        greeting: impl Into<Vec<u8>>,
    ) -> Result<Response, ApiError> {
        let prefix = codec::prefix(subject).map_err(|error| ApiError::invalid_field("the subject", error))?;
        let watch = self.events.watch(Watched::Prefix(prefix.clone()));
        let stream = Stream { feed: self.clone(), prefix, sent: 0 };
        let newest = stream.newest(subject).await?;
        let asked = match request.header("last-event-id") {
            Some(id) => Some(Cow::Borrowed(id)),
            None => request.query("lastEventId")?,
        };
        let from = match asked.as_deref() {
            None => Some(newest),
            Some(id) => stream.resumable(id, newest).await?,
        };
        let (stream, greeting) = (Stream { sent: from.unwrap_or(newest), ..stream }, greeting.into());
        Ok(Response::events(move |events| stream.run(events, watch, greeting, from.is_none())))
    }
}

/// One client's stream.
struct Stream {
    feed: Feed,
    /// What the keys of the subject begin with.
    prefix: Vec<u8>,
    /// The sequence of the last event that was sent.
    sent: u64,
}

impl Stream {
    async fn run(mut self, mut events: Events, watch: Watch, greeting: Vec<u8>, reset: bool) {
        if reset {
            events.send(&Event::new("reset", b"{}").id(self.sent)).await;
        }
        events.send(&Event::new("connected", &greeting).id(self.sent)).await;
        drop(greeting); // streams are many and idle
        if let Err(error) = self.follow(&mut events, watch).await {
            tracing::error!(%error, "an event stream ends");
        }
    }

    /// Sends for as long as the client takes. One that falls behind the watch goes on from the store, at its own pace.
    async fn follow(&mut self, events: &mut Events, mut watch: Watch) -> Result<(), QueryError> {
        loop {
            self.catch_up(events).await?;
            while let Some(change) = watch.next().await {
                let Some(value) = self.feed.events.changed_value(&change) else { continue };
                let sequence = self.sequence(&change.key)?;
                if sequence == self.sent + 1 {
                    self.send(events, sequence, &value).await?;
                } else if sequence > self.sent {
                    self.catch_up(events).await?;
                }
            }
            watch = self.feed.events.watch(Watched::Prefix(self.prefix.clone()));
        }
    }

    /// Sends what the store holds beyond the last event sent.
    async fn catch_up(&mut self, events: &mut Events) -> Result<(), QueryError> {
        loop {
            let from = self.key(self.sent)?;
            let range = Range::new(Bound::Excluded(&from), Range::prefix(&self.prefix).bounds().1);
            let rows = self.feed.events.page(&range, Direction::Forward, PAGE)?.durable().await?;
            for (key, value) in &rows {
                let sequence = self.sequence(key)?;
                self.send(events, sequence, value).await?;
            }
            if rows.len() < PAGE {
                return Ok(());
            }
        }
    }

    async fn send(&mut self, events: &mut Events, sequence: u64, value: &[u8]) -> Result<(), QueryError> {
        let shown = (self.feed.show)(value).map_err(|error| self.unreadable(error))?;
        events.send(&Event::new(&shown.name, &shown.data).id(sequence)).await;
        self.sent = sequence;
        Ok(())
    }

    /// The newest sequence that the subject's events were given, 0 before the first.
    async fn newest<S: Data>(&self, subject: &S) -> Result<u64, QueryError> {
        let mut key = Vec::new();
        S::CODEC.encode(subject, &mut key).map_err(|error| self.unreadable(error))?;
        let counted = self.feed.newest.get(&key)?.durable().await?;
        let counted = counted.map(|value| u64::CODEC.decode(Some(&value))).transpose();
        Ok(counted.map_err(|error| self.unreadable(error))?.unwrap_or(0))
    }

    /// The client's id, if it is one and all events after it are still there. Older events go first, so the next one tells. Whoever follows
    /// the two stores may have an event before the number that it was given.
    async fn resumable(&self, id: &str, newest: u64) -> Result<Option<u64>, QueryError> {
        let Ok(id) = id.parse::<u64>() else { return Ok(None) };
        let telling = if id < newest { id + 1 } else { id };
        let complete = id == newest || self.feed.events.get(&self.key(telling)?)?.durable().await?.is_some();
        Ok(complete.then_some(id))
    }

    fn key(&self, sequence: u64) -> Result<Vec<u8>, QueryError> {
        let mut key = self.prefix.clone();
        u64::CODEC.encode(&sequence, &mut key).map_err(|error| self.unreadable(error))?;
        Ok(key)
    }

    fn sequence(&self, key: &[u8]) -> Result<u64, QueryError> {
        u64::CODEC.decode(key.get(self.prefix.len()..)).map_err(|error| self.unreadable(error))
    }

    fn unreadable(&self, error: codec::Error) -> QueryError {
        QueryError::Codec { store: self.feed.events.name().to_owned(), error }
    }
}
