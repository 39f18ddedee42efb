//! What the workload `count` of `peers/kafka-streams/README.md` costs at the least on Kafka: the same input consumed, as many records produced in
//! the same transactions, by bare rdkafka, and nothing counted. `FLOOR_OUTPUTS` says how many records an input becomes: 2, as a count is
//! an output and a change of a store.
//!
//! Partitions are dealt out to the threads once: no group is joined, which only makes it quicker.

use std::collections::BTreeMap;
use std::error::Error;
use std::time::{Duration, Instant};

use millstream::Clock;
use millstream_benches::contract::{self, Said, Task};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{Offset, TopicPartitionList};

const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let task = Task::of_environment()?;
    let outputs: usize = std::env::var("FLOOR_OUTPUTS").map_or(Ok(2), |number| number.parse())?;
    let said = Said::new(Clock::System);
    let termination = contract::termination()?;
    let mut topics = vec![task.output.clone()];
    let admin: AdminClient<_> = ClientConfig::new().set("bootstrap.servers", &task.brokers).create()?;
    for more in 1..outputs {
        let name = format!("{}-{more}", task.application);
        let topic = NewTopic::new(&name, contract::PARTITIONS as i32, TopicReplication::Fixed(1));
        for made in admin.create_topics(&[topic], &AdminOptions::new().operation_timeout(Some(PATIENCE))).await? {
            made.map_err(|(topic, code)| format!("{topic}: {code}"))?;
        }
        topics.push(name);
    }
    said.at("start");
    for thread in 0..task.threads {
        let copier = Copier::new(&task, &topics, thread)?;
        std::thread::spawn(move || {
            if let Err(error) = copier.run(said) {
                eprintln!("thread {thread}: {error}");
                said.error();
            }
        });
    }
    said.at("running");
    Ok(termination.recv()?)
}

struct Copier {
    input: String,
    topics: Vec<String>,
    commit: Duration,
    consumer: BaseConsumer,
    producer: BaseProducer,
}

impl Copier {
    fn new(task: &Task, topics: &[String], thread: usize) -> Result<Copier, KafkaError> {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", &task.brokers)
            .set("group.id", &task.application)
            .set("isolation.level", "read_committed")
            .set("enable.auto.commit", "false")
            .set("fetch.wait.max.ms", "100")
            .create()?;
        let mut mine = TopicPartitionList::new();
        for partition in (0..contract::PARTITIONS).filter(|p| *p as usize % task.threads == thread) {
            mine.add_partition_offset(&task.inputs[0], partition as i32, Offset::Beginning)?;
        }
        consumer.assign(&mine)?;
        let producer: BaseProducer = ClientConfig::new()
            .set("bootstrap.servers", &task.brokers)
            .set("transactional.id", format!("{}-{thread}", task.application))
            .set("linger.ms", "5")
            .set("batch.num.messages", "100000")
            .set("queue.buffering.max.messages", "1000000")
            .create()?;
        producer.init_transactions(PATIENCE)?;
        let commit = Duration::from_millis(task.commit_ms);
        Ok(Copier { input: task.inputs[0].clone(), topics: topics.to_vec(), commit, consumer, producer })
    }

    /// Copies until the process ends.
    fn run(&self, said: Said) -> Result<(), KafkaError> {
        let group = self.consumer.group_metadata().expect("a group is named");
        let mut next = BTreeMap::<i32, i64>::new();
        let mut begun = None;
        loop {
            if let Some(message) = self.consumer.poll(Duration::from_millis(10)) {
                let message = message?;
                said.first();
                if begun.is_none() {
                    self.producer.begin_transaction()?;
                    begun = Some(Instant::now());
                }
                next.insert(message.partition(), message.offset() + 1);
                for topic in &self.topics {
                    self.send(topic, &message)?;
                }
            }
            if begun.is_some_and(|since| since.elapsed() >= self.commit) {
                let mut offsets = TopicPartitionList::new();
                for (partition, next) in std::mem::take(&mut next) {
                    offsets.add_partition_offset(&self.input, partition, Offset::Offset(next))?;
                }
                self.producer.send_offsets_to_transaction(&offsets, &group, PATIENCE)?;
                self.producer.commit_transaction(PATIENCE)?;
                begun = None;
            }
        }
    }

    fn send(&self, topic: &str, message: &impl Message) -> Result<(), KafkaError> {
        loop {
            let record = BaseRecord::to(topic).partition(message.partition()).payload("1".as_bytes());
            let record = record.key(message.key().unwrap_or_default());
            match self.producer.send(record) {
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => {
                    self.producer.poll(Duration::from_millis(10));
                }
                Err((error, _)) => return Err(error),
                Ok(()) => return Ok(()),
            }
        }
    }
}
