//! Producers and their transactions, one after the other. What must always hold: an answer other than [`Error::OutcomeUnknown`] is the
//! truth, so "aborted" is said only of a transaction whose commit was never asked for or was refused by the cluster.
//!
//! A producer that is fenced or failed for good is dropped; the next one begins with `init_transactions`, which ends whatever this one
//! left open, to whichever side it was decided.
//!
//! The cluster fences a producer, too, when it ends its transaction because that lasted for too long, and says nothing else. Of an exclusive
//! writer's two producers this concerns one, while whoever takes over takes both, in the same order. So where it may have been that, the other
//! makes the next transaction: it is fenced as well, or nobody has taken over. Should somebody do so in that very moment, both may end; none
//! writes what the other has written.

use super::super::{Append, Error, TopicId};
use super::cluster::{Cluster, client};
use super::error;
use super::native::{Client, Failure, GroupMetadata, Kind, Topic};
use super::topics::Topics;
use crate::Offset;
use millstream_state::fault;
use rdkafka::types::RDKafkaErrorCode as Code;
use rustc_hash::FxHashMap;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

/// How long one call of librdkafka may take before it is looked whether to go on.
const CALL: Duration = Duration::from_secs(1);
/// How long a transaction is worked on before it is given up. Longer than the cluster itself waits for it by default.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long offsets may be on their way to the group's coordinator before that is taken for gone: as long as its answer, were it there.
const OFFSETS_PATIENCE: Duration = Duration::from_secs(5);
/// How long it is asked for the outcome of a commit before nobody knows it.
const UNKNOWN_AFTER: Duration = Duration::from_secs(30);

/// Offsets of a group, and who says so.
pub(super) struct Read {
    pub(super) group: Arc<GroupMetadata>,
    pub(super) offsets: Arc<[(Arc<str>, i32, i64)]>,
}

/// Two producers that take turns: one cannot begin while its last transaction is being marked, which the other need not wait for.
pub(super) struct Transactions {
    /// The next one first.
    turns: [Turn; 2],
    /// What only one may be at a time, the last that began.
    exclusive: Option<Arc<str>>,
}

/// Whether a producer that was lost had been fenced.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fenced {
    No,
    /// By another that has taken over, or by the cluster, which ended a transaction that lasted for too long.
    Perhaps,
    /// By another.
    Yes,
}

/// A producer of transactions.
struct Turn {
    cluster: Arc<Cluster>,
    topics: Arc<Topics>,
    id: Arc<str>,
    /// When its last transaction began.
    began: Instant,
    fenced: Fenced,
    producer: Option<Producer>,
}

/// A client that produces, and the topics that it has produced to.
pub(super) struct Producer {
    /// Before the client, which they belong to.
    topics: FxHashMap<TopicId, Topic>,
    pub(super) client: Arc<Client>,
}

impl Transactions {
    /// Transactions under this name, which is part of the producers' ids.
    pub(super) fn new(cluster: &Arc<Cluster>, topics: &Arc<Topics>, name: &str) -> Transactions {
        let turn = |turn| {
            let (cluster, topics) = (Arc::clone(cluster), Arc::clone(topics));
            let (id, began) = (format!("{name}{turn}").into(), Instant::now());
            Turn { cluster, topics, id, began, fenced: Fenced::No, producer: None }
        };
        Transactions { turns: ["a", "b"].map(turn), exclusive: None }
    }

    /// Transactions under a name that only one may have at a time, the last that began: it ends when somebody else takes over, in place
    /// of taking back.
    ///
    /// # Errors
    /// If the cluster can't do it now, or does not allow it.
    pub(super) fn exclusive(cluster: &Arc<Cluster>, topics: &Arc<Topics>, name: &Arc<str>) -> Result<Transactions, Error> {
        let mut transactions = Transactions::new(cluster, topics, name);
        transactions.exclusive = Some(Arc::clone(name));
        transactions.ready()?;
        Ok(transactions)
    }

    /// Ends whatever earlier producers of this name left open, if that was not done yet.
    ///
    /// # Errors
    /// If the cluster can't do it now, or does not allow it.
    pub(super) fn ready(&mut self) -> Result<(), Error> {
        if self.exclusive.is_some() {
            self.turns.sort_by(|one, other| one.id.cmp(&other.id));
            return self.turns.iter_mut().try_for_each(Turn::ready);
        }
        let [one, other] = &mut self.turns;
        if one.producer.is_some() && other.producer.is_some() {
            return Ok(());
        }
        std::thread::scope(|scope| {
            let one = scope.spawn(|| one.ready());
            let other = other.ready();
            one.join().expect("a producer does not panic").and(other)
        })
    }

    /// Commits all of it as one, and answers with the offset of the first record of each append.
    ///
    /// # Errors
    /// Nothing of it was appended, unless the outcome is unknown.
    pub(super) fn commit(&mut self, appends: &[&Append], reads: &[Read]) -> Result<Vec<Offset>, Error> {
        let Some(id) = self.exclusive.clone() else { return self.take_turn(appends, reads) };
        if self.is_fenced() {
            return Err(Error::Fenced { id });
        }
        let [next, other] = &self.turns;
        let will_tell = next.producer.is_some() && other.fenced == Fenced::Perhaps;
        if !will_tell && self.turns.iter().any(|turn| turn.producer.is_none()) {
            // Somebody else may have written between the loss and now: what this transaction was made from may be old.
            self.turns.iter_mut().for_each(|turn| (turn.producer, turn.fenced) = (None, Fenced::No));
            self.ready()?;
            return Err(Error::Aborted { cause: "the producer was replaced: what was read before may be old".into() });
        }
        match self.take_turn(appends, reads) {
            Err(_) if self.is_fenced() => Err(Error::Fenced { id }),
            Err(error) if self.turns[0].fenced == Fenced::Perhaps => {
                let why = self.turns[0].lasted_too_long();
                tracing::warn!(target: "kafka", id = &*id, %error, "{why}");
                self.turns.rotate_left(1);
                let cause = why.into();
                Err(if error.is_outcome_unknown() { Error::OutcomeUnknown { cause } } else { Error::Aborted { cause } })
            }
            outcome => outcome,
        }
    }

    /// Whether another has taken over, as far as that is known.
    fn is_fenced(&self) -> bool {
        self.turns.iter().any(|turn| turn.fenced == Fenced::Yes)
    }

    fn take_turn(&mut self, appends: &[&Append], reads: &[Read]) -> Result<Vec<Offset>, Error> {
        let [next, other] = &mut self.turns;
        let bases = next.commit(appends, reads)?;
        if self.exclusive.is_some() && other.fenced == Fenced::Perhaps {
            // Nobody has taken over. If somebody does just now, the one that has told so far tells again.
            if let Err(error) = other.ready() {
                tracing::warn!(target: "kafka", id = &*other.id, %error, "the producer is not replaced yet");
            }
            return Ok(bases);
        }
        self.turns.rotate_left(1);
        Ok(bases)
    }
}

impl Turn {
    fn ready(&mut self) -> Result<(), Error> {
        if self.producer.is_some() {
            return Ok(());
        }
        self.cluster.available()?;
        let client = client(Kind::Producer, &self.cluster.config.producer(&self.id), self.cluster.status().events())?;
        let what = format!("beginning as {}", self.id);
        let deadline = Instant::now() + PATIENCE;
        // If there is none, the producer waits for one as well.
        if let Err(failure) = client.meet_broker(CALL) {
            tracing::debug!(target: "kafka", id = &*self.id, ?failure, "no broker answers yet");
        }
        while let Err(failure) = client.init_transactions(CALL) {
            let retriable = failure.retriable || error::is_passing(&failure);
            if failure.fatal || !retriable || Instant::now() >= deadline {
                return Err(error::of(&failure, &what));
            }
            client.poll(Duration::ZERO);
            self.cluster.available()?;
        }
        (self.producer, self.fenced) = (Some(Producer::new(client)), Fenced::No);
        Ok(())
    }

    fn commit(&mut self, appends: &[&Append], reads: &[Read]) -> Result<Vec<Offset>, Error> {
        self.ready()?;
        let Some(producer) = &mut self.producer else { return Err(Error::Closed) };
        producer.client.take_delivered();
        self.began = Instant::now();
        if let Err(failure) = producer.client.begin_transaction() {
            // It stands in a transaction that could not be ended, or failed for good.
            return Err(self.lose(&failure, "beginning a transaction"));
        }
        if let Err(failure) = producer.fill(&self.cluster, &self.topics, appends, reads) {
            return Err(self.abort(failure));
        }
        self.decide(appends)
    }

    /// Ends a transaction whose commit was not asked for, and says why.
    fn abort(&mut self, why: Failed) -> Error {
        let Failed { failure, what } = why;
        let aborted = |producer: &Producer| {
            let deadline = Instant::now() + PATIENCE;
            loop {
                match producer.client.abort_transaction(CALL) {
                    Err(failure) if failure.retriable && !failure.fatal && Instant::now() < deadline => {}
                    other => return other.is_ok(),
                }
            }
        };
        fault::crash_point("kafka:commit:before-abort");
        let lost = self.producer.as_ref().is_none_or(|producer| failure.fatal || !aborted(producer));
        tracing::debug!(target: "kafka", id = &*self.id, lost, code = ?failure.code, what, "transaction aborted: {}", failure.text);
        if lost { self.lose(&failure, &what) } else { error::of_known(&failure, &what) }
    }

    /// Drops the producer, which is of no use any more.
    fn lose(&mut self, failure: &Failure, what: &str) -> Error {
        // That it was fenced may have come out only when it was to abort.
        let fatal = self.producer.take().and_then(|producer| producer.client.fatal());
        let fenced = error::is_fenced(failure.code) || fatal.is_some_and(|fatal| error::is_fenced(fatal.code));
        self.fenced = match fenced {
            false => Fenced::No,
            true if self.began.elapsed() < self.cluster.config.transaction_timeout => Fenced::Yes,
            true => Fenced::Perhaps,
        };
        error::of_known(failure, what)
    }

    fn lasted_too_long(&self) -> String {
        let (lasted, timeout) = (self.began.elapsed(), self.cluster.config.transaction_timeout);
        format!(
            "it lasted {lasted:.1?} where the cluster gives {timeout:.1?}, unless another process has taken over: the next transaction tells"
        )
    }

    /// Asks for the commit. From here on only the cluster knows.
    fn decide(&mut self, appends: &[&Append]) -> Result<Vec<Offset>, Error> {
        let Some(producer) = &self.producer else { return Err(Error::Closed) };
        fault::crash_point("kafka:commit:before-end");
        let deadline = Instant::now() + UNKNOWN_AFTER;
        while let Err(failure) = producer.client.commit_transaction(CALL) {
            tracing::debug!(target: "kafka", id = &*self.id, ?failure, "commit failed");
            if failure.abortable {
                let what = "committing".to_owned();
                return Err(self.abort(Failed { failure, what }));
            }
            if !failure.retriable || failure.fatal || Instant::now() >= deadline {
                self.lose(&failure, "committing");
                return Err(Error::OutcomeUnknown { cause: failure.text.into() });
            }
        }
        let delivered = producer.client.take_delivered().offsets;
        let mut bases = vec![Offset(0); appends.len()];
        for (number, last) in delivered {
            let append = appends[number - 1];
            let end = Offset(last as u64 + 1);
            bases[number - 1] = Offset(end.0 - append.batch.len() as u64);
            // The mark of the transaction comes after it, and is what readers wait for.
            self.topics.committed(append.topic, append.partition, Offset(end.0 + 1));
        }
        self.cluster.progress.advance();
        Ok(bases)
    }
}

/// Why a transaction could not be filled, and with what.
pub(super) struct Failed {
    pub(super) failure: Failure,
    pub(super) what: String,
}

impl Producer {
    pub(super) fn new(client: Client) -> Producer {
        Producer { topics: FxHashMap::default(), client: Arc::new(client) }
    }

    /// Records and offsets, sent and acknowledged.
    fn fill(&mut self, cluster: &Cluster, topics: &Topics, appends: &[&Append], reads: &[Read]) -> Result<(), Failed> {
        for (number, append) in appends.iter().enumerate() {
            self.append(topics, append, number + 1)?;
        }
        self.insist(cluster, "appending", |client| client.flush(CALL))?;
        if let Some(code) = self.client.take_failed() {
            let failure = self.client.fatal().unwrap_or_else(|| code.into());
            return Err(Failed { failure, what: "appending".into() });
        }
        fault::crash_point("kafka:commit:before-offsets");
        for read in reads {
            self.insist(cluster, "sending offsets", |client| send_offsets(client, read))?;
        }
        Ok(())
    }

    fn insist(&self, cluster: &Cluster, what: &str, call: impl Fn(&Arc<Client>) -> Result<(), Failure>) -> Result<(), Failed> {
        let deadline = Instant::now() + PATIENCE;
        while let Err(failure) = call(&self.client) {
            let again = failure.retriable || failure.code == Code::OperationTimedOut;
            let hopeless = failure.fatal || failure.abortable || cluster.is_closing() || self.client.fatal().is_some();
            if !again || hopeless || Instant::now() >= deadline {
                let failure = self.client.fatal().unwrap_or(failure);
                return Err(Failed { failure, what: what.to_owned() });
            }
        }
        Ok(())
    }

    /// Queues records; `number` is that of the last.
    pub(super) fn append(&mut self, topics: &Topics, append: &Append, number: usize) -> Result<(), Failed> {
        let failed = |failure: Failure, what: &str| Failed { failure, what: format!("appending to {what}") };
        let info = topics.get(append.topic).map_err(|_| failed(Code::UnknownTopic.into(), "a topic"))?;
        if !self.topics.contains_key(&append.topic) {
            let topic = self.client.topic(&info.name).map_err(|failure| failed(failure, &info.name))?;
            self.topics.insert(append.topic, topic);
        }
        let (topic, partition) = (&self.topics[&append.topic], append.partition.0 as i32);
        let last = append.batch.len().saturating_sub(1);
        for (at, record) in append.batch.records(Offset(0)).enumerate() {
            let number = if at == last { number } else { 0 };
            let deadline = Instant::now() + PATIENCE;
            while let Err(failure) = self.client.produce(topic, partition, &record, number) {
                if failure.code != Code::QueueFull || Instant::now() >= deadline {
                    return Err(failed(self.client.fatal().unwrap_or(failure), &info.name));
                }
                self.client.poll(Duration::from_millis(10));
            }
        }
        Ok(())
    }
}

/// Puts offsets into the transaction. librdkafka waits for the coordinator of a group whatever the timeout, and may miss that there is another,
/// as after a broker's death: then it waits for ever (its issues 5456 and 5511, also in 2.14). So a thread of its own waits, and a client that
/// does not come back is left to it and is of no use any more.
fn send_offsets(client: &Arc<Client>, read: &Read) -> Result<(), Failure> {
    let (told, answer) = mpsc::channel();
    let (client, group, offsets) = (Arc::clone(client), Arc::clone(&read.group), Arc::clone(&read.offsets));
    let wait = move || {
        let sent = client.send_offsets(&offsets, &group, CALL);
        // Before anybody is told: it ends where it was made, or here if it was given up.
        drop(client);
        drop(told.send(sent));
    };
    let thread = std::thread::Builder::new().name("log-offsets".into()).spawn(wait);
    let failed = |text: String| Failure { fatal: true, text, ..Code::OperationTimedOut.into() };
    thread.map_err(|error| failed(format!("no thread can be started: {error}")))?;
    answer.recv_timeout(OFFSETS_PATIENCE).unwrap_or_else(|_| Err(failed("the coordinator of the group was not found".into())))
}
