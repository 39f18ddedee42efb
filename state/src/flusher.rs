//! When to flush, and the thread that does it: when much is dirty or memory is short, when rows have waited long, and soon after commits have
//! stopped, so that a restart has little to replay. It never holds up an owner, unless memory is over its budget.

use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::budget::Budget;
use crate::db::Shared;
use crate::error::Error;
use crate::flush::{flush, forget};

/// How long a failed flush waits for its next try.
const RETRY: Duration = Duration::from_secs(1);

/// A trickle of commits, each followed by a pause, must not make a file each: flushes for idleness are so many idle times apart.
const IDLE_GAP: u32 = 5;

/// What is known about the pace of commits and flushes.
pub(crate) struct Pace {
    every: Duration,
    idle: Duration,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    dirty_since: Option<Instant>,
    last_commit: Instant,
    last_flush: Instant,
    /// Work that should not wait, as the budget said after a commit or as an owner asked.
    pressed: bool,
    retry_at: Option<Instant>,
    rounds_begun: u64,
    rounds_done: u64,
    outcome: Result<(), Error>,
    stop: bool,
}

impl Pace {
    pub(crate) fn new(every: Duration, idle: Duration) -> Pace {
        let now = Instant::now();
        let state = State {
            dirty_since: None,
            last_commit: now,
            last_flush: now,
            pressed: false,
            retry_at: None,
            rounds_begun: 0,
            rounds_done: 0,
            outcome: Ok(()),
            stop: false,
        };
        Pace { every, idle, state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Something was committed.
    pub(crate) fn committed(&self, budget: &Budget) {
        let now = Instant::now();
        let mut state = self.state.lock();
        state.last_commit = now;
        let first = state.dirty_since.is_none();
        state.dirty_since.get_or_insert(now);
        if budget.pressing() {
            state.pressed = true;
        }
        if first || state.pressed {
            self.changed.notify_all();
        }
    }

    /// A flush begins.
    pub(crate) fn flushing(&self) {
        let mut state = self.state.lock();
        state.dirty_since = None;
        state.last_flush = Instant::now();
    }

    /// A flush failed: what was dirty still is.
    pub(crate) fn flush_failed(&self) {
        let now = Instant::now();
        let mut state = self.state.lock();
        state.dirty_since.get_or_insert(now);
        state.retry_at = Some(now + RETRY);
    }

    pub(crate) fn stop(&self) {
        self.state.lock().stop = true;
        self.changed.notify_all();
    }

    /// Asks for a round at once and waits until one that began after this has ended, or there is room before that.
    pub(crate) fn wait_for_round(&self, budget: &Budget) -> Result<(), Error> {
        let mut state = self.state.lock();
        let round = state.rounds_begun + 1;
        state.pressed = true;
        state.retry_at = None;
        self.changed.notify_all();
        while !state.stop && state.rounds_done < round && budget.exceeded() {
            self.changed.wait(&mut state);
        }
        match () {
            () if !budget.exceeded() => Ok(()),
            () if state.stop => Err(Error::io("flushed", &"the flusher has stopped")),
            () => state.outcome.clone(),
        }
    }

    /// Waits until a round is due; false to stop.
    fn begin_round(&self) -> bool {
        let mut state = self.state.lock();
        loop {
            if state.stop {
                return false;
            }
            match self.due(&state) {
                Some(at) if at <= Instant::now() => break,
                Some(at) => drop(self.changed.wait_until(&mut state, at)),
                None => self.changed.wait(&mut state),
            }
        }
        state.pressed = false;
        state.retry_at = None;
        state.rounds_begun += 1;
        true
    }

    fn end_round(&self, outcome: Result<(), Error>) {
        let mut state = self.state.lock();
        state.outcome = outcome;
        state.rounds_done = state.rounds_begun;
        self.changed.notify_all();
    }

    fn due(&self, state: &State) -> Option<Instant> {
        let idle = (state.last_commit + self.idle).max(state.last_flush + self.idle * IDLE_GAP);
        let waited = state.dirty_since.map(|since| idle.min(since + self.every));
        state.retry_at.or(if state.pressed { Some(state.last_commit) } else { waited })
    }
}

/// The flusher's thread.
pub(crate) fn run(shared: &Shared) {
    let _stop = StopAtEnd(&shared.pace); // also at the end by a panic: nobody may wait for a round that does not come
    while shared.pace.begin_round() {
        let outcome = round(shared);
        if let Err(error) = &outcome {
            tracing::error!(%error, "state could not be flushed, the rows stay in memory");
        }
        shared.pace.end_round(outcome);
    }
}

struct StopAtEnd<'a>(&'a Pace);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// Flushes, and forgets what has no room.
pub(crate) fn round(shared: &Shared) -> Result<(), Error> {
    let flushed = flush(shared);
    if shared.budget.exceeded() {
        forget(shared);
    }
    flushed.map(drop)
}
