//! Requests that are carried out once, where many processes take them on one log: a request is a command keyed by its idempotency key, and the
//! task of that key decides. It keeps what was asked and answered, and emits what the request appends, in one transaction. Whoever asks again
//! is told by what is kept. (Where one process has the log, the log keeps them: see [`Handle::once`](crate::Handle::once).)

use serde::{Deserialize, Serialize};

use crate::codec::Bincode;
use crate::codec::{Codec, Data};
use crate::dsl::{Process, StreamBuilder};
use crate::error::ProcessError;
use crate::operators::process::Scope;
use crate::record::{Headers, Record, Timestamp};
use crate::store::Store;
use crate::topic::Topic;

/// Requests by their key.
pub(crate) const REQUESTS: Store<Vec<u8>, Kept> = Store::keyed("requests").ttl_ms(KEEP_MS);

/// How long rows are kept; not less than any answer is.
const KEEP_MS: u64 = 2 * 24 * 3_600_000;

/// What a process asks the task of a key to carry out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// Tells this asking from every other.
    pub(crate) id: u128,
    /// A hash of what is asked for.
    pub(crate) fingerprint: [u8; 32],
    /// The answer to give if it is carried out.
    pub(crate) answer: Vec<u8>,
    /// Until when the answer is kept, in milliseconds since 1970.
    pub(crate) keep_until_ms: i64,
    /// What to append.
    pub(crate) events: Vec<CommandEvent>,
}

/// One record that a command appends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandEvent {
    pub(crate) topic: String,
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) value: Option<Vec<u8>>,
    pub(crate) timestamp_ms: i64,
    pub(crate) headers: Vec<(String, Vec<u8>)>,
}

/// A request that was carried out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Kept {
    pub(crate) id: u128,
    pub(crate) fingerprint: [u8; 32],
    pub(crate) answer: Vec<u8>,
    pub(crate) keep_until_ms: i64,
    /// Where its command lies.
    pub(crate) partition: u32,
    pub(crate) offset: u64,
}

impl Data for Command {
    const CODEC: &'static dyn Codec<Command> = &Bincode::<Command>::CODEC;
}

impl Data for Kept {
    const CODEC: &'static dyn Codec<Kept> = &Bincode::<Kept>::CODEC;
}

/// The name of the topic of an application's requests.
pub(crate) fn topic_name(application: &str) -> String {
    format!("{application}-requests")
}

/// The topic of an application's requests.
pub(crate) fn topic(application: &str) -> Topic<Vec<u8>, Command> {
    Topic::owned(topic_name(application).into(), <Vec<u8>>::CODEC, Command::CODEC).retention_ms(KEEP_MS)
}

/// The processor of requests: see [`StreamBuilder::accept_requests`].
pub type RequestProcess = Process<Vec<u8>, Command, Vec<u8>, ()>;

impl StreamBuilder {
    /// Lets [`Handle::once`](crate::Handle::once) work where processes share a log: requests go through the topic
    /// `<application>-requests` of so many partitions, and are kept in the store `requests`. `sinks` names the topics that they may append
    /// to, by [`Process::sink`].
    ///
    /// ```
    /// # use millstream::{StreamBuilder, Topic};
    /// # const ORDERS: Topic<String, String> = Topic::new("orders");
    /// let mut builder = StreamBuilder::new("shop");
    /// builder.accept_requests(6, |requests| requests.sink(&ORDERS));
    /// # builder.build().unwrap();
    /// ```
    pub fn accept_requests(&mut self, partitions: u32, sinks: impl FnOnce(RequestProcess) -> RequestProcess) {
        let topic = topic(&self.application()).partitions(partitions);
        let process = Process::new("requests", carry_out).store(&REQUESTS);
        self.stream(&topic).process(sinks(process));
    }
}

/// Carries a request out, unless one of its key was.
fn carry_out(ctx: &mut Scope<'_, Vec<u8>, ()>, record: Record<Vec<u8>, Command>) -> Result<(), ProcessError> {
    let Record { key, value: command, timestamp, .. } = record;
    if ctx.store(&REQUESTS).get(&key)?.is_some_and(|kept| kept.keep_until_ms > timestamp.0) {
        return Ok(());
    }
    for event in command.events {
        let headers = Headers::from_iter(event.headers);
        ctx.send_bytes(&event.topic, event.key.as_deref(), event.value.as_deref(), Timestamp(event.timestamp_ms), &headers)?;
    }
    let Command { id, fingerprint, answer, keep_until_ms, .. } = command;
    let (partition, offset) = (ctx.partition().0, ctx.offset().0);
    ctx.store(&REQUESTS).put(&key, &Kept { id, fingerprint, answer, keep_until_ms, partition, offset })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TestDriver;

    const ORDERS: Topic<String, String> = Topic::new("orders");

    fn command(id: u128, value: &str) -> Command {
        let event = CommandEvent {
            topic: "orders".into(),
            key: Some(b"k".to_vec()),
            value: Some(value.as_bytes().to_vec()),
            timestamp_ms: 7,
            headers: vec![("id".into(), b"1".to_vec())],
        };
        let answer = value.as_bytes().to_vec();
        Command { id, fingerprint: [0; 32], answer, keep_until_ms: 1_000, events: vec![event] }
    }

    #[test]
    fn a_request_is_carried_out_once_until_its_answer_expires() {
        let mut builder = StreamBuilder::new("app");
        builder.accept_requests(1, |requests| requests.sink(&ORDERS));
        let mut driver = TestDriver::new(builder.build().expect("a topology"));
        let topic = topic("app").partitions(1);
        let mut ask = |id, value, at| {
            driver.pipe(&topic, &Record::new(b"key".to_vec(), command(id, value), Timestamp(at)));
            let appended: Vec<String> = driver.read(&ORDERS).into_iter().map(|order| order.value).collect();
            (appended, driver.get(&REQUESTS, &b"key".to_vec()).map(|kept| (kept.id, kept.offset)))
        };
        assert_eq!(ask(1, "first", 0), (vec!["first".into()], Some((1, 0))));
        assert_eq!(ask(2, "again", 999), (vec![], Some((1, 0))));
        assert_eq!(ask(3, "later", 1_000), (vec!["later".into()], Some((3, 2))));
    }

    #[test]
    fn a_request_for_a_topic_that_was_not_named_is_parked() {
        let mut builder = StreamBuilder::new("app");
        builder.accept_requests(1, |requests| requests);
        let mut driver = TestDriver::new(builder.build().expect("a topology"));
        driver.pipe(&topic("app").partitions(1), &Record::new(b"key".to_vec(), command(1, "x"), Timestamp(0)));
        assert_eq!(driver.get(&REQUESTS, &b"key".to_vec()), None, "nothing of it is kept");
    }
}
