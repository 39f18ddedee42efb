//! What an operator sees of an application, by Kafka's names where there are any. Counters are counted as it runs; what can be read off,
//! such as lag, is read when it is scraped.

use std::sync::Weak;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use super::Shared;
use super::state::AppState;
use crate::record::{Partition, Timestamp};
use crate::task::Counts;
use crate::topology::{TopicIndex, TopicRole, Topology};

type Labels = Vec<(&'static str, String)>;

/// The counters of an application.
pub(crate) struct Metrics {
    sent: Vec<Counter>,
    processed: Vec<Counter>,
    dropped: Vec<Counter>,
    dead_letters: Vec<Counter>,
    retries: Vec<Counter>,
    processing: Vec<Counter<f64, AtomicU64>>,
    end_to_end: Vec<Histogram>,
    commit: Histogram,
    aborts: Counter,
    restored: Counter<u64, AtomicU64>,
}

impl Metrics {
    pub(crate) fn register(topology: &Topology, registry: &mut Registry) -> Metrics {
        let by_topic = Family::<Labels, Counter>::default();
        registry.register("kafka_producer_record_send", "Records appended to topics", by_topic.clone());
        let sent =
            topology.topics.iter().map(|topic| by_topic.get_or_create(&vec![("topic", topic.name.clone())]).clone()).collect();
        let mut by_sub = |name: &str, help: &str| -> Vec<Counter> {
            let family = Family::<Labels, Counter>::default();
            registry.register(name, help, family.clone());
            let subs = topology.subs.iter();
            subs.map(|sub| family.get_or_create(&vec![("sub_topology", sub.name.clone())]).clone()).collect()
        };
        let processed = by_sub("millstream_records_processed", "Records processed");
        let dropped = by_sub("millstream_records_dropped", "Records dropped for a null key");
        let dead_letters = by_sub("millstream_dead_letters", "Records, timers and punctuations parked in dead-letter topics");
        let retries = by_sub("millstream_retries", "Failed attempts that were tried again");
        let processing = Family::<Labels, Counter<f64, AtomicU64>>::default();
        registry.register("millstream_process_seconds", "Time spent with processing, without commits", processing.clone());
        let end_to_end =
            Family::<Labels, Histogram>::new_with_constructor(|| Histogram::new(exponential_buckets(0.001, 2.0, 18)));
        let help = "Time from the timestamp of a transaction's oldest record until what came of it was durable";
        registry.register("millstream_end_to_end_seconds", help, end_to_end.clone());
        let labels = || topology.subs.iter().map(|sub| vec![("sub_topology", sub.name.clone())]);
        let processing = labels().map(|labels| processing.get_or_create(&labels).clone()).collect();
        let end_to_end = labels().map(|labels| end_to_end.get_or_create(&labels).clone()).collect();
        let commit = Histogram::new(exponential_buckets(0.0005, 2.0, 14));
        registry.register("millstream_commit_seconds", "Time from the start of a commit until it was durable", commit.clone());
        let (aborts, restored) = (Counter::default(), Counter::default());
        registry.register("millstream_transactions_aborted", "Transactions that were aborted", aborts.clone());
        registry.register("millstream_restored_records", "Changelog records applied at the start", restored.clone());
        Metrics { sent, processed, dropped, dead_letters, retries, processing, end_to_end, commit, aborts, restored }
    }

    pub(crate) fn sent(&self, topic: TopicIndex, records: u64) {
        self.sent[topic.0].inc_by(records);
    }

    /// Counts what a task did since it was asked last, which is durable `now`.
    pub(crate) fn worked(&self, sub: usize, counts: Counts, now: Timestamp) {
        self.processed[sub].inc_by(counts.processed);
        self.dropped[sub].inc_by(counts.dropped);
        self.dead_letters[sub].inc_by(counts.dead_letters);
        self.retries[sub].inc_by(counts.retries);
        if let Some(oldest) = counts.oldest {
            self.end_to_end[sub].observe(now.0.saturating_sub(oldest.0).max(0) as f64 / 1_000.0);
        }
    }

    pub(crate) fn processing_took(&self, sub: usize, time: Duration) {
        self.processing[sub].inc_by(time.as_secs_f64());
    }

    pub(crate) fn commit_took(&self, time: Duration) {
        self.commit.observe(time.as_secs_f64());
    }

    pub(crate) fn aborted(&self) {
        self.aborts.inc();
    }

    pub(crate) fn restored(&self, records: u64) {
        self.restored.inc_by(records);
    }
}

/// Reads the application off when it is scraped.
#[derive(Debug)]
pub(crate) struct Readings(pub(crate) Weak<Shared>);

impl Collector for Readings {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let Some(shared) = self.0.upgrade() else { return Ok(()) };
        let mut lag = encoder.encode_descriptor(
            "kafka_consumer_lag",
            "Records that are in a partition and not yet processed and committed",
            None,
            prometheus_client::metrics::MetricType::Gauge,
        )?;
        let mut inputs = Vec::new();
        for (index, sub) in shared.topology.subs.iter().enumerate() {
            for topic in sub.sources.iter().map(|source| shared.topology.sources[source.0].topic) {
                let is_replay = shared.topology.topics[topic.0].role == TopicRole::Replay;
                let partitions = (0..shared.topics[topic.0].partitions).map(Partition).filter(|_| !is_replay);
                inputs.extend(partitions.filter(|p| shared.roles.get(index, *p).is_mine()).map(|p| (topic, p)));
            }
        }
        for global in shared.globals().filter_map(|owner| shared.topology.global(owner)) {
            inputs.extend((0..shared.topics[global.topic.0].partitions).map(|partition| (global.topic, Partition(partition))));
        }
        let places: Vec<_> = inputs.iter().map(|(topic, p)| (shared.topics[topic.0].id, *p)).collect();
        // Without the log the rest is still worth knowing.
        for ((topic, partition), end) in inputs.into_iter().zip(shared.log.open_ends(&places).unwrap_or_default()) {
            let info = &shared.topics[topic.0];
            let mut done = shared.progress.committed(topic, partition).0;
            if shared.embedded.is_some() {
                // What was deleted before anybody processed it is not waiting any more.
                done = done.max(shared.log.bounds(info.id, partition).map_or(0, |bounds| bounds.start.0));
            }
            let labels = [("topic", info.name.to_string()), ("partition", partition.to_string())];
            ConstGauge::new(end.0.saturating_sub(done)).encode(lag.encode_family(&labels)?)?;
        }
        let mut states = encoder.encode_descriptor(
            "millstream_application_state",
            "1 for the state that the application is in, by Kafka Streams' name",
            None,
            prometheus_client::metrics::MetricType::Gauge,
        )?;
        let now = shared.state();
        for state in AppState::ALL {
            ConstGauge::new(u64::from(state == now)).encode(states.encode_family(&[("state", state.name())])?)?;
        }
        let mut remaining = encoder.encode_descriptor(
            "millstream_restore_remaining_records",
            "Offsets of a changelog that are not yet in the stores of a task which is being restored",
            None,
            prometheus_client::metrics::MetricType::Gauge,
        )?;
        for (sub, partition, records) in shared.restoring.remaining() {
            let labels = [("sub_topology", shared.topology.subs[sub].name.clone()), ("partition", partition.to_string())];
            ConstGauge::new(records).encode(remaining.encode_family(&labels)?)?;
        }
        let mut gauge = |name: &str, help: &str, value: u64| {
            let gauge = ConstGauge::new(value);
            let encoder = encoder.encode_descriptor(name, help, None, prometheus_client::metrics::MetricType::Gauge)?;
            gauge.encode(encoder)
        };
        gauge("millstream_worker_threads", "Threads that run tasks", shared.threads.count() as u64)?;
        let memory = shared.db.memory();
        gauge("millstream_state_memory_bytes", "Memory that state takes", (memory.rows + memory.cache) as u64)?;
        gauge("millstream_state_dirty_bytes", "Committed rows that are not on disk yet", memory.dirty as u64)?;
        gauge("millstream_state_disk_bytes", "Disk that state takes", shared.db.bytes_on_disk())
    }
}
