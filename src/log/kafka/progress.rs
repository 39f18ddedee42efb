//! Who waits for something new, and is woken: threads for a commit of this process or a record that came in, members for what is theirs.

use parking_lot::{Condvar, Mutex};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// A number that grows with whatever may be worth another look.
#[derive(Default)]
pub(super) struct Progress {
    version: Mutex<u64>,
    changed: Condvar,
    signals: Mutex<Vec<Weak<Signal>>>,
    /// For those who wait for time to pass.
    nothing: (Mutex<()>, Condvar),
}

impl Progress {
    pub(super) fn version(&self) -> u64 {
        *self.version.lock()
    }

    /// Wakes all who wait for a number.
    pub(super) fn advance(&self) {
        *self.version.lock() += 1;
        self.changed.notify_all();
    }

    /// Wakes all who wait for anything.
    pub(super) fn wake(&self) {
        self.advance();
        self.signals.lock().retain(|signal| signal.upgrade().inspect(|signal| signal.raise()).is_some());
    }

    pub(super) fn wait(&self, seen: u64, timeout: Duration) -> u64 {
        let mut version = self.version.lock();
        self.changed.wait_while_for(&mut version, |version| *version == seen, timeout);
        *version
    }

    /// Lets time pass.
    pub(super) fn pause(&self, time: Duration) {
        let deadline = Instant::now() + time;
        let mut nothing = self.nothing.0.lock();
        while !self.nothing.1.wait_until(&mut nothing, deadline).timed_out() {}
    }

    /// A signal that `wake` raises too.
    pub(super) fn signal(&self) -> Arc<Signal> {
        let signal = Arc::new(Signal::default());
        self.signals.lock().push(Arc::downgrade(&signal));
        signal
    }
}

/// Something one thread waits for. Raised before the wait, it ends it at once.
#[derive(Default)]
pub(super) struct Signal {
    raised: Mutex<bool>,
    changed: Condvar,
}

impl Signal {
    pub(super) fn raise(&self) {
        *self.raised.lock() = true;
        self.changed.notify_one();
    }

    /// Waits until it is raised, at most `timeout`, and takes it down.
    pub(super) fn wait(&self, timeout: Duration) {
        let mut raised = self.raised.lock();
        self.changed.wait_while_for(&mut raised, |raised| !*raised, timeout);
        *raised = false;
    }
}
