//! How the gate is doing, for whoever looks: metrics, read when they are scraped.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Weak};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use super::Gate;

/// What the gate has decided, by kind.
#[derive(Default)]
pub struct Counts {
    admitted: AtomicU64,
    already: AtomicU64,
    sold_out: AtomicU64,
    down: AtomicU64,
    rebuilt: AtomicU64,
    given_back: AtomicU64,
    released: AtomicU64,
}

impl Counts {
    /// A user was let in.
    pub fn admitted(&self) {
        self.admitted.fetch_add(1, Relaxed);
    }

    /// A user was in already.
    pub fn already(&self) {
        self.already.fetch_add(1, Relaxed);
    }

    /// A user was turned away.
    pub fn sold_out(&self) {
        self.sold_out.fetch_add(1, Relaxed);
    }

    /// The gate could not tell.
    pub fn down(&self) {
        self.down.fetch_add(1, Relaxed);
    }

    /// A coupon was counted anew.
    pub fn rebuilt(&self) {
        self.rebuilt.fetch_add(1, Relaxed);
    }

    /// A place was given back, since its write had failed.
    pub fn given_back(&self) {
        self.given_back.fetch_add(1, Relaxed);
    }

    /// Places are free again, since nothing became of who had them.
    pub fn released(&self, places: u64) {
        self.released.fetch_add(places, Relaxed);
    }

    fn all(&self) -> [(&'static str, u64); 7] {
        [
            ("admitted", &self.admitted),
            ("already", &self.already),
            ("sold_out", &self.sold_out),
            ("down", &self.down),
            ("rebuilt", &self.rebuilt),
            ("given_back", &self.given_back),
            ("released", &self.released),
        ]
        .map(|(name, count)| (name, count.load(Relaxed)))
    }
}

/// Registers the metrics. They end with the gate.
pub fn register(gate: &Arc<Gate>, registry: &mut Registry) {
    registry.register_collector(Box::new(Readings(Arc::downgrade(gate))));
}

struct Readings(Weak<Gate>);

impl std::fmt::Debug for Readings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Readings")
    }
}

impl Collector for Readings {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let Some(gate) = self.0.upgrade() else { return Ok(()) };
        let help = "Whether the gate has Redis at the moment";
        let up = ConstGauge::new(i64::from(gate.redis.session().is_some()));
        up.encode(encoder.encode_descriptor("shop_gate_up", help, None, MetricType::Gauge)?)?;
        let help = "What the gate has decided, by kind";
        let mut family = encoder.encode_descriptor("shop_gate_decisions", help, None, MetricType::Counter)?;
        for (kind, count) in gate.counts.all() {
            ConstCounter::new(count).encode(family.encode_family(&[("decision", kind)])?)?;
        }
        Ok(())
    }
}
