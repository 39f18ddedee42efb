//! A worker thread: fetches for its tasks, lets them step, and commits for all of them when they are idle, or at the latest after the
//! commit interval or at the byte budget.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::Shared;
use super::commit::{CommitError, commit};
use crate::error::ProcessError;
use crate::log::{self, Log};
use crate::record::Timestamp;
use crate::task::{Step, Task};

/// How much is fetched for one input at once, in bytes.
const FETCH_BYTES: usize = 1 << 20;
/// How many steps a task may take before the others have their turn and the clock is read again.
const SLICE: usize = 128;
/// The longest sleep; timers on the wall clock are looked at that often.
const MAX_WAIT: Duration = Duration::from_millis(100);
/// The pause after a failed transaction; each further failure doubles it, up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

pub(super) struct Worker {
    shared: Arc<Shared>,
    tasks: Vec<Task>,
    /// When the first uncommitted step was made.
    pending_since: Option<Instant>,
    last_commit: Instant,
    last_commit_took: Duration,
    /// How long to rest after the next failure.
    pause: Duration,
}

/// What a round over the tasks came to.
struct Round {
    worked: bool,
    retry_at: Option<Timestamp>,
}

impl Worker {
    pub(super) fn new(shared: Arc<Shared>, tasks: Vec<Task>) -> Worker {
        let (last_commit, last_commit_took) = (Instant::now(), Duration::ZERO);
        Worker { shared, tasks, pending_since: None, last_commit, last_commit_took, pause: FIRST_PAUSE }
    }

    /// Runs until the application stops or cannot go on.
    pub(super) fn run(mut self) {
        while !self.shared.stopping.load(Ordering::Acquire) {
            if let Err(error) = self.turn() {
                self.recover(&error);
            }
        }
        if let Err(error) = commit(&self.shared, &mut self.tasks) {
            tracing::warn!(%error, "the last transaction was not committed; it is repeated at the next start");
        }
    }

    /// One turn: fetch, process, commit if it is time, and wait if there is nothing to do.
    fn turn(&mut self) -> Result<(), CommitError> {
        let seen = self.shared.log.version();
        self.fetch()?;
        let round = self.process()?;
        if round.worked && self.pending_since.is_none() {
            self.pending_since = Some(Instant::now());
        }
        if let Some(since) = self.pending_since {
            let interval = Duration::from_millis(self.shared.config.commit_interval_ms);
            let full = || self.tasks.iter().map(Task::pending_bytes).sum::<usize>() >= self.shared.config.commit_bytes;
            let rested = self.last_commit.elapsed() >= 2 * self.last_commit_took;
            if (!round.worked && rested) || since.elapsed() >= interval || full() {
                return self.commit();
            }
        }
        if !round.worked {
            let until_retry = round.retry_at.map(|at| at.0.saturating_sub(self.shared.config.clock.now().0).max(0) as u64);
            let until_commit = self.pending_since.map(|_| (2 * self.last_commit_took).saturating_sub(self.last_commit.elapsed()));
            let wait = MAX_WAIT.min(until_retry.map_or(MAX_WAIT, Duration::from_millis)).min(until_commit.unwrap_or(MAX_WAIT));
            self.shared.log.wait(seen, wait);
        }
        Ok(())
    }

    fn commit(&mut self) -> Result<(), CommitError> {
        let begun = Instant::now();
        let committed = commit(&self.shared, &mut self.tasks)?;
        self.pending_since = None;
        self.pause = FIRST_PAUSE;
        if committed {
            self.last_commit = Instant::now();
            self.last_commit_took = self.last_commit - begun;
            self.shared.metrics.commit_took(self.last_commit_took);
        }
        self.shared.note_counts(&mut self.tasks);
        self.shared.db.make_room().map_err(ProcessError::State)?;
        Ok(())
    }

    fn fetch(&mut self) -> Result<(), log::Error> {
        for task in &mut self.tasks {
            fetch_inputs(&self.shared, task, false)?;
        }
        Ok(())
    }

    /// Lets each task take a slice of steps.
    fn process(&mut self) -> Result<Round, CommitError> {
        let mut round = Round { worked: false, retry_at: None };
        for task in &mut self.tasks {
            let now = self.shared.config.clock.now();
            let mut checked = false;
            for _ in 0..SLICE {
                // A task whose one input is empty while another is not looks again before it goes on: what was appended before
                // the waiting records must be taken before them.
                if task.is_lopsided() {
                    if !checked {
                        fetch_inputs(&self.shared, task, true)?;
                        checked = true;
                    }
                } else {
                    checked = false;
                }
                match task.step(now)? {
                    Step::Done | Step::Parked => round.worked = true,
                    Step::Idle => break,
                    Step::Paused(at) => {
                        round.retry_at = Some(round.retry_at.map_or(at, |other| other.min(at)));
                        break;
                    }
                }
            }
        }
        Ok(round)
    }

    /// After a failed transaction: takes all tasks anew. Keeps trying while the log is away; a log that is damaged ends the application.
    fn recover(&mut self, error: &CommitError) {
        tracing::warn!(%error, "the transaction was aborted");
        self.shared.metrics.aborted();
        let mut fatal = matches!(error, CommitError::Log(error) if error.is_fatal())
            || matches!(error, CommitError::Process(ProcessError::State(_)));
        self.pending_since = None;
        let mut taken = false;
        while !taken && !fatal && !self.shared.stopping.load(Ordering::Acquire) {
            match self.shared.retake(&mut self.tasks) {
                Ok(()) => taken = true,
                Err(error) => {
                    fatal = error.is_fatal();
                    tracing::warn!(%error, "the tasks cannot be taken anew yet");
                }
            }
            self.shared.log.wait(self.shared.log.version(), self.pause);
            self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        }
        if fatal {
            tracing::error!(%error, "the worker cannot go on");
            self.shared.fail(error.to_string());
        }
    }
}

/// Fetches for the inputs that want records; only for those that have none if `empty_only`.
fn fetch_inputs(shared: &Shared, task: &mut Task, empty_only: bool) -> Result<(), log::Error> {
    for input in 0..task.inputs_len() {
        let Some((topic, from)) = task.wants(input, empty_only) else { continue };
        let topic = &shared.topics[topic.0];
        match shared.log.fetch(topic.id, task.partition(), from, FETCH_BYTES) {
            Ok(fetched) if fetched.next == from => {}
            Ok(fetched) => task.enqueue(input, fetched.batches, fetched.next),
            Err(log::Error::OutOfRange { start, .. }) if from < start => {
                tracing::warn!(
                    topic = &*topic.name,
                    partition = task.partition().0,
                    from = from.0,
                    start = start.0,
                    "records were deleted by retention before they were processed"
                );
                task.skip_to(input, start);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
