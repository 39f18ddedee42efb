//! Joins of two streams by key, within a window of time.

use std::marker::PhantomData;
use std::sync::Arc;

use millstream_state::Access;

use super::{Stream, declare_store};
use crate::codec::{self, Data, List};
use crate::operators::sink::NullKeys;
use crate::operators::stream_stream_join::{LeftSide, RightSide, SideDraft, StreamStreamJoin, Waiting};
use crate::operators::{Node, Outlet};
use crate::topology::{NodeDraft, NodeId, NodeKind, StoreIndex, StoreKind};
use crate::windows::{JoinWindows, Windowed};

/// Which records leave that have found none of the other side.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Unmatched {
    None,
    Left,
    Both,
}

impl<K: Data, V: Data> Stream<K, V> {
    /// Joins each record with every one of the other stream that has the same key and lies within the windows, as soon as the second of the
    /// two is there. The result's timestamp is the greater of both.
    ///
    /// Each side keeps its records in a store with a view, `<name>-left` and `<name>-right`. A side whose key has changed goes through the
    /// repartition topic of the same name first. A stream can be joined with itself.
    pub fn join_stream<W: Data, R: Clone + Send + Sync + 'static>(
        &self,
        name: &str,
        other: &Stream<K, W>,
        windows: JoinWindows,
        joiner: impl Fn(V, W) -> R + Send + Sync + 'static,
    ) -> Stream<K, R> {
        let function = move |left: Option<V>, right: Option<W>| Some(joiner(left?, right?));
        self.joined(name, other, windows, Unmatched::None, function)
    }

    /// As [`Stream::join_stream`], and a record of this stream that finds none is joined with `None`: once the time that both sides have
    /// seen has passed its window and the grace, and at once if it has no key (KIP-962).
    pub fn left_join_stream<W: Data, R: Clone + Send + Sync + 'static>(
        &self,
        name: &str,
        other: &Stream<K, W>,
        windows: JoinWindows,
        joiner: impl Fn(V, Option<W>) -> R + Send + Sync + 'static,
    ) -> Stream<K, R> {
        let function = move |left: Option<V>, right| Some(joiner(left?, right));
        self.joined(name, other, windows, Unmatched::Left, function)
    }

    /// As [`Stream::left_join_stream`], for records of both streams.
    pub fn outer_join_stream<W: Data, R: Clone + Send + Sync + 'static>(
        &self,
        name: &str,
        other: &Stream<K, W>,
        windows: JoinWindows,
        joiner: impl Fn(Option<V>, Option<W>) -> R + Send + Sync + 'static,
    ) -> Stream<K, R> {
        self.joined(name, other, windows, Unmatched::Both, move |left, right| Some(joiner(left, right)))
    }

    fn joined<W: Data, R: Clone + Send + Sync + 'static>(
        &self,
        name: &str,
        other: &Stream<K, W>,
        windows: JoinWindows,
        unmatched: Unmatched,
        function: impl Fn(Option<V>, Option<W>) -> Option<R> + Send + Sync + 'static,
    ) -> Stream<K, R> {
        if let Some(mistake) = windows.mistake() {
            self.draft.borrow_mut().mistakes.push(format!("{name:?} joins within windows {mistake}"));
        }
        let [left_name, right_name] = ["left", "right"].map(|side| format!("{name}-{side}"));
        let left = self.beside(&left_name, other, unmatched != Unmatched::None);
        let right = other.beside(&right_name, self, unmatched == Unmatched::Both);
        let stores = [join_store::<K, V>(&left, &left_name, windows), join_store::<K, W>(&right, &right_name, windows)];
        let waiting = (unmatched != Unmatched::None).then(|| waiting(&left, name));
        let used: Vec<StoreIndex> = stores.into_iter().chain(waiting.as_ref().map(|waiting| waiting.store)).collect();
        let [left_id, right_id] = [left.declare(Ok(&left_name), used.clone()), right.declare(Ok(&right_name), used.clone())];
        let id = joined_node(&left, name, vec![left_id, right_id]);
        let time = self.draft.borrow_mut().clock(Some(name));
        let out = Outlet::new();
        let join = Arc::new(StreamStreamJoin {
            left: SideDraft { id: left_id, store: stores[0], is_outer: unmatched != Unmatched::None },
            right: SideDraft { id: right_id, store: stores[1], is_outer: unmatched == Unmatched::Both },
            waiting,
            windows,
            time,
            function,
            out: Arc::clone(&out),
            types: PhantomData,
        });
        left.out.attach(Arc::new(LeftSide(Arc::clone(&join))) as Arc<dyn Node<K, V>>);
        right.out.attach(Arc::new(RightSide(join)) as Arc<dyn Node<K, W>>);
        let mut partitioning = left.partitioning.clone().expect("it was made sure of");
        let others = right.partitioning.as_ref().expect("it was made sure of");
        let sides = [&partitioning, others].map(|side| (side.topics.clone(), side.key.name()));
        let [(left_topics, left_codec), (right_topics, right_codec)] = &sides;
        self.draft.borrow_mut().copartition(id, (left_topics, left_codec), (right_topics, right_codec));
        partitioning.topics.extend(right_topics.iter().filter(|topic| !left_topics.contains(topic)));
        let upstream = partitioning.topics.clone();
        Stream { draft: self.draft.clone(), node: id, out, upstream, partitioning: Some(partitioning) }
    }

    /// This stream partitioned as the other, through a repartition topic of this name if its key has changed.
    fn beside<W: Data>(&self, name: &str, other: &Stream<K, W>, keeps_null_keys: bool) -> Stream<K, V> {
        let null_keys = if keeps_null_keys { NullKeys::Keep } else { NullKeys::Drop };
        match (&self.partitioning, &other.partitioning) {
            (Some(_), _) => self.clone(),
            (None, Some(other)) => self.through(name, other.key, &other.topics, null_keys),
            (None, None) => {
                let like: Vec<_> = self.upstream.iter().chain(&other.upstream).copied().collect();
                self.through(name, K::CODEC, &like, null_keys)
            }
        }
    }
}

fn join_store<K: Data, V: Data>(stream: &Stream<K, V>, name: &str, windows: JoinWindows) -> StoreIndex {
    let retention_ms = Some(windows.retention_ms());
    // Records are looked for by key alone, and by time among those of a key.
    let access = Access::Grouped { suffix: codec::WINDOW_BYTES };
    declare_store::<Windowed<K>, List<V>>(&stream.draft, name, StoreKind::Join, access, retention_ms)
}

fn waiting<K: Data, V: Data>(stream: &Stream<K, V>, name: &str) -> Waiting {
    let name = format!("{name}-waiting");
    let store = declare_store::<Vec<u8>, Vec<u8>>(&stream.draft, &name, StoreKind::Buffer, Access::Ordered, None);
    Waiting { store, earliest: stream.draft.borrow_mut().clock(Some(&name)) }
}

/// Where the results of both sides come out.
fn joined_node<K: Data, V: Data>(stream: &Stream<K, V>, name: &str, parents: Vec<NodeId>) -> NodeId {
    let node = NodeDraft { kind: NodeKind::Processor, name: Ok(name), parents, stores: Vec::new(), topic: None };
    stream.draft.borrow_mut().node(node)
}
