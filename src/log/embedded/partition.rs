//! What readers see of a partition: where it starts and ends, and its last batches, kept in memory so that those who follow the
//! end do not touch RocksDB. What is written gets here; how much of it is durable is known, and that is all that is seen from outside.

use super::layout::{EndRow, KeptRow, Place};
use crate::log::{Bounds, StoredBatch, TopicId, TopicInfo};
use crate::{Offset, Partition};
use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// A topic and the state of its partitions.
#[derive(Clone, Debug)]
pub(super) struct Topic {
    pub info: TopicInfo,
    pub partitions: Arc<[Mutex<PartitionState>]>,
}

/// Who reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reader {
    /// A worker of this process, which goes on from what is written.
    Member,
    /// Anybody else, who sees what is durable.
    Outside,
}

/// Where a partition ends after a group that is written.
#[derive(Debug)]
pub(super) struct Written {
    partitions: Arc<[Mutex<PartitionState>]>,
    partition: Partition,
    end: u64,
}

impl Written {
    /// The group is durable.
    pub(super) fn settle(&self) {
        let mut state = self.partitions[self.partition.0 as usize].lock();
        state.durable = state.durable.max(self.end);
    }
}

/// One partition. The writer moves `end`, the thread that syncs `durable`, whoever holds the maintenance lock `kept`.
#[derive(Debug, Default)]
pub(super) struct PartitionState {
    pub end: EndRow,
    /// What lies below this offset is durable; it is where a batch ends.
    pub durable: u64,
    pub kept: KeptRow,
    /// Batches below this offset were deleted since the log was opened.
    pub deleted_to: u64,
    /// How many bytes were deleted since their space was last given back.
    pub unreclaimed: u64,
    /// The last batches, without a gap up to the end.
    tail: VecDeque<StoredBatch>,
}

impl PartitionState {
    /// From where to where it is durable.
    pub(super) fn bounds(&self) -> Bounds {
        Bounds { start: Offset(self.kept.start), end: Offset(self.durable) }
    }

    /// From where to where this reader may read.
    pub(super) fn bounds_for(&self, reader: Reader) -> Bounds {
        match reader {
            Reader::Member => Bounds { end: Offset(self.end.end), ..self.bounds() },
            Reader::Outside => self.bounds(),
        }
    }

    /// The size of what can be read, about, in bytes.
    pub(super) fn live_bytes(&self) -> u64 {
        self.end.appended.saturating_sub(self.kept.dropped)
    }

    /// Batches from `from` on up to `end`, if the tail goes back that far.
    pub(super) fn read_tail(&self, from: Offset, end: Offset, max_bytes: usize) -> Option<Vec<StoredBatch>> {
        if self.tail.front()?.base_offset() > from {
            return None;
        }
        let first = self.tail.partition_point(|batch| batch.next_offset() <= from);
        let mut bytes = 0;
        let fits = |batch: &&StoredBatch| {
            let more = bytes == 0 || bytes < max_bytes;
            bytes += batch.stored_bytes();
            more
        };
        let below = self.tail.range(first..).take_while(|batch| batch.next_offset() <= end);
        Some(below.take_while(fits).cloned().collect())
    }

    /// Moves the start and forgets what lies below.
    pub(super) fn set_kept(&mut self, kept: KeptRow) {
        self.kept = kept;
        while self.tail.front().is_some_and(|batch| batch.next_offset().0 <= kept.start) {
            self.tail.pop_front();
        }
    }
}

/// All topics, by name and by number.
#[derive(Debug, Default)]
pub(super) struct Topics {
    by_id: Vec<Topic>,
    by_name: HashMap<Arc<str>, TopicId>,
}

impl Topics {
    pub(super) fn get(&self, id: TopicId) -> Option<&Topic> {
        self.by_id.get(id.0 as usize)
    }

    pub(super) fn named(&self, name: &str) -> Option<&Topic> {
        self.get(*self.by_name.get(name)?)
    }

    pub(super) fn all(&self) -> &[Topic] {
        &self.by_id
    }

    /// The number of the next topic.
    pub(super) fn next_id(&self) -> TopicId {
        TopicId(self.by_id.len() as u32)
    }

    /// Takes over a topic as it was stored; one that is known keeps its partitions' state.
    pub(super) fn put(&mut self, info: TopicInfo) {
        match self.by_id.get_mut(info.id.0 as usize) {
            Some(topic) => topic.info = info,
            None => {
                self.by_name.insert(Arc::clone(&info.name), info.id);
                let partitions = (0..info.partitions).map(|_| Mutex::default()).collect();
                self.by_id.push(Topic { info, partitions });
            }
        }
    }

    pub(super) fn state(&self, (topic, partition): Place) -> Option<&Mutex<PartitionState>> {
        self.get(topic)?.partitions.get(partition.0 as usize)
    }
}

/// What a batch takes in memory besides its bytes, about.
const BATCH_BYTES: usize = 160;

/// What the writer remembers to keep all tails together within their budget: what it put there, oldest first.
#[derive(Debug)]
pub(super) struct TailBudget {
    max_bytes: usize,
    bytes: usize,
    order: VecDeque<(Place, Offset, usize)>,
}

impl TailBudget {
    pub(super) fn new(max_bytes: usize) -> TailBudget {
        TailBudget { max_bytes, bytes: 0, order: VecDeque::new() }
    }

    /// Makes a batch readable for the members, and forgets old ones of any partition that no longer fit.
    pub(super) fn publish(&mut self, topics: &Topics, place: Place, end: EndRow, batch: StoredBatch) -> Written {
        let bytes = batch.stored_bytes() + BATCH_BYTES;
        self.order.push_back((place, batch.base_offset(), bytes));
        self.bytes += bytes;
        let topic = topics.get(place.0).expect("the partition was checked before the transaction was queued");
        {
            let mut state = topic.partitions[place.1.0 as usize].lock();
            state.end = end;
            state.tail.push_back(batch);
        }
        while self.bytes > self.max_bytes
            && let Some((place, base, bytes)) = self.order.pop_front()
        {
            self.bytes -= bytes;
            if let Some(state) = topics.state(place) {
                let mut state = state.lock();
                // Else a trim was faster.
                if state.tail.front().is_some_and(|batch| batch.base_offset() == base) {
                    state.tail.pop_front();
                }
            }
        }
        Written { partitions: Arc::clone(&topic.partitions), partition: place.1, end: end.end }
    }

    /// Forgets everything, as after the database was read back.
    pub(super) fn clear(&mut self, topics: &Topics) {
        for state in topics.all().iter().flat_map(|topic| topic.partitions.iter()) {
            state.lock().tail.clear();
        }
        (self.bytes, self.order) = (0, VecDeque::new());
    }
}

/// The place of a partition, for walking over all of them.
pub(super) fn places(topic: &Topic) -> impl Iterator<Item = (Partition, &Mutex<PartitionState>)> {
    (0..).map(Partition).zip(topic.partitions.iter())
}
