//! What an operator sees of the server: requests by route and status, how long they take, connections and open streams.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct Answered {
    route: String,
    method: &'static str,
    status: u16,
}

#[derive(Clone)]
pub(super) struct Metrics {
    answered: Family<Answered, Counter>,
    seconds: Histogram,
    connections: Gauge,
    refused_connections: Counter,
    streams: Gauge,
    too_slow: Counter,
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics {
            answered: Family::default(),
            seconds: Histogram::new(exponential_buckets(0.0001, 2.0, 16)),
            connections: Gauge::default(),
            refused_connections: Counter::default(),
            streams: Gauge::default(),
            too_slow: Counter::default(),
        }
    }
}

impl Metrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register("millstream_http_requests", "Requests answered, by route, method and status", self.answered.clone());
        registry.register(
            "millstream_http_request_seconds",
            "Time from a request's head to its answer's head",
            self.seconds.clone(),
        );
        registry.register("millstream_http_connections", "Open connections", self.connections.clone());
        let help = "Connections refused because too many were open";
        registry.register("millstream_http_connections_refused", help, self.refused_connections.clone());
        registry.register("sse_connection_count", "Open event streams", self.streams.clone());
        registry.register(
            "millstream_sse_slow_clients",
            "Event streams cut off because their client did not keep up",
            self.too_slow.clone(),
        );
    }

    /// Counts an answer. `route` is a pattern and `method` one of few, so that the labels stay few whatever clients send.
    pub(super) fn answered(&self, route: &str, method: &'static str, status: u16, took: Duration) {
        self.answered.get_or_create(&Answered { route: route.to_owned(), method, status }).inc();
        self.seconds.observe(took.as_secs_f64());
    }

    pub(super) fn connection(&self) -> Counted {
        Counted::new(&self.connections)
    }

    pub(super) fn refused_connection(&self) {
        self.refused_connections.inc();
    }

    pub(super) fn stream(&self) -> OpenStream {
        OpenStream { _count: Counted::new(&self.streams), too_slow: self.too_slow.clone() }
    }
}

/// Counts something for as long as it is there.
pub(super) struct Counted(Gauge);

impl Counted {
    fn new(gauge: &Gauge) -> Counted {
        gauge.inc();
        Counted(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// A stream that is open.
pub(super) struct OpenStream {
    _count: Counted,
    too_slow: Counter,
}

impl OpenStream {
    pub(super) fn too_slow(&self) {
        self.too_slow.inc();
    }
}
