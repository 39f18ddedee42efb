//! The cluster as this process knows it: whether it answers, and requests to it. A request is repeated while the cluster is busy with
//! itself, and fails at once while it is known to be away.

use super::super::{Error, Health};
use super::config::KafkaConfig;
use super::error;
use super::native::{Client, Events, Failure, Kind};
use super::progress::Progress;
use parking_lot::Mutex;
use rdkafka::types::RDKafkaErrorCode as Code;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How long a request may take in all, and how long one attempt.
const PATIENCE: Duration = Duration::from_secs(15);
const ATTEMPT: Duration = Duration::from_secs(5);
/// How long a broker may know nothing of a topic that was heard of: as one that has just started, or that a topic was made without.
const UNKNOWN_FOR: Duration = Duration::from_secs(5);
/// The pause between attempts.
const PAUSE: Duration = Duration::from_millis(20);
/// How often it is looked anew who leads, while that is not known.
const LOOK: Duration = Duration::from_millis(250);
/// How long the brokers have to answer when a log is opened.
const FIRST_ANSWER: Duration = Duration::from_secs(10);

/// From this version on, the request that puts offsets into a transaction carries the group's generation.
const TXN_OFFSETS_WITH_GENERATION: i16 = 3;

/// What is known about a cluster.
pub(super) struct Cluster {
    pub(super) config: KafkaConfig,
    pub(super) progress: Arc<Progress>,
    status: Arc<Status>,
    asker: Client,
    /// Asks the coordinator of a group, when nobody else does.
    of_group: Mutex<Option<(String, Client)>>,
    /// When it was looked last who leads.
    looked: Mutex<Option<Instant>>,
    closing: AtomicBool,
}

/// Whether the brokers answer.
#[derive(Debug, Default)]
pub(super) struct Status {
    brokers: String,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    away: Option<Arc<str>>,
    /// The last reason a connection failed for that says more than that it did.
    reason: Option<(Code, Arc<str>)>,
}

impl Status {
    /// What a client was told.
    pub(super) fn heard(&self, code: Code, reason: &str) {
        tracing::debug!(target: "kafka", ?code, reason, "error");
        let Some(cause) = error::connection(code, &self.brokers, reason) else { return };
        let mut known = self.known.lock();
        match code {
            Code::AllBrokersDown => {
                let cause = known.reason.as_ref().map_or(cause, |(_, reason)| Arc::clone(reason));
                if known.away.is_none() {
                    tracing::warn!("log is unavailable: {cause}");
                }
                known.away = Some(cause);
            }
            Code::BrokerTransportFailure | Code::OperationTimedOut if known.reason.is_some() => {}
            _ => known.reason = Some((code, cause)),
        }
    }

    fn answered(&self) -> bool {
        let mut known = self.known.lock();
        known.reason = None;
        known.away.take().is_some()
    }

    /// Callbacks of a client that tell this.
    pub(super) fn events(self: &Arc<Status>) -> Events {
        let status = Arc::clone(self);
        Events::new(move |code, reason| status.heard(code, reason))
    }
}

impl Cluster {
    /// Asks the brokers whether they are there.
    pub(super) fn connect(config: KafkaConfig) -> Result<Cluster, Error> {
        config.check()?;
        let status = Arc::new(Status { brokers: config.brokers().to_owned(), ..Status::default() });
        let asker = client(Kind::Producer, &config.asker(), status.events())?;
        let cluster = Cluster {
            config,
            progress: Arc::default(),
            status,
            asker,
            of_group: Mutex::default(),
            looked: Mutex::default(),
            closing: AtomicBool::new(false),
        };
        let deadline = Instant::now() + FIRST_ANSWER;
        loop {
            let answer = cluster.asker.reaches_broker(Duration::from_millis(500));
            cluster.asker.poll(Duration::ZERO);
            let Err(failure) = answer else {
                cluster.status.answered();
                return cluster.suffices().map(|()| cluster);
            };
            // A wrong name or password does not get right by asking again; a broker that is starting gets up.
            let reason = cluster.status.known.lock().reason.clone();
            match reason {
                Some((code @ (Code::Authentication | Code::SSL), text)) => {
                    return Err(error::of(&Failure { text: text.to_string(), ..code.into() }, "connecting"));
                }
                Some((Code::Resolve, cause)) => return Err(Error::Unavailable { cause }),
                Some((_, cause)) if Instant::now() >= deadline => return Err(Error::Unavailable { cause }),
                None if Instant::now() >= deadline => {
                    let cause = format!("no broker answers at {} ({})", cluster.config.brokers(), failure.text);
                    return Err(Error::Unavailable { cause: cause.into() });
                }
                _ => {}
            }
        }
    }

    /// Whether the brokers can what exactly once rests on: offsets in a transaction with the group's generation (KIP-447, in 2.5). librdkafka
    /// would leave the generation out for older ones, and nothing would stop a worker whose tasks are somebody else's.
    pub(super) fn suffices(&self) -> Result<(), Error> {
        match self.asker.txn_offsets_version() {
            Some(version) if version >= TXN_OFFSETS_WITH_GENERATION => Ok(()),
            _ => {
                let what = format!("exactly once on the brokers at {}: they are older than Kafka 2.5", self.config.brokers());
                Err(Error::Unsupported { what })
            }
        }
    }

    pub(super) fn status(&self) -> &Arc<Status> {
        &self.status
    }

    pub(super) fn health(&self) -> Health {
        self.status.known.lock().away.clone().map_or(Health::Up, |cause| Health::Repairing { cause })
    }

    /// An error, while the brokers are known to be away.
    pub(super) fn available(&self) -> Result<(), Error> {
        match self.status.known.lock().away.clone() {
            None => Ok(()),
            Some(cause) => Err(Error::Unavailable { cause }),
        }
    }

    /// Asks the cluster for something, again while it is busy with itself.
    pub(super) fn ask<T>(&self, what: &str, request: impl Fn(&Client, Duration) -> Result<T, Failure>) -> Result<T, Error> {
        self.available()?;
        self.insist(&self.asker, what, |client| request(client, ATTEMPT))
    }

    /// As `ask`, of the coordinator of a group. By a client that is used for this group alone, and only as long as it gets answers:
    /// librdkafka 2.12 does not ask a coordinator again whose connection was lost at the wrong moment, and keeps such questions until they time
    /// out.
    pub(super) fn ask_coordinator<T>(
        &self,
        group: &str,
        request: impl Fn(&Client, Duration) -> Result<T, Failure>,
    ) -> Result<T, Error> {
        self.available()?;
        let kept = self.of_group.lock().take().filter(|(of, _)| of == group);
        let asker = match kept {
            Some((_, asker)) => asker,
            None => client(Kind::Consumer, &self.config.group_asker(group), self.status.events())?,
        };
        asker.poll(Duration::ZERO);
        let answer = self.insist(&asker, &format!("offsets of group {group}"), |client| request(client, ATTEMPT))?;
        *self.of_group.lock() = Some((group.to_owned(), asker));
        Ok(answer)
    }

    /// As `ask`, with an answer that is not there yet as another reason to ask again.
    pub(super) fn ask_until<T>(
        &self,
        what: &str,
        request: impl Fn(&Client, Duration) -> Result<Option<T>, Failure>,
    ) -> Result<T, Error> {
        self.ask(what, |client, timeout| match request(client, timeout)? {
            Some(answer) => Ok(answer),
            None => Err(Failure { retriable: true, ..Code::InProgress.into() }),
        })
    }

    fn insist<T>(&self, asker: &Client, what: &str, request: impl Fn(&Client) -> Result<T, Failure>) -> Result<T, Error> {
        let (deadline, unknown_until) = (Instant::now() + PATIENCE, Instant::now() + UNKNOWN_FOR);
        loop {
            let failure = match request(asker) {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            if matches!(failure.code, Code::OperationTimedOut | Code::BrokerTransportFailure | Code::RequestTimedOut) {
                self.status.heard(Code::AllBrokersDown, &failure.text);
            }
            let passes =
                if error::is_unknown(failure.code) { Instant::now() < unknown_until } else { error::is_passing(&failure) };
            if !passes || Instant::now() >= deadline {
                return Err(error::of(&failure, what));
            }
            tracing::debug!(target: "kafka", what, ?failure, "asked again");
            self.available()?;
            if matches!(failure.code, Code::NoEnt | Code::LeaderNotAvailable | Code::FencedLeaderEpoch) {
                self.look_who_leads(asker);
            }
            self.progress.pause(PAUSE);
        }
    }

    /// A client that only asks hears of new leaders when it asks for them. librdkafka 2.12 does so where one leads no more, but not where one
    /// leads in a new epoch, or where nobody led when it looked last, as after a broker was taken for dead: it would go on for five minutes as
    /// if that were still so (`rd_kafka_admin_result_err_refresh`, `rd_kafka_topic_partition_list_get_leaders`).
    fn look_who_leads(&self, asker: &Client) {
        let mut looked = self.looked.lock();
        if looked.is_none_or(|at| at.elapsed() >= LOOK) {
            if let Err(failure) = asker.topic_names(ATTEMPT) {
                tracing::debug!(target: "kafka", ?failure, "who leads is not known");
            }
            *looked = Some(Instant::now());
        }
    }

    /// Notices what becomes of the brokers, until the cluster is closed.
    pub(super) fn watch(&self, mut meanwhile: impl FnMut()) {
        while !self.closing.load(Ordering::Acquire) {
            self.asker.poll(Duration::from_millis(100));
            meanwhile();
            if self.available().is_err() {
                let answer = self.asker.reaches_broker(Duration::from_secs(1));
                if answer.is_ok() && self.status.answered() {
                    tracing::info!("log is available again");
                    self.progress.advance();
                } else {
                    self.progress.pause(Duration::from_millis(100));
                }
            }
        }
    }

    /// Ends `watch`.
    pub(super) fn close(&self) {
        self.closing.store(true, Ordering::Release);
        self.progress.advance();
    }

    pub(super) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }
}

/// A client of librdkafka, whose configuration was checked before.
pub(super) fn client(kind: Kind, config: &rdkafka::ClientConfig, events: Events) -> Result<Client, Error> {
    Client::new(kind, config, events).map_err(|reason| Error::Misconfigured { reason })
}
