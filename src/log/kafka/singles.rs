//! Records that are appended alone. One record is in the log whole or not at all, so it needs no transaction: a producer that numbers its
//! records sends it once, in one request to the partition's leader in place of four to several brokers, and readers wait for no marker.
//!
//! What must always hold: each record is answered for by itself, and is said not to be there only if that is known.

use super::super::{Append, Error};
use super::cluster::{Cluster, client};
use super::error;
use super::native::Kind;
use super::topics::Topics;
use super::transactions::{Failed, Producer};
use crate::Offset;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long one call of librdkafka may take before it is looked whether to go on.
const CALL: Duration = Duration::from_secs(1);
/// How long the outcome of a record is waited for: longer than librdkafka tries.
const PATIENCE: Duration = Duration::from_secs(20);

/// The producer of records that are appended alone.
pub(super) struct Singles {
    cluster: Arc<Cluster>,
    topics: Arc<Topics>,
    producer: Option<Producer>,
}

impl Singles {
    pub(super) fn new(cluster: &Arc<Cluster>, topics: &Arc<Topics>) -> Singles {
        Singles { cluster: Arc::clone(cluster), topics: Arc::clone(topics), producer: None }
    }

    /// Appends records, each alone, and answers with the offset of each, or why it is not there. Those of one partition stay in order.
    pub(super) fn append(&mut self, appends: &[&Append]) -> Vec<Result<Offset, Error>> {
        if let Err(error) = self.ready() {
            return appends.iter().map(|_| Err(error.clone())).collect();
        }
        let Some(producer) = &mut self.producer else { return Vec::new() };
        producer.client.take_delivered();
        let unknown = || Err(Error::OutcomeUnknown { cause: "the brokers gave no answer in time".into() });
        let mut outcomes: Vec<Option<Result<Offset, Error>>> = appends.iter().map(|_| None).collect();
        for (number, append) in appends.iter().enumerate() {
            if let Err(Failed { failure, what }) = producer.append(&self.topics, append, number + 1) {
                outcomes[number] = Some(Err(error::of_known(&failure, &what)));
            }
        }
        let deadline = Instant::now() + PATIENCE;
        while producer.client.flush(CALL).is_err() && Instant::now() < deadline {}
        let delivered = producer.client.take_delivered();
        for (number, offset) in delivered.offsets {
            let append = appends[number - 1];
            let offset = Offset(offset as u64);
            self.topics.committed(append.topic, append.partition, offset.next());
            outcomes[number - 1] = Some(Ok(offset));
        }
        for (number, code, is_known) in delivered.lost {
            let error = error::of_known(&code.into(), "appending");
            let error = if is_known { error } else { Error::OutcomeUnknown { cause: error.to_string().into() } };
            outcomes[number - 1] = Some(Err(error));
        }
        // Whatever it has not answered by now must not come later.
        if producer.client.fatal().is_some() || outcomes.iter().any(Option::is_none) {
            self.producer = None;
        }
        self.cluster.progress.advance();
        outcomes.into_iter().map(|outcome| outcome.unwrap_or_else(unknown)).collect()
    }

    /// Makes the producer, if there is none.
    pub(super) fn ready(&mut self) -> Result<(), Error> {
        if self.producer.is_none() {
            let config = self.cluster.config.single_producer();
            let client = client(Kind::Producer, &config, self.cluster.status().events())?;
            // If there is none, its records wait for one.
            if let Err(failure) = client.meet_broker(CALL) {
                tracing::debug!(target: "kafka", ?failure, "no broker answers yet");
            }
            self.producer = Some(Producer::new(client));
        }
        Ok(())
    }
}
