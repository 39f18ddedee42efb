//! How far the log is durable, who waits for more, and the one thread that syncs. Nothing here writes.
//!
//! The write-ahead log keeps its order over a crash: what lies behind something is lost with it. So the tasks of the process may go on from
//! what is merely written. Whatever leaves the process waits here: the answers to transactions from outside, and everybody who asks for a
//! [`Moment`](crate::log::Moment). One sync lets all of them go that were written when it began.
//!
//! Once something has failed, nothing becomes durable here any more until the log was read back: a sync that succeeds after one that failed
//! says nothing about what the first one lost.

use super::partition::Written;
use super::queue::{Answer, Outcome};
use super::shared::Shared;
use crate::log::{Error, Moment, Pending};
use millstream_state::fault;
use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::oneshot;

/// How far the log is written and durable, as numbers of groups from 1.
#[derive(Default)]
pub(super) struct Horizon {
    /// The last group that was begun: whatever can be seen of the database is not younger.
    begun: AtomicU64,
    /// All groups up to this one are durable.
    durable: AtomicU64,
    state: Mutex<State>,
    /// Wakes the thread that syncs.
    work: Condvar,
    /// Wakes the writer, which waits while too much is written and not durable.
    room: Condvar,
}

#[derive(Default)]
struct State {
    /// Groups that are written and not durable, oldest first.
    unsynced: VecDeque<Unsynced>,
    /// Their records' bytes.
    bytes: usize,
    /// Who else waits for a group to be durable.
    waiting: Vec<(u64, oneshot::Sender<Result<(), Error>>)>,
    /// Why nothing becomes durable.
    failed: Option<Error>,
    closed: bool,
}

/// A group that is written.
pub(super) struct Unsynced {
    pub at: Moment,
    pub bytes: usize,
    /// Where its partitions end.
    pub ends: Vec<Written>,
    /// Whom to tell once it is durable.
    pub answers: Vec<(Answer, Outcome)>,
}

impl Horizon {
    /// Numbers the next group, before anything of it is written.
    pub(super) fn begin(&self) -> Moment {
        Moment(self.begun.fetch_add(1, Ordering::AcqRel) + 1)
    }

    pub(super) fn begun(&self) -> Moment {
        Moment(self.begun.load(Ordering::Acquire))
    }

    /// A group was written.
    pub(super) fn written(&self, group: Unsynced) {
        let mut state = self.state.lock();
        if let Some(failed) = &state.failed {
            let unknown = unknown(failed);
            drop(state);
            answer(group.answers, Some(&unknown));
            return;
        }
        state.bytes += group.bytes;
        state.unsynced.push_back(group);
        self.work.notify_one();
    }

    /// Waits while more than so many bytes are not durable yet.
    pub(super) fn wait_for_room(&self, max_bytes: usize) {
        let mut state = self.state.lock();
        while state.bytes > max_bytes && state.failed.is_none() {
            self.room.wait(&mut state);
        }
    }

    /// Waits until something is to be synced: the last group that is written. `None` once the log is closed and that was all.
    fn next(&self) -> Option<Moment> {
        let mut state = self.state.lock();
        loop {
            match state.unsynced.back() {
                Some(last) if state.failed.is_none() => return Some(last.at),
                _ if state.closed => return None,
                _ => self.work.wait(&mut state),
            }
        }
    }

    /// All groups up to this one are durable now: shows them to everybody, and tells those who waited.
    pub(super) fn advance(&self, shared: &Shared, to: Moment) {
        let mut state = self.state.lock();
        if state.failed.is_some() {
            return;
        }
        let count = state.unsynced.partition_point(|group| group.at <= to);
        let groups: Vec<Unsynced> = state.unsynced.drain(..count).collect();
        state.bytes -= groups.iter().map(|group| group.bytes).sum::<usize>();
        groups.iter().flat_map(|group| &group.ends).for_each(Written::settle);
        self.durable.store(to.0, Ordering::Release);
        let waited: Vec<_> = state.waiting.extract_if(.., |(at, _)| *at <= to.0).collect();
        self.room.notify_one();
        drop(state);
        shared.durable.advance();
        for group in groups {
            answer(group.answers, None);
        }
        for (_, waiting) in waited {
            // Whoever waited may have gone.
            let _ = waiting.send(Ok(()));
        }
    }

    /// Done once this moment is durable, or the log fails.
    pub(super) fn when(&self, at: Moment) -> Pending<()> {
        if at.0 <= self.durable.load(Ordering::Acquire) {
            return Pending::decided(Ok(()));
        }
        let mut state = self.state.lock();
        if at.0 <= self.durable.load(Ordering::Acquire) {
            return Pending::decided(Ok(()));
        }
        if let Some(error) = &state.failed {
            return Pending::refused(error.clone());
        }
        let (sender, pending) = Pending::channel();
        state.waiting.push((at.0, sender));
        pending
    }

    /// Nothing becomes durable until [`recovered`](Horizon::recovered). Those who wait for their transaction hear that its outcome is unknown.
    pub(super) fn fail(&self, error: &Error) {
        let mut state = self.state.lock();
        state.failed = Some(error.clone());
        state.bytes = 0;
        let (groups, waiting) = (std::mem::take(&mut state.unsynced), std::mem::take(&mut state.waiting));
        self.room.notify_one();
        drop(state);
        for group in groups {
            answer(group.answers, Some(&unknown(error)));
        }
        for (_, waiting) in waiting {
            let _ = waiting.send(Err(error.clone()));
        }
    }

    /// The log was read back: all that is there is durable, and nothing that anybody has read is gone.
    pub(super) fn recovered(&self) {
        let mut state = self.state.lock();
        state.failed = None;
        self.durable.store(self.begun().0, Ordering::Release);
    }

    /// Lets the thread that syncs finish and stop. To be called once nothing is written any more.
    pub(super) fn close(&self) {
        self.state.lock().closed = true;
        self.work.notify_one();
    }
}

fn unknown(error: &Error) -> Error {
    match error {
        Error::Unavailable { cause } => Error::OutcomeUnknown { cause: Arc::clone(cause) },
        other => other.clone(),
    }
}

/// Tells everybody their outcome, or that of all.
pub(super) fn answer(answers: Vec<(Answer, Outcome)>, failure: Option<&Error>) {
    for (sender, outcome) in answers {
        // Whoever asked may have gone.
        let _ = sender.send(failure.map_or(outcome, |error| Err(error.clone())));
    }
}

/// The thread that syncs: runs until the log is closed.
pub(super) fn run(shared: &Shared) {
    while let Some(last) = shared.horizon.next() {
        // It is held until all is told, so that nobody reads the database back in between.
        let Ok(store) = shared.store() else { continue };
        let synced = fault::point("log:sync:begin")
            .map_err(|e| e.to_string())
            .and_then(|()| store.sync().map_err(|e| e.to_string()))
            .and_then(|()| fault::point("log:sync:done").map_err(|e| e.to_string()));
        match synced {
            Ok(()) => shared.horizon.advance(shared, last),
            Err(cause) => {
                let cause: Arc<str> = cause.into();
                shared.horizon.fail(&Error::Unavailable { cause: Arc::clone(&cause) });
                shared.queue.ask_for_repair(&cause);
            }
        }
    }
}
