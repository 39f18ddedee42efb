//! How far the log is durable, who waits for more, and the one thread that syncs. Nothing here writes.
//!
//! The write-ahead log keeps its order over a crash: what lies behind something is lost with it. So the tasks of the process may go on from
//! what is merely written. Whatever leaves the process waits here: the answers to transactions from outside, and everybody who asks for a
//! [`Moment`](crate::log::Moment). One sync lets all of them go that were written when it began.
//!
//! Once something has failed, nothing becomes durable here any more until the log was read back, and what is found then is: a sync that
//! succeeds after one that failed says nothing about what the first one lost.

use super::partition::Written;
use super::queue::{Answer, Outcome};
use super::shared::Shared;
use crate::log::{Error, Moment, Pending};
use millstream_state::fault;
use parking_lot::{Condvar, Mutex, MutexGuard};
use std::collections::VecDeque;
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
    /// The last group that is in the database and durable. Numbers behind it may have been given to groups that could not be written.
    synced: u64,
    /// Who else waits for a group to be durable.
    waiting: Vec<(u64, oneshot::Sender<Result<(), Error>>)>,
    /// Something failed, so nothing is synced until the log was read back.
    failed: bool,
    /// Why that takes longer: nobody is let wait for it.
    hopeless: Option<Error>,
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
    /// All up to this group was found in the database.
    pub(super) fn found(&self, at: Moment) {
        self.begun.fetch_max(at.0, Ordering::AcqRel);
        self.durable.fetch_max(at.0, Ordering::AcqRel);
        let mut state = self.state.lock();
        state.synced = state.synced.max(at.0);
    }

    /// The last group that somebody has read, and the last one that is durable.
    pub(super) fn read(&self) -> (Moment, Moment) {
        let state = self.state.lock();
        let synced = Moment(state.synced);
        (state.unsynced.back().map_or(synced, |group| group.at), synced)
    }

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
        state.bytes += group.bytes;
        state.unsynced.push_back(group);
        self.work.notify_one();
    }

    /// Waits while more than so many bytes are not durable yet.
    pub(super) fn wait_for_room(&self, max_bytes: usize) {
        let mut state = self.state.lock();
        while state.bytes > max_bytes && !state.failed {
            self.room.wait(&mut state);
        }
    }

    /// Waits until something is to be synced: the last group that is written. `None` once the log is closed and that was all.
    fn next(&self) -> Option<Moment> {
        let mut state = self.state.lock();
        loop {
            match state.unsynced.back() {
                Some(last) if !state.failed => return Some(last.at),
                _ if state.closed => return None,
                _ => self.work.wait(&mut state),
            }
        }
    }

    /// All groups up to this one are durable now: shows them to everybody, and tells those who waited.
    pub(super) fn advance(&self, shared: &Shared, to: Moment) {
        let mut state = self.state.lock();
        if !state.failed {
            state.synced = state.synced.max(to.0);
            self.settle(shared, state, to);
        }
    }

    /// The log was read back: all that was written is there, and durable.
    pub(super) fn recovered(&self, shared: &Shared) {
        let mut state = self.state.lock();
        (state.failed, state.hopeless) = (false, None);
        self.settle(shared, state, self.begun());
    }

    fn settle(&self, shared: &Shared, mut state: MutexGuard<'_, State>, to: Moment) {
        let count = state.unsynced.partition_point(|group| group.at <= to);
        let groups: Vec<Unsynced> = state.unsynced.drain(..count).collect();
        state.bytes -= groups.iter().map(|group| group.bytes).sum::<usize>();
        groups.iter().flat_map(|group| &group.ends).for_each(Written::settle);
        // Where commits are not synced, the writer is ahead of the thread that syncs, which may come later with less.
        self.durable.fetch_max(to.0, Ordering::AcqRel);
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
        if let Some(error) = &state.hopeless {
            return Pending::refused(error.clone());
        }
        let (sender, pending) = Pending::channel();
        state.waiting.push((at.0, sender));
        pending
    }

    /// Nothing becomes durable until the log was read back.
    pub(super) fn fail(&self) {
        self.state.lock().failed = true;
        self.room.notify_one();
    }

    /// That takes longer, or will never be: those who wait for their transaction hear that its outcome is unknown, all others this error.
    pub(super) fn abandon(&self, error: &Error) {
        let mut state = self.state.lock();
        (state.failed, state.hopeless) = (true, Some(error.clone()));
        let waiting = std::mem::take(&mut state.waiting);
        let answers: Vec<_> = state.unsynced.iter_mut().flat_map(|group| std::mem::take(&mut group.answers)).collect();
        drop(state);
        answer(answers, Some(&Error::OutcomeUnknown { cause: error.to_string().into() }));
        for (_, waiting) in waiting {
            let _ = waiting.send(Err(error.clone()));
        }
    }

    /// Lets the thread that syncs finish and stop. To be called once nothing is written any more.
    pub(super) fn close(&self) {
        self.state.lock().closed = true;
        self.work.notify_one();
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
            Ok(()) => {
                shared.counters.syncs.fetch_add(1, Ordering::Relaxed);
                shared.horizon.advance(shared, last);
            }
            Err(cause) => {
                shared.horizon.fail();
                shared.queue.ask_for_repair(&cause.into());
            }
        }
    }
}
