//! How to reach a Kafka cluster and what of it to use. Whatever is wrong with it is said before anything runs.
//!
//! The defaults are small on purpose: what librdkafka buffers is memory that no budget of the state sees. With them a worker thread
//! holds about 2 MiB for each partition that it reads, more of small records ([`KafkaConfig::fetch_bytes`]), and 32 MiB of records on their way out.

use super::super::Error;
use rdkafka::ClientConfig;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// How to reach a cluster. Made with [`KafkaConfig::new`], used with [`KafkaLog::open`](super::KafkaLog::open).
///
/// ```
/// use millstream::log::kafka::{KafkaConfig, Mechanism};
///
/// let config = KafkaConfig::new("kafka-1:9093,kafka-2:9093")
///     .tls(Some("/etc/ssl/kafka-ca.pem"))
///     .sasl(Mechanism::ScramSha512, "shop", "secret")
///     .replication_factor(3);
/// ```
#[derive(Clone)]
pub struct KafkaConfig {
    brokers: String,
    tls: Option<Tls>,
    sasl: Option<(Mechanism, String, String)>,
    properties: Vec<(String, String)>,
    pub(super) group_protocol: GroupProtocol,
    pub(super) replication_factor: i32,
    pub(super) session_timeout: Duration,
    pub(super) transaction_timeout: Duration,
    pub(super) instance: Arc<str>,
    pub(super) exclusive: Option<Arc<str>>,
    fetch_bytes: usize,
    follow_within: Option<Duration>,
    send_bytes: usize,
}

#[derive(Clone, Default)]
struct Tls {
    ca: Option<PathBuf>,
    identity: Option<(PathBuf, PathBuf)>,
}

/// How a password is shown to a broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mechanism {
    /// As it is: with TLS only.
    Plain,
    /// SCRAM-SHA-256.
    ScramSha256,
    /// SCRAM-SHA-512.
    ScramSha512,
}

/// Who shares out tasks among the members of a group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GroupProtocol {
    /// The members, as with `Classic`.
    #[default]
    Auto,
    /// The members, by the cooperative sticky assignor. All brokers can.
    Classic,
    /// The broker (KIP-848). Brokers of 4.0 and later can. Not exactly once yet: members that came at the same moment were seen to commit for tasks
    /// that others had already.
    Consumer,
}

/// How far a partition is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Until {
    /// To the end that it has.
    End,
    /// On and on.
    Dropped,
}

impl KafkaConfig {
    /// A cluster by some of its brokers, as `host:port`, several by commas.
    #[must_use]
    pub fn new(brokers: impl Into<String>) -> KafkaConfig {
        KafkaConfig {
            brokers: brokers.into(),
            tls: None,
            sasl: None,
            properties: Vec::new(),
            group_protocol: GroupProtocol::Auto,
            replication_factor: -1,
            session_timeout: Duration::from_secs(6),
            transaction_timeout: Duration::from_secs(10),
            instance: uuid::Uuid::new_v4().simple().to_string().into(),
            exclusive: None,
            fetch_bytes: 1 << 20,
            follow_within: None,
            send_bytes: 32 << 20,
        }
    }

    /// Encrypts, and trusts the authorities in this PEM file, or those of the system.
    #[must_use]
    pub fn tls(mut self, ca: Option<impl AsRef<Path>>) -> KafkaConfig {
        self.tls.get_or_insert_default().ca = ca.map(|path| path.as_ref().to_owned());
        self
    }

    /// Encrypts, and shows this certificate with its key, both PEM files.
    #[must_use]
    pub fn tls_identity(mut self, certificate: impl AsRef<Path>, key: impl AsRef<Path>) -> KafkaConfig {
        self.tls.get_or_insert_default().identity = Some((certificate.as_ref().to_owned(), key.as_ref().to_owned()));
        self
    }

    /// Says who it is by user and password.
    #[must_use]
    pub fn sasl(mut self, mechanism: Mechanism, user: impl Into<String>, password: impl Into<String>) -> KafkaConfig {
        self.sasl = Some((mechanism, user.into(), password.into()));
        self
    }

    /// A property of librdkafka's, as `client.rack`. Those that the engine's guarantees rest on can't be set.
    #[must_use]
    pub fn property(mut self, name: impl Into<String>, value: impl Into<String>) -> KafkaConfig {
        self.properties.push((name.into(), value.into()));
        self
    }

    /// Who shares out tasks.
    #[must_use]
    pub fn group_protocol(mut self, protocol: GroupProtocol) -> KafkaConfig {
        self.group_protocol = protocol;
        self
    }

    /// How often topics that are made are kept; the cluster's own default otherwise.
    #[must_use]
    pub fn replication_factor(mut self, copies: u16) -> KafkaConfig {
        self.replication_factor = copies.into();
        self
    }

    /// After how long a silent worker's tasks go to others. 6 s, which is the least that brokers allow by default.
    #[must_use]
    pub fn session_timeout(mut self, timeout: Duration) -> KafkaConfig {
        self.session_timeout = timeout;
        self
    }

    /// After how long the cluster aborts a transaction that nobody ends. 10 s.
    #[must_use]
    pub fn transaction_timeout(mut self, timeout: Duration) -> KafkaConfig {
        self.transaction_timeout = timeout;
        self
    }

    /// What tells this process from others of its application, and is the same after a restart: part of its transactional ids, so that
    /// whatever it left open is ended when it is back. Something random otherwise.
    #[must_use]
    pub fn instance(mut self, id: impl Into<Arc<str>>) -> KafkaConfig {
        self.instance = id.into();
        self
    }

    /// The name of what this log appends by itself, and the beginning of its transactional ids, for a program of which only one may write:
    /// the last to open a log with it has it, and every other fails with [`Error::Fenced`] at its next commit, or at the one after if that took
    /// longer than [`transaction_timeout`](KafkaConfig::transaction_timeout), which fails alone. What is read after the log
    /// was opened, or after a commit that failed, nobody else has added to by the next commit, unless that fails.
    #[must_use]
    pub fn exclusive_writer(mut self, name: impl Into<Arc<str>>) -> KafkaConfig {
        self.exclusive = Some(name.into());
        self
    }

    /// How much is fetched at once for each partition that is read, in bytes as the broker keeps them; and no more is fetched while values of
    /// so many bytes wait, or 100,000 records. librdkafka counts neither keys and headers nor the 304 bytes that it takes for each record itself:
    /// of large records about twice this size is held, and of small ones 30 MB or more. 1 MiB.
    #[must_use]
    pub fn fetch_bytes(mut self, bytes: usize) -> KafkaConfig {
        self.fetch_bytes = bytes;
        self
    }

    /// For how long what is followed outside of a group may lie at the brokers before it is fetched, in whole milliseconds, unless much has
    /// come: by standbys and global tables, and to know of other processes. Every fetch asks for all that is followed, which costs the brokers
    /// more than what has come. At once by default, for who reads from the copies or watches them.
    #[must_use]
    pub fn follow_within(mut self, patience: Duration) -> KafkaConfig {
        self.follow_within = Some(patience);
        self
    }

    /// How many bytes of records may be on their way out at once for each thread that commits. 32 MiB.
    #[must_use]
    pub fn send_bytes(mut self, bytes: usize) -> KafkaConfig {
        self.send_bytes = bytes;
        self
    }

    /// How many bytes may be on their way out at once.
    pub(super) fn most_at_once(&self) -> usize {
        self.send_bytes.max(MAX_MESSAGE_BYTES)
    }

    /// What to call the cluster in messages.
    pub(super) fn brokers(&self) -> &str {
        &self.brokers
    }

    /// What all clients have.
    fn common(&self, role: &str) -> ClientConfig {
        let mut config = ClientConfig::new();
        let mut set = |name: &str, value: String| {
            config.set(name, value);
        };
        set("bootstrap.servers", self.brokers.clone());
        set("client.id", format!("millstream-{role}"));
        // A broker that is away is asked again soon; one that is frozen is given up within seconds. Half of the first is also how long a new
        // client waits between its first broker and the next.
        set("reconnect.backoff.ms", "20".into());
        set("reconnect.backoff.max.ms", "1000".into());
        set("socket.timeout.ms", "10000".into());
        set("socket.connection.setup.timeout.ms", "5000".into());
        set("socket.nagle.disable", "true".into());
        set("log.connection.close", "false".into());
        set("allow.auto.create.topics", "false".into());
        let (tls, sasl) = (self.tls.is_some(), self.sasl.is_some());
        let protocol = match (tls, sasl) {
            (false, false) => "plaintext",
            (false, true) => "sasl_plaintext",
            (true, false) => "ssl",
            (true, true) => "sasl_ssl",
        };
        set("security.protocol", protocol.into());
        if let Some(tls) = &self.tls {
            if let Some(ca) = &tls.ca {
                set("ssl.ca.location", ca.display().to_string());
            }
            if let Some((certificate, key)) = &tls.identity {
                set("ssl.certificate.location", certificate.display().to_string());
                set("ssl.key.location", key.display().to_string());
            }
        }
        if let Some((mechanism, user, password)) = &self.sasl {
            let mechanism = match mechanism {
                Mechanism::Plain => "PLAIN",
                Mechanism::ScramSha256 => "SCRAM-SHA-256",
                Mechanism::ScramSha512 => "SCRAM-SHA-512",
            };
            set("sasl.mechanism", mechanism.into());
            set("sasl.username", user.clone());
            set("sasl.password", password.clone());
        }
        for (name, value) in &self.properties {
            set(name, value.clone());
        }
        config
    }

    /// Asks for topics, ends and offsets, and what brokers can, and marks partitions.
    pub(super) fn asker(&self) -> ClientConfig {
        let mut config = self.common("admin");
        let debug = config.get("debug").map_or("feature".to_owned(), |more| format!("{more},feature"));
        config.set("debug", debug);
        // It marks partitions, too: a mark is one record, and another where it is not known what became of it.
        config.set("acks", "all");
        config.set("linger.ms", "0");
        config.set("message.timeout.ms", MARK_TIMEOUT.as_millis().to_string());
        config
    }

    /// Asks how far a group has read. As one that could be a member of it: librdkafka 2.12 has a client look for a coordinator that has moved by
    /// way of its own group, and ends the process where it has none.
    pub(super) fn group_asker(&self, group: &str) -> ClientConfig {
        let mut config = self.common("admin");
        config.set("group.id", group);
        config.set("enable.auto.commit", "false");
        config
    }

    /// Reads without a group.
    pub(super) fn reader(&self, until: Until) -> ClientConfig {
        let mut config = self.common("reader");
        self.reading(&mut config);
        if until == Until::End {
            // What is asked for is there. Only those that are at their ends wait, and whoever begins to read waits with them.
            config.set("fetch.wait.max.ms", "5");
        } else if let Some(patience) = self.follow_within {
            config.set("fetch.wait.max.ms", patience.as_millis().to_string());
            config.set("fetch.min.bytes", (self.fetch_bytes / 4).max(1).to_string());
        }
        // Where the last records of a partition were compacted away, nothing else tells that the end is reached. Members go without: such
        // a message moves their position one too far, from where they would go on after the pause of a rebalance.
        config.set("enable.partition.eof", "true");
        config
    }

    fn reading(&self, config: &mut ClientConfig) {
        let kilobytes = |bytes: usize| (bytes / 1024).max(1).to_string();
        config.set("isolation.level", "read_committed");
        // The engine decides where to read; an offset that is gone is an error.
        config.set("auto.offset.reset", "error");
        config.set("enable.auto.commit", "false");
        config.set("enable.auto.offset.store", "false");
        config.set("enable.partition.eof", "false");
        config.set("check.crcs", "true");
        config.set("max.partition.fetch.bytes", self.fetch_bytes.to_string());
        config.set("fetch.max.bytes", (16 * self.fetch_bytes).max(3 << 20).to_string());
        config.set("queued.max.messages.kbytes", kilobytes(self.fetch_bytes));
        config.set("queued.min.messages", "100000");
        // How soon a fetch that finds nothing comes back.
        config.set("fetch.wait.max.ms", "100");
        config.set("fetch.error.backoff.ms", "50");
        // A partition that is full is looked at again soon: the default of a second would show as a pause.
        config.set("fetch.queue.backoff.ms", "5");
    }

    /// A member of a group.
    pub(super) fn member(&self, group: &str, protocol: GroupProtocol) -> ClientConfig {
        let mut config = self.common("worker");
        self.reading(&mut config);
        config.set("group.id", group);
        // Longer than any commit; a worker that computes for longer than this is taken for dead.
        config.set("max.poll.interval.ms", "300000");
        match protocol {
            GroupProtocol::Consumer => {
                config.set("group.protocol", "consumer");
            }
            GroupProtocol::Classic | GroupProtocol::Auto => {
                config.set("group.protocol", "classic");
                config.set("partition.assignment.strategy", "cooperative-sticky");
                config.set("session.timeout.ms", self.session_timeout.as_millis().to_string());
                config.set("heartbeat.interval.ms", HEARTBEAT.as_millis().to_string());
            }
        }
        config
    }

    /// A producer of transactions.
    pub(super) fn producer(&self, transactional_id: &str) -> ClientConfig {
        let mut config = self.producing();
        config.set("transactional.id", transactional_id);
        config.set("transaction.timeout.ms", self.transaction_timeout.as_millis().to_string());
        config
    }

    /// A producer of records that need no transaction.
    pub(super) fn single_producer(&self) -> ClientConfig {
        let mut config = self.producing();
        config.set("message.timeout.ms", "15000");
        config
    }

    fn producing(&self) -> ClientConfig {
        let mut config = self.common("producer");
        config.set("enable.idempotence", "true");
        config.set("acks", "all");
        // Most of what is asked again is whether the transaction before is marked by now, which takes milliseconds.
        config.set("retry.backoff.ms", "5");
        // Nothing is sent before the cluster knows a transaction's partitions, so batches fill anyway; to wait would only delay the commit.
        config.set("linger.ms", "0");
        config.set("batch.num.messages", "100000");
        // Topics say what they take, of which no more is known here than fits the queue. What goes out together has a limit of its own.
        config.set("message.max.bytes", self.most_at_once().min(1_000_000_000).to_string());
        config.set("queue.buffering.max.messages", "1000000");
        config.set("queue.buffering.max.kbytes", (self.most_at_once() / 1024).to_string());
        config
    }

    /// Checks what only librdkafka knows, and what the engine does not allow.
    pub(super) fn check(&self) -> Result<(), Error> {
        let wrong = |reason: String| Err(Error::Misconfigured { reason });
        if self.brokers.trim().is_empty() {
            return wrong("no brokers are given".into());
        }
        if let Some((name, _)) = self.properties.iter().find(|(name, _)| FIXED.contains(&name.as_str())) {
            return wrong(format!("property {name} is the engine's own: exactly once rests on it"));
        }
        if let Some(tls) = &self.tls {
            let identity = tls.identity.iter().flat_map(|(certificate, key)| [certificate, key]);
            if let Some(missing) = tls.ca.iter().chain(identity).find(|path| !path.is_file()) {
                return wrong(format!("there is no file {}", missing.display()));
            }
        }
        // What a property of one kind of client means nothing to the other is accepted by both.
        for config in [
            self.reader(Until::End),
            self.producer("check"),
            self.single_producer(),
            self.member("check", GroupProtocol::Classic),
        ] {
            if let Err(error) = config.create_native_config() {
                return wrong(error.to_string());
            }
        }
        Ok(())
    }
}

/// How often a member says that it lives. Changes of a group are heard of with it, so it is most of a planned hand-over.
pub(super) const HEARTBEAT: Duration = Duration::from_millis(100);

/// How long it is tried to append a mark before it is looked anew whether the brokers are there.
const MARK_TIMEOUT: Duration = Duration::from_secs(4);

/// The largest record, with room for what is around it, that topics made here take.
pub(super) const MAX_MESSAGE_BYTES: usize = 2 << 20;

/// The same without what is around it. Applications take smaller ones from outside; this is what a dead letter may have, which is the record as
/// it was, of whatever program, and headers that say why.
pub(super) const MAX_RECORD_BYTES: usize = MAX_MESSAGE_BYTES - AROUND;

/// What is around a record, at most: more than a hundred bytes only where it has thousands of headers.
pub(super) const AROUND: usize = 16 << 10;
/// The same where that would be too much of what the topic takes.
pub(super) const LITTLE_AROUND: usize = 1 << 10;

/// Properties that the guarantees rest on.
const FIXED: &[&str] = &[
    "acks",
    "api.version.request",
    "auto.offset.reset",
    "bootstrap.servers",
    "broker.version.fallback",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "enable.gapless.guarantee",
    "enable.idempotence",
    "enable.partition.eof",
    "group.id",
    "group.instance.id",
    "group.protocol",
    "isolation.level",
    "message.max.bytes",
    "message.timeout.ms",
    "metadata.broker.list",
    "partition.assignment.strategy",
    "request.required.acks",
    "session.timeout.ms",
    "transaction.timeout.ms",
    "transactional.id",
];

impl fmt::Debug for KafkaConfig {
    /// Without the password and without properties, which may hold one.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("KafkaConfig");
        shown.field("brokers", &self.brokers).field("tls", &self.tls.is_some()).field("instance", &self.instance);
        shown.field("user", &self.sasl.as_ref().map(|(_, user, _)| user)).finish_non_exhaustive()
    }
}
