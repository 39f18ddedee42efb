//! What a connection is doing, and since when: what its deadlines are measured from.
//!
//! ```text
//!            first byte           head complete          body complete          answer is a stream
//!   Waiting ───────────▶ Reading ──────────────▶ Asking ──────────────▶ Answering ─────────────▶ Streaming
//!      ▲                                          │ ▲ │                      │                       │
//!      │                   none of the body there ▼ │ more came              │                       │
//!      │                                      Receiving                     │                       │
//!      └──────────────────────────── answer given ────┴──────────────────────┴───────────────────────┘
//! ```
//! The connection's timer is never moved when this changes: it fires now and then, looks here, and sleeps until the deadline that holds by
//! then. A request costs two readings of the clock and no timer. All of it is used by one task; the atomics are for the compiler.

use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::time::Instant;

use super::config::Config;

/// See the module.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Phase {
    Waiting,
    Reading,
    Asking,
    Receiving,
    Answering,
    Streaming,
}

use Phase::{Answering, Asking, Reading, Receiving, Streaming, Waiting};

const PHASES: [Phase; 6] = [Waiting, Reading, Asking, Receiving, Answering, Streaming];

/// What the timer finds when it fires.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Due {
    /// Nothing; look again then.
    LookAt(Instant),
    /// The head of a request takes too long.
    SlowHead,
    /// Nothing was asked for too long, or the client takes nothing of what was sent to it.
    Close,
}

pub(super) struct Activity {
    start: Instant,
    phase: AtomicU8,
    /// When the phase began, in milliseconds after `start`.
    since: AtomicU64,
    /// When the socket began to take nothing, in milliseconds after `start`, plus 1; 0 while it takes what is written.
    stalled: AtomicU64,
    /// The status with which hyper refused what it could not read; 0 without.
    refused: AtomicU16,
}

impl Activity {
    pub(super) fn new() -> Activity {
        Activity {
            start: Instant::now(),
            phase: AtomicU8::new(Phase::Waiting as u8),
            since: AtomicU64::new(0),
            stalled: AtomicU64::new(0),
            refused: AtomicU16::new(0),
        }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    pub(super) fn phase(&self) -> Phase {
        PHASES[usize::from(self.phase.load(Relaxed))]
    }

    pub(super) fn enter(&self, phase: Phase) {
        self.enter_at(phase, || self.now_ms());
    }

    fn enter_at(&self, phase: Phase, now_ms: impl FnOnce() -> u64) {
        self.phase.store(phase as u8, Relaxed);
        if matches!(phase, Waiting | Reading) {
            self.since.store(now_ms(), Relaxed);
        }
    }

    /// The socket took bytes, or would not.
    pub(super) fn wrote(&self, taken: bool) {
        self.wrote_at(taken, || self.now_ms());
    }

    fn wrote_at(&self, taken: bool, now_ms: impl FnOnce() -> u64) {
        if taken {
            self.stalled.store(0, Relaxed);
        } else if self.stalled.load(Relaxed) == 0 {
            self.stalled.store(now_ms() + 1, Relaxed);
        }
    }

    pub(super) fn refuse(&self, status: u16) {
        self.refused.store(status, Relaxed);
    }

    pub(super) fn refused(&self) -> Option<u16> {
        Some(self.refused.load(Relaxed)).filter(|status| *status != 0)
    }

    /// What is due now. Looks at least as often as the shortest deadline, since a later phase may have a sooner one.
    pub(super) fn due(&self, config: &Config) -> Due {
        self.due_at(config, self.now_ms())
    }

    fn due_at(&self, config: &Config, now_ms: u64) -> Due {
        let now = Duration::from_millis(now_ms);
        let since = Duration::from_millis(self.since.load(Relaxed));
        let stalled = self.stalled.load(Relaxed);
        if stalled != 0 && now >= Duration::from_millis(stalled - 1) + config.stall_timeout {
            return Due::Close;
        }
        let deadline = match self.phase() {
            Waiting if now >= since + config.idle_timeout => return Due::Close,
            Reading if now >= since + config.head_timeout => return Due::SlowHead,
            Waiting => since + config.idle_timeout,
            Reading => since + config.head_timeout,
            Asking | Receiving | Answering | Streaming => Duration::MAX,
        };
        let shortest = config.head_timeout.min(config.idle_timeout).min(config.stall_timeout);
        Due::LookAt(self.start + deadline.min(now + shortest).max(now + Duration::from_millis(1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_phase_has_its_deadline() {
        let config = Config {
            head_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(60),
            stall_timeout: Duration::from_secs(20),
            ..Config::listen(([127, 0, 0, 1], 0).into())
        };
        let activity = Activity::new();
        let due = |seconds: u64| activity.due_at(&config, seconds * 1000);
        let look = |seconds| Due::LookAt(activity.start + Duration::from_secs(seconds));

        assert_eq!(due(0), look(10));
        assert_eq!(due(55), look(60), "idle ends before the next look");
        assert_eq!(due(60), Due::Close);

        activity.enter_at(Reading, || 60_000);
        assert_eq!(due(69), look(70));
        assert_eq!(due(70), Due::SlowHead);

        for busy in [Asking, Receiving, Answering, Streaming] {
            activity.enter_at(busy, || 70_000);
            assert_eq!(due(5_000), look(5_010), "{busy:?} has no deadline here");
        }
        activity.wrote_at(false, || 5_000_000);
        activity.wrote_at(false, || 5_019_000);
        assert_eq!(due(5_019), look(5_029));
        assert_eq!(due(5_020), Due::Close, "a stall is measured from its beginning");
        activity.wrote_at(true, || 5_020_000);
        assert_eq!(due(5_020), look(5_030));
    }
}
