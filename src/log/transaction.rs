//! What is committed as one, and the promise of its outcome. Either all of a transaction is in the log or nothing of it.

use super::{Error, RecordBatch, TopicId};
use crate::{Offset, Partition, Timestamp};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use tokio::sync::oneshot;

/// Records, offsets and a request row that are committed together.
#[derive(Clone, Debug, Default)]
pub struct Transaction {
    /// What to append, in this order.
    pub appends: Vec<Append>,
    /// How far a group has read.
    pub offsets: Option<GroupOffsets>,
    /// The request that this transaction carries out, which must not be carried out again. Only the embedded log has these.
    pub request: Option<Request>,
}

/// Records for one partition.
#[derive(Clone, Debug)]
pub struct Append {
    /// The topic.
    pub topic: TopicId,
    /// The partition.
    pub partition: Partition,
    /// The records; none at all is allowed.
    pub batch: RecordBatch,
}

/// How far a group has read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupOffsets {
    /// The group's name.
    pub group: Arc<str>,
    /// The next offset to read of each partition; those not named keep theirs.
    pub offsets: Vec<(TopicId, Partition, Offset)>,
}

/// A request by its idempotency key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// What names the request: at most one of a key is committed until it expires.
    pub key: Vec<u8>,
    /// A hash of what was asked for, kept for the caller to compare.
    pub fingerprint: [u8; 32],
    /// The answer, kept for the caller to repeat.
    pub answer: Vec<u8>,
    /// Until when to keep the row, by the log's clock.
    pub expires_at: Timestamp,
}

/// A request that was carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredRequest {
    /// As in [`Request`].
    pub fingerprint: [u8; 32],
    /// As in [`Request`].
    pub answer: Vec<u8>,
    /// As in [`Request`].
    pub expires_at: Timestamp,
    /// Where the first record of each append went.
    pub positions: Vec<(TopicId, Partition, Offset)>,
}

/// A moment of a log: all that was written to it before. The members of a process read and follow what may not survive the machine yet;
/// whatever they commit lies behind it in the log, so no crash keeps the one without the other. What leaves the process
/// must be durable, for which [`Log::durable`](super::Log::durable) waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(pub(super) u64);

impl Moment {
    /// Before everything that is not durable: of a log whose commits are durable when they return, every moment.
    pub const DURABLE: Moment = Moment(0);
}

/// A moment that several threads share.
#[derive(Debug, Default)]
pub(crate) struct AtomicMoment(AtomicU64);

impl AtomicMoment {
    pub(crate) fn load(&self) -> Moment {
        Moment(self.0.load(Ordering::Acquire))
    }

    pub(crate) fn store(&self, at: Moment) {
        self.0.store(at.0, Ordering::Release);
    }
}

/// A transaction that is in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// The offset of the first record of each append, in order.
    pub base_offsets: Vec<Offset>,
    /// When it is durable: what [`Log::commit`](super::Log::commit) answers is, what a [`Member`](super::Member) commits may be so later.
    pub at: Moment,
}

/// An outcome to come, of a transaction where nothing else is said: to be waited for on a thread or awaited in a task. Dropping it does not
/// take the transaction back.
#[must_use = "a transaction is durable only once its outcome says so"]
#[derive(Debug)]
pub struct Pending<T = Committed>(State<T>);

#[derive(Debug)]
enum State<T> {
    Decided(Option<Result<T, Error>>),
    Waiting(oneshot::Receiver<Result<T, Error>>),
}

impl<T> Pending<T> {
    /// What is known already.
    pub(super) fn decided(outcome: Result<T, Error>) -> Pending<T> {
        Pending(State::Decided(Some(outcome)))
    }

    /// A transaction that was refused before it was queued.
    pub(super) fn refused(error: Error) -> Pending<T> {
        Pending::decided(Err(error))
    }

    /// An outcome that will be sent.
    pub(super) fn channel() -> (oneshot::Sender<Result<T, Error>>, Pending<T>) {
        let (sender, receiver) = oneshot::channel();
        (sender, Pending(State::Waiting(receiver)))
    }

    /// Waits for the outcome, and blocks the thread.
    ///
    /// # Errors
    /// What the log answers; nothing was appended, unless it is [`Error::OutcomeUnknown`].
    ///
    /// # Panics
    /// In an asynchronous task, which awaits it instead.
    pub fn wait(self) -> Result<T, Error> {
        match self.0 {
            State::Decided(outcome) => outcome.unwrap_or(Err(Error::Closed)),
            State::Waiting(receiver) => receiver.blocking_recv().unwrap_or_else(|_| Err(abandoned())),
        }
    }
}

impl<T: Unpin> Future for Pending<T> {
    type Output = Result<T, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            State::Decided(outcome) => Poll::Ready(outcome.take().unwrap_or(Err(Error::Closed))),
            State::Waiting(receiver) => Pin::new(receiver).poll(cx).map(|outcome| outcome.unwrap_or_else(|_| Err(abandoned()))),
        }
    }
}

/// The writer ended without an answer, which only a panic makes it do.
fn abandoned() -> Error {
    Error::OutcomeUnknown { cause: "the log's writer stopped".into() }
}
