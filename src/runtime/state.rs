//! What an application is doing as a whole, by the names that Kafka Streams has for it, and telling who listens. The state is not kept
//! but follows from what is so: whether a thread has failed, how far starting or stopping has come, what the group has given and is not
//! restored yet, and whether somebody has paused it. Nothing here starts, stops or pauses anything by itself.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::sync::watch;

use super::Shared;

/// What an application is doing.
///
/// ```text
/// Created ─▶ Rebalancing ⇄ Running
///                  ⇅         ⇅
///                    Paused
/// any of these ─▶ PendingShutdown ─▶ NotRunning
/// any of these ─▶ Error                              (for good)
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AppState {
    /// It is being started: state and log are opened, and on an embedded log everything is restored.
    Created,
    /// A worker thread has not joined its group yet, or a task that the group gave is being restored. Tasks that are ready are processed.
    Rebalancing,
    /// All tasks that the group gave are being processed.
    Running,
    /// Nothing is processed until somebody resumes it. Tasks are still taken, restored and given up.
    Paused,
    /// It finishes its transactions and ends.
    PendingShutdown,
    /// It has ended in order.
    NotRunning,
    /// It cannot go on, and must be started again: see [`Health::Failed`](crate::Health::Failed).
    Error,
}

impl AppState {
    /// All of them.
    pub const ALL: [AppState; 7] = [
        AppState::Created,
        AppState::Rebalancing,
        AppState::Running,
        AppState::Paused,
        AppState::PendingShutdown,
        AppState::NotRunning,
        AppState::Error,
    ];

    /// Its name in metrics and answers, as in Kafka Streams.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            AppState::Created => "CREATED",
            AppState::Rebalancing => "REBALANCING",
            AppState::Running => "RUNNING",
            AppState::Paused => "PAUSED",
            AppState::PendingShutdown => "PENDING_SHUTDOWN",
            AppState::NotRunning => "NOT_RUNNING",
            AppState::Error => "ERROR",
        }
    }
}

/// How far starting and stopping have come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Starting,
    Started,
    Stopping,
    Stopped,
}

/// What the state follows from, beside failures and tasks, and who hears of it.
pub(crate) struct Lifecycle {
    phase: Mutex<Phase>,
    paused: AtomicBool,
    /// Worker threads that have not joined the group yet.
    joining: AtomicUsize,
    told: watch::Sender<AppState>,
}

impl Default for Lifecycle {
    fn default() -> Lifecycle {
        Lifecycle {
            phase: Mutex::new(Phase::Starting),
            paused: AtomicBool::new(false),
            joining: AtomicUsize::new(0),
            told: watch::Sender::new(AppState::Created),
        }
    }
}

impl Lifecycle {
    pub(super) fn is_paused(&self) -> bool {
        self.paused.load(Ordering::Acquire)
    }

    /// Whether stopping has come to its end.
    pub(super) fn is_over(&self) -> bool {
        *self.phase.lock() == Phase::Stopped
    }

    pub(super) fn watch(&self) -> watch::Receiver<AppState> {
        self.told.subscribe()
    }
}

impl Shared {
    pub(super) fn enter(&self, phase: Phase) {
        *self.lifecycle.phase.lock() = phase;
        self.note_state();
    }

    /// Stops processing, or goes on with it.
    pub(super) fn set_paused(&self, paused: bool) {
        if self.lifecycle.paused.swap(paused, Ordering::AcqRel) != paused {
            tracing::info!("processing {}", if paused { "is paused" } else { "goes on" });
            self.note_state();
            self.log.wake();
        }
    }

    /// A worker thread is about to join the group, or has.
    pub(super) fn note_joining(&self, more: bool) {
        if more {
            self.lifecycle.joining.fetch_add(1, Ordering::AcqRel);
        } else {
            self.lifecycle.joining.fetch_sub(1, Ordering::AcqRel);
        }
        self.note_state();
    }

    /// Looks what the state is now, and tells whoever listens if it has changed.
    pub(super) fn note_state(&self) {
        self.lifecycle.told.send_if_modified(|told| {
            let now = self.state();
            let before = std::mem::replace(told, now);
            if before != now {
                tracing::info!("{} -> {}", before.name(), now.name());
            }
            before != now
        });
    }

    pub(super) fn state(&self) -> AppState {
        if self.failure.lock().is_some() {
            return AppState::Error;
        }
        let phase = *self.lifecycle.phase.lock();
        match phase {
            Phase::Starting => AppState::Created,
            Phase::Started if self.lifecycle.joining.load(Ordering::Acquire) > 0 || self.roles.is_taking() => {
                AppState::Rebalancing
            }
            Phase::Started if self.lifecycle.is_paused() => AppState::Paused,
            Phase::Started => AppState::Running,
            Phase::Stopping => AppState::PendingShutdown,
            Phase::Stopped => AppState::NotRunning,
        }
    }
}
