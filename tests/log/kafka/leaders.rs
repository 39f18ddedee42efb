//! Three brokers of which one leads a partition, stands still until another leads, and goes on: what it says then is not believed by whoever is to
//! own what is in there.

use super::broker::Broker;
use crate::log::support::{SOON, appending_now, topic};
use millstream::Partition;
use millstream::log::{KafkaConfig, KafkaLog, Log};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use std::time::{Duration, Instant};

const ROUNDS: usize = 4;

/// The broker that leads the only partition of a topic, by its place.
fn leader(brokers: &[Broker; 3], topic: &str) -> usize {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers[0].address());
    let client: BaseConsumer = config.create().expect("a client");
    let metadata = client.fetch_metadata(Some(topic), SOON).expect("a broker answers");
    let id = metadata.topics()[0].partitions()[0].leader();
    usize::try_from(id).expect("one leads") - 1
}

/// Its answer waits at it while it stands still, and is what it knew then.
#[test]
fn a_broker_that_leads_no_more_tells_nobody_where_his_partition_ends() {
    let brokers = Broker::three();
    let config = KafkaConfig::new(brokers[0].address());
    let impatient = config.clone().property("socket.timeout.ms", "1000");
    let [owner, writer] = [config, impatient].map(|config| KafkaLog::open(config).expect("the brokers answer"));
    let mut stale = 0;
    for round in 0..ROUNDS {
        let topic = topic(&writer, &format!("changelog-{round}"), 1);
        let known = owner.topic(&topic.name).expect("it can be asked").expect("it was made");
        let append = |value: &str| writer.commit(appending_now(&topic, 0, "key", value)).wait();
        append("first").expect("it is appended");
        assert_eq!(owner.open_ends(&[(known.id, Partition(0))]).expect("an end")[0].0, 1);

        let frozen = &brokers[leader(&brokers, &topic.name)];
        frozen.freeze();
        let begun = Instant::now();
        let last = loop {
            match append("later") {
                Ok(committed) => break committed.base_offsets[0],
                Err(error) => assert!(error.is_retriable() || error.is_outcome_unknown(), "{error}"),
            }
            assert!(begun.elapsed() < 4 * SOON, "another leads");
        };
        let (end, owned_end) = std::thread::scope(|scope| {
            let end = scope.spawn(|| owner.open_ends(&[(known.id, Partition(0))]));
            let owned_end = scope.spawn(|| owner.owned_end(known.id, Partition(0)));
            std::thread::park_timeout(Duration::from_millis(500));
            frozen.thaw();
            (end.join().expect("it does not panic"), owned_end.join().expect("it does not panic"))
        });
        println!("after {:?}: {last} was appended, and {end:?} and {owned_end:?} were said", begun.elapsed());
        stale += u32::from(end.is_ok_and(|end| end[0] <= last));
        let owned_end = owned_end.expect("it is told in the end").end;
        assert!(owned_end > last, "{last} was appended, and the end is {owned_end}");
    }
    println!("whoever only asked was told of an end that was out of date {stale} times of {ROUNDS}");
}
