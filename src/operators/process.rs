//! A processor of the user's own, and what it sees of its task: typed stores, time, timers and the way downstream.

use std::ops::Bound;
use std::sync::Arc;

use super::sink::{NullKeys, Sink};
use super::{Node, Outlet};
use crate::codec::{self, Data};
use crate::error::ProcessError;
use crate::record::{Headers, Offset, Partition, Record, Timestamp};
use crate::store::Store;
use crate::task::TimeDomain;
use crate::task::context::{Context, encode};
use crate::topic::Topic;
use crate::topology::{Draft, NodeId, Punctuator, StoreIndex, Timer, TopicIndex};
use millstream_state::{Direction, Range};

pub(crate) type StoreTable = Box<[(&'static str, StoreIndex)]>;

/// A topic that a processor writes to, by its name.
pub(crate) struct SinkEntry {
    pub(crate) name: String,
    pub(crate) node: NodeId,
    pub(crate) topic: TopicIndex,
}
pub(crate) type RecordCall<K, V, L, W> =
    Box<dyn Fn(&mut Scope<'_, L, W>, Record<K, V>) -> Result<(), ProcessError> + Send + Sync>;
pub(crate) type TimeCall<L, W> = Box<dyn Fn(&mut Scope<'_, L, W>, Timestamp) -> Result<(), ProcessError> + Send + Sync>;
pub(crate) type TimerCall<L, W> = Box<dyn Fn(&mut Scope<'_, L, W>, &[u8], Timestamp) -> Result<(), ProcessError> + Send + Sync>;

/// A punctuator as it is declared.
pub(crate) struct PunctuatorDraft<L: 'static, W: 'static> {
    pub(crate) name: String,
    pub(crate) domain: TimeDomain,
    pub(crate) interval_ms: i64,
    pub(crate) anchor: Option<Timestamp>,
    pub(crate) function: TimeCall<L, W>,
}

pub(crate) struct Processor<K, V, L: 'static, W: 'static> {
    pub(crate) id: NodeId,
    pub(crate) name: String,
    pub(crate) application: String,
    pub(crate) stores: StoreTable,
    pub(crate) sinks: Box<[SinkEntry]>,
    pub(crate) on_record: RecordCall<K, V, L, W>,
    pub(crate) on_timer: Option<TimerCall<L, W>>,
    pub(crate) out: Arc<Outlet<L, W>>,
}

impl<K, V, L, W> Processor<K, V, L, W>
where
    K: 'static,
    V: 'static,
    L: Data,
    W: Clone + Send + Sync + 'static,
{
    /// Tells the topology what time is to call.
    pub(crate) fn register(self: &Arc<Self>, punctuators: Vec<PunctuatorDraft<L, W>>, draft: &mut Draft) {
        for PunctuatorDraft { name, domain, interval_ms, anchor, function } in punctuators {
            let this = Arc::clone(self);
            let call = Arc::new(move |ctx: &mut Context, now| function(&mut this.scope(ctx), now));
            let name = format!("{}.{name}", self.name);
            draft.punctuators.push(Punctuator { node: self.id, name, domain, interval_ms, anchor, call });
        }
        if self.on_timer.is_some() {
            let this = Arc::clone(self);
            let call = Arc::new(move |ctx: &mut Context, key: &[u8], at| match &this.on_timer {
                Some(function) => function(&mut this.scope(ctx), key, at),
                None => Ok(()),
            });
            draft.timers.push((self.name.clone(), Timer { node: self.id, call }));
        }
    }

    fn scope<'a>(&'a self, ctx: &'a mut Context) -> Scope<'a, L, W> {
        let Processor { id, name, application, stores, sinks, out, .. } = self;
        Scope { ctx, id: *id, name, application, stores, sinks, out }
    }
}

impl<K, V, L, W> Node<K, V> for Processor<K, V, L, W>
where
    K: Send + Sync + 'static,
    V: Send + Sync + 'static,
    L: Data,
    W: Clone + Send + Sync + 'static,
{
    fn process(&self, ctx: &mut Context, record: Record<K, V>) -> Result<(), ProcessError> {
        ctx.enter(self.id);
        (self.on_record)(&mut self.scope(ctx), record)
    }
}

/// What a processor sees of its task while it handles one record, timer or punctuation. All that it does here is undone together if the
/// handling fails.
pub struct Scope<'a, L: 'static, W: 'static> {
    ctx: &'a mut Context,
    id: NodeId,
    name: &'a str,
    application: &'a str,
    stores: &'a [(&'static str, StoreIndex)],
    sinks: &'a [SinkEntry],
    out: &'a Outlet<L, W>,
}

impl<L: Data, W: Clone + Send + Sync + 'static> Scope<'_, L, W> {
    /// One of the stores that the processor named.
    ///
    /// # Panics
    /// If it did not name this store: a programming error.
    pub fn store<K: Data, V: Data>(&mut self, store: &Store<K, V>) -> StoreScope<'_, K, V> {
        let found = self.stores.iter().find(|(name, _)| *name == store.name);
        let index = found.unwrap_or_else(|| panic!("processor {:?} did not name store {:?}", self.name, store.name)).1;
        StoreScope { ctx: self.ctx, store: index, types: std::marker::PhantomData }
    }

    /// Hands a record to what comes after this processor.
    ///
    /// # Errors
    /// Of what comes after it; hand them on.
    pub fn forward(&mut self, record: Record<L, W>) -> Result<(), ProcessError> {
        self.out.forward(self.ctx, record)?;
        self.ctx.enter(self.id);
        Ok(())
    }

    /// Writes a record to one of the topics that the processor named as sinks, at the partition of its key.
    ///
    /// # Errors
    /// If key or value do not encode, or the log would refuse the record.
    ///
    /// # Panics
    /// If the processor did not name this topic: a programming error.
    pub fn send<SK, SV>(&mut self, topic: &Topic<SK, SV>, record: Record<SK, SV>) -> Result<(), ProcessError>
    where
        SK: Send + Sync + 'static,
        SV: Clone + Send + Sync + 'static,
    {
        let found = self.sinks.iter().find(|sink| sink.name == topic.name());
        let entry = found.unwrap_or_else(|| panic!("processor {:?} did not name topic {:?}", self.name, topic.name()));
        let (key, value) = (topic.key_codec(), topic.value_codec());
        Sink { id: entry.node, topic: entry.topic, key, value, null_keys: NullKeys::Keep }.process(self.ctx, record)?;
        self.ctx.enter(self.id);
        Ok(())
    }

    /// Writes a record that is encoded already to one of the topics that the processor named as sinks.
    pub(crate) fn send_bytes(
        &mut self,
        topic: &str,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        timestamp: Timestamp,
        headers: &Headers,
    ) -> Result<(), ProcessError> {
        let found = self.sinks.iter().find(|sink| sink.name == topic);
        let entry = found.ok_or_else(|| ProcessError::Unwritable(format!("topic {topic:?} is not named as a sink")))?;
        self.ctx.enter(entry.node);
        self.ctx.emit(entry.topic, key, value, timestamp, headers)?;
        self.ctx.enter(self.id);
        Ok(())
    }

    /// Writes a record that this application refuses to one of its sinks, with the reason and where it came from in its headers: as a
    /// dead letter, so that it is listed and can be replayed like one, but what was done for it stays done. By convention such a topic
    /// is named `<topic>.rejected`.
    ///
    /// # Errors
    /// As [`Scope::send`].
    ///
    /// # Panics
    /// As [`Scope::send`].
    pub fn reject<SK, SV>(&mut self, topic: &Topic<SK, SV>, record: Record<SK, SV>, reason: &str) -> Result<(), ProcessError>
    where
        SK: Send + Sync + 'static,
        SV: Clone + Send + Sync + 'static,
    {
        let Record { key, value, timestamp, headers } = record;
        let headers = self.ctx.rejection(self.application, self.name, reason, timestamp, headers);
        self.send(topic, Record { key, value, timestamp, headers })
    }

    /// The greatest timestamp of the task's records so far, this one included.
    #[must_use]
    pub fn stream_time(&self) -> Timestamp {
        self.ctx.stream_time()
    }

    /// The wall clock at the start of this step.
    #[must_use]
    pub fn wall_clock(&self) -> Timestamp {
        self.ctx.wall_clock()
    }

    /// The partition that the task runs.
    #[must_use]
    pub fn partition(&self) -> Partition {
        self.ctx.partition()
    }

    /// The offset of the record that is processed, or of the one before a timer or punctuation.
    #[must_use]
    pub fn offset(&self) -> Offset {
        self.ctx.origin().offset
    }

    /// Sets a timer for `key`: `on_timer` is called once when time reaches `at`, at once if it has passed. Setting the same timer again
    /// changes nothing; a key may have any number of timers at different times. Timers survive restarts.
    ///
    /// # Errors
    /// If the key does not encode.
    pub fn schedule<T: Data>(&mut self, domain: TimeDomain, at: Timestamp, key: &T) -> Result<(), ProcessError> {
        self.ctx.schedule(self.name, domain, at, key)
    }

    /// Takes back a timer that was set for this key and time; nothing happens if there is none.
    ///
    /// # Errors
    /// If the key does not encode.
    pub fn unschedule<T: Data>(&mut self, domain: TimeDomain, at: Timestamp, key: &T) -> Result<(), ProcessError> {
        self.ctx.unschedule(self.name, domain, at, key)
    }
}

/// A store as a processor uses it.
pub struct StoreScope<'a, K, V> {
    ctx: &'a mut Context,
    store: StoreIndex,
    types: std::marker::PhantomData<fn() -> (K, V)>,
}

impl<K: Data, V: Data> StoreScope<'_, K, V> {
    fn with_row<R>(
        &mut self,
        key: &K,
        f: impl FnOnce(&mut Context, &[u8], &mut Vec<u8>) -> Result<R, ProcessError>,
    ) -> Result<R, ProcessError> {
        self.ctx.with_buffers(|ctx, bytes, value| {
            if !encode(K::CODEC, "a store's key", key, bytes)? {
                return Err(ProcessError::Unwritable("a store's key is null".into()));
            }
            f(ctx, bytes, value)
        })
    }

    /// The value of a key.
    ///
    /// # Errors
    /// If the state cannot be read, or the row is not what the codec reads.
    pub fn get(&mut self, key: &K) -> Result<Option<V>, ProcessError> {
        let store = self.store;
        self.with_row(key, |ctx, key, _| ctx.get(store, key)?.map(|value| decode::<V>(&value)).transpose())
    }

    /// Sets the value of a key.
    ///
    /// # Errors
    /// If key or value do not encode.
    pub fn put(&mut self, key: &K, value: &V) -> Result<(), ProcessError> {
        let store = self.store;
        self.with_row(key, |ctx, key, bytes| {
            if encode(V::CODEC, "a store's value", value, bytes)? {
                ctx.put(store, key, bytes)
            } else {
                ctx.delete(store, key);
                Ok(())
            }
        })
    }

    /// Deletes a key; nothing happens if it is absent.
    ///
    /// # Errors
    /// If the key does not encode.
    pub fn delete(&mut self, key: &K) -> Result<(), ProcessError> {
        let store = self.store;
        self.with_row(key, |ctx, key, _| {
            ctx.delete(store, key);
            Ok(())
        })
    }

    /// Deletes a key and gives the value that it had.
    ///
    /// # Errors
    /// As [`StoreScope::get`].
    pub fn take(&mut self, key: &K) -> Result<Option<V>, ProcessError> {
        let value = self.get(key)?;
        if value.is_some() {
            self.delete(key)?;
        }
        Ok(value)
    }

    /// The rows whose key begins with `first`, a tuple's first part, in the order of keys; `Direction::Reverse` from the last.
    ///
    /// # Errors
    /// If the state cannot be read; each row, if it is not what the codecs read.
    pub fn prefix<P: Data>(
        &mut self,
        first: &P,
        direction: Direction,
    ) -> Result<impl Iterator<Item = Result<(K, V), ProcessError>> + '_, ProcessError> {
        let prefix = codec::prefix(first).map_err(|e| ProcessError::unwritable("a prefix", &e))?;
        Ok(self.scan(Range::prefix(&prefix), direction))
    }

    /// The rows from `from` (included) to `to` (excluded), in the order of keys.
    ///
    /// # Errors
    /// As [`StoreScope::prefix`].
    pub fn range(
        &mut self,
        from: &K,
        to: &K,
        direction: Direction,
    ) -> Result<impl Iterator<Item = Result<(K, V), ProcessError>> + '_, ProcessError> {
        let (mut first, mut end) = (Vec::new(), Vec::new());
        encode(K::CODEC, "a store's key", from, &mut first)?;
        encode(K::CODEC, "a store's key", to, &mut end)?;
        Ok(self.scan(Range::new(Bound::Included(&first), Bound::Excluded(&end)), direction))
    }

    /// All rows, in the order of keys.
    pub fn all(&mut self, direction: Direction) -> impl Iterator<Item = Result<(K, V), ProcessError>> + '_ {
        self.scan(Range::all(), direction)
    }

    fn scan(&mut self, range: Range, direction: Direction) -> impl Iterator<Item = Result<(K, V), ProcessError>> + '_ {
        self.ctx.scan(self.store, range, direction).map(|row| {
            let row = row?;
            let key = K::CODEC.decode(Some(row.key())).map_err(|e| ProcessError::failed(format_args!("a stored key {e}")))?;
            Ok((key, decode::<V>(row.value())?))
        })
    }
}

fn decode<V: Data>(value: &[u8]) -> Result<V, ProcessError> {
    V::CODEC.decode(Some(value)).map_err(|e| ProcessError::failed(format_args!("a stored value {e}")))
}
