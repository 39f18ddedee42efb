//! Running a topology: the application, its worker threads, commits, restoring, and what can be read from outside.

mod app;
mod commit;
mod config;
mod dead_letters;
mod handle;
mod housekeeping;
mod metrics;
mod progress;
mod requests;
mod restore;
mod token;
mod view;
mod watch;
mod worker;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use millstream_state::{Db, Reader};
use parking_lot::{Mutex, RwLock};
use prometheus_client::registry::Registry;

pub use self::app::{App, StartError};
pub use self::config::Config;
pub use self::dead_letters::{Failure, ParkedRecord, Replayed, Selection};
pub use self::handle::{AppendError, Events, Handle, Health, StoreStatus};
pub use self::progress::Behind;
pub use self::requests::{Accepted, Answer, RequestError, RequestKey};
pub use self::token::{Token, UnreadableToken};
pub use self::view::{MAX_PAGE, QueryError, Row, TypedView, View};
pub use self::watch::{Change, Watch, Watched};

use self::metrics::Metrics;
use self::progress::{Progress, Starting};
use self::requests::Requests;
use self::watch::Watchers;
use crate::log::{EmbeddedLog, TopicInfo};
use crate::task::Task;
use crate::topology::{StoreIndex, Topology};

/// What the threads of an application share.
pub(crate) struct Shared {
    pub topology: Arc<Topology>,
    pub config: Config,
    pub log: Arc<EmbeddedLog>,
    pub db: Db,
    pub reader: Reader,
    /// The topology's topics as they are in the log, by index.
    pub topics: Arc<[TopicInfo]>,
    /// How many tasks each sub-topology has.
    pub tasks: Vec<u32>,
    /// The consumer group: the application's name.
    pub group: Arc<str>,
    pub progress: Progress,
    pub watchers: Arc<Watchers>,
    pub requests: Requests,
    pub metrics: Metrics,
    pub registry: RwLock<Registry>,
    pub stopping: AtomicBool,
    failure: Mutex<Option<String>>,
    /// What the log held at the start and the views do not yet hold.
    starting: Mutex<Starting>,
}

impl Shared {
    pub(crate) fn changelog(&self, store: StoreIndex) -> &TopicInfo {
        &self.topics[self.topology.stores[store.0].changelog.0]
    }

    /// The application cannot go on: all of its threads stop.
    fn fail(&self, reason: String) {
        self.failure.lock().get_or_insert(reason);
        self.stopping.store(true, Ordering::Release);
    }

    fn ready(&self) -> bool {
        self.has_started() && self.failure.lock().is_none()
    }

    fn health(&self) -> Health {
        use crate::log::embedded::Health as LogHealth;
        match (self.failure.lock().clone(), self.log.health()) {
            (Some(reason), _) => Health::Failed(reason),
            (None, LogHealth::Up) => Health::Up,
            (None, LogHealth::Repairing { cause }) => Health::Degraded(cause.to_string()),
        }
    }

    /// Takes tasks anew after an aborted transaction: from their committed state, and what the changelogs hold beyond it.
    fn retake(&self, tasks: &mut [Task]) -> Result<(), StartError> {
        for task in tasks {
            let sub = &self.topology.subs[task.sub_index()];
            let partition = task.partition();
            task.abort(|state| restore::restore(self, sub, partition, state).map(drop))?;
        }
        Ok(())
    }

    fn note_counts(&self, tasks: &mut [Task]) {
        for task in tasks {
            self.metrics.worked(task.sub_index(), task.take_counts());
        }
    }
}
