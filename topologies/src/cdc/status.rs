//! How a relay is doing, for whoever looks: metrics, read when they are scraped.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use millstream::{Handle, Timestamp};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use super::position::Position;

/// After so long without a word of the server, heartbeats included, the lag is counted from the last one, in milliseconds.
const QUIET_MS: i64 = 3_000;

/// What a relay counts.
#[derive(Default)]
pub struct Status {
    /// Rows in their topics.
    pub relayed: AtomicU64,
    /// Rows in the dead-letter topic.
    pub parked: AtomicU64,
    /// Updates and deletes of rows, which are passed over.
    pub ignored: AtomicU64,
    /// Times that a connection was lost, or could not be made.
    pub troubles: AtomicU64,
    /// Whether the binlog is followed.
    pub is_connected: AtomicBool,
    /// How long after its commit the last row was in its topic, in milliseconds; 0 once nothing is left.
    lag_ms: AtomicI64,
    /// When the server said something last, in milliseconds since 1970; 0 is never.
    heard_ms: AtomicI64,
    position: Mutex<Option<Position>>,
}

impl Status {
    /// The server had nothing more to say.
    pub fn caught_up(&self, now: Timestamp) {
        self.lag_ms.store(0, Ordering::Relaxed);
        self.heard_ms.store(now.0, Ordering::Relaxed);
    }

    /// A transaction of the server is in the log. A second is the finest that some servers tell, so up to that is taken for no lag.
    pub fn relayed(&self, committed_ms: i64, now: Timestamp) {
        let unknown_ms = if committed_ms % 1_000 == 0 { 999 } else { 0 };
        self.lag_ms.store((now.0 - committed_ms - unknown_ms).max(0), Ordering::Relaxed);
        self.heard_ms.store(now.0, Ordering::Relaxed);
    }

    /// The position is durable.
    pub fn stands_at(&self, position: &Position) {
        *self.position.lock().unwrap_or_else(PoisonError::into_inner) = Some(position.clone());
    }

    /// The last durable position, if there is one.
    #[must_use]
    pub fn position(&self) -> Option<Position> {
        self.position.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn lag_ms(&self, now: Timestamp) -> i64 {
        let silent_ms = match self.heard_ms.load(Ordering::Relaxed) {
            0 => 0,
            heard => now.0 - heard,
        };
        if silent_ms > QUIET_MS { silent_ms } else { self.lag_ms.load(Ordering::Relaxed) }
    }
}

/// Registers the metrics.
pub fn register(status: &Arc<Status>, app: &Handle, registry: &mut Registry) {
    let clock = app.clock();
    registry.register_collector(Box::new(Readings { status: Arc::clone(status), now: Box::new(move || clock.now()) }));
}

struct Readings {
    status: Arc<Status>,
    now: Box<dyn Fn() -> Timestamp + Send + Sync>,
}

impl std::fmt::Debug for Readings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Readings")
    }
}

impl Collector for Readings {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let status = &self.status;
        let help = "How far behind the database's commits the topics are, in milliseconds";
        let lag = ConstGauge::new(status.lag_ms((self.now)()));
        lag.encode(encoder.encode_descriptor("shop_cdc_lag_ms", help, None, MetricType::Gauge)?)?;
        let help = "Whether the binlog is followed at the moment";
        let connected = ConstGauge::new(i64::from(status.is_connected.load(Ordering::Relaxed)));
        connected.encode(encoder.encode_descriptor("shop_cdc_connected", help, None, MetricType::Gauge)?)?;
        let help = "Connections to the database that were lost or could not be made";
        let troubles = ConstCounter::new(status.troubles.load(Ordering::Relaxed));
        troubles.encode(encoder.encode_descriptor("shop_cdc_troubles", help, None, MetricType::Counter)?)?;
        let help = "Rows of the outbox by what became of them; updates and deletes are ignored";
        let mut rows = encoder.encode_descriptor("shop_cdc_rows", help, None, MetricType::Counter)?;
        for (outcome, count) in [("relayed", &status.relayed), ("parked", &status.parked), ("ignored", &status.ignored)] {
            ConstCounter::new(count.load(Ordering::Relaxed)).encode(rows.encode_family(&[("outcome", outcome)])?)?;
        }
        if let Some(position) = status.position() {
            let help = "Where in the binlog the relay stands, in bytes of the file";
            let mut family = encoder.encode_descriptor("shop_cdc_position", help, None, MetricType::Gauge)?;
            let offset = i64::try_from(position.offset).unwrap_or(i64::MAX);
            ConstGauge::new(offset).encode(family.encode_family(&[("file", position.file.as_str())])?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lag_is_of_the_last_row_until_the_server_is_silent() {
        let status = Status::default();
        assert_eq!(status.lag_ms(Timestamp(5_000)), 0);
        status.relayed(4_000, Timestamp(5_000)); // some time in that second
        assert_eq!(status.lag_ms(Timestamp(5_000)), 1);
        status.relayed(4_001, Timestamp(5_000));
        assert_eq!(status.lag_ms(Timestamp(5_100)), 999);
        status.caught_up(Timestamp(6_000));
        assert_eq!(status.lag_ms(Timestamp(7_000)), 0);
        assert_eq!(status.lag_ms(Timestamp(16_000)), 10_000);
    }
}
