//! A worker thread: fetches for its tasks, lets them step, and commits for all of them when they are idle, or at the latest after the
//! commit interval or at the byte budget.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use super::Shared;
use super::commit::{CommitError, commit};
use super::roles::Role;
use super::taking::{Restorers, Taken, Wanted};
use crate::error::ProcessError;
use crate::log::{self, Change, Member};
use crate::record::Timestamp;
use crate::task::{Step, Task};

/// How much is fetched for one input at once, in bytes.
const FETCH_BYTES: usize = 1 << 20;
/// How many steps a task may take before the others have their turn and the clock is read again.
const SLICE: usize = 128;
/// The longest sleep; timers on the wall clock are looked at that often.
const MAX_WAIT: Duration = Duration::from_millis(100);
/// No transaction of a thread grows much larger than this, whatever the configuration says.
const MAX_COMMIT_BYTES: usize = 64 << 20;
/// How many steps are made before the clock and the byte budget are looked at.
const CHECK_EVERY: usize = 8;
/// How long a task's slice lasts where its steps are slow.
const SLICE_TIME: Duration = Duration::from_millis(10);

/// The longest sleep while a task is being restored.
const RESTORE_WAIT: Duration = Duration::from_millis(5);

/// The longest rest after a commit for each KiB that it held, beyond the least. A rest gathers what comes, so that there is more for the next
/// commit's costs; where little comes, it would only make everybody wait.
const REST_PER_KIB: Duration = Duration::from_micros(50);
/// The least rest is this part of the time that the commit took: a cluster whose commits are slow because it is busy is not given many more of
/// them. What goes through several tasks waits for a rest and a commit each time. Measured on two cores with all that `make up` starts, at 500
/// claims a second: with a rest as long as the commit an event came after 63 to 72 ms (p50) and 149 to 156 (p99), with a third of it after 46 to 62
/// and 95 to 126.
const LEAST_REST: u32 = 3;

/// The pause after a failed transaction; each further failure doubles it, up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause where another member of the group is the reason.
const LONGEST_PAUSE_OF_GROUP: Duration = Duration::from_millis(50);

pub(super) struct Worker {
    shared: Arc<Shared>,
    number: usize,
    member: Box<dyn Member>,
    /// Whether the group knows this worker.
    joined: bool,
    /// Whether this worker is to hand over what it has and end, while others go on.
    leave: Arc<AtomicBool>,
    tasks: Vec<Task>,
    /// Tasks that the group gave and that are not restored yet.
    wanted: Vec<Wanted>,
    restorers: Restorers,
    taken: (mpsc::Sender<Taken>, mpsc::Receiver<Taken>),
    /// The task whose turn is next.
    next: usize,
    /// When the first uncommitted step was made.
    pending_since: Option<Instant>,
    last_commit: Instant,
    /// How long to gather before the next commit.
    rest: Duration,
    /// How long to rest after the next failure.
    pause: Duration,
}

/// What a round over the tasks came to.
struct Round {
    worked: bool,
    retry_at: Option<Timestamp>,
}

impl Worker {
    pub(super) fn new(
        shared: Arc<Shared>,
        number: usize,
        member: Box<dyn Member>,
        tasks: Vec<Task>,
        restorers: Restorers,
        leave: Arc<AtomicBool>,
    ) -> Worker {
        let joined = member.is_member();
        if !joined {
            shared.note_joining(true);
        }
        // What a task noted when it was taken is pending from the beginning.
        let (pending_since, last_commit) = (Some(Instant::now()), Instant::now());
        Worker {
            shared,
            number,
            member,
            joined,
            leave,
            tasks,
            wanted: Vec::new(),
            restorers,
            taken: mpsc::channel(),
            next: 0,
            pending_since,
            last_commit,
            rest: Duration::ZERO,
            pause: FIRST_PAUSE,
        }
    }

    /// Runs until the application stops or cannot go on, or until the worker is asked to leave. The answer is its tasks, all that they did
    /// committed, if no group gives them to others.
    pub(super) fn run(mut self) -> Vec<Task> {
        loop {
            while !self.is_stopping() && !self.leave.load(Ordering::Acquire) {
                if let Err(error) = self.turn()
                    && !self.recover(&error)
                {
                    // Nothing is committed after a transaction that failed before its tasks were taken anew: its outputs are gone.
                    return Vec::new();
                }
            }
            let Err(error) = commit(&self.shared, &mut *self.member, &mut self.tasks) else { return self.hand_over() };
            if self.is_stopping() {
                tracing::warn!(%error, "the last transaction was not committed; it is repeated at the next start");
                return Vec::new();
            }
            if !self.recover(&error) {
                return Vec::new();
            }
        }
    }

    /// Gives up all tasks, between transactions.
    fn hand_over(mut self) -> Vec<Task> {
        self.shared.note_counts(&mut self.tasks);
        self.shared.trouble.lock().remove(&self.number);
        let tasks = std::mem::take(&mut self.tasks);
        if self.shared.embedded.is_some() && !self.is_stopping() {
            return tasks;
        }
        let held = tasks.iter().map(|task| (task.sub_index(), task.partition()));
        let held: Vec<_> = held.chain(self.wanted.iter().map(|wanted| (wanted.sub, wanted.partition))).collect();
        drop(tasks);
        self.wanted.clear();
        if !self.is_stopping() {
            // The member leaves after this, and only then the group gives them to others, perhaps of this process.
            held.into_iter().for_each(|(sub, partition)| self.shared.roles.set(sub, partition, Role::Away));
        }
        Vec::new()
    }

    fn is_stopping(&self) -> bool {
        self.shared.stopping.load(Ordering::Acquire)
    }

    /// Takes and gives up tasks as the group says. Only between transactions: what a task has not committed goes with it.
    fn follow_group(&mut self) -> Result<(), CommitError> {
        let changes = self.member.changes()?;
        let is_news = !changes.is_empty();
        for change in changes {
            match change {
                Change::Assigned { sub, partition } => {
                    self.shared.roles.set(sub, partition, Role::Taking);
                    self.wanted.push(self.restorers.take(sub, partition, &self.taken.0));
                }
                Change::Revoked { sub, partition } => {
                    self.shared.roles.set(sub, partition, Role::Away);
                    self.wanted.retain(|wanted| (wanted.sub, wanted.partition) != (sub, partition));
                    self.tasks.retain(|task| (task.sub_index(), task.partition()) != (sub, partition));
                    self.next = 0;
                }
            }
        }
        if is_news {
            // Who follows a task lets it go, or may begin to.
            self.shared.log.wake();
        }
        if !self.joined && self.member.is_member() {
            self.joined = true;
            self.shared.note_joining(false);
        } else if is_news {
            self.shared.note_state();
        }
        while let Ok(taken) = self.taken.1.try_recv() {
            let Some(place) = self.wanted.iter().position(|wanted| wanted.is(&taken)) else { continue };
            let task = taken.outcome?;
            let Wanted { sub, partition, .. } = self.wanted[place];
            self.wanted.swap_remove(place);
            // Its views begin anew from here, wherever their changes came from before.
            self.shared.watchers.cut_off();
            // If it cannot begin now, it is taken anew with the others: what the group gave is told once.
            self.tasks.push(task);
            self.shared.roles.set(sub, partition, Role::Owner);
            self.shared.note_state();
            self.pending_since = Some(Instant::now());
            self.begin(self.tasks.len() - 1)?;
        }
        Ok(())
    }

    /// Reads the inputs of a task from where its state stands.
    fn begin(&mut self, place: usize) -> Result<(), CommitError> {
        let task = &self.tasks[place];
        let (sub, partition) = (task.sub_index(), task.partition());
        let offsets: Vec<_> = task.next_offsets().collect();
        for (topic, next) in &offsets {
            self.shared.progress.set(*topic, partition, *next);
        }
        self.shared.progress.signal();
        let offsets: Vec<_> = offsets.into_iter().map(|(topic, next)| (self.shared.topics[topic.0].id, next)).collect();
        Ok(self.member.begin(sub, partition, &offsets)?)
    }

    /// One turn: fetch, process, commit if it is time, and wait if there is nothing to do.
    fn turn(&mut self) -> Result<(), CommitError> {
        if self.pending_since.is_none() {
            self.follow_group()?;
        }
        if self.shared.lifecycle.is_paused() {
            return self.pause();
        }
        self.fetch()?;
        let round = self.process()?;
        if self.pending_since.is_none() && (round.worked || self.tasks.iter().any(Task::has_moved)) {
            self.pending_since = Some(Instant::now());
        }
        if let Some(since) = self.pending_since {
            let rested = self.last_commit.elapsed() >= self.rest;
            if (!round.worked && rested) || since.elapsed() >= self.interval() || self.pending_bytes() >= self.max_bytes() {
                return self.commit();
            }
        }
        if !round.worked {
            let until_retry = round.retry_at.map(|at| at.0.saturating_sub(self.shared.config.clock.now().0).max(0) as u64);
            let until_commit = self.pending_since.map(|_| self.rest.saturating_sub(self.last_commit.elapsed()));
            let wait = MAX_WAIT.min(until_retry.map_or(MAX_WAIT, Duration::from_millis)).min(until_commit.unwrap_or(MAX_WAIT));
            self.wait(wait);
        }
        Ok(())
    }

    /// A turn without processing: what was processed before is committed, and the group is followed.
    fn pause(&mut self) -> Result<(), CommitError> {
        if self.pending_since.is_some() {
            return self.commit();
        }
        self.wait(MAX_WAIT);
        Ok(())
    }

    fn wait(&mut self, wait: Duration) {
        self.member.wait(if self.wanted.is_empty() { wait } else { wait.min(RESTORE_WAIT) });
    }

    fn interval(&self) -> Duration {
        Duration::from_millis(self.shared.config.commit_interval_ms)
    }

    fn max_bytes(&self) -> usize {
        self.shared.config.commit_bytes.min(MAX_COMMIT_BYTES)
    }

    fn pending_bytes(&self) -> usize {
        self.tasks.iter().map(Task::pending_bytes).sum()
    }

    fn commit(&mut self) -> Result<(), CommitError> {
        let (begun, kib) = (Instant::now(), self.pending_bytes().div_ceil(1 << 10) as u32);
        let committed = commit(&self.shared, &mut *self.member, &mut self.tasks)?;
        self.pending_since = None;
        if committed {
            self.last_commit = Instant::now();
            let took = self.last_commit - begun;
            self.rest = (2 * took).min(kib * REST_PER_KIB).max(took / LEAST_REST);
            self.shared.metrics.commit_took(took);
        }
        self.shared.note_counts(&mut self.tasks);
        self.make_room()?;
        self.shared.trouble.lock().remove(&self.number);
        self.pause = FIRST_PAUSE;
        Ok(())
    }

    /// Goes on only when the state has room: what is committed stays in memory as long as the disk does not take it.
    fn make_room(&mut self) -> Result<(), ProcessError> {
        while let Err(error) = self.shared.db.make_room().map_err(ProcessError::State) {
            if !error.is_passing() || self.is_stopping() {
                return Err(error);
            }
            self.rest(&error.to_string());
        }
        Ok(())
    }

    /// Says what is wrong, and waits, each time longer, until it may be worth another try.
    fn rest(&mut self, reason: &str) {
        self.shared.trouble.lock().insert(self.number, reason.to_owned());
        let until = Instant::now() + self.pause;
        while !self.is_stopping() && Instant::now() < until {
            self.shared.log.wait(self.shared.log.version(), until.saturating_duration_since(Instant::now()));
        }
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
    }

    fn fetch(&mut self) -> Result<(), log::Error> {
        for task in &mut self.tasks {
            fetch_inputs(&self.shared, &mut *self.member, task, false)?;
        }
        Ok(())
    }

    /// Lets each task take a slice of steps, as far as the commit interval and the byte budget go; the others are first in the next round.
    fn process(&mut self) -> Result<Round, CommitError> {
        let mut round = Round { worked: false, retry_at: None };
        let (begun, interval, max_bytes) = (Instant::now(), self.interval(), self.max_bytes());
        let mut pending = self.pending_bytes();
        for _ in 0..self.tasks.len() {
            let task = &mut self.tasks[self.next];
            let others = pending - task.pending_bytes();
            slice(&self.shared, &mut *self.member, task, max_bytes.saturating_sub(others), &mut round)?;
            pending = others + task.pending_bytes();
            self.next = (self.next + 1) % self.tasks.len();
            if pending >= max_bytes || begun.elapsed() >= interval {
                break;
            }
        }
        Ok(round)
    }

    /// After a failed transaction: takes all tasks anew, and tries until that succeeds. False if the application stops before, or because
    /// what has failed will not work again.
    fn recover(&mut self, error: &CommitError) -> bool {
        tracing::warn!(%error, "the transaction was aborted");
        self.shared.metrics.aborted();
        let (mut fatal, mut reason) = (error.is_fatal(), error.to_string());
        if matches!(error, CommitError::Log(log::Error::Aborted { .. })) {
            // While the group shares out tasks it refuses commits, which is soon over: nothing has failed.
            self.pause = self.pause.min(LONGEST_PAUSE_OF_GROUP);
        }
        while !fatal && !self.is_stopping() {
            self.rest(&reason);
            // A log that has failed answers from memory until it is read back, and does not know yet what it has committed.
            match self.shared.log.health() {
                log::Health::Up => {}
                log::Health::Repairing { .. } => continue,
                log::Health::Failed { cause } => {
                    (fatal, reason) = (true, cause.to_string());
                    continue;
                }
            }
            match self.retake() {
                Ok(()) => {
                    self.pending_since = Some(Instant::now());
                    return true;
                }
                Err(error) => {
                    tracing::warn!(%error, "the tasks cannot be taken anew yet");
                    (fatal, reason) = (error.is_fatal(), error.to_string());
                }
            }
        }
        if fatal {
            tracing::error!(reason, "the worker cannot go on");
            self.shared.fail(reason);
        }
        false
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if !self.joined {
            self.shared.note_joining(false);
        } else {
            self.shared.note_state();
        }
    }
}

impl Worker {
    /// Takes the tasks that are still this worker's anew after an aborted transaction.
    fn retake(&mut self) -> Result<(), CommitError> {
        self.follow_group()?;
        self.shared.retake(&mut self.tasks)?;
        (0..self.tasks.len()).try_for_each(|place| self.begin(place))
    }
}

/// Lets a task step until it has nothing to do, or others should have their turn.
fn slice(
    shared: &Shared,
    member: &mut dyn Member,
    task: &mut Task,
    max_bytes: usize,
    round: &mut Round,
) -> Result<(), CommitError> {
    let (begun, now) = (Instant::now(), shared.config.clock.now());
    let mut checked = false;
    for step in 1..=SLICE {
        // A task whose one input is empty while another is not looks again before it goes on: what was appended before the waiting
        // records must be taken before them.
        if task.is_lopsided() {
            if !checked {
                fetch_inputs(shared, member, task, true)?;
                checked = true;
            }
        } else {
            checked = false;
        }
        match task.step(now, true)? {
            Step::Done | Step::Parked => round.worked = true,
            Step::Idle => break,
            Step::Paused(at) | Step::Waiting(at) => {
                round.retry_at = Some(round.retry_at.map_or(at, |other| other.min(at)));
                break;
            }
        }
        if step % CHECK_EVERY == 0 && (task.pending_bytes() >= max_bytes || begun.elapsed() >= SLICE_TIME) {
            break;
        }
    }
    shared.metrics.processing_took(task.sub_index(), begun.elapsed());
    Ok(())
}

/// Fetches for the inputs that want records; only for those that have none if `empty_only`.
fn fetch_inputs(shared: &Shared, member: &mut dyn Member, task: &mut Task, empty_only: bool) -> Result<(), log::Error> {
    for input in 0..task.inputs_len() {
        let Some((topic, from)) = task.wants(input, empty_only) else { continue };
        let topic = &shared.topics[topic.0];
        match member.fetch(topic.id, task.partition(), from, FETCH_BYTES) {
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
