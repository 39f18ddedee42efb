//! Where the rows of a task can be read now, the best place first: here, or in another process, by what the processes tell of themselves.
//! What they tell may be a moment old, so whoever is sent to a place in vain goes on to the next.

use std::collections::VecDeque;

use millstream_state::{Entries, TaskId};

use super::config::Standbys;
use super::handle::Handle;
use super::roles::Role;
use super::seen::Seen;
use super::view::{QueryError, View};
use crate::log::Moment;
use crate::record::{Offset, Partition};

/// A task: its sub-topology and its partition.
pub(crate) type TaskPlace = (usize, u32);

/// A process that may have a task's rows.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    /// This one.
    Here,
    /// The one that is reached at this `host:port`.
    There(String),
}

impl Handle {
    /// The owner of a task, then those that follow it. A process that follows every task does so to answer by itself.
    pub(crate) fn places(&self, (sub, partition): TaskPlace) -> VecDeque<Place> {
        let shared = &self.shared;
        let partition = Partition(partition);
        let role = shared.roles.get(sub, partition);
        if shared.has_global(sub) || role == Role::Owner {
            return VecDeque::from([Place::Here]);
        }
        let [owners, standbys] = shared.presence.endpoints_of(shared.log.instance(), shared.owner_name(sub), partition);
        let follows = role == Role::Standby;
        let first = follows && shared.config.standbys == Standbys::All;
        let here = |holds: bool| holds.then_some(Place::Here);
        let owners = here(first).into_iter().chain(owners.into_iter().map(Place::There));
        owners.chain(here(follows && !first)).chain(standbys.into_iter().map(Place::There)).collect()
    }

    /// What a task is called in every process, also of another version, which may number sub-topologies otherwise: `sub-topology.partition`.
    pub(crate) fn task_name(&self, (sub, partition): TaskPlace) -> String {
        let name = self.shared.owner_name(sub);
        format!("{name}.{partition}")
    }

    /// Which of its times here this is for a task whose rows may be read here: see [`Roles::readable_since`](super::roles::Roles).
    pub(crate) fn readable_since(&self, (sub, partition): TaskPlace) -> Option<u64> {
        match self.shared.has_global(sub) {
            true => Some(0),
            false => self.shared.roles.readable_since(sub, Partition(partition)),
        }
    }

    /// Tells when the answer of [`Handle::places`] may be another: a task has moved, here or elsewhere, or a process has fallen silent.
    pub(crate) fn moves(&self) -> tokio::sync::watch::Receiver<()> {
        self.shared.roles.moves()
    }

    /// How many milliseconds the rows of a task may be behind here; `None` where they are the owner's.
    pub(crate) fn staleness_ms(&self, (sub, partition): TaskPlace) -> Option<u64> {
        let partition = Partition(partition);
        (self.shared.roles.get(sub, partition) == Role::Standby).then(|| {
            let behind = self.now().0 - self.shared.roles.current_at(sub, partition).0;
            behind.max(0) as u64
        })
    }
}

impl Handle {
    /// How many rows a task has of each of these stores that it has a part of, as far as that can be told, and the end of the changelog that they
    /// stand at.
    pub(crate) fn counted(&self, stores: &[View], task: TaskPlace) -> Result<Seen<Vec<(String, Entries, Offset)>>, QueryError> {
        // A disk that cannot be read now has its say in a query, not in a list of what there is.
        let unknown = Entries { rows: 0, exact: false };
        let id = TaskId { sub_topology: task.0 as u32, partition: task.1 };
        let (mut counted, mut seen) = (Vec::new(), Moment::DURABLE);
        for view in stores.iter().filter(|view| view.tasks_of().contains(&task)) {
            let store = view.store.id();
            let ((entries, end), at) = view.read(id, |rows| {
                let end = rows.position(store).map_or(0, |at| at.offset);
                (rows.entries(store).unwrap_or(unknown), Offset(end))
            })?;
            seen = seen.max(at);
            counted.push((view.name().to_owned(), entries, end));
        }
        Ok(Seen::new(&self.shared, counted, seen))
    }
}

impl View {
    /// The tasks that have a part of the store.
    pub(crate) fn tasks_of(&self) -> Vec<TaskPlace> {
        self.tasks().map(|task| (task.sub_topology as usize, task.partition)).collect()
    }

    /// The part of one task.
    pub(crate) fn of(&self, (_, partition): TaskPlace) -> View {
        let mut part = self.clone();
        part.only = Some(Partition(partition));
        part
    }
}
