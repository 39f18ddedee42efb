//! Starting and stopping an application.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use millstream_state::{Db, FlushReport, Home, OpenError, StoreSpec};
use parking_lot::{Mutex, RwLock};
use prometheus_client::registry::Registry;

use super::commit::is_fatal;
use super::config::{Config, Standbys};
use super::control::{self, Notes};
use super::ends::{self, Ends};
use super::handle::{Handle, Health};
use super::housekeeping::Flushed;
use super::metrics::{Metrics, Readings};
use super::presence::Presence;
use super::progress::Progress;
use super::requests::Requests;
use super::restoring::Restoring;
use super::roles::Roles;
use super::state::{Lifecycle, Phase};
use super::taking::{Jobs, Restorers};
use super::threads::Threads;
use super::watch::Watchers;
use super::{Committing, Shared, follower, global, housekeeping, presence, taking, topics};
use crate::error::ProcessError;
use crate::log::{self, EmbeddedLog, Limits, Log, embedded};
use crate::record::{Offset, Partition};
use crate::task::{ROOM, Task};
use crate::topology::{StoreIndex, TopicIndex, TopicRole, Topology, TopologyError};

/// How many tasks are restored at the same time.
const RESTORE_THREADS: usize = 2;

/// A running application. Dropping it stops it.
///
/// ```no_run
/// use millstream::{App, Config, StartError, Topology};
///
/// fn run(topology: Topology) -> Result<(), StartError> {
///     let app = App::start(topology, Config::embedded("./data"))?;
///     let handle = app.handle(); // append, read views, watch
///     drop(handle);
///     app.stop();
///     Ok(())
/// }
/// ```
pub struct App {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    /// Wakes the housekeeping.
    housekeeping: mpsc::Sender<Flushed>,
}

/// Why an application did not start, in one sentence that names what is in the way.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The log could not be opened or read.
    #[error(transparent)]
    Log(#[from] log::Error),
    /// The state could not be opened.
    #[error(transparent)]
    State(#[from] OpenError),
    /// The state could not be read or written.
    #[error(transparent)]
    StateAccess(#[from] millstream_state::Error),
    /// The topology does not fit the topics as they are.
    #[error(transparent)]
    Topology(#[from] TopologyError),
    /// State and log in the data directory do not belong together.
    #[error("data directory {dir:?}: {why}; restore both from one backup")]
    StateAndLogDiffer {
        /// The data directory.
        dir: PathBuf,
        /// What does not fit.
        why: String,
    },
    /// A topic of the application's own is not what it made.
    #[error("internal topic {topic:?} {why}; bring it back, or reset the application, which forgets its state")]
    InternalTopic {
        /// The topic.
        topic: String,
        /// What is wrong with it.
        why: String,
    },
    /// Processes of another version run, or have run, and do not fit together with this one.
    #[error(
        "this version of {application:?} does not fit the one that runs: {entry} was {noted}, and is now {given}; give what has \
         changed another name, or reset the application, which forgets its state"
    )]
    Incompatible {
        /// The application.
        application: String,
        /// What differs.
        entry: String,
        /// What it is to the others.
        noted: String,
        /// What it is here.
        given: String,
    },
    /// A reset was begun and has not come to its end.
    #[error("a reset of {application:?} was begun and not finished: repeat it")]
    Resetting {
        /// The application.
        application: String,
    },
    /// A task's own state cannot be read.
    #[error("{0}")]
    Task(#[from] ProcessError),
    /// The operating system gave no thread.
    #[error("cannot start a thread: {0}")]
    Thread(#[from] std::io::Error),
}

impl StartError {
    /// Whether it would be the same when it is tried again.
    pub(super) fn is_fatal(&self) -> bool {
        match self {
            StartError::Log(error) => is_fatal(error),
            StartError::StateAccess(error) => {
                use millstream_state::Error;
                !matches!(error, Error::Io { .. } | Error::Taken(_))
            }
            StartError::Task(error) => !error.is_passing(),
            StartError::State(_)
            | StartError::Topology(_)
            | StartError::StateAndLogDiffer { .. }
            | StartError::InternalTopic { .. }
            | StartError::Incompatible { .. }
            | StartError::Resetting { .. }
            | StartError::Thread(_) => true,
        }
    }
}

impl App {
    /// Starts on an embedded log: opens log and state, creates the topics that are missing, restores the stores, and starts the workers.
    ///
    /// # Errors
    /// See [`StartError`]; nothing runs then.
    pub fn start(topology: Topology, config: Config) -> Result<App, StartError> {
        let log = Arc::new(open_log(&config)?);
        App::launch(topology, config, log.clone(), Some(log))
    }

    /// Starts as one of any number of processes that share a log, such as Apache Kafka: the group of the application's name shares out the
    /// tasks, which are restored and begin one after the other. The data directory holds the state alone.
    ///
    /// # Errors
    /// See [`StartError`]; nothing runs then.
    pub fn start_on(topology: Topology, config: Config, log: Arc<dyn Log>) -> Result<App, StartError> {
        App::launch(topology, config, log, None)
    }

    fn launch(
        topology: Topology,
        config: Config,
        log: Arc<dyn Log>,
        embedded: Option<Arc<EmbeddedLog>>,
    ) -> Result<App, StartError> {
        let (durable, flushed) = mpsc::channel();
        // Before anything is made: a topology that does not belong here leaves no topics behind.
        let (incarnation, noted_to) = match embedded {
            Some(_) => (String::new(), Offset(0)),
            None => {
                let noted = Notes::of(&*log, &topology.application)?;
                noted.check(&topology.application, &topology.fingerprint())?;
                (noted.incarnation, noted.end)
            }
        };
        let db = open_state(&topology, &config, Arc::clone(&log), durable.clone(), incarnation)?;
        let (topics, start) = match embedded {
            Some(_) => (topics::create(&topology, &*log, &topics::counts(&topology, &*log)?)?, 0),
            None => topics::create_noted(&topology, &*log, config.clock.now())?,
        };
        let counts: Vec<u32> = topics.iter().map(|topic| topic.partitions).collect();
        let tasks: Vec<u32> = (0..topology.subs.len()).map(|sub| topology.tasks(sub, &counts)).collect();

        let mut registry = Registry::default();
        let metrics = Metrics::register(&topology, &mut registry);
        let topology = Arc::new(topology);
        let (restorers, jobs) = Restorers::new();
        let shared = Arc::new(Shared {
            reader: db.reader(),
            progress: Progress::new(counts.iter().copied(), &tasks),
            roles: Roles::new(&tasks),
            presence: Presence::new(log.session_timeout()),
            ends: Ends::default(),
            watchers: Arc::new(Watchers::new(&log)),
            requests: Requests::default(),
            metrics,
            registry: RwLock::new(registry),
            lifecycle: Lifecycle::default(),
            restoring: Restoring::default(),
            threads: Threads::new(restorers),
            stopping: AtomicBool::new(false),
            failure: Mutex::new(None),
            committing: Committing::default(),
            trouble: Mutex::default(),
            parts: Mutex::default(),
            upstream: Mutex::default(),
            starting: Mutex::default(),
            group: topology.application.as_str().into(),
            topology,
            config,
            embedded,
            log,
            db,
            topics,
            others: Mutex::default(),
            limits: Limits::default(),
            tasks,
            start,
            noted_to,
        });
        shared.registry.write().register_collector(Box::new(Readings(Arc::downgrade(&shared))));
        let globals = global::bootstrap(&shared)?;
        let tasks = if shared.embedded.is_some() { take_tasks(&shared)? } else { Vec::new() };
        note_start(&shared, &tasks)?;
        let mut app = App { shared, threads: Vec::new(), housekeeping: durable };
        let follows = !globals.is_empty() || app.shared.config.standbys != Standbys::Each(0);
        app.spawn(tasks, jobs, flushed)?;
        if follows {
            app.spawn_thread("follower".into(), move |shared| follower::run(shared, globals))?;
        }
        app.shared.enter(Phase::Started);
        Ok(app)
    }

    fn spawn(&mut self, tasks: Vec<Task>, jobs: Jobs, flushed: mpsc::Receiver<Flushed>) -> Result<(), StartError> {
        // A group gives the tasks later, to be restored then; the only process of an embedded log has them all from the beginning.
        let restoring = if self.shared.embedded.is_some() { 0 } else { RESTORE_THREADS };
        for i in 0..restoring {
            let jobs = Arc::clone(&jobs);
            self.spawn_thread(format!("restore-{i}"), move |shared| taking::run(shared, &jobs))?;
        }
        self.shared.start_threads(tasks)?;
        if self.shared.embedded.is_none() {
            let (log, application) = (&*self.shared.log, &self.shared.topology.application);
            let (workers, control) = (presence::topic(log, application)?, control::topic(log, application)?);
            let (ask, questions) = mpsc::channel();
            self.shared.ends.ask_through(ask);
            self.spawn_thread("ends".into(), move |shared| ends::run(shared, &questions))?;
            self.spawn_thread("presence".into(), move |shared| presence::run(shared, &workers, &control))?;
        }
        self.spawn_thread("housekeeping".into(), move |shared| housekeeping::run(shared, &flushed))
    }

    /// Starts a thread of the application, which fails as a whole if one of them panics.
    fn spawn_thread(&mut self, name: String, run: impl FnOnce(&Arc<Shared>) + Send + 'static) -> Result<(), StartError> {
        let shared = Arc::clone(&self.shared);
        let thread = std::thread::Builder::new().name(name.clone());
        let run = move || {
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| run(&shared))) {
                shared.fail(format!("thread {name} {}", ProcessError::panicked(&*panic)));
            }
        };
        self.threads.push(thread.spawn(run)?);
        Ok(())
    }

    /// A handle for reading and appending.
    #[must_use]
    pub fn handle(&self) -> Handle {
        Handle { shared: Arc::clone(&self.shared) }
    }

    /// Finishes the running transactions, commits, flushes the state and ends every watch. The answer is why it had failed before, if it
    /// had. The directory is free once every [`Handle`] is gone, too.
    pub fn stop(mut self) -> Option<String> {
        self.shut_down();
        match self.shared.health() {
            Health::Failed(reason) => Some(reason),
            Health::Up | Health::Degraded(_) => None,
        }
    }

    fn shut_down(&mut self) {
        self.shared.stopping.store(true, Ordering::Release);
        self.shared.enter(Phase::Stopping);
        self.shared.log.wake();
        // Its error says that the housekeeping has ended already.
        drop(self.housekeeping.send(Vec::new()));
        self.shared.threads.join_all();
        for thread in self.threads.drain(..) {
            thread.join().expect("a thread of the application catches its panics");
        }
        self.shared.watchers.close();
        if let Err(error) = self.shared.db.clone().close() {
            tracing::warn!(%error, "the state was not flushed; the next start replays more of the log");
        }
        self.shared.enter(Phase::Stopped);
    }
}

impl Drop for App {
    fn drop(&mut self) {
        if !self.shared.lifecycle.is_over() {
            self.shut_down();
        }
    }
}

/// Opens the log in the data directory.
pub(super) fn open_log(config: &Config) -> Result<EmbeddedLog, log::Error> {
    let clock = config.clock.clone();
    let options = embedded::Options {
        durability: config.durability,
        limits: Limits { max_record_bytes: Limits::default().max_record_bytes + ROOM },
        ..embedded::Options::new(move || clock.now())
    };
    EmbeddedLog::open(config.data.join("log"), options)
}

/// Opens the state of an application. What becomes durable is told to `durable`.
pub(super) fn open_state(
    topology: &Topology,
    config: &Config,
    log: Arc<dyn Log>,
    durable: mpsc::Sender<Flushed>,
    incarnation: String,
) -> Result<Db, StartError> {
    let spec =
        |store: &crate::topology::StoreDef| StoreSpec { name: store.name.clone(), access: store.access, ttl_ms: store.ttl_ms };
    let after_flush = move |outcome: Result<&FlushReport, &millstream_state::Error>| match outcome {
        // Nobody listens any more while the application stops: the changelogs then keep a little more than they need to.
        Ok(report) => drop(durable.send(report.positions.clone())),
        Err(error) => tracing::error!(%error, "the state could not be flushed; it stays in memory and is tried again"),
    };
    let before_sync = move || log.sync().map_err(std::io::Error::other);
    let options = millstream_state::Options {
        fingerprint: topology.fingerprint(),
        incarnation,
        memory_budget_bytes: config.state_memory_bytes,
        flush_every: Duration::from_millis(config.state_flush_interval_ms),
        before_sync: Some(Arc::new(before_sync)),
        after_flush: Some(Arc::new(after_flush)),
        ..millstream_state::Options::new(Home::Directory(config.data.join("state")), topology.stores.iter().map(spec).collect())
    };
    Ok(Db::open(options)?)
}

/// One task for each partition of each sub-topology, restored: several at the same time, for a start after a crash is mostly that.
fn take_tasks(shared: &Arc<Shared>) -> Result<Vec<Task>, StartError> {
    let subs = shared.tasks.iter().enumerate();
    let all: Vec<_> = subs.flat_map(|(sub, tasks)| (0..*tasks).map(move |partition| (sub, Partition(partition)))).collect();
    let next = AtomicUsize::new(0);
    let take = || {
        let mut taken = Vec::new();
        loop {
            let place = next.fetch_add(1, Ordering::Relaxed);
            let Some((sub, partition)) = all.get(place) else { return Ok(taken) };
            taken.extend(taking::take(shared, *sub, *partition, &|| true)?.map(|task| (place, task)));
        }
    };
    let taken: Result<Vec<Vec<_>>, StartError> = std::thread::scope(|scope| {
        let restorers: Vec<_> = (0..shared.config.threads.clamp(1, all.len().max(1))).map(|_| scope.spawn(take)).collect();
        restorers.into_iter().map(|restorer| restorer.join().unwrap_or_else(|panic| resume_unwind(panic))).collect()
    });
    let mut tasks: Vec<_> = taken?.into_iter().flatten().collect();
    tasks.sort_by_key(|(place, _)| *place);
    Ok(tasks.into_iter().map(|(_, task)| task).collect())
}

/// Notes how far the tasks are, and what is there to be processed before the views are ready.
fn note_start(shared: &Shared, tasks: &[Task]) -> Result<(), StartError> {
    for task in tasks {
        for (topic, next) in task.next_offsets() {
            shared.progress.set(topic, task.partition(), next);
        }
    }
    Ok(shared.note_starting()?)
}

impl Topology {
    /// What the state's directory must agree with: stores and their formats, and the topics that each sub-topology reads. More of
    /// either is compatible.
    pub(super) fn fingerprint(&self) -> BTreeMap<String, String> {
        let mut fingerprint = BTreeMap::from([("application".to_owned(), self.application.clone())]);
        for (i, store) in self.stores.iter().enumerate() {
            let owner = self.subs.iter().find(|sub| sub.stores.contains(&StoreIndex(i))).map_or("", |sub| sub.name.as_str());
            let row = format!(
                "{:?} of {} -> {} in the changelog of {owner}",
                store.kind,
                store.key.fingerprint(),
                store.value.fingerprint()
            );
            fingerprint.insert(format!("format of store {}", store.name), row);
        }
        for sub in &self.subs {
            let inputs = sub.sources.iter().map(|source| self.sources[source.0].topic);
            for TopicIndex(topic) in inputs.filter(|topic| self.topics[topic.0].role != TopicRole::Replay) {
                fingerprint.insert(format!("topic {}", self.topics[topic].name), format!("read by {}", sub.name));
            }
        }
        fingerprint
    }
}
