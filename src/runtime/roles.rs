//! What this process is to each task: its owner, one that follows it, or nobody. Who reads a task's rows asks here first, for rows of a task
//! that has gone elsewhere stay where they are and grow old.

use std::sync::atomic::{AtomicI64, AtomicU8, AtomicU64, Ordering};

use tokio::sync::watch;

use crate::record::{Partition, Timestamp};

/// ```text
/// Away ⇄ Taking ─▶ Owner ─▶ Away      (assigned, restored, revoked)
/// Away ⇄ Standby                      (placed here; never while Taking or Owner)
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// The task is elsewhere.
    Away,
    /// It was given to this process and is not restored yet.
    Taking,
    /// A worker of this process runs it.
    Owner,
    /// This process follows it, and was at the end of its changelogs a moment ago.
    Standby,
}

impl Role {
    const ALL: [Role; 4] = [Role::Away, Role::Taking, Role::Owner, Role::Standby];

    /// Whether the task was given to this process.
    pub(crate) fn is_mine(self) -> bool {
        matches!(self, Role::Taking | Role::Owner)
    }

    /// Whether its rows may be read here.
    pub(crate) fn is_readable(self) -> bool {
        matches!(self, Role::Owner | Role::Standby)
    }
}

/// The roles, by sub-topology and partition, and when a standby last had everything.
pub(crate) struct Roles {
    roles: Vec<Vec<AtomicU8>>,
    current_at: Vec<Vec<AtomicI64>>,
    /// How often each role has changed.
    changes: Vec<Vec<AtomicU64>>,
    moves: watch::Sender<()>,
}

impl Roles {
    /// All tasks are elsewhere. `tasks` says how many each sub-topology has.
    pub(super) fn new(tasks: &[u32]) -> Roles {
        let roles = tasks.iter().map(|count| (0..*count).map(|_| AtomicU8::new(0)).collect()).collect();
        let current_at = tasks.iter().map(|count| (0..*count).map(|_| AtomicI64::new(0)).collect()).collect();
        let changes = tasks.iter().map(|count| (0..*count).map(|_| AtomicU64::new(0)).collect()).collect();
        Roles { roles, current_at, changes, moves: watch::Sender::new(()) }
    }

    pub(super) fn set(&self, sub: usize, partition: Partition, role: Role) {
        let number = Role::ALL.iter().position(|other| *other == role).expect("it is one of all") as u8;
        self.roles[sub][partition.0 as usize].store(number, Ordering::Release);
        self.has_changed(sub, partition);
    }

    fn has_changed(&self, sub: usize, partition: Partition) {
        self.changes[sub][partition.0 as usize].fetch_add(1, Ordering::AcqRel);
        self.note_move();
    }

    /// Wakes those who go where tasks are: one has moved, here or elsewhere.
    pub(super) fn note_move(&self) {
        self.moves.send_replace(());
    }

    /// Tells of every move from now on.
    pub(super) fn moves(&self) -> watch::Receiver<()> {
        self.moves.subscribe()
    }

    /// Which of its times here this is for a task whose rows may be read; `None` if they may not. As long as the answer stays the same, they
    /// could be read all the while, and every change was told to who watches.
    pub(super) fn readable_since(&self, sub: usize, partition: Partition) -> Option<u64> {
        let changes = self.changes.get(sub)?.get(partition.0 as usize)?.load(Ordering::Acquire);
        self.get(sub, partition).is_readable().then_some(changes)
    }

    /// A standby has everything that was committed at this time.
    pub(super) fn is_current(&self, sub: usize, partition: Partition, at: Timestamp) {
        self.current_at[sub][partition.0 as usize].store(at.0, Ordering::Release);
    }

    /// When a standby last had everything.
    pub(super) fn current_at(&self, sub: usize, partition: Partition) -> Timestamp {
        Timestamp(self.current_at[sub][partition.0 as usize].load(Ordering::Acquire))
    }

    /// Changes a role only if it is still `from`: two threads may want to.
    pub(super) fn change(&self, sub: usize, partition: Partition, from: Role, to: Role) -> bool {
        let [from, to] = [from, to].map(|role| Role::ALL.iter().position(|other| *other == role).expect("one of all") as u8);
        let place = &self.roles[sub][partition.0 as usize];
        let changed = place.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire).is_ok();
        if changed {
            self.has_changed(sub, partition);
        }
        changed
    }

    /// Whether every task may be read here.
    pub(super) fn are_all_readable(&self) -> bool {
        self.all().all(Role::is_readable)
    }

    /// Whether a task was given to this process and is not restored yet.
    pub(super) fn is_taking(&self) -> bool {
        self.all().any(|role| role == Role::Taking)
    }

    fn all(&self) -> impl Iterator<Item = Role> {
        self.roles.iter().flatten().map(|place| Role::ALL[usize::from(place.load(Ordering::Acquire))])
    }

    /// What this process is to a task; one that there is not is elsewhere.
    pub(crate) fn get(&self, sub: usize, partition: Partition) -> Role {
        let place = self.roles.get(sub).and_then(|tasks| tasks.get(partition.0 as usize));
        place.map_or(Role::Away, |place| Role::ALL[usize::from(place.load(Ordering::Acquire))])
    }
}
