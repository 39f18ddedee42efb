//! Where wall-clock time comes from, so that tests decide what time it is. The only place that reads the system's clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use crate::record::Timestamp;

/// A source of wall-clock time.
#[derive(Clone, Debug, Default)]
pub enum Clock {
    /// The machine's clock.
    #[default]
    System,
    /// A clock that stands still until it is moved.
    Manual(Arc<AtomicI64>),
}

impl Clock {
    /// A clock that shows `start` until it is moved.
    #[must_use]
    pub fn manual(start: Timestamp) -> Clock {
        Clock::Manual(Arc::new(AtomicI64::new(start.0)))
    }

    /// The time now.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        match self {
            Clock::System => system_now(),
            Clock::Manual(ms) => Timestamp(ms.load(Ordering::Relaxed)),
        }
    }

    /// Moves a manual clock on.
    ///
    /// # Panics
    /// If this is the system's clock.
    pub fn advance_ms(&self, delta_ms: i64) {
        match self {
            Clock::System => panic!("the system's clock cannot be moved"),
            Clock::Manual(ms) => ms.fetch_add(delta_ms, Ordering::Relaxed),
        };
    }
}

#[expect(clippy::disallowed_methods, reason = "the one reading of the system's clock")]
fn system_now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
