//! Reading a store from outside: what was committed, over all partitions, and never half of a commit. What is read may be ahead of the
//! disk: see [`Seen`].

use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use millstream_state::{Direction, Entries, Range, TaskId, TaskView};

use super::Shared;
use super::restore::may_have_rows;
use super::roles::Role;
use super::seen::Seen;
use super::watch::{Watch, Watched};
use crate::codec::{self, Data};
use crate::log::{self, Moment};
use crate::record::{Offset, Partition};
use crate::store::Store;
use crate::task::context::split_table_row;
use crate::topology::{StoreDef, StoreIndex, StoreKind};

/// A changed row begins with its times where a table or a time-to-live keeps one.
const TIME_BYTES: usize = 8;

/// The most rows that one page gives.
pub const MAX_PAGE: usize = 1_000;

/// A store of a running application, for reading.
#[derive(Clone)]
pub struct View {
    shared: Arc<Shared>,
    pub(super) store: StoreIndex,
    sub: usize,
    /// The partition that is looked at; all of them if `None`.
    pub(super) only: Option<Partition>,
}

/// Why a view could not be read.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// The state could not be read.
    #[error("{0}")]
    State(#[from] millstream_state::Error),
    /// What was read was not durable yet, and the log failed.
    #[error("{0}")]
    Log(#[from] log::Error),
    /// The rows of this partition are not here now: another process has them, or they are being restored.
    #[error("store {store:?}: partition {partition} is not here{}", .endpoint.as_deref().map_or(String::new(), |at| format!(" but at {at}")))]
    Elsewhere {
        /// The store.
        store: String,
        /// The partition.
        partition: Partition,
        /// The HTTP interface of the process that owns it, if it told of one.
        endpoint: Option<String>,
    },
    /// A key or a stored row is not what the store's codec reads.
    #[error("store {store:?}: {error}")]
    Codec {
        /// The store.
        store: String,
        /// What is wrong.
        error: codec::Error,
    },
}

/// A moment of one task's part of a store.
pub(crate) struct Stand {
    pub(crate) position: Offset,
    pub(crate) value: Option<Bytes>,
}

/// A row: the bytes of key and value, for [`View::key_to_json`] and [`View::value_to_json`].
pub type Row = (Bytes, Bytes);

impl View {
    pub(super) fn new(shared: Arc<Shared>, store: StoreIndex, sub: usize) -> View {
        View { shared, store, sub, only: None }
    }

    fn def(&self) -> &StoreDef {
        &self.shared.topology.stores[self.store.0]
    }

    pub(super) fn kind(&self) -> StoreKind {
        self.def().kind
    }

    /// The store's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.def().name
    }

    pub(super) fn codec_error(&self, error: codec::Error) -> QueryError {
        QueryError::Codec { store: self.name().to_owned(), error }
    }

    pub(super) fn partitions(&self) -> u32 {
        match self.shared.topology.global(self.sub) {
            Some(global) => self.shared.topics[global.topic.0].partitions,
            None => self.shared.tasks[self.sub],
        }
    }

    pub(super) fn tasks(&self) -> impl Iterator<Item = TaskId> {
        let sub_topology = self.sub as u32;
        let partitions = self.only.map_or(0..self.partitions(), |Partition(only)| only..only + 1);
        partitions.map(move |partition| TaskId { sub_topology, partition })
    }

    /// Reads the committed rows of a task that is here, and says when they are durable.
    pub(super) fn read<T>(&self, task: TaskId, f: impl FnOnce(&TaskView<'_>) -> T) -> Result<(T, Moment), QueryError> {
        let (sub, partition) = (self.sub, Partition(task.partition));
        if self.shared.has_global(self.sub) || self.shared.roles.get(sub, partition).is_readable() {
            let read = self.shared.reader.read(task, f)?;
            // It is noted before the rows can be read.
            return Ok((read, self.shared.progress.committed_at(sub, partition)));
        }
        let [owners, _] = self.shared.presence.endpoints_of(self.shared.log.instance(), self.shared.owner_name(sub), partition);
        let endpoint = owners.into_iter().next();
        Err(QueryError::Elsewhere { store: self.name().to_owned(), partition, endpoint })
    }

    pub(super) fn seen<T>(&self, value: T, at: Moment) -> Seen<T> {
        Seen::new(&self.shared, value, at)
    }

    /// How many rows are here, and whether they were counted or estimated: see [`TaskView::entries`].
    pub(super) fn entries(&self) -> Entries {
        let none = Entries { rows: 0, exact: true };
        // A disk that cannot be read now has its say in a query, not in a list of what there is.
        let of_task = |task| {
            let read = self.read(task, |rows| rows.entries(self.store.id()).ok());
            read.ok().and_then(|(entries, _)| entries).unwrap_or(none)
        };
        let sum = |sum: Entries, part: Entries| Entries { rows: sum.rows + part.rows, exact: sum.exact && part.exact };
        self.tasks().map(of_task).fold(none, sum)
    }

    pub(crate) fn positions(&self) -> Seen<Vec<(Partition, Offset)>> {
        let mut seen = Moment::DURABLE;
        let position = |task: TaskId| {
            let read = self.read(task, |rows| rows.position(self.store.id()));
            let position = read.ok().and_then(|(position, at)| {
                seen = seen.max(at);
                position
            });
            (Partition(task.partition), Offset(position.map_or(0, |position| position.offset)))
        };
        let positions = self.tasks().map(position).collect();
        self.seen(positions, seen)
    }

    /// See [`Shared::taken_in`].
    #[cfg(feature = "http")]
    pub(crate) async fn taken_in(&self, partition: Partition, deadline: std::time::Duration) -> Result<(), super::Behind> {
        self.shared.taken_in(self.sub, partition, deadline).await
    }

    /// Where the topic of a global table or feed began when it was first read, and how far it was taken in.
    #[cfg(feature = "http")]
    pub(crate) fn followed(&self, partition: Partition) -> (Offset, Offset) {
        let topic = self.shared.topology.global(self.sub).expect("it is a global table or a feed").topic;
        (self.shared.progress.begin(topic, partition), self.shared.progress.committed(topic, partition))
    }

    /// The bytes of the key that this text stands for.
    ///
    /// # Errors
    /// If it is not a key of this store.
    pub fn key_from_text(&self, text: &str) -> Result<Vec<u8>, codec::Error> {
        let mut key = Vec::new();
        self.def().key.parse_text(text, &mut key)?;
        Ok(key)
    }

    /// What the bytes of all keys begin with that this text stands for the beginning of: in a window store, the key without its window.
    ///
    /// # Errors
    /// If it is not the beginning of a key of this store.
    pub fn prefix_from_text(&self, text: &str) -> Result<Vec<u8>, codec::Error> {
        let mut prefix = Vec::new();
        self.def().key.parse_prefix(text, &mut prefix)?;
        Ok(prefix)
    }

    /// Appends a key as JSON.
    ///
    /// # Errors
    /// If the bytes are not a key of this store.
    pub fn key_to_json(&self, key: &[u8], out: &mut Vec<u8>) -> Result<(), codec::Error> {
        self.def().key.to_json(key, out)
    }

    /// Appends a value as JSON.
    ///
    /// # Errors
    /// If the bytes are not a value of this store.
    pub fn value_to_json(&self, value: &[u8], out: &mut Vec<u8>) -> Result<(), codec::Error> {
        self.def().value.to_json(value, out)
    }

    /// The value's bytes without what a table keeps beside them.
    fn value(&self, row: &[u8]) -> Bytes {
        if self.def().kind.has_timestamps() {
            Bytes::copy_from_slice(split_table_row(row).map_or(&[][..], |(_, value)| value))
        } else {
            Bytes::copy_from_slice(row)
        }
    }

    /// The value of a key.
    ///
    /// # Errors
    /// If the state cannot be read.
    pub fn get(&self, key: &[u8]) -> Result<Seen<Option<Bytes>>, QueryError> {
        // Where it is found counts more than where it cannot be looked for.
        let mut missing = None;
        let mut seen = Moment::DURABLE;
        for task in self.tasks() {
            match self.read_row(task, key) {
                Ok((None, at)) => seen = seen.max(at),
                Err(error @ QueryError::Elsewhere { .. }) => missing = Some(error),
                Ok((row, at)) => return Ok(self.seen(row, at)),
                Err(error) => return Err(error),
            }
        }
        missing.map_or_else(|| Ok(self.seen(None, seen)), Err)
    }

    /// The value of a key that lies in this partition, if anywhere: see [`Handle::partition`](super::Handle::partition).
    ///
    /// # Errors
    /// If the state cannot be read.
    pub fn get_in(&self, partition: Partition, key: &[u8]) -> Result<Seen<Option<Bytes>>, QueryError> {
        let (row, at) = self.read_row(TaskId { sub_topology: self.sub as u32, partition: partition.0 }, key)?;
        Ok(self.seen(row, at))
    }

    /// What a task's part of the store stands at, and the value of a key there, both at one moment.
    pub(crate) fn stands_at(&self, (_, partition): super::TaskPlace, key: Option<&[u8]>) -> Result<Seen<Stand>, QueryError> {
        let task = TaskId { sub_topology: self.sub as u32, partition };
        let ((position, row), at) = self.read(task, |rows| {
            let position = rows.position(self.store.id()).map_or(0, |position| position.offset);
            (Offset(position), key.map(|key| rows.get(self.store.id(), key)).transpose())
        })?;
        let value = row?.flatten().map(|row| self.value(&row));
        Ok(self.seen(Stand { position, value }, at))
    }

    /// Whether this process has all rows that the changelog of a task has before a position. An owner stands behind its last row, and whoever follows
    /// it behind the mark of that transaction. Blocks where they differ.
    pub(crate) fn has_come_to(&self, task: super::TaskPlace, known: Offset) -> Result<bool, QueryError> {
        let stands = self.stands_at(task, None)?.peek().position;
        let partition = Partition(task.1);
        let is_owner = || self.shared.roles.get(self.sub, partition) == Role::Owner;
        Ok(stands >= known || is_owner() && !may_have_rows(&self.shared, self.sub, partition, stands, known))
    }

    fn read_row(&self, task: TaskId, key: &[u8]) -> Result<(Option<Bytes>, Moment), QueryError> {
        let (row, at) = self.read(task, |rows| rows.get(self.store.id(), key))?;
        Ok((row?.map(|row| self.value(&row)), at))
    }

    /// The first rows of the range in the order of keys (from the last with `Direction::Reverse`), over all partitions; at most `limit`,
    /// and [`MAX_PAGE`], and beyond that those of other partitions that have the key of the last: no row is lost to who goes on after it. A range that begins after a key counts as the continuation of another page: its store gets ready for more.
    ///
    /// # Errors
    /// If the state cannot be read.
    pub fn page(&self, range: &Range, direction: Direction, limit: usize) -> Result<Seen<Vec<Row>>, QueryError> {
        let limit = limit.min(MAX_PAGE);
        let (mut rows, mut seen) = (Vec::new(), Moment::DURABLE);
        let continues = match direction {
            Direction::Forward => matches!(range.bounds().0, Bound::Excluded(_)),
            Direction::Reverse => matches!(range.bounds().1, Bound::Excluded(_)),
        };
        if continues {
            self.expect_pages();
        }
        for task in self.tasks() {
            let (page, at) = self.read(task, |task| {
                let page = task.scan(self.store.id(), range.clone(), direction).take(limit);
                page.map(|row| row.map(|row| (Bytes::copy_from_slice(row.key()), self.value(row.value()))))
                    .collect::<Result<Vec<_>, _>>()
            })?;
            rows.extend(page?);
            seen = seen.max(at);
        }
        match direction {
            Direction::Forward => rows.sort_unstable_by(|a, b| a.0.cmp(&b.0)),
            Direction::Reverse => rows.sort_unstable_by(|a, b| b.0.cmp(&a.0)),
        }
        cut(&mut rows, limit);
        Ok(self.seen(rows, seen))
    }

    /// More pages will follow the first: the store gets ready for them.
    pub(crate) fn expect_pages(&self) {
        self.tasks().for_each(|task| self.shared.reader.index(task, self.store.id()));
    }

    /// Every committed change from now on. Rows that are read after this call and changes that it gives overlap; none is missing.
    /// What a change holds is the row as it is stored: use [`View::changed_value`].
    #[must_use]
    pub fn watch(&self, watched: Watched) -> Watch {
        self.shared.watchers.watch(self.store, watched)
    }

    /// The value's bytes of a change that a watch of this view gave.
    #[must_use]
    pub fn changed_value(&self, change: &super::watch::Change) -> Option<Bytes> {
        let times = usize::from(self.def().kind.has_timestamps()) + usize::from(self.def().ttl_ms.is_some());
        change.value.as_ref().map(|row| row.slice(row.len().min(times * TIME_BYTES)..))
    }

    /// This view with the types of the store's declaration.
    ///
    /// # Panics
    /// If the store was declared with other types: a programming error.
    #[must_use]
    pub fn typed<K: Data, V: Data>(self, store: &Store<K, V>) -> TypedView<K, V> {
        let def = self.def();
        let declared = (def.name.as_str(), def.key_type, def.value_type);
        assert_eq!(declared, (store.name(), std::any::type_name::<K>(), std::any::type_name::<V>()), "another store's types");
        TypedView { view: self, types: std::marker::PhantomData }
    }
}

/// Ends a page, not between the rows that several partitions have of one key.
pub(super) fn cut(rows: &mut Vec<Row>, limit: usize) {
    let Some(last) = limit.checked_sub(1).and_then(|last| rows.get(last)) else { return rows.truncate(limit) };
    let more = rows[limit..].iter().take_while(|(key, _)| *key == last.0).count();
    rows.truncate(limit + more);
}

/// A view with types.
pub struct TypedView<K, V> {
    view: View,
    types: std::marker::PhantomData<fn() -> (K, V)>,
}

impl<K, V> Clone for TypedView<K, V> {
    fn clone(&self) -> Self {
        TypedView { view: self.view.clone(), types: self.types }
    }
}

impl<K: Data, V: Data> TypedView<K, V> {
    /// The view by bytes.
    #[must_use]
    pub fn untyped(&self) -> &View {
        &self.view
    }

    /// The value of a key.
    ///
    /// # Errors
    /// If the state cannot be read, or the row is not what the codec reads.
    pub fn get(&self, key: &K) -> Result<Seen<Option<V>>, QueryError> {
        self.decoded(key, |key| self.view.get(key))
    }

    /// The value of a key that lies in this partition, if anywhere: see [`View::get_in`].
    ///
    /// # Errors
    /// As [`TypedView::get`].
    pub fn get_in(&self, partition: Partition, key: &K) -> Result<Seen<Option<V>>, QueryError> {
        self.decoded(key, |key| self.view.get_in(partition, key))
    }

    fn decoded(
        &self,
        key: &K,
        get: impl FnOnce(&[u8]) -> Result<Seen<Option<Bytes>>, QueryError>,
    ) -> Result<Seen<Option<V>>, QueryError> {
        let mut bytes = Vec::new();
        K::CODEC.encode(key, &mut bytes).map_err(|e| self.view.codec_error(e))?;
        let decode = |row: Bytes| V::CODEC.decode(Some(&row)).map_err(|e| self.view.codec_error(e));
        get(&bytes)?.try_map(|row| row.map(decode).transpose())
    }

    /// A page of rows by the bytes of the range's ends, decoded. See [`View::page`]; [`codec::prefix`] makes the prefix of a tuple.
    ///
    /// # Errors
    /// As [`TypedView::get`].
    pub fn page(&self, range: &Range, direction: Direction, limit: usize) -> Result<Seen<Vec<(K, V)>>, QueryError> {
        self.decode(self.view.page(range, direction, limit)?)
    }

    pub(super) fn decode(&self, rows: Seen<Vec<Row>>) -> Result<Seen<Vec<(K, V)>>, QueryError> {
        let decode = |(key, value): Row| Ok((K::CODEC.decode(Some(&key))?, V::CODEC.decode(Some(&value))?));
        rows.try_map(|rows| rows.into_iter().map(decode).collect::<Result<_, _>>()).map_err(|e| self.view.codec_error(e))
    }
}
