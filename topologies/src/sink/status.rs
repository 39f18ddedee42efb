//! How a sink is doing, for whoever looks.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use millstream::log::TopicId;
use millstream::{Handle, Offset, Partition};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};

use super::breaker::Circuit;

type Labels = Vec<(&'static str, &'static str)>;

/// What a sink counts.
#[derive(Debug)]
pub struct Status {
    deliveries: Family<Labels, Counter>,
    tries: Family<Labels, Counter>,
    alerts: Family<Labels, Counter>,
    seconds: Histogram,
    in_flight: Gauge,
    circuit: Family<Labels, Gauge>,
    /// How far it is, of each partition that is its own.
    done: Mutex<BTreeMap<(TopicId, Partition), Offset>>,
}

impl Status {
    /// Registers the metrics of a sink.
    #[must_use]
    pub fn register(app: &Handle) -> Arc<Status> {
        let status = Arc::new(Status {
            deliveries: Family::default(),
            tries: Family::default(),
            alerts: Family::default(),
            seconds: Histogram::new(exponential_buckets(0.001, 2.0, 16)),
            in_flight: Gauge::default(),
            circuit: Family::default(),
            done: Mutex::default(),
        });
        let mut registry = app.registry().write();
        let help = "Events that are done with, by what became of them: delivered or parked";
        registry.register("shop_sink_deliveries", help, status.deliveries.clone());
        let help = "Tries by what they came to: delivered, refused (parked at once) or failed (may be tried again)";
        registry.register("shop_sink_tries", help, status.tries.clone());
        registry.register("shop_sink_alerts", "Alerts by what became of them: sent, failed or dropped", status.alerts.clone());
        registry.register("shop_sink_try_seconds", "How long a try took", status.seconds.clone());
        registry.register("shop_sink_in_flight", "Events that are out at the moment", status.in_flight.clone());
        registry.register("shop_sink_circuit", "1 for the state that the circuit is in", status.circuit.clone());
        registry.register_collector(Box::new(Lag { app: app.clone(), status: Arc::downgrade(&status) }));
        drop(registry);
        for outcome in ["delivered", "parked"] {
            status.deliveries(outcome, 0);
        }
        status.is(Circuit::Closed);
        status
    }

    /// Events are done with.
    pub fn deliveries(&self, outcome: &'static str, events: u64) {
        self.deliveries.get_or_create(&vec![("outcome", outcome)]).inc_by(events);
    }

    /// A try has ended.
    pub fn tried(&self, result: &'static str, took: Duration) {
        self.tries.get_or_create(&vec![("result", result)]).inc();
        self.seconds.observe(took.as_secs_f64());
    }

    /// An alert has ended.
    pub fn alerted(&self, outcome: &'static str) {
        self.alerts.get_or_create(&vec![("outcome", outcome)]).inc();
    }

    /// So many are out.
    pub fn out(&self, events: usize) {
        self.in_flight.set(events as i64);
    }

    /// The circuit's state.
    pub fn is(&self, now: Circuit) {
        for circuit in Circuit::ALL {
            self.circuit.get_or_create(&vec![("state", circuit.name())]).set(i64::from(circuit == now));
        }
    }

    /// How far the partitions that are its own are.
    pub fn stands_at(&self, done: BTreeMap<(TopicId, Partition), Offset>) {
        *self.done() = done;
    }

    fn done(&self) -> MutexGuard<'_, BTreeMap<(TopicId, Partition), Offset>> {
        self.done.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks the log where the partitions end, when it is scraped.
struct Lag {
    app: Handle,
    status: std::sync::Weak<Status>,
}

impl std::fmt::Debug for Lag {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Lag")
    }
}

impl Collector for Lag {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let Some(status) = self.status.upgrade() else { return Ok(()) };
        let done: Vec<_> = status.done().iter().map(|(place, done)| (*place, *done)).collect();
        let places: Vec<_> = done.iter().map(|(place, _)| *place).collect();
        let help = "Records of data-platform that are neither delivered nor parked, with the replays of its dead letters";
        let mut lag = encoder.encode_descriptor("shop_sink_lag", help, None, MetricType::Gauge)?;
        let mut lags = BTreeMap::<Partition, u64>::new();
        // Without the log the rest is still worth knowing.
        for (((_, partition), done), end) in done.into_iter().zip(self.app.log().open_ends(&places).unwrap_or_default()) {
            *lags.entry(partition).or_default() += end.0.saturating_sub(done.0);
        }
        for (partition, records) in lags {
            let labels = [("partition", partition.to_string())];
            ConstGauge::new(records).encode(lag.encode_family(&labels)?)?;
        }
        Ok(())
    }
}
