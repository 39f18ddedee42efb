//! Running a topology: the application, its worker threads, commits, restoring, and what can be read from outside.

mod app;
mod commit;
mod config;
mod control;
mod dead_letters;
mod ends;
mod follower;
mod global;
mod handle;
mod housekeeping;
mod metrics;
mod overview;
#[cfg(feature = "http")]
mod places;
mod presence;
mod progress;
mod requests;
mod reset;
mod restore;
mod restoring;
mod roles;
mod seen;
mod standby;
mod state;
mod taking;
mod threads;
mod token;
mod topics;
mod upstream;
mod view;
mod watch;
mod windows;
mod worker;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use millstream_state::{Db, Reader};
use parking_lot::{Mutex, RwLock, RwLockReadGuard};
use prometheus_client::registry::Registry;

pub use self::app::{App, StartError};
pub use self::config::{Config, Standbys};
pub use self::dead_letters::{DeadLetters, Failure, ParkedRecord, Replayed, Selection};
pub use self::handle::{AppendError, Events, Handle, Health, StoreStatus};
pub use self::overview::TaskStatus;
#[cfg(feature = "http")]
pub(crate) use self::places::{Place, TaskPlace};
pub use self::progress::Behind;
pub use self::requests::{Accepted, Answer, RequestError, RequestKey};
pub use self::reset::{Reset, ResetBegin, ResetError, ResetReport, ResetTo};
pub use self::restoring::{Restoration, RestoreListener, RestoreStep};
pub use self::seen::Seen;
pub use self::state::AppState;
pub use self::threads::ThreadError;
pub use self::token::{Token, UnreadableToken};
pub use self::upstream::{Upstream, Waiting};
pub use self::view::{MAX_PAGE, QueryError, Row, TypedView, View};
pub use self::watch::{Change, Watch, Watched};

use self::ends::Ends;
use self::metrics::Metrics;
use self::presence::Presence;
use self::progress::{Progress, Starting};
use self::requests::Requests;
use self::restoring::Restoring;
use self::roles::Roles;
use self::state::Lifecycle;
use self::threads::Threads;
use self::watch::Watchers;
use crate::log::{self, EmbeddedLog, Limits, Log, TopicInfo};
use crate::record::Offset;
use crate::task::Task;
use crate::topology::{StoreKind, Topology};

/// What the threads of an application share.
pub(crate) struct Shared {
    pub topology: Arc<Topology>,
    pub config: Config,
    pub log: Arc<dyn Log>,
    /// The same log where it is that of this process, which keeps requests beside what they appended.
    pub embedded: Option<Arc<EmbeddedLog>>,
    pub db: Db,
    pub reader: Reader,
    /// The topology's topics as they are in the log, by index.
    pub topics: Arc<[TopicInfo]>,
    /// Topics beside the topology, and when they were looked up.
    pub others: Mutex<BTreeMap<String, (TopicInfo, Instant)>>,
    /// What may be appended to them; the log itself takes a little more, for dead letters.
    pub limits: Limits,
    /// How many tasks each sub-topology has.
    pub tasks: Vec<u32>,
    /// Tells this start of a process from all others that share the log; 0 where none does.
    pub start: u64,
    /// Up to where the control topic was read before the start.
    pub noted_to: Offset,
    /// The consumer group: the application's name.
    pub group: Arc<str>,
    pub progress: Progress,
    pub presence: Presence,
    pub ends: Ends,
    pub roles: Roles,
    pub watchers: Arc<Watchers>,
    pub requests: Requests,
    pub metrics: Metrics,
    pub registry: RwLock<Registry>,
    pub lifecycle: Lifecycle,
    pub restoring: Restoring,
    pub threads: Threads,
    pub stopping: AtomicBool,
    failure: Mutex<Option<String>>,
    /// Commits that are in the log and not all of which can be read yet.
    committing: Committing,
    /// Why a worker cannot go on for now, by its number.
    trouble: Mutex<BTreeMap<usize, String>>,
    /// What other parts of the program say of themselves, by their name: see [`Handle::report`].
    parts: Mutex<BTreeMap<&'static str, String>>,
    /// What feeds the log, if something does.
    upstream: Mutex<Option<Arc<dyn Upstream>>>,
    /// What the log held at the start and the views do not yet hold.
    starting: Mutex<Starting>,
}

/// Commits on their way, on the log of this process: it shows them at once, and others may be quicker than who made them.
#[derive(Default)]
pub(crate) struct Committing(RwLock<()>);

impl Committing {
    /// One begins, and is over when the answer is dropped.
    fn begin(&self) -> RwLockReadGuard<'_, ()> {
        self.0.read()
    }

    /// Waits for those that have begun.
    fn wait_for_all(&self) {
        drop(self.0.write());
    }
}

impl Shared {
    /// The changelog of the tasks of a sub-topology.
    pub(crate) fn changelog(&self, sub: usize) -> &TopicInfo {
        &self.topics[self.topology.subs[sub].changelog.0]
    }

    /// The owner of a store is a global table or feed that this process has.
    pub(crate) fn has_global(&self, owner: usize) -> bool {
        let global = self.topology.global(owner);
        global.is_some_and(|global| self.config.feeds || self.topology.stores[global.store.0].kind != StoreKind::Feed)
    }

    /// The global tables and feeds that this process has, as owners of their stores.
    fn globals(&self) -> impl Iterator<Item = usize> {
        (self.topology.subs.len()..).take(self.topology.globals.len()).filter(|owner| self.has_global(*owner))
    }

    /// The application cannot go on: all of its threads stop.
    fn fail(&self, reason: String) {
        self.failure.lock().get_or_insert(reason);
        self.stopping.store(true, Ordering::Release);
        self.note_state();
    }

    fn ready(&self) -> bool {
        let here = match self.config.standbys {
            Standbys::All => self.roles.are_all_readable(),
            Standbys::Each(_) => !self.roles.is_taking(),
        };
        here && self.has_started() && self.failure.lock().is_none()
    }

    fn health(&self) -> Health {
        if let Some(reason) = self.failure.lock().clone() {
            return Health::Failed(reason);
        }
        match (self.log.health(), self.trouble.lock().values().next()) {
            (log::Health::Failed { cause }, _) => Health::Failed(cause.to_string()),
            (log::Health::Repairing { cause }, _) => Health::Degraded(cause.to_string()),
            (log::Health::Up, Some(trouble)) => Health::Degraded(trouble.clone()),
            (log::Health::Up, None) => match self.parts.lock().iter().next() {
                Some((part, trouble)) => Health::Degraded(format!("{part}: {trouble}")),
                None => Health::Up,
            },
        }
    }

    /// Takes tasks anew after an aborted transaction: from their committed state, and what the changelogs hold beyond it, where the log
    /// did not know that it had committed. That reaches readers here, and watchers by being cut off.
    fn retake(&self, tasks: &mut [Task]) -> Result<(), StartError> {
        for task in tasks {
            let sub = task.sub_index();
            let partition = task.partition();
            let mut restored = 0;
            task.abort(|state| {
                restored = restore::restore(self, sub, partition, state, &|| true)?.unwrap_or(0);
                Ok::<_, StartError>(())
            })?;
            if restored > 0 {
                self.watchers.cut_off();
            }
        }
        Ok(())
    }

    /// Counts what the transaction that is durable now has done.
    fn note_counts(&self, tasks: &mut [Task]) {
        let now = self.config.clock.now();
        for task in tasks {
            self.metrics.worked(task.sub_index(), task.take_counts(), now);
        }
    }
}
