//! A synchronous driver of a topology: what is piped in is processed to its end, through all sub-topologies, before the call returns.

use std::sync::Arc;

use millstream_state::{Db, Direction, Home, MemoryDisk, Options, Position, Range, StoreSpec, TaskId, TaskState};

use crate::clock::Clock;
use crate::codec::{Data, Presence};
use crate::log::{Limits, RecordBatch, StoredBatch, TopicId, TopicInfo, partition};
use crate::record::{Headers, Offset, Partition, Record, Timestamp};
use crate::store::Store;
use crate::task::changelog::ChangelogReader;
use crate::task::context::split_table_row;
use crate::task::global::GlobalPart;
use crate::task::{Effects, ROOM, Step, Task};
use crate::topic::Topic;
use crate::topology::{StoreIndex, TopicIndex, Topology};

/// Runs a topology in memory, one step and one commit at a time.
///
/// ```
/// use millstream::testing::TestDriver;
/// use millstream::{Record, StreamBuilder, Timestamp, Topic};
///
/// const IN: Topic<String, i64> = Topic::new("in");
/// const OUT: Topic<String, i64> = Topic::new("out");
///
/// let mut builder = StreamBuilder::new("example");
/// builder.stream(&IN).group_by_key().reduce("sums", |a, b| a + b).to_stream().to(&OUT);
/// let mut driver = TestDriver::new(builder.build().unwrap());
/// driver.pipe(&IN, &Record::new("a".to_owned(), 2, Timestamp(0)));
/// driver.pipe(&IN, &Record::new("a".to_owned(), 3, Timestamp(1)));
/// let sums: Vec<i64> = driver.read(&OUT).into_iter().map(|record| record.value).collect();
/// assert_eq!(sums, [2, 5]);
/// ```
pub struct TestDriver {
    topology: Arc<Topology>,
    topics: Arc<[TopicInfo]>,
    clock: Clock,
    /// Whether the clock was ever moved, be it by nothing.
    has_moved: bool,
    tasks: Vec<Task>,
    globals: Vec<(GlobalPart, Offset)>,
    log: Vec<Vec<PartitionLog>>,
    /// How far `read` is, by topic and partition.
    read: Vec<Vec<usize>>,
    max_task_idle_ms: u64,
}

/// One record a batch, so that the test can look at each where it lies.
#[derive(Default)]
struct PartitionLog {
    batches: Vec<StoredBatch>,
}

impl PartitionLog {
    fn append(&mut self, topic: &TopicInfo, batch: &RecordBatch, now: Timestamp) {
        let limits = Limits { max_record_bytes: Limits::default().max_record_bytes + ROOM };
        for record in batch.records(Offset(0)) {
            let (partition, headers) = (Partition(0), record.headers.to_headers());
            limits
                .check(topic, partition, record.timestamp, record.key, record.value, &headers)
                .expect("the log takes the record");
            let mut one = RecordBatch::new();
            one.push(record.timestamp, record.key, record.value, &record.headers.to_headers());
            let base = Offset(self.batches.len() as u64);
            self.batches.push(StoredBatch::concat(base, 1, now, &[one]));
        }
    }
}

const CANNOT_FAIL: &str = "state in memory does not fail";

impl TestDriver {
    /// A driver for the topology, with the clock at 0 and the partitions that the topics declare.
    ///
    /// # Panics
    /// If the topology cannot run.
    #[must_use]
    pub fn new(topology: Topology) -> TestDriver {
        let counts = topology.partitions(|_| None).expect("a topology that was built has fitting partitions");
        let topic = |(i, (topic, partitions)): (usize, (&crate::topology::TopicDef, u32))| TopicInfo {
            name: topic.name.as_str().into(),
            id: TopicId(i as u32),
            uuid: (i as u128).to_be_bytes(),
            partitions,
            cleanup: topic.cleanup,
            max_record_bytes: usize::MAX,
        };
        let topics: Arc<[TopicInfo]> = topology.topics.iter().zip(counts.iter().copied()).enumerate().map(topic).collect();
        let log = counts.iter().map(|n| (0..*n).map(|_| PartitionLog::default()).collect()).collect();
        let read = counts.iter().map(|n| vec![0; *n as usize]).collect();
        let clock = Clock::manual(Timestamp(0));
        let (topology, tasks, globals, max_task_idle_ms) = (Arc::new(topology), Vec::new(), Vec::new(), 0);
        let has_moved = false;
        let mut driver = TestDriver { topology, topics, clock, has_moved, tasks, globals, log, read, max_task_idle_ms };
        driver.restart();
        driver
    }

    /// As [`Config::max_task_idle_ms`](crate::Config::max_task_idle_ms), from now on; 0 at first.
    pub fn set_max_task_idle_ms(&mut self, max_task_idle_ms: u64) {
        self.max_task_idle_ms = max_task_idle_ms;
        let tasks = std::mem::take(&mut self.tasks);
        self.tasks = tasks.into_iter().map(|task| task.with_max_idle_ms(max_task_idle_ms)).collect();
    }

    /// Loses all state, as a crash on a machine that is gone does, and restores it from the changelogs.
    ///
    /// # Panics
    /// If the state cannot be restored.
    pub fn restart(&mut self) {
        self.tasks.clear();
        self.globals.clear();
        let spec = |store: &crate::topology::StoreDef| StoreSpec {
            name: store.name.clone(),
            access: store.access,
            ttl_ms: store.ttl_ms,
        };
        let stores = self.topology.stores.iter().map(spec).collect();
        let options = Options { background: false, ..Options::new(Home::Memory(MemoryDisk::new()), stores) };
        let db = Db::open(options).expect(CANNOT_FAIL);
        let counts: Vec<u32> = self.topics.iter().map(|topic| topic.partitions).collect();
        for (index, global) in self.topology.globals.iter().enumerate() {
            for partition in (0..counts[global.topic.0]).map(Partition) {
                let part = GlobalPart::take(&db, &self.topology, index, partition).expect(CANNOT_FAIL);
                self.globals.push((part, Offset(0)));
            }
        }
        self.follow_globals();
        for (index, sub) in self.topology.subs.iter().enumerate() {
            let stores: Vec<_> = sub.stores.iter().map(|store| store.id()).collect();
            for p in 0..self.topology.tasks(index, &counts) {
                let mut state = db.task(TaskId { sub_topology: index as u32, partition: p }, &stores).expect(CANNOT_FAIL);
                let batches = &self.log[sub.changelog.0][p as usize].batches;
                let mut reader = ChangelogReader::new(&self.topology, sub);
                let rows = batches.iter().flat_map(StoredBatch::records).filter_map(|record| {
                    let row = reader.row(&record)?;
                    Some((row.store.id(), row.key, row.value))
                });
                let position = self.position(sub.changelog, batches.len() as u64);
                let positions: Vec<_> = stores.iter().map(|store| (*store, position)).collect();
                state.restore(rows, &positions).expect(CANNOT_FAIL);
                let (topology, topics) = (Arc::clone(&self.topology), Arc::clone(&self.topics));
                let task = Task::new(topology, index, Partition(p), state, topics, Limits::default(), self.clock.now());
                self.tasks.push(task.expect(CANNOT_FAIL).with_max_idle_ms(self.max_task_idle_ms));
            }
        }
    }

    /// Brings global tables and feeds to the ends of their topics.
    fn follow_globals(&mut self) {
        for (part, next) in &mut self.globals {
            let topic = part.def().topic.0;
            let batches = &self.log[topic][part.partition().0 as usize].batches;
            let end = Offset(batches.len() as u64);
            if *next < end {
                let new = &batches[next.0 as usize..];
                part.take_in(&self.topics[topic], new, (*next, end), self.clock.now(), |_| {}).expect(CANNOT_FAIL);
                *next = end;
            }
        }
    }

    fn position(&self, changelog: TopicIndex, offset: u64) -> Position {
        Position { topic_id: self.topics[changelog.0].uuid, offset, wall_ms: self.clock.now().0 }
    }

    fn topic(&self, name: &str) -> TopicIndex {
        let index = self.topology.topics.iter().position(|topic| topic.name == name);
        TopicIndex(index.unwrap_or_else(|| panic!("the topology has no topic {name:?}")))
    }

    /// Appends a record to a topic and processes everything that follows from it.
    ///
    /// # Panics
    /// If the topology has no such topic, or the record does not encode.
    pub fn pipe<K: 'static, V: 'static>(&mut self, topic: &Topic<K, V>, record: &Record<K, V>) {
        self.append(topic, record);
        self.run();
    }

    /// Appends a record to a topic, and leaves it to [`TestDriver::step`] when it is processed.
    ///
    /// # Panics
    /// As [`TestDriver::pipe`].
    pub fn append<K: 'static, V: 'static>(&mut self, topic: &Topic<K, V>, record: &Record<K, V>) {
        let (mut key, mut value) = (Vec::new(), Vec::new());
        let has_key = topic.key_codec().encode(&record.key, &mut key).expect("the key encodes") == Presence::Present;
        let has_value = topic.value_codec().encode(&record.value, &mut value).expect("the value encodes") == Presence::Present;
        let (key, value) = (has_key.then_some(&key[..]), has_value.then_some(&value[..]));
        self.append_bytes(topic.name(), key, value, record.timestamp, &record.headers);
    }

    /// As [`TestDriver::pipe`] with bytes, which need not be what the topic's codecs read.
    ///
    /// # Panics
    /// If the topology has no such topic.
    pub fn pipe_bytes(&mut self, topic: &str, key: Option<&[u8]>, value: Option<&[u8]>, timestamp: Timestamp, headers: &Headers) {
        self.append_bytes(topic, key, value, timestamp, headers);
        self.run();
    }

    fn append_bytes(&mut self, topic: &str, key: Option<&[u8]>, value: Option<&[u8]>, timestamp: Timestamp, headers: &Headers) {
        let topic = self.topic(topic);
        let mut batch = RecordBatch::new();
        batch.push(timestamp, key, value, headers);
        let partition = partition(key, self.topics[topic.0].partitions, 0);
        self.log[topic.0][partition.0 as usize].append(&self.topics[topic.0], &batch, self.clock.now());
        self.follow_globals();
    }

    /// Moves the wall clock on and lets what is due run. A punctuator whose anchor is where the clock begins runs when it is moved for the
    /// first time, as in Kafka Streams' driver; a worker runs it at once.
    pub fn advance_wall_clock(&mut self, delta_ms: i64) {
        self.pass(delta_ms);
        self.run();
    }

    /// Moves the wall clock on, and leaves it to [`TestDriver::step`] when what is due runs.
    pub fn pass(&mut self, delta_ms: i64) {
        self.has_moved = true;
        self.clock.advance_ms(delta_ms);
    }

    /// Lets one task that has something to do handle one record or timer, and commits it. `false` if no task has anything to do.
    ///
    /// Which one is up to `pick`: it is given a number of tasks and returns one below it. Where a test runs the same records with
    /// different choices, it sees them in the different orders in which partitions, that have no order among them, may be processed.
    pub fn step(&mut self, mut pick: impl FnMut(usize) -> usize) -> bool {
        let mut tasks = std::mem::take(&mut self.tasks);
        let mut rest: Vec<usize> = (0..tasks.len()).collect();
        let mut worked = false;
        while !worked && !rest.is_empty() {
            let next = rest.swap_remove(pick(rest.len()));
            worked = self.step_task(&mut tasks[next]);
        }
        self.tasks = tasks;
        worked
    }

    /// Processes until nothing is left to do, with a commit after every step.
    fn run(&mut self) {
        let mut tasks = std::mem::take(&mut self.tasks);
        loop {
            let mut worked = false;
            for task in &mut tasks {
                while self.step_task(task) {
                    worked = true;
                }
            }
            if !worked {
                break;
            }
        }
        self.tasks = tasks;
    }

    /// One step and its commit. A failing record is tried again at once. `false` if there was nothing to do.
    fn step_task(&mut self, task: &mut Task) -> bool {
        let mut now = self.clock.now();
        loop {
            self.feed(task);
            let step = task.step(now, self.has_moved).expect(CANNOT_FAIL);
            if let Step::Idle | Step::Waiting(_) = step {
                return false;
            }
            self.commit(task);
            match step {
                Step::Paused(at) => now = at,
                Step::Done | Step::Parked | Step::Idle | Step::Waiting(_) => return true,
            }
        }
    }

    fn feed(&self, task: &mut Task) {
        for input in 0..task.inputs_len() {
            let Some((topic, from)) = task.wants(input, false) else { continue };
            let batches = &self.log[topic.0][task.partition().0 as usize].batches;
            if let Some(new) = batches.get(from.0 as usize..).filter(|new| !new.is_empty()) {
                task.enqueue(input, new.to_vec(), Offset(batches.len() as u64));
            }
        }
    }

    fn commit(&mut self, task: &mut Task) {
        let now = self.clock.now();
        let Some(Effects { outputs, changelog, .. }) = task.effects(now).expect(CANNOT_FAIL) else { return };
        for outgoing in outputs {
            let topic = outgoing.topic.0;
            self.log[topic][outgoing.partition.0 as usize].append(&self.topics[topic], &outgoing.batch, now);
        }
        let topic = self.topology.subs[task.sub_index()].changelog;
        let log = &mut self.log[topic.0][task.partition().0 as usize];
        log.append(&self.topics[topic.0], &changelog, now);
        let end = log.batches.len() as u64;
        let position = self.position(topic, end);
        task.committed(Some(position));
        self.follow_globals();
    }

    /// The records of a topic since it was last read, by partition and in order there.
    ///
    /// # Panics
    /// If the topology has no such topic, or a record does not decode.
    pub fn read<K: 'static, V: 'static>(&mut self, topic: &Topic<K, V>) -> Vec<Record<K, V>> {
        let index = self.topic(topic.name());
        let mut records = Vec::new();
        for (log, read) in self.log[index.0].iter().zip(&mut self.read[index.0]) {
            for record in log.batches[*read..].iter().flat_map(StoredBatch::records) {
                let key = topic.key_codec().decode(record.key).expect("the key decodes");
                let value = topic.value_codec().decode(record.value).expect("the value decodes");
                records.push(Record { key, value, timestamp: record.timestamp, headers: record.headers.to_headers() });
            }
            *read = log.batches.len();
        }
        records
    }

    /// The value of a key in a store of a processor.
    ///
    /// # Panics
    /// If there is no such store, or its rows do not decode.
    pub fn get<K: Data, V: Data>(&self, store: &Store<K, V>, key: &K) -> Option<V> {
        let mut bytes = Vec::new();
        K::CODEC.encode(key, &mut bytes).expect("the key encodes");
        let index = self.topology.store(store.name()).unwrap_or_else(|| panic!("there is no store {:?}", store.name())).0;
        let found = self.states_of(index).find_map(|state| state.get(index.id(), &bytes).expect(CANNOT_FAIL));
        found.map(|value| V::CODEC.decode(Some(&value)).expect("the value decodes"))
    }

    /// All rows of a processor's store, by partition and key.
    ///
    /// # Panics
    /// As [`TestDriver::get`].
    pub fn rows<K: Data, V: Data>(&self, store: &Store<K, V>) -> Vec<(K, V)> {
        self.rows_of(store.name()).into_iter().map(|(key, value, _)| (key, value)).collect()
    }

    /// All rows of a table's store, by partition and key, with the timestamps of their last updates.
    ///
    /// # Panics
    /// As [`TestDriver::get`].
    pub fn table<K: Data, V: Data>(&self, store: &str) -> Vec<(K, V, Timestamp)> {
        self.rows_of(store)
    }

    fn states_of(&self, store: StoreIndex) -> impl Iterator<Item = &TaskState> {
        let tasks = self.tasks.iter().filter(move |task| self.topology.subs[task.sub_index()].stores.contains(&store));
        let globals = self.globals.iter().filter(move |(part, _)| part.def().store == store);
        tasks.map(Task::state).chain(globals.map(|(part, _)| part.state()))
    }

    fn rows_of<K: Data, V: Data>(&self, store: &str) -> Vec<(K, V, Timestamp)> {
        let index = self.topology.store(store).unwrap_or_else(|| panic!("there is no store {store:?}")).0;
        let is_table = self.topology.stores[index.0].kind.has_timestamps();
        let mut rows = Vec::new();
        for state in self.states_of(index) {
            for row in state.scan(index.id(), Range::all(), Direction::Forward) {
                let row = row.expect(CANNOT_FAIL);
                let plain = (Timestamp(0), row.value());
                let (timestamp, value) = if is_table { split_table_row(row.value()).expect("a table's row") } else { plain };
                let key = K::CODEC.decode(Some(row.key())).expect("the key decodes");
                rows.push((key, V::CODEC.decode(Some(value)).expect("the value decodes"), timestamp));
            }
        }
        rows
    }
}
