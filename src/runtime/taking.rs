//! Taking tasks: from the database, restored to the end of their changelogs, ready to step. Where a group shares out the tasks, it is done
//! on threads of its own, so that tasks that are ready never wait for one that is not. A task that is not wanted any more is given up.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use millstream_state::TaskId;
use parking_lot::Mutex;

use super::{Shared, StartError, restore};
use crate::record::Partition;
use crate::task::Task;

/// How long to wait for a task that another worker of this process has not let go of yet, or a log that is away.
const PAUSE: Duration = Duration::from_millis(20);

/// How often to look whether the application stops.
const LOOK: Duration = Duration::from_millis(100);

/// A task that one worker has asked for. Dropping it says that it is not wanted any more.
pub(super) struct Wanted {
    pub(super) sub: usize,
    pub(super) partition: Partition,
    wanted: Arc<AtomicBool>,
}

impl Drop for Wanted {
    fn drop(&mut self) {
        self.wanted.store(false, Ordering::Release);
    }
}

impl Wanted {
    /// Whether this is what came of the asking. A task that was asked for before, was not wanted any more and is asked for again is another: its
    /// state may be that of before.
    pub(super) fn is(&self, taken: &Taken) -> bool {
        Arc::ptr_eq(&self.wanted, &taken.wanted)
    }
}

/// A task that is ready, or why it never will be.
pub(super) struct Taken {
    wanted: Arc<AtomicBool>,
    pub(super) outcome: Result<Task, StartError>,
}

pub(super) struct Job {
    sub: usize,
    partition: Partition,
    wanted: Arc<AtomicBool>,
    done: mpsc::Sender<Taken>,
}

/// What workers have asked for.
pub(super) type Jobs = Arc<Mutex<mpsc::Receiver<Job>>>;

/// Where workers ask for tasks.
#[derive(Clone)]
pub(super) struct Restorers(mpsc::Sender<Job>);

impl Restorers {
    /// The workers' end, and that of the restoring threads, which share it.
    pub(super) fn new() -> (Restorers, Jobs) {
        let (jobs, queue) = mpsc::channel();
        (Restorers(jobs), Arc::new(Mutex::new(queue)))
    }

    /// Asks for a task, which comes to `done`.
    pub(super) fn take(&self, sub: usize, partition: Partition, done: &mpsc::Sender<Taken>) -> Wanted {
        let wanted = Arc::new(AtomicBool::new(true));
        let job = Job { sub, partition, wanted: Arc::clone(&wanted), done: done.clone() };
        // Its error says that the restoring threads have ended: the application stops.
        drop(self.0.send(job));
        Wanted { sub, partition, wanted }
    }
}

/// A restoring thread: until the application stops.
pub(super) fn run(shared: &Arc<Shared>, jobs: &Mutex<mpsc::Receiver<Job>>) {
    while !shared.stopping.load(Ordering::Acquire) {
        let next = jobs.lock().recv_timeout(LOOK);
        let job = match next {
            Ok(job) => job,
            Err(mpsc::RecvTimeoutError::Timeout) => continue,
            // There are no workers, or none any more.
            Err(mpsc::RecvTimeoutError::Disconnected) => return,
        };
        let wanted = || job.wanted.load(Ordering::Acquire) && !shared.stopping.load(Ordering::Acquire);
        while wanted() {
            let outcome = take(shared, job.sub, job.partition, &wanted);
            match outcome {
                Err(error) if !error.is_fatal() => {
                    tracing::debug!(%error, task = %task_id(job.sub, job.partition), "the task cannot be taken yet");
                    shared.log.wait(shared.log.version(), PAUSE);
                }
                Ok(None) => {}
                Ok(Some(task)) => {
                    // Its error says that the worker has ended.
                    drop(job.done.send(Taken { wanted: Arc::clone(&job.wanted), outcome: Ok(task) }));
                    break;
                }
                Err(error) => {
                    drop(job.done.send(Taken { wanted: Arc::clone(&job.wanted), outcome: Err(error) }));
                    break;
                }
            }
        }
    }
}

fn task_id(sub: usize, partition: Partition) -> TaskId {
    TaskId { sub_topology: sub as u32, partition: partition.0 }
}

/// Takes and restores a task. `None` if it was not wanted any more meanwhile.
pub(super) fn take(
    shared: &Arc<Shared>,
    sub: usize,
    partition: Partition,
    wanted: &dyn Fn() -> bool,
) -> Result<Option<Task>, StartError> {
    let stores: Vec<_> = shared.topology.subs[sub].stores.iter().map(|store| store.id()).collect();
    let mut state = shared.db.task(task_id(sub, partition), &stores)?;
    let Some(records) = restore::restore(shared, sub, partition, &mut state, wanted)? else {
        return Ok(None);
    };
    shared.metrics.restored(records);
    let topics = Arc::clone(&shared.topics);
    let now = shared.config.clock.now();
    let task = Task::new(Arc::clone(&shared.topology), sub, partition, state, topics, shared.limits, now)?;
    Ok(Some(task.with_max_idle_ms(shared.config.max_task_idle_ms)))
}
