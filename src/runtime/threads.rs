//! The worker threads of an application: as many as the configuration says at the start, more or fewer while it runs.
//!
//! Where a group shares out tasks, a thread more or less is a member more or less, and the group deals with it. The only process of an
//! embedded log deals its tasks out itself: all threads commit and hand back what they have, and as many as there are to be go on with it.
//! No task is ever with two threads, and none is processed between its last commit there and its first step here.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;

use parking_lot::Mutex;

use super::roles::Role;
use super::taking::Restorers;
use super::worker::Worker;
use super::{Shared, StartError, presence};
use crate::error::ProcessError;
use crate::log::{Inputs, Member, Membership};
use crate::task::Task;
use crate::topology::SubTopology;

/// Why there is no thread more, or less. Everything goes on as before.
#[derive(Debug, thiserror::Error)]
pub enum ThreadError {
    /// A thread more would have nothing to do.
    #[error("there are {tasks} tasks, and as many threads")]
    NoTaskLeft {
        /// How many tasks the application has.
        tasks: usize,
    },
    /// Somebody must process.
    #[error("the last thread cannot be removed: pause the application, or stop it")]
    Last,
    /// It ends, or has failed.
    #[error("the application does not run")]
    NotRunning,
    /// The group could not be joined, or the system gave no thread.
    #[error(transparent)]
    Start(#[from] StartError),
}

struct WorkerThread {
    number: usize,
    leave: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Task>>,
}

impl WorkerThread {
    fn ask_to_leave(&self) {
        self.leave.store(true, Ordering::Release);
    }

    /// Waits for its end. What it had, if it hands that back.
    fn join(self) -> Vec<Task> {
        self.thread.join().expect("a worker thread catches its panics")
    }
}

/// The worker threads that there are.
pub(crate) struct Threads {
    running: Mutex<Vec<WorkerThread>>,
    /// All numbers that threads have had since the start are below this.
    numbers: AtomicUsize,
    restorers: Restorers,
}

impl Threads {
    pub(super) fn new(restorers: Restorers) -> Threads {
        Threads { running: Mutex::default(), numbers: AtomicUsize::new(0), restorers }
    }

    /// All numbers that threads have had since the start are below this.
    pub(super) fn numbers(&self) -> usize {
        self.numbers.load(Ordering::Acquire)
    }

    pub(super) fn count(&self) -> usize {
        self.running.lock().len()
    }

    /// Waits for the end of all of them, which they have been told of.
    pub(super) fn join_all(&self) {
        let running = std::mem::take(&mut *self.running.lock());
        running.into_iter().for_each(|thread| drop(thread.join()));
    }
}

impl Shared {
    /// Starts the first threads; `tasks` are those that no group gives.
    pub(super) fn start_threads(self: &Arc<Shared>, tasks: Vec<Task>) -> Result<(), StartError> {
        let mut running = self.threads.running.lock();
        let count = if self.embedded.is_some() { self.config.threads.clamp(1, tasks.len().max(1)) } else { self.config.threads };
        self.deal(&mut running, tasks, count)
    }

    /// One more. Its number.
    pub(super) fn add_thread(self: &Arc<Shared>) -> Result<usize, ThreadError> {
        let mut running = self.threads.running.lock();
        self.must_run()?;
        if self.embedded.is_some() {
            let tasks = self.tasks.iter().sum::<u32>() as usize;
            if running.len() >= tasks {
                return Err(ThreadError::NoTaskLeft { tasks });
            }
            let count = running.len() + 1;
            self.deal_anew(&mut running, count)?;
            return Ok(count - 1);
        }
        let free = (0..).find(|number| running.iter().all(|thread| thread.number != *number)).unwrap_or_default();
        self.start(&mut running, vec![(free, Vec::new())])?;
        Ok(free)
    }

    /// One fewer: it commits, leaves the group and ends. The number that it had.
    pub(super) fn remove_thread(self: &Arc<Shared>) -> Result<usize, ThreadError> {
        let mut running = self.threads.running.lock();
        self.must_run()?;
        if running.len() <= 1 {
            return Err(ThreadError::Last);
        }
        if self.embedded.is_some() {
            let count = running.len() - 1;
            self.deal_anew(&mut running, count)?;
            return Ok(count);
        }
        let last = running.iter().enumerate().max_by_key(|(_, thread)| thread.number).map_or(0, |(place, _)| place);
        let thread = running.remove(last);
        let number = thread.number;
        thread.ask_to_leave();
        self.log.wake();
        thread.join();
        self.must_run().map(|()| number)
    }

    fn must_run(&self) -> Result<(), ThreadError> {
        if self.stopping.load(Ordering::Acquire) { Err(ThreadError::NotRunning) } else { Ok(()) }
    }

    /// Takes all tasks back, committed, and gives them to so many threads.
    fn deal_anew(self: &Arc<Shared>, running: &mut Vec<WorkerThread>, count: usize) -> Result<(), ThreadError> {
        running.iter().for_each(WorkerThread::ask_to_leave);
        self.log.wake();
        let mut tasks: Vec<Task> = running.drain(..).flat_map(WorkerThread::join).collect();
        // Who failed, or stops, hands nothing back.
        self.must_run()?;
        tasks.sort_by_key(|task| (task.sub_index(), task.partition()));
        self.deal(running, tasks, count).inspect_err(|error| self.fail(format!("tasks could not be dealt anew: {error}")))?;
        Ok(())
    }

    fn deal(self: &Arc<Shared>, running: &mut Vec<WorkerThread>, tasks: Vec<Task>, count: usize) -> Result<(), StartError> {
        let mut shares: Vec<Vec<Task>> = (0..count).map(|_| Vec::new()).collect();
        for (i, task) in tasks.into_iter().enumerate() {
            shares[i % count].push(task);
        }
        self.start(running, shares.into_iter().enumerate().collect())
    }

    /// Starts threads of these numbers with these tasks.
    fn start(self: &Arc<Shared>, running: &mut Vec<WorkerThread>, shares: Vec<(usize, Vec<Task>)>) -> Result<(), StartError> {
        let Some(numbers) = shares.iter().map(|(number, _)| number + 1).max() else { return Ok(()) };
        // Whoever ends the transactions of a dead process must know its numbers.
        self.threads.numbers.fetch_max(numbers, Ordering::AcqRel);
        let announced = presence::announce(self)?;
        for task in shares.iter().flat_map(|(_, tasks)| tasks) {
            self.roles.set(task.sub_index(), task.partition(), Role::Owner);
        }
        // Each asks the log for several things, and waits for each.
        let members = std::thread::scope(|scope| {
            let join = |number: usize| scope.spawn(move || self.log.join(self.membership(number)));
            let joining: Vec<_> = shares.iter().map(|(number, _)| join(*number)).collect();
            let joined = joining.into_iter().map(|member| member.join().unwrap_or_else(|panic| resume_unwind(panic)));
            joined.collect::<Result<Vec<_>, _>>()
        })?;
        if let Some(announced) = announced {
            announced.wait().map_err(StartError::from)?;
        }
        for ((number, tasks), member) in shares.into_iter().zip(members) {
            running.push(self.start_thread(number, tasks, member)?);
        }
        Ok(())
    }

    fn start_thread(
        self: &Arc<Shared>,
        number: usize,
        tasks: Vec<Task>,
        member: Box<dyn Member>,
    ) -> Result<WorkerThread, StartError> {
        let leave = Arc::new(AtomicBool::new(false));
        let worker = Worker::new(Arc::clone(self), number, member, tasks, self.threads.restorers.clone(), Arc::clone(&leave));
        let shared = Arc::clone(self);
        let run = move || {
            catch_unwind(AssertUnwindSafe(|| worker.run())).unwrap_or_else(|panic| {
                shared.fail(format!("thread worker-{number} {}", ProcessError::panicked(&*panic)));
                Vec::new()
            })
        };
        let thread = std::thread::Builder::new().name(format!("worker-{number}")).spawn(run)?;
        Ok(WorkerThread { number, leave, thread })
    }

    /// What a worker of this application is a member of.
    fn membership(&self, worker: usize) -> Membership {
        let only = self.config.sub_topologies.as_deref();
        let inputs = |(sub, tasks): (&SubTopology, &u32)| {
            let taken = only.is_none_or(|only| only.contains(&sub.name));
            let topics = sub.sources.iter().map(|source| self.topics[self.topology.sources[source.0].topic.0].id);
            Inputs { topics: topics.filter(|_| taken).collect(), tasks: if taken { *tasks } else { 0 } }
        };
        Membership {
            group: Arc::clone(&self.group),
            worker,
            subs: self.topology.subs.iter().zip(&self.tasks).map(inputs).collect(),
        }
    }
}
