//! Appends from outside of workers: a thread. While it commits, others queue; what has queued is the next transaction, so thousands of small
//! appends share one. Where all that has queued are single records of these days, no transaction is needed.

use super::super::{Append, Committed, Error, Moment, Pending, Transaction};
use super::cluster::Cluster;
use super::native::GroupMetadata;
use super::singles::Singles;
use super::topics::Topics;
use super::transactions::{Read, Transactions};
use crate::{Clock, Timestamp};
use parking_lot::{Condvar, Mutex};
use rustc_hash::FxHashMap;
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::oneshot;

/// A transaction of the cluster takes what waits up to this many bytes.
const GROUP_BYTES: usize = 4 << 20;
/// More than this does not wait, in bytes.
const MAX_QUEUED_BYTES: usize = 64 << 20;

/// An older record is not appended alone, in milliseconds. A record that is sent again is known by what the broker knows of its producer, and
/// one that starts after a crash forgets producers whose last record is older than `producer.id.expiration.ms` (a day), by the record's own
/// timestamp, as long as they have no transaction open.
const OLD_MS: i64 = 3_600_000;

/// What waits to be committed.
#[derive(Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Waiting>,
    bytes: usize,
    /// Why nothing is taken any more.
    ended: Option<Error>,
}

struct Waiting {
    transaction: Transaction,
    bytes: usize,
    answer: oneshot::Sender<Result<Committed, Error>>,
}

impl Waiting {
    /// Whether it is one record of these days and nothing else.
    fn is_single(&self, now: Timestamp) -> bool {
        let Transaction { appends, offsets, .. } = &self.transaction;
        let is_recent = |append: &Append| append.batch.facts().earliest > now.0 - OLD_MS;
        offsets.is_none() && matches!(&appends[..], [append] if append.batch.len() == 1 && is_recent(append))
    }
}

impl Queue {
    pub(super) fn push(&self, transaction: Transaction, bytes: usize) -> Pending {
        let mut state = self.state.lock();
        if let Some(error) = &state.ended {
            return Pending::refused(error.clone());
        }
        if state.bytes > 0 && state.bytes + bytes > MAX_QUEUED_BYTES {
            return Pending::refused(Error::Busy { queued_bytes: state.bytes });
        }
        let (answer, pending) = Pending::channel();
        state.bytes += bytes;
        state.waiting.push_back(Waiting { transaction, bytes, answer });
        self.changed.notify_one();
        pending
    }

    /// Takes nothing any more; what waits is refused.
    pub(super) fn end(&self, why: Error) {
        let mut state = self.state.lock();
        for waiting in state.waiting.drain(..) {
            // Whoever waited may be gone.
            drop(waiting.answer.send(Err(why.clone())));
        }
        state.bytes = 0;
        state.ended.get_or_insert(why);
        self.changed.notify_all();
    }

    /// Takes nothing more, and lets the writer finish what waits.
    pub(super) fn close(&self) {
        self.state.lock().ended.get_or_insert(Error::Closed);
        self.changed.notify_all();
    }

    /// The next group, or nothing once the queue has ended and is empty.
    fn next(&self) -> Option<Vec<Waiting>> {
        let mut state = self.state.lock();
        self.changed.wait_while(&mut state, |state| state.waiting.is_empty() && state.ended.is_none());
        let mut group = Vec::new();
        let mut bytes = 0;
        while let Some(first) = state.waiting.front()
            && (group.is_empty() || bytes + first.bytes <= GROUP_BYTES)
        {
            bytes += first.bytes;
            group.extend(state.waiting.pop_front());
        }
        state.bytes -= bytes;
        (!group.is_empty()).then_some(group)
    }
}

/// The writer's thread. Ends with the queue.
pub(super) fn run(cluster: &Arc<Cluster>, topics: &Arc<Topics>, mut transactions: Transactions, queue: &Queue) {
    // Only a transaction tells a writer that another has taken over.
    let mut singles = cluster.config.exclusive.is_none().then(|| Singles::new(cluster, topics));
    // A new one may write when it has a number from a broker. What is wrong is told by the first append.
    if let Some(Err(error)) = singles.as_mut().map(Singles::ready) {
        tracing::debug!(target: "kafka", %error, "the producer of records that are appended alone is not ready");
    }
    while let Some(group) = queue.next() {
        let now = Clock::System.now();
        if let Some(singles) = &mut singles
            && group.iter().all(|waiting| waiting.is_single(now))
        {
            let appends: Vec<_> = group.iter().flat_map(|waiting| &waiting.transaction.appends).collect();
            let outcomes = singles.append(&appends);
            for (one, outcome) in group.into_iter().zip(outcomes) {
                answer(vec![one], outcome.map(|base| vec![base]));
            }
            continue;
        }
        match commit(&mut transactions, topics, &group) {
            // What one of them is refused for is not the others' fault.
            Err(error) if group.len() > 1 && !error.is_retriable() && !error.is_outcome_unknown() && !error.is_fatal() => {
                for one in group {
                    let outcome = commit(&mut transactions, topics, std::slice::from_ref(&one));
                    answer(vec![one], outcome);
                }
            }
            Err(error) if error.is_fatal() => {
                tracing::error!(%error, "the log takes no appends any more");
                answer(group, Err(error.clone()));
                queue.end(error);
                return;
            }
            outcome => answer(group, outcome),
        }
    }
}

/// Commits a group as one transaction, and answers with the offsets of all its appends in order.
fn commit(transactions: &mut Transactions, topics: &Topics, group: &[Waiting]) -> Result<Vec<crate::Offset>, Error> {
    let appends: Vec<_> = group.iter().flat_map(|waiting| &waiting.transaction.appends).collect();
    let mut offsets = FxHashMap::<&str, FxHashMap<_, _>>::default();
    for read in group.iter().filter_map(|waiting| waiting.transaction.offsets.as_ref()) {
        let of_group = offsets.entry(&read.group).or_default();
        of_group.extend(read.offsets.iter().map(|(topic, partition, offset)| ((*topic, *partition), *offset)));
    }
    let mut reads = Vec::new();
    for (group, offsets) in offsets {
        let named = offsets
            .into_iter()
            .map(|((topic, partition), offset)| Ok((topics.get(topic)?.name, partition.0 as i32, offset.0 as i64)));
        reads.push(Read { group: Arc::new(GroupMetadata::of(group)), offsets: named.collect::<Result<_, Error>>()? });
    }
    if appends.iter().all(|append| append.batch.is_empty()) && reads.is_empty() {
        return Ok(vec![crate::Offset(0); appends.len()]);
    }
    transactions.commit(&appends, &reads)
}

fn answer(group: Vec<Waiting>, outcome: Result<Vec<crate::Offset>, Error>) {
    let mut bases = outcome.as_deref().unwrap_or_default();
    for waiting in group {
        let answer = match &outcome {
            Ok(_) => {
                let (own, rest) = bases.split_at(waiting.transaction.appends.len());
                bases = rest;
                Ok(Committed { base_offsets: own.to_vec(), at: Moment::DURABLE })
            }
            Err(error) => Err(error.clone()),
        };
        // Whoever waited may be gone.
        drop(waiting.answer.send(answer));
    }
}
