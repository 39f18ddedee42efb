//! A processor of one's own: a function over typed stores, with timers and punctuators.

use std::sync::Arc;

use super::{Stream, declare_store};
use crate::codec::Data;
use crate::error::ProcessError;
use crate::operators::Outlet;
use crate::operators::process::{Processor, PunctuatorDraft, RecordCall, Scope, SinkEntry, StoreTable, TimerCall};
use crate::record::{Record, Timestamp};
use crate::store::Store;
use crate::task::TimeDomain;
use crate::topic::Topic;
use crate::topology::{NodeDraft, NodeId, NodeKind, StoreIndex, StoreKind, TopicRole};

type DeclareStore = Box<dyn FnOnce(&super::SharedDraft) -> (&'static str, StoreIndex)>;
type DeclareSink = Box<dyn FnOnce(&super::SharedDraft, NodeId) -> SinkEntry>;

/// What a processor does: with each record, when a timer fires, and at intervals. Whatever it remembers between records lies in the
/// stores that it names, so that a crash or a failed record leaves nothing half done.
///
/// ```
/// use millstream::{Process, Store, StreamBuilder, TimeDomain, Topic};
///
/// const CLICKS: Topic<String, String> = Topic::new("clicks");
/// const VISITS: Topic<String, u64> = Topic::new("visits");
/// const OPEN: Store<String, u64> = Store::keyed("open-visits");
///
/// let mut builder = StreamBuilder::new("visits");
/// builder
///     .stream(&CLICKS)
///     .process(
///         Process::new("visit", |ctx, click| {
///             let clicks = ctx.store(&OPEN).get(&click.key)?.unwrap_or(0);
///             ctx.store(&OPEN).put(&click.key, &(clicks + 1))?;
///             if clicks == 0 {
///                 ctx.schedule(TimeDomain::Stream, click.timestamp.plus_ms(60_000), &click.key)?;
///             }
///             Ok(())
///         })
///         .store(&OPEN)
///         .on_timer(|ctx, user: String, at| {
///             let clicks = ctx.store(&OPEN).take(&user)?.unwrap_or(0);
///             ctx.forward(millstream::Record::new(user, clicks, at))
///         }),
///     )
///     .to(&VISITS);
/// # builder.build().unwrap();
/// ```
pub struct Process<K, V, L: 'static, W: 'static> {
    name: String,
    on_record: RecordCall<K, V, L, W>,
    on_timer: Option<TimerCall<L, W>>,
    punctuators: Vec<PunctuatorDraft<L, W>>,
    stores: Vec<DeclareStore>,
    sinks: Vec<DeclareSink>,
}

impl<K: Data, V: Clone + Send + Sync + 'static, L: Data, W: Clone + Send + Sync + 'static> Process<K, V, L, W> {
    /// A processor of this name that calls the function with each record.
    pub fn new(
        name: &str,
        on_record: impl Fn(&mut Scope<'_, L, W>, Record<K, V>) -> Result<(), ProcessError> + Send + Sync + 'static,
    ) -> Self {
        Process {
            name: name.to_owned(),
            on_record: Box::new(on_record),
            on_timer: None,
            punctuators: Vec::new(),
            stores: Vec::new(),
            sinks: Vec::new(),
        }
    }

    /// It reads and writes this store. Processors that name the same store share it.
    #[must_use]
    pub fn store<SK: Data, SV: Data>(mut self, store: &Store<SK, SV>) -> Self {
        let (name, access, ttl_ms) = (store.name, store.access, store.ttl_ms);
        self.stores
            .push(Box::new(move |draft| (name, declare_store::<SK, SV>(draft, name, StoreKind::KeyValue, access, ttl_ms))));
        self
    }

    /// It writes to this topic, by [`Scope::send`] or [`Scope::reject`].
    #[must_use]
    pub fn sink<SK: 'static, SV: 'static>(mut self, topic: &Topic<SK, SV>) -> Self {
        let spec = topic.spec();
        self.sinks.push(Box::new(move |draft, parent| {
            let mut draft = draft.borrow_mut();
            let topic = draft.topic(&spec.name, TopicRole::External, spec.partitions, spec.cleanup);
            let node = NodeDraft {
                kind: NodeKind::Sink,
                name: Err("to"),
                parents: vec![parent],
                stores: Vec::new(),
                topic: Some(topic),
            };
            SinkEntry { name: spec.name, node: draft.node(node), topic }
        }));
        self
    }

    /// Called when a timer that [`Scope::schedule`] set fires, with the timer's key and the time it was set for.
    #[must_use]
    pub fn on_timer<T: Data>(
        mut self,
        function: impl Fn(&mut Scope<'_, L, W>, T, Timestamp) -> Result<(), ProcessError> + Send + Sync + 'static,
    ) -> Self {
        self.on_timer = Some(Box::new(move |scope, key, at| {
            let key = T::CODEC.decode(Some(key)).map_err(|error| ProcessError::Undecodable { part: "a timer's key", error })?;
            function(scope, key, at)
        }));
        self
    }

    /// Called whenever time has passed a multiple of the interval: of stream time right after the first record too, of the wall clock
    /// first after one interval; once, however many intervals have passed (KIP-138). The schedule survives restarts.
    ///
    /// # Panics
    /// If the interval is not positive.
    #[must_use]
    pub fn punctuate(
        self,
        name: &str,
        domain: TimeDomain,
        interval_ms: i64,
        function: impl Fn(&mut Scope<'_, L, W>, Timestamp) -> Result<(), ProcessError> + Send + Sync + 'static,
    ) -> Self {
        self.punctuate_from(name, domain, interval_ms, None, function)
    }

    /// As [`Process::punctuate`], with the time of the first call given: its grid goes on from there (KIP-1146).
    ///
    /// # Panics
    /// If the interval is not positive.
    #[must_use]
    pub fn punctuate_from(
        mut self,
        name: &str,
        domain: TimeDomain,
        interval_ms: i64,
        anchor: Option<Timestamp>,
        function: impl Fn(&mut Scope<'_, L, W>, Timestamp) -> Result<(), ProcessError> + Send + Sync + 'static,
    ) -> Self {
        assert!(interval_ms > 0, "the interval of punctuator {name:?} is not positive");
        let (name, function) = (name.to_owned(), Box::new(function));
        self.punctuators.push(PunctuatorDraft { name, domain, interval_ms, anchor, function });
        self
    }

    pub(super) fn attach(self, upstream: &Stream<K, V>) -> Stream<L, W> {
        let stores: StoreTable = self.stores.into_iter().map(|declare| declare(&upstream.draft)).collect();
        let id = upstream.declare(Ok(&self.name), stores.iter().map(|(_, store)| *store).collect());
        let sinks = self.sinks.into_iter().map(|declare| declare(&upstream.draft, id)).collect();
        let out = Outlet::new();
        let processor = Arc::new(Processor {
            id,
            name: self.name.clone(),
            application: upstream.draft.borrow().application.clone(),
            stores,
            sinks,
            on_record: self.on_record,
            on_timer: self.on_timer,
            out: Arc::clone(&out),
        });
        processor.register(self.punctuators, &mut upstream.draft.borrow_mut());
        upstream.out.attach(processor);
        upstream.below(id, out, None)
    }
}
