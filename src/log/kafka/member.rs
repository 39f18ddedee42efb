//! A worker thread's place in its group: one consumer, and its transactions.
//!
//! A task is one partition of an anchor, the input of its sub-topology with the most partitions. The group shares out anchors; the other
//! inputs of a task come and go with the anchor's partition, so co-partitioned inputs are always together. What the group gives is read only
//! once its task has begun, from the offsets that the task says. What must always hold: a transaction carries offsets and the group's
//! metadata as it was when the member was last told of changes, so that a member whose tasks are somebody else's commits nothing: librdkafka
//! takes over a generation when it hears of it, and tells later what that one takes away. And rebalances are answered in `changes` alone, so
//! none falls into a transaction.

use super::super::{Change, Committed, Error, Fetched, Member, Membership, Moment, TopicId, Transaction};
use super::cluster::{Cluster, client};
use super::config::{GroupProtocol, HEARTBEAT};
use super::error;
use super::native::{Client, GroupMetadata, Isolation, Kind, Queue, Rebalance, Resource, Taken, Wake};
use super::progress::Signal;
use super::reader::{self, Reading};
use super::topics::Topics;
use super::transactions::{Read, Transactions};
use super::unheard::Unheard;
use super::{KafkaLog, transactional_name};
use crate::{Offset, Partition};
use parking_lot::Mutex;
use rdkafka::types::RDKafkaErrorCode as Code;
use rustc_hash::{FxHashMap, FxHashSet};
use std::sync::Arc;
use std::time::Duration;

/// How long a seek may take, and leaving the group.
const SEEK: Duration = Duration::from_secs(10);
const LEAVE: Duration = Duration::from_secs(3);

pub(super) struct KafkaMember {
    cluster: Arc<Cluster>,
    topics: Arc<Topics>,
    // In this order: queues end before the client they belong to.
    inputs: FxHashMap<(TopicId, Partition), Input>,
    group: Queue,
    consumer: Client,
    /// Where the group shares out tasks itself.
    unheard: Option<Unheard>,
    shared: Arc<Mutex<Shared>>,
    signal: Arc<Signal>,
    transactions: Transactions,
    /// As who this member was when it was asked last what the group has changed: nobody, while it is not one.
    told: Option<Arc<GroupMetadata>>,
}

/// An input of a task that has begun.
struct Input {
    reading: Reading,
    queue: Queue,
}

/// What rebalances change, which happen while the consumer is polled.
struct Shared {
    /// The sub-topology of each anchor.
    anchors: FxHashMap<Arc<str>, usize>,
    /// The partitions of anchors that the group gave.
    held: FxHashSet<(String, i32)>,
    tasks: Vec<u32>,
    changes: Vec<Change>,
    /// What is being read for each task.
    reading: FxHashMap<(usize, Partition), Vec<(TopicId, Arc<str>)>>,
    /// Inputs of tasks that were taken away since.
    ended: Vec<(TopicId, Partition)>,
    unknown: FxHashSet<String>,
}

impl KafkaMember {
    pub(super) fn join(log: &KafkaLog, membership: &Membership) -> Result<KafkaMember, Error> {
        let (cluster, topics) = (Arc::clone(&log.cluster), Arc::clone(&log.topics));
        cluster.suffices()?;
        let anchors = anchors(&topics, membership)?;
        let group = &membership.group;
        let protocol = chosen(&cluster, group)?;
        let name = transactional_name(group, &cluster.config.instance, membership.worker);
        let transactions = Transactions::new(&cluster, &topics, &name);
        let shared = Arc::new(Mutex::new(Shared {
            anchors: anchors.iter().cloned().collect(),
            held: FxHashSet::default(),
            tasks: membership.subs.iter().map(|sub| sub.tasks).collect(),
            changes: Vec::new(),
            reading: FxHashMap::default(),
            ended: Vec::new(),
            unknown: FxHashSet::default(),
        }));
        let mut events = cluster.status().events();
        let told = Arc::clone(&shared);
        events.on_rebalance = Some(Box::new(move |rebalance| told.lock().rebalanced(&rebalance)));
        let consumer = client(Kind::Consumer, &cluster.config.member(group, protocol), events)?;
        let mut queue = consumer.group_queue().ok_or(Error::Closed)?;
        let signal = cluster.progress.signal();
        queue.on_nonempty(raising(&signal));
        let names: Vec<_> = anchors.into_iter().map(|(name, _)| name).collect();
        if !names.is_empty() {
            consumer.subscribe(&names).map_err(|failure| error::of(&failure, &format!("joining group {group}")))?;
        }
        let unheard = (protocol == GroupProtocol::Consumer).then(|| Unheard::new(group, names));
        let inputs = FxHashMap::default();
        let mut member =
            KafkaMember { cluster, topics, inputs, group: queue, consumer, unheard, shared, signal, transactions, told: None };
        // What this worker left open when it died holds up whoever reads its topics. The group is joined meanwhile, and heard of after it.
        member.transactions.ready()?;
        Ok(member)
    }
}

impl Shared {
    fn rebalanced(&mut self, rebalance: &Rebalance) -> Vec<(Arc<str>, i32)> {
        let mut stop = Vec::new();
        for (topic, partition) in &rebalance.partitions {
            match rebalance.kind {
                Taken::Assigned => self.held.insert((topic.clone(), *partition)),
                Taken::Revoked | Taken::Lost => self.held.remove(&(topic.clone(), *partition)),
            };
            let Some(&sub) = self.anchors.get(topic.as_str()) else { continue };
            let (number, partition) = (*partition, Partition(*partition as u32));
            if partition.0 >= self.tasks[sub] {
                if self.unknown.insert(format!("{topic}-{number}")) {
                    tracing::error!(
                        "partition {number} of {topic} was added and has no task: scale the topology, its records wait"
                    );
                }
                continue;
            }
            if rebalance.kind == Taken::Assigned {
                self.changes.push(Change::Assigned { sub, partition });
                continue;
            }
            if rebalance.kind == Taken::Lost {
                tracing::warn!("the group took task {sub}-{partition} away: this worker was silent for too long");
            }
            self.changes.push(Change::Revoked { sub, partition });
            for (topic, name) in self.reading.remove(&(sub, partition)).unwrap_or_default() {
                self.ended.push((topic, partition));
                stop.push((name, number));
            }
        }
        stop
    }
}

impl Member for KafkaMember {
    fn changes(&mut self) -> Result<Vec<Change>, Error> {
        // What a producer left open that had to be given up would hold back whoever restores.
        self.transactions.ready()?;
        // Before the changes: with the next generation others may have what this one hears of later.
        self.told = GroupMetadata::of_member(&self.consumer).map(Arc::new);
        let mut failed = None;
        while self.group.consume(1, Duration::ZERO, |message| failed = message.error().or(failed)) > 0 {}
        if let Some(unheard) = &mut self.unheard {
            let held = || self.shared.lock().held.iter().cloned().collect();
            unheard.serve(&self.consumer, held).map_err(|failure| error::of(&failure, "joining the group anew"))?;
        }
        let mut shared = self.shared.lock();
        for input in std::mem::take(&mut shared.ended) {
            self.inputs.remove(&input);
        }
        let changes = std::mem::take(&mut shared.changes);
        match failed {
            // Changes that were told must arrive; what is wrong will be told again.
            Some(code) if changes.is_empty() && !error::is_passing(&code.into()) && !error::is_unknown(code) => {
                let error = error::of(&code.into(), "reading as a member of the group");
                // A member that was taken for dead joins anew by itself.
                if matches!(error, Error::Aborted { .. }) { Ok(changes) } else { Err(error) }
            }
            _ => Ok(changes),
        }
    }

    fn is_member(&self) -> bool {
        // Who asks for nothing has nothing to wait for.
        self.shared.lock().anchors.is_empty() || GroupMetadata::of_member(&self.consumer).is_some()
    }

    fn begin(&mut self, sub: usize, partition: Partition, offsets: &[(TopicId, Offset)]) -> Result<(), Error> {
        let mut new = Vec::new();
        let mut moved = Vec::new();
        for &(id, from) in offsets {
            let topic = self.topics.find(id, partition)?;
            let place = (Arc::clone(&topic.name), partition.0 as i32, from.0 as i64);
            if let Some(input) = self.inputs.get_mut(&(id, partition)) {
                input.reading.go_to(from);
                moved.push(place);
                continue;
            }
            let end = reader::end_of(&self.cluster, &topic, partition, Some(Isolation::Committed))?;
            let queue = Queue::of_partition(&self.consumer, &topic.name, partition.0 as i32);
            let mut queue = queue.ok_or_else(|| Error::UnknownTopic { topic: topic.name.to_string() })?;
            queue.on_nonempty(raising(&self.signal));
            new.push((
                id,
                topic.name.clone(),
                Input { reading: Reading::new(&topic, partition, from, end.0 as i64), queue },
                place,
            ));
        }
        let failed = |failure| error::of(&failure, &format!("reading for task {sub}-{partition}"));
        if !moved.is_empty() {
            self.consumer.seek(&moved, SEEK).map_err(failed)?;
        }
        if !new.is_empty() {
            let places: Vec<_> = new.iter().map(|(.., place)| place.clone()).collect();
            self.consumer.incremental_assign(&places).map_err(failed)?;
            let mut shared = self.shared.lock();
            let reading = shared.reading.entry((sub, partition)).or_default();
            for (id, name, input, _) in new {
                reading.push((id, name));
                self.inputs.insert((id, partition), input);
            }
        }
        self.signal.raise();
        Ok(())
    }

    fn fetch(&mut self, id: TopicId, partition: Partition, from: Offset, max_bytes: usize) -> Result<Fetched, Error> {
        let Some(input) = self.inputs.get_mut(&(id, partition)) else {
            // Its task was taken away and the worker has not heard of it yet: there is nothing to read.
            return Ok(Fetched { batches: Vec::new(), next: from, end: from });
        };
        if input.reading.next != from.0 as i64 {
            let topic = self.topics.find(id, partition)?;
            let place = (Arc::clone(&topic.name), partition.0 as i32, from.0 as i64);
            input.reading.go_to(from);
            self.consumer.seek(&[place], SEEK).map_err(|failure| error::of(&failure, &topic.name))?;
        }
        match input.reading.take(&self.consumer, &input.queue, max_bytes) {
            Ok((batch, more)) => {
                if more {
                    self.signal.raise();
                }
                let [next, end] = [input.reading.next, input.reading.end()].map(|at| Offset(at as u64));
                Ok(Fetched { batches: batch.into_iter().collect(), next, end })
            }
            Err(failure) => {
                // It may be of what was read here before (librdkafka does not take back that a place is gone), and it was counted as a
                // record: it is read anew from here.
                let topic = self.topics.find(id, partition)?;
                let place = [(Arc::clone(&topic.name), partition.0 as i32, from.0 as i64)];
                input.reading.go_to(from);
                let anew = self.consumer.incremental_unassign(&place).and_then(|()| self.consumer.incremental_assign(&place));
                anew.map_err(|failure| error::of(&failure, &topic.name))?;
                let is_gone = matches!(failure.code, Code::AutoOffsetReset | Code::OffsetOutOfRange);
                if !is_gone && !error::is_passing(&failure) && !error::is_unknown(failure.code) {
                    return Err(error::of(&failure, &topic.name));
                }
                // They say for good whether there is such a topic.
                let bounds = reader::bounds(&self.cluster, &self.topics, id, partition)?;
                if is_gone && (from < bounds.start || from > bounds.end) {
                    return Err(reader::out_of_range(&topic, partition, from, bounds));
                }
                tracing::debug!(target: "kafka", %partition, topic = &*topic.name, %from, "read anew: {}", failure.text);
                Ok(Fetched { batches: Vec::new(), next: from, end: bounds.end.max(from) })
            }
        }
    }

    fn wait(&mut self, timeout: Duration) {
        self.signal.wait(timeout);
    }

    fn commit(&mut self, transaction: Transaction) -> Result<Committed, Error> {
        KafkaLog::check(&self.topics, &transaction)?;
        let Some(read) = transaction.offsets.as_ref().filter(|read| !read.offsets.is_empty()) else {
            let what = "a worker's transaction without offsets, which nothing would fence".to_owned();
            return Err(Error::Unsupported { what });
        };
        let nobody = || Error::Aborted { cause: "this worker is not a member of its group now".into() };
        let group = Arc::clone(self.told.as_ref().ok_or_else(nobody)?);
        let named = read
            .offsets
            .iter()
            .map(|(id, partition, offset)| Ok((self.topics.get(*id)?.name, partition.0 as i32, offset.0 as i64)));
        let reads = [Read { group, offsets: named.collect::<Result<_, Error>>()? }];
        let appends: Vec<_> = transaction.appends.iter().collect();
        let base_offsets = self.transactions.commit(&appends, &reads)?;
        Ok(Committed { base_offsets, at: Moment::DURABLE })
    }
}

impl Drop for KafkaMember {
    /// Leaves the group, so that others have the tasks at once.
    fn drop(&mut self) {
        self.inputs.clear();
        self.consumer.close(LEAVE);
    }
}

fn raising(signal: &Arc<Signal>) -> Wake {
    let signal = Arc::clone(signal);
    Arc::new(move || signal.raise())
}

/// The input of each sub-topology with the most partitions; every member comes to the same, for their topologies are the same.
fn anchors(topics: &Topics, membership: &Membership) -> Result<Vec<(Arc<str>, usize)>, Error> {
    let mut anchors = Vec::new();
    for (sub, inputs) in membership.subs.iter().enumerate() {
        let found = inputs.topics.iter().map(|id| topics.get(*id)).collect::<Result<Vec<_>, _>>()?;
        let Some(anchor) = found.iter().find(|topic| topic.partitions == inputs.tasks) else {
            if inputs.tasks == 0 {
                continue;
            }
            let topic = found.first().map_or("none".into(), |topic| Arc::clone(&topic.name));
            let counts: Vec<_> = found.iter().map(|topic| format!("{} of {}", topic.partitions, topic.name)).collect();
            let (found, wanted) = (format!("partitions {}", counts.join(", ")), format!("as many as its {} tasks", inputs.tasks));
            return Err(Error::TopicDiffers { topic, found, wanted });
        };
        anchors.push((Arc::clone(&anchor.name), sub));
    }
    Ok(anchors)
}

/// The protocol to join with. With the broker's own, how soon a dead member is noticed is a setting of the group, within the broker's bounds.
fn chosen(cluster: &Cluster, group: &str) -> Result<GroupProtocol, Error> {
    // With the broker's own, members that come at the same moment were seen to commit for tasks that others had already.
    let protocol = match cluster.config.group_protocol {
        GroupProtocol::Auto => GroupProtocol::Classic,
        wanted => wanted,
    };
    if protocol == GroupProtocol::Consumer {
        let session_ms = cluster.config.session_timeout.as_millis() as u64;
        let least = least_heartbeat_ms(cluster).unwrap_or(0);
        let settings = vec![
            ("consumer.session.timeout.ms".to_owned(), session_ms.to_string()),
            ("consumer.heartbeat.interval.ms".to_owned(), least.max(HEARTBEAT.as_millis() as u64).to_string()),
        ];
        let set = cluster.ask(group, |client, timeout| client.set(Resource::Group, group, &settings, timeout));
        match set {
            Ok(()) => {}
            Err(error) if error.is_retriable() => return Err(error),
            Err(error) => tracing::warn!(group, "the broker's own session timeout is used: {error}"),
        }
    }
    tracing::info!(group, ?protocol, "joining");
    Ok(protocol)
}

/// How often members of a group whose tasks the brokers share out say at most that they live, in milliseconds. Nothing where the brokers do not
/// share out tasks, or do not tell.
fn least_heartbeat_ms(cluster: &Cluster) -> Option<u64> {
    let broker = cluster.ask("brokers", |client, timeout| client.some_broker(timeout)).ok()??.to_string();
    let asked = cluster.ask("settings of a broker", |client, timeout| client.settings(Resource::Broker, &[&broker], timeout));
    let settings = asked.ok()?.into_iter().next()?;
    let value = |name: &str| settings.iter().find(|(of, _)| of == name).map(|(_, value)| value.as_str());
    if value("group.coordinator.rebalance.protocols").is_some_and(|protocols| !protocols.contains("consumer")) {
        return None;
    }
    value("group.consumer.min.heartbeat.interval.ms")?.parse().ok()
}
