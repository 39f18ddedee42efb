//! When requests are due: at fixed times, or whenever a connection is free.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::cli::{Load, Rate};

/// When requests are due.
pub struct Schedule {
    start: Instant,
    end: Instant,
    rate: Rate,
    sent: AtomicU64,
}

impl Schedule {
    /// Begins now.
    #[must_use]
    pub fn new(args: &Load) -> Schedule {
        let start = Instant::now();
        Schedule { start, end: start + Duration::from_secs(args.seconds.into()), rate: args.rate, sent: AtomicU64::new(0) }
    }

    /// Waits for the next request's time and gives it; `None` when the load is over. Latency counts from this time, also where
    /// no connection was free by then: a slow shop must not slow down the measurement of its slowness.
    pub async fn next(&self) -> Option<Instant> {
        let due = match self.rate {
            Rate::Max => Instant::now(),
            Rate::PerSecond(rate) => self.start + Duration::from_secs_f64(self.sent.fetch_add(1, Relaxed) as f64 / rate),
        };
        if due >= self.end {
            return None;
        }
        if due > Instant::now() {
            sleep_until(due).await;
        }
        Some(due)
    }
}
