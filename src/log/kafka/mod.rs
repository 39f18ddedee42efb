//! The log in a cluster of Apache Kafka (2.5 or later, tested on 4.2): transactions are Kafka's, and so are groups. The only place that
//! names rdkafka; all unsafe code is in [`native`].
//!
//! What must always hold: reads see committed records only; a transaction is committed whole, and is said to be aborted only if it
//! was; whoever commits here can read it back here right after. Nothing is made that was not asked for: no topic comes into being
//! by being named. Markers of transactions and aborted records take offsets too, so offsets have gaps.
//!
//! Retention counts from a record's timestamp, as Kafka has it, and a timestamp of exactly 0 is kept as "no timestamp" (-1), which is read as 0
//! again.

mod cluster;
mod config;
mod error;
mod member;
mod native;
mod progress;
mod reader;
mod singles;
mod topics;
mod transactions;
mod unheard;
mod writer;

pub use config::{GroupProtocol, KafkaConfig, Mechanism};
pub use native::leaves_out_told_leaders;

use super::{
    Bounds, Error, Fetched, Health, Limits, Log, Member, Membership, OwnedEnd, Pending, RecordBatch, TopicId, TopicInfo,
    TopicSpec, Transaction,
};
use crate::{Clock, Headers, Offset, Partition, Timestamp};
use cluster::Cluster;
use member::KafkaMember;
use native::{Failure, Isolation, Offsets};
use parking_lot::Mutex;
use rdkafka::types::RDKafkaErrorCode as Code;
use reader::Readers;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use topics::Topics;
use transactions::Transactions;

/// A transaction larger than this is refused, in bytes.
const MAX_TRANSACTION_BYTES: usize = 1 << 30;

/// How much is looked at at once for a record of some time.
const OFFSET_AT_BYTES: usize = 1 << 20;

/// The key of the record that tells who is to own a partition where it ends. No store's row has it, for stores have names.
const OWNERS_MARK: &[u8] = b"\0";

const LIMITS: Limits = Limits { max_record_bytes: config::MAX_RECORD_BYTES };

/// A log in a cluster of Kafka. A program that has one should be linked as [`leaves_out_told_leaders`] says.
pub struct KafkaLog {
    cluster: Arc<Cluster>,
    topics: Arc<Topics>,
    readers: Arc<Readers>,
    queue: Arc<writer::Queue>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl KafkaLog {
    /// Reaches the cluster.
    ///
    /// # Errors
    /// [`Error::Misconfigured`], [`Error::Unauthenticated`], [`Error::Unsupported`] if the brokers are too old, or [`Error::Unavailable`] if
    /// none answers within 10 s.
    pub fn open(config: KafkaConfig) -> Result<KafkaLog, Error> {
        let cluster = Arc::new(Cluster::connect(config)?);
        if !leaves_out_told_leaders() {
            tracing::warn!(
                target: "kafka",
                "this program is not linked with -Wl,--wrap=rd_kafka_metadata_update_op: partitions may stand still after a broker's death"
            );
        }
        let log = KafkaLog {
            cluster,
            topics: Arc::default(),
            readers: Arc::default(),
            queue: Arc::default(),
            threads: Mutex::default(),
        };
        let (cluster, readers) = (Arc::clone(&log.cluster), Arc::clone(&log.readers));
        log.spawn("log-health", move || cluster.watch(|| readers.sweep()))?;
        let (cluster, topics, queue) = (Arc::clone(&log.cluster), Arc::clone(&log.topics), Arc::clone(&log.queue));
        let transactions = match &cluster.config.exclusive {
            Some(name) => Transactions::exclusive(&cluster, &topics, name)?,
            None => Transactions::new(&cluster, &topics, &format!("millstream-{}-writer", cluster.config.instance)),
        };
        log.spawn("log-writer", move || writer::run(&cluster, &topics, transactions, &queue))?;
        Ok(log)
    }

    fn spawn(&self, name: &str, run: impl FnOnce() + Send + 'static) -> Result<(), Error> {
        let queue = Arc::clone(&self.queue);
        let run = move || {
            if catch_unwind(AssertUnwindSafe(run)).is_err() {
                // Whoever waits for an answer gets it now, and nobody waits for one that can't come.
                queue.end(Error::Unavailable { cause: "a thread of the log panicked".into() });
            }
        };
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(run);
        self.threads.lock().push(thread.map_err(|e| Error::Misconfigured { reason: format!("no thread can be started: {e}") })?);
        Ok(())
    }

    /// What is wrong with a transaction before anybody is asked, or its size in bytes.
    fn check(topics: &Topics, transaction: &Transaction) -> Result<usize, Error> {
        // What a topic takes is all that counts here.
        let limits = Limits { max_record_bytes: usize::MAX };
        let mut bytes = 0;
        for append in &transaction.appends {
            let facts = append.batch.facts();
            let topic = topics.get(append.topic)?;
            limits.check_facts(&topic, append.partition, facts.largest, facts.earliest, facts.unkeyed)?;
            bytes += append.batch.bytes().len();
        }
        if let Some(read) = &transaction.offsets {
            if read.group.is_empty() || read.group.len() > usize::from(u16::MAX) {
                return Err(Error::InvalidGroup { bytes: read.group.len() });
            }
            for (topic, partition, _) in &read.offsets {
                topics.find(*topic, *partition)?;
            }
        }
        if transaction.request.is_some() {
            let what = "a request's row in a transaction: on Kafka a request is a command that a task carries out".to_owned();
            return Err(Error::Unsupported { what });
        }
        if bytes > MAX_TRANSACTION_BYTES {
            return Err(Error::TransactionTooLarge { bytes, max: MAX_TRANSACTION_BYTES });
        }
        Ok(bytes)
    }
}

/// The name of a worker's transactions.
fn transactional_name(group: &str, instance: &str, worker: usize) -> String {
    format!("{group}-{instance}-{worker}")
}

impl Drop for KafkaLog {
    /// Commits what waits.
    fn drop(&mut self) {
        self.queue.close();
        self.cluster.close();
        for thread in self.threads.get_mut().drain(..) {
            thread.join().expect("a thread of the log catches its panics");
        }
    }
}

impl fmt::Debug for KafkaLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaLog").field("config", &self.cluster.config).field("health", &self.health()).finish_non_exhaustive()
    }
}

impl Log for KafkaLog {
    fn create_topic(&self, spec: &TopicSpec) -> Result<TopicInfo, Error> {
        let made = topics::create(&self.cluster, &self.topics, std::slice::from_ref(spec))?.pop();
        made.ok_or_else(|| Error::UnknownTopic { topic: spec.name.clone() })
    }

    fn create_topics(&self, specs: &[TopicSpec]) -> Result<Vec<TopicInfo>, Error> {
        topics::create(&self.cluster, &self.topics, specs)
    }

    fn topic(&self, name: &str) -> Result<Option<TopicInfo>, Error> {
        topics::look_up(&self.cluster, &self.topics, name)
    }

    fn topics(&self) -> Result<Vec<TopicInfo>, Error> {
        let mut names = self.cluster.ask("topics", native::Client::topic_names)?;
        // Kafka's own are nobody else's business.
        names.retain(|name| !name.starts_with("__"));
        names.sort();
        topics::look_up_all(&self.cluster, &self.topics, &names.iter().map(String::as_str).collect::<Vec<_>>())
    }

    fn fetch(&self, topic: TopicId, partition: Partition, from: Offset, max_bytes: usize) -> Result<Fetched, Error> {
        self.readers.fetch(&self.cluster, &self.topics, (topic, partition), from, max_bytes)
    }

    fn follow(&self, topic: TopicId, partition: Partition, from: Offset, max_bytes: usize) -> Result<Fetched, Error> {
        self.readers.follow(&self.cluster, &self.topics, (topic, partition), from, max_bytes)
    }

    fn bounds(&self, topic: TopicId, partition: Partition) -> Result<Bounds, Error> {
        reader::bounds(&self.cluster, &self.topics, topic, partition)
    }

    fn open_ends(&self, places: &[(TopicId, Partition)]) -> Result<Vec<Offset>, Error> {
        if places.is_empty() {
            return Ok(Vec::new());
        }
        let named = |(id, partition): &(TopicId, Partition)| {
            Ok((Arc::clone(&self.topics.find(*id, *partition)?.name), partition.0 as i32))
        };
        let named = places.iter().map(named).collect::<Result<Vec<_>, Error>>()?;
        let uncommitted = Some(Isolation::Uncommitted);
        self.cluster.ask("ends of partitions", |client, timeout| client.ends_of(&named, uncommitted, timeout))
    }

    fn owned_end(&self, topic: TopicId, partition: Partition) -> Result<OwnedEnd, Error> {
        let info = self.topics.find(topic, partition)?;
        let mut mark = RecordBatch::new();
        mark.push(Clock::System.now(), Some(OWNERS_MARK), None, &Headers::EMPTY);
        let place = (&*info.name, partition.0 as i32);
        let append = |client: &native::Client, timeout| {
            mark.records(Offset(0)).map(|mark| client.append(place, &mark, timeout)).last().unwrap_or(Err(Code::NoEnt.into()))
        };
        let end = Offset(self.cluster.ask(&info.name, append)? as u64);
        self.topics.committed(topic, partition, end.next());
        Ok(OwnedEnd { end, next: end.next() })
    }

    fn join(&self, membership: Membership) -> Result<Box<dyn Member>, Error> {
        Ok(Box::new(KafkaMember::join(self, &membership)?))
    }

    fn instance(&self) -> &str {
        &self.cluster.config.instance
    }

    fn session_timeout(&self) -> Duration {
        self.cluster.config.session_timeout
    }

    fn fence(&self, group: &str, instance: &str, workers: usize) -> Result<(), Error> {
        let mut names = (0..workers).map(|worker| transactional_name(group, instance, worker));
        names.try_for_each(|name| Transactions::new(&self.cluster, &self.topics, &name).ready())
    }

    fn health(&self) -> Health {
        self.cluster.health()
    }

    fn version(&self) -> u64 {
        self.cluster.progress.version()
    }

    fn wait(&self, seen: u64, timeout: Duration) -> u64 {
        self.cluster.progress.wait(seen, timeout)
    }

    fn wake(&self) {
        self.cluster.progress.wake();
    }

    fn commit(&self, transaction: Transaction) -> Pending {
        match KafkaLog::check(&self.topics, &transaction).and_then(|bytes| self.cluster.available().map(|()| bytes)) {
            Ok(bytes) => self.queue.push(transaction, bytes),
            Err(error) => Pending::refused(error),
        }
    }

    fn members(&self, group: &str) -> Result<Vec<String>, Error> {
        let what = format!("members of group {group}");
        self.cluster.ask(&what, |client, timeout| match client.group_members(group, timeout) {
            Err(failure) if failure.code == Code::GroupIdNotFound => Ok(Vec::new()),
            other => other,
        })
    }

    fn delete_topics(&self, names: &[&str]) -> Result<(), Error> {
        topics::delete(&self.cluster, names)
    }

    fn counts_by_offsets(&self) -> bool {
        false
    }

    fn offset_at(&self, topic: TopicId, partition: Partition, at: Timestamp) -> Result<Offset, Error> {
        let info = self.topics.find(topic, partition)?;
        let place = [(Arc::clone(&info.name), partition.0 as i32)];
        let found = self.cluster.ask(&info.name, |client, timeout| client.offsets_at(&place, at.0.max(0), timeout))?;
        let end = reader::end_of(&self.cluster, &info, partition, Some(Isolation::Committed))?;
        let mut next = found.first().filter(|offset| **offset >= 0).map_or(end, |offset| Offset(*offset as u64));
        // It may be the mark of a transaction, which has the time when it was set, and not a record's.
        while next < end {
            let seen = self.version();
            let fetched = self.fetch(topic, partition, next, OFFSET_AT_BYTES)?;
            if fetched.next == next {
                self.wait(seen, Duration::from_millis(20));
            }
            let mut records = fetched.batches.iter().flat_map(|batch| batch.records_from(next));
            if let Some(record) = records.find(|record| record.timestamp >= at) {
                return Ok(record.offset);
            }
            next = fetched.next;
        }
        Ok(end)
    }

    fn offsets(&self, group: &str) -> Result<Vec<(TopicId, Partition, Offset)>, Error> {
        let ask = |of: Option<&[(Arc<str>, i32, i64)]>| {
            self.cluster.ask_coordinator(group, |client, timeout| {
                match client.group_offsets(group, of, Offsets::Stable, timeout) {
                    Err(failure) if failure.code == Code::UnstableOffsetCommit => Err(Failure { retriable: true, ..failure }),
                    Err(failure) if failure.code == Code::GroupIdNotFound => Ok(Vec::new()),
                    other => other,
                }
            })
        };
        // Only who is asked for by name is never passed over.
        let mut found = ask(None)?;
        for partitions in self.topics.partitions().chunks(1000) {
            found.extend(ask(Some(partitions))?);
        }
        let mut names: Vec<_> = found.iter().map(|(topic, ..)| topic.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let topics = topics::look_up_all(&self.cluster, &self.topics, &names)?;
        let id = |name: &str| topics.iter().find(|topic| &*topic.name == name).map(|topic| topic.id);
        // A topic that was deleted since has no offsets worth knowing.
        let placed = found
            .iter()
            .filter_map(|(topic, partition, offset)| Some((id(topic)?, Partition(*partition as u32), Offset(*offset as u64))));
        let mut offsets: Vec<_> = placed.collect();
        offsets.sort_by_key(|(topic, partition, offset)| (*topic, *partition, std::cmp::Reverse(*offset)));
        offsets.dedup_by_key(|(topic, partition, _)| (*topic, *partition));
        Ok(offsets)
    }

    fn read_so_far(&self, group: &str, places: &[(TopicId, Partition)]) -> Result<Vec<Offset>, Error> {
        let named = |(id, partition): &(TopicId, Partition)| {
            Ok((Arc::clone(&self.topics.find(*id, *partition)?.name), partition.0 as i32, 0))
        };
        let named = places.iter().map(named).collect::<Result<Vec<_>, Error>>()?;
        let found = self.cluster.ask_coordinator(group, |client, timeout| {
            match client.group_offsets(group, Some(&named), Offsets::Shown, timeout) {
                Err(failure) if failure.code == Code::GroupIdNotFound => Ok(Vec::new()),
                other => other,
            }
        })?;
        let of = |topic: &str, partition: i32| found.iter().find(|(name, p, _)| name == topic && *p == partition);
        Ok(named
            .iter()
            .map(|(topic, partition, _)| of(topic, *partition).map_or(Offset(0), |(.., at)| Offset(*at as u64)))
            .collect())
    }

    fn trim(&self, topic: TopicId, partition: Partition, before: Offset) -> Result<(), Error> {
        let topic = self.topics.find(topic, partition)?;
        let start = reader::end_of(&self.cluster, &topic, partition, None)?;
        let end = reader::end_of(&self.cluster, &topic, partition, Some(Isolation::Committed))?;
        let before = before.min(end);
        if before <= start {
            return Ok(());
        }
        let what = format!("trimming {}", topic.name);
        self.cluster
            .ask(&what, |client, timeout| client.delete_records(&topic.name, partition.0 as i32, before.0 as i64, timeout))
    }

    fn widen(&self, topic: TopicId, max_record_bytes: usize) -> Result<TopicInfo, Error> {
        topics::widen(&self.cluster, &self.topics, &self.topics.get(topic)?, max_record_bytes)
    }

    fn limits(&self) -> Limits {
        LIMITS
    }
}
