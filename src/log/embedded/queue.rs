//! The transactions that wait for the writer, and what the writer is told while it sleeps. Order in, order out; nothing is
//! looked into here.

use crate::log::{Committed, Error, Pending, Transaction};
use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// How a transaction ended.
pub(super) type Outcome = Result<Committed, Error>;

/// Where to say so.
pub(super) type Answer = oneshot::Sender<Outcome>;

/// When whoever asked is told the outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// As soon as the transaction is written: a worker, whose next one lies behind it.
    Written,
    /// Once it is durable.
    Durable,
}

/// A transaction that waits, and who waits for it.
#[derive(Debug)]
pub(super) struct Job {
    pub transaction: Transaction,
    pub bytes: usize,
    pub answer: Answer,
    pub told: Told,
}

/// What the writer is to do next.
#[derive(Debug)]
pub(super) enum Work {
    /// Commit these together.
    Group(Vec<Job>),
    /// Something else than the writer failed on the database: read it back.
    Repair(Arc<str>),
    /// The log is closed, and nothing waits any more.
    Stop,
}

/// The queue.
#[derive(Debug, Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    /// Wakes the writer.
    work: Condvar,
    /// Wakes whoever rests until the log is closed.
    closing: Condvar,
}

#[derive(Debug, Default)]
struct State {
    jobs: VecDeque<Job>,
    bytes: usize,
    /// Why nothing is accepted, until it is repaired.
    broken: Option<Error>,
    /// What failed elsewhere than in the writer, which is to read the database back.
    repair: Option<Arc<str>>,
    closed: bool,
}

impl Queue {
    /// Queues a transaction, unless more than `max_queued_bytes` wait already.
    pub(super) fn push(&self, transaction: Transaction, bytes: usize, told: Told, max_queued_bytes: usize) -> Pending {
        let mut state = self.state.lock();
        if state.closed {
            return Pending::refused(Error::Closed);
        }
        if let Some(error) = &state.broken {
            return Pending::refused(error.clone());
        }
        if !state.jobs.is_empty() && state.bytes + bytes > max_queued_bytes {
            return Pending::refused(Error::Busy { queued_bytes: state.bytes });
        }
        let (answer, pending) = Pending::channel();
        state.bytes += bytes;
        state.jobs.push_back(Job { transaction, bytes, answer, told });
        if state.jobs.len() == 1 {
            self.work.notify_one();
        }
        pending
    }

    /// Waits for something to do. A group is all that waits, up to about `max_group_bytes`.
    pub(super) fn next(&self, max_group_bytes: usize) -> Work {
        let mut state = self.state.lock();
        loop {
            if let Some(cause) = state.repair.take() {
                return Work::Repair(cause);
            }
            if !state.jobs.is_empty() {
                let (mut group, mut bytes) = (Vec::with_capacity(state.jobs.len()), 0);
                while bytes < max_group_bytes
                    && let Some(job) = state.jobs.pop_front()
                {
                    bytes += job.bytes;
                    group.push(job);
                }
                state.bytes -= bytes;
                return Work::Group(group);
            }
            if state.closed {
                return Work::Stop;
            }
            self.work.wait(&mut state);
        }
    }

    /// From now on refuses everything with this error, and returns what waited.
    pub(super) fn stop_accepting(&self, error: &Error) -> Vec<Job> {
        let mut state = self.state.lock();
        state.broken = Some(error.clone());
        state.repair = None;
        state.bytes = 0;
        state.jobs.drain(..).collect()
    }

    /// Accepts again.
    pub(super) fn accept(&self) {
        self.state.lock().broken = None;
    }

    /// Lets the writer read the database back. Nothing is accepted until it has.
    pub(super) fn ask_for_repair(&self, cause: &Arc<str>) {
        let mut state = self.state.lock();
        if state.broken.is_none() {
            state.broken = Some(Error::Unavailable { cause: Arc::clone(cause) });
            state.repair = Some(Arc::clone(cause));
            self.work.notify_one();
        }
    }

    /// Why nothing is accepted, if something failed and is not repaired yet.
    pub(super) fn broken(&self) -> Option<Error> {
        self.state.lock().broken.clone()
    }

    /// Lets the writer finish what waits and stop.
    pub(super) fn close(&self) {
        self.state.lock().closed = true;
        self.work.notify_one();
        self.closing.notify_all();
    }

    /// Whether the log is closed.
    pub(super) fn is_closed(&self) -> bool {
        self.state.lock().closed
    }

    /// Waits as long as this, or until the log is closed; returns whether it is.
    pub(super) fn wait_for_close(&self, at_most: Duration) -> bool {
        let mut state = self.state.lock();
        if !state.closed {
            self.closing.wait_for(&mut state, at_most);
        }
        state.closed
    }
}
