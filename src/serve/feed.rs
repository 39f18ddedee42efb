//! A [feed](crate::FeedEvent) as an event stream for each of its keys, that a client can come back to.
//!
//! **Invariant.** A client gets the events of its subject in the order of their sequence, each once, and none is missing between the id that
//! it came with and the last one that it got. The watch is attached first, then the feed is read: what came before is in the store, what comes
//! after is in the watch, and what is in both has a sequence that was sent already. One thread takes in a partition's records, in their order,
//! and tells of them after they can be read: so what the watch gives is in order, and complete as long as it is not cut off.

use std::borrow::Cow;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use crate::FeedEvent;
use crate::codec::{self, Data};
use crate::record::Partition;
use crate::runtime::{Handle, QueryError, View, Watch, Watched};
use crate::store::Store;
use crate::topic::Topic;

use super::error::ApiError;
use super::events::{Event, Events};
use super::request::Request;
use super::response::Response;
use millstream_state::{Direction, Range};

/// How many events are read at a time.
const PAGE: usize = 100;
/// How long a client's id may be ahead of what this process has.
const CATCH_UP: Duration = Duration::from_secs(2);

/// What a client sees of a stored event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// The event's name.
    pub name: Cow<'static, str>,
    /// Its data, mostly JSON.
    pub data: Vec<u8>,
}

type Show = dyn Fn(&[u8]) -> Result<Shown, codec::Error> + Send + Sync;

/// A feed of an application, to be streamed. Cheap to clone.
///
/// ```no_run
/// use millstream::serve::{ApiError, Feed, Request, Response, Shown};
/// use millstream::{FeedEvent, Store, Topic};
///
/// const MESSAGES: Topic<u64, String> = Topic::new("messages");
/// const HEARD: Store<(u64, u64), FeedEvent<String>> = Store::ordered("heard").ttl_ms(86_400_000);
///
/// # fn example(app: millstream::Handle) -> Feed<u64, String> {
/// // The topology has builder.feed(&MESSAGES, &HEARD).
/// Feed::new(&app, &MESSAGES, &HEARD, |value| Ok(Shown { name: "message".into(), data: value.to_vec() }))
/// # }
///
/// async fn subscribe(feed: Feed<u64, String>, request: Request) -> Result<Response, ApiError> {
///     let user = request.param_id("userId")?;
///     feed.subscribe(&request, &user, format!("{{\"userId\":{user}}}")).await
/// }
/// ```
pub struct Feed<K: 'static, V: 'static> {
    app: Handle,
    topic: Topic<K, V>,
    events: View,
    show: Arc<Show>,
}

impl<K, V> Clone for Feed<K, V> {
    fn clone(&self) -> Self {
        let Feed { app, topic, events, show } = self;
        Feed { app: app.clone(), topic: topic.clone(), events: events.clone(), show: Arc::clone(show) }
    }
}

impl<K: Data, V: Data> Feed<K, V> {
    /// The feed of this topic in this store, shown by this function of a value's bytes.
    ///
    /// # Panics
    /// If the topology has no such feed: a programming error.
    pub fn new(
        app: &Handle,
        topic: &Topic<K, V>,
        store: &Store<(K, u64), FeedEvent<V>>,
        show: impl Fn(&[u8]) -> Result<Shown, codec::Error> + Send + Sync + 'static,
    ) -> Feed<K, V> {
        let view = app.view(store.name()).unwrap_or_else(|| panic!("the topology has no feed {:?}", store.name()));
        let events = view.typed(store).untyped().clone();
        Feed { app: app.clone(), topic: topic.clone(), events, show: Arc::new(show) }
    }

    /// Streams the events of a subject: `connected` with `greeting` as its data and the id that the stream goes on from, then what came
    /// after the `Last-Event-ID` (or `?lastEventId=`) of the client, then what comes; after 0 that is everything. Where the client's id is unreadable,
    /// or events after it are gone, `reset` goes before that, and the stream goes on from now.
    ///
    /// # Errors
    /// 500 if the feed cannot be read, 400 if the subject is no key of it.
    pub async fn subscribe(&self, request: &Request, subject: &K, greeting: impl Into<Vec<u8>>) -> Result<Response, ApiError> {
        let invalid = |error| ApiError::invalid_field("the subject", error);
        let prefix = codec::prefix(subject).map_err(invalid)?;
        let partition = self.app.partition(&self.topic, subject).map_err(ApiError::internal)?;
        let watch = self.events.watch(Watched::Prefix(prefix.clone()));
        // What was committed before is no news, where that can be told.
        if let Err(behind) = self.events.taken_in(partition, CATCH_UP).await {
            tracing::warn!(%behind, "a feed does not follow its topic");
        }
        let stream = Stream { events: self.events.clone(), show: Arc::clone(&self.show), prefix, partition, sent: 0 };
        let asked = match request.header("last-event-id") {
            Some(id) => Some(Cow::Borrowed(id)),
            None => request.query("lastEventId")?,
        };
        let from = match asked.as_deref() {
            None => Some(stream.last()?),
            Some(id) => self.resumable(&stream, id).await?,
        };
        let (sent, greeting) = (from.map_or_else(|| stream.last(), Ok)?, greeting.into());
        let stream = Stream { sent, ..stream };
        Ok(Response::events(move |events| stream.run(events, watch, greeting, from.is_none())))
    }

    /// The client's id, if it is one and all events after it are still there. One that another process gave may be ahead of this one.
    async fn resumable(&self, stream: &Stream, id: &str) -> Result<Option<u64>, ApiError> {
        let Ok(id) = id.parse::<u64>() else { return Ok(None) };
        if id > stream.events.followed(stream.partition).1.0 {
            // Where it does not come so far, what was given there may be lost or of another topic: then the client begins anew.
            if let Err(behind) = self.app.caught_up(stream.events.name(), CATCH_UP).await {
                tracing::debug!(%behind, id, "a client's id is ahead of its feed");
            }
        }
        Ok(stream.has_all_after(id)?.then_some(id))
    }
}

/// One client's stream.
struct Stream {
    events: View,
    show: Arc<Show>,
    /// What the keys of the subject begin with.
    prefix: Vec<u8>,
    /// Where they lie.
    partition: Partition,
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
                let Some(row) = self.events.changed_value(&change) else { continue };
                self.send(events, &change.key, &row).await?;
            }
            watch = self.events.watch(Watched::Prefix(self.prefix.clone()));
        }
    }

    /// Sends what the store holds beyond the last event sent.
    async fn catch_up(&mut self, events: &mut Events) -> Result<(), QueryError> {
        loop {
            let rows = self.after(self.sent, PAGE)?;
            for (key, row) in &rows {
                self.send(events, key, row).await?;
            }
            if rows.len() < PAGE {
                return Ok(());
            }
        }
    }

    /// The first rows of events after a sequence. A feed holds what is durable.
    fn after(&self, sequence: u64, limit: usize) -> Result<Vec<(bytes::Bytes, bytes::Bytes)>, QueryError> {
        let from = self.key(sequence)?;
        let range = Range::new(Bound::Excluded(&from), Range::prefix(&self.prefix).bounds().1);
        Ok(self.events.page(&range, Direction::Forward, limit)?.ahead())
    }

    /// Sends an event, unless it was sent already, or says which the last one was.
    async fn send(&mut self, events: &mut Events, key: &[u8], row: &[u8]) -> Result<(), QueryError> {
        let sequence = u64::CODEC.decode(key.get(self.prefix.len()..)).map_err(|error| self.unreadable(error))?;
        if let Some(value) = self.event(row)?.value.filter(|_| sequence > self.sent) {
            let shown = (self.show)(&value).map_err(|error| self.unreadable(error))?;
            events.send(&Event::new(&shown.name, &shown.data).id(sequence)).await;
            self.sent = sequence;
        }
        Ok(())
    }

    /// The sequence of the subject's last event, also if it is gone by now; 0 if there was none.
    fn last(&self) -> Result<u64, QueryError> {
        let row = self.events.get_in(self.partition, &self.key(0)?)?.ahead();
        row.map_or(Ok(0), |row| Ok(self.event(&row)?.previous))
    }

    /// Whether all events after this sequence are here. What lay before the topic's beginning is not known, and is asked for by 0 alone.
    fn has_all_after(&self, id: u64) -> Result<bool, QueryError> {
        let (begin, read_to) = self.events.followed(self.partition);
        let last = self.last()?;
        if id >= last {
            return Ok(id == last || (begin.0..=read_to.0).contains(&id));
        }
        let known_to = if id == 0 { begin.0 } else { id };
        match self.after(id, 1)?.first() {
            Some((_, row)) => Ok(self.event(row)?.previous <= known_to),
            None => Ok(false),
        }
    }

    /// A stored event, with its value's bytes.
    fn event(&self, row: &[u8]) -> Result<FeedEvent<Vec<u8>>, QueryError> {
        <FeedEvent<Vec<u8>>>::CODEC.decode(Some(row)).map_err(|error| self.unreadable(error))
    }

    fn key(&self, sequence: u64) -> Result<Vec<u8>, QueryError> {
        let mut key = self.prefix.clone();
        u64::CODEC.encode(&sequence, &mut key).map_err(|error| self.unreadable(error))?;
        Ok(key)
    }

    fn unreadable(&self, error: codec::Error) -> QueryError {
        QueryError::Codec { store: self.events.name().to_owned(), error }
    }
}
