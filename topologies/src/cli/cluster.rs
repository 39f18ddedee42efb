//! The flags of the processes on Kafka: the cluster, and what `shop worker`, `shop api` and `shop cdc` take.

use std::num::{NonZeroU16, NonZeroUsize};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::{Database, Gate, Interface, Logging, Outbox, Retention, bytes, duration};

/// The Kafka cluster to use.
#[derive(Args, Clone, Debug)]
pub struct Cluster {
    /// Brokers of the cluster, as host:port, several by commas
    #[arg(long, env = "SHOP_BROKERS", value_name = "HOST:PORT")]
    pub brokers: String,
    /// Encrypt the connections to the brokers
    #[arg(long, env = "SHOP_KAFKA_TLS", requires = "brokers")]
    pub kafka_tls: bool,
    /// File with the certificates that the brokers' must be signed by [default: the system's]
    #[arg(long, env = "SHOP_KAFKA_CA", value_name = "FILE", requires = "kafka_tls")]
    pub kafka_ca: Option<PathBuf>,
    /// User to log in to the brokers as
    #[arg(long, env = "SHOP_KAFKA_USER", value_name = "NAME", requires = "kafka_password_file")]
    pub kafka_user: Option<String>,
    /// File with the user's password
    #[arg(long, env = "SHOP_KAFKA_PASSWORD_FILE", value_name = "FILE", requires = "kafka_user")]
    pub kafka_password_file: Option<PathBuf>,
    /// How the password is shown to the brokers
    #[arg(long, env = "SHOP_KAFKA_MECHANISM", value_name = "MECHANISM", default_value = "scram-sha-512")]
    pub kafka_mechanism: KafkaMechanism,
    /// Property of librdkafka, such as client.rack=a; may be repeated
    #[arg(long, env = "SHOP_KAFKA_PROPERTY", value_name = "NAME=VALUE", value_delimiter = ';')]
    pub kafka_property: Vec<String>,
    /// Copies of each topic that is made [default: the cluster's]
    #[arg(long, env = "SHOP_REPLICATION_FACTOR", value_name = "N")]
    pub replication_factor: Option<NonZeroU16>,
    /// Who shares out the tasks
    #[arg(long, env = "SHOP_GROUP_PROTOCOL", value_name = "PROTOCOL", default_value = "auto")]
    pub group_protocol: GroupProtocol,
    /// After how long a silent worker's tasks go to others, such as 3s; alike for all processes, and within the brokers' bounds
    #[arg(long, env = "SHOP_SESSION_TIMEOUT", value_name = "TIME", default_value = "6s", value_parser = duration)]
    pub session_timeout: Duration,
}

/// How a password is shown to a broker.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum KafkaMechanism {
    /// As it is; with TLS only
    Plain,
    /// SCRAM-SHA-256
    #[value(name = "scram-sha-256")]
    ScramSha256,
    /// SCRAM-SHA-512
    #[value(name = "scram-sha-512")]
    ScramSha512,
}

/// Who shares out the tasks of a group.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupProtocol {
    /// The brokers where they can be quick about it, else the members
    Auto,
    /// The members
    Classic,
    /// The brokers (KIP-848)
    Consumer,
}

/// `shop worker`
#[derive(Args, Clone, Debug)]
pub struct Worker {
    /// The cluster
    #[command(flatten)]
    pub cluster: Cluster,
    /// Topologies whose tasks it takes [default: all]
    #[arg(long, env = "SHOP_TOPOLOGIES", value_name = "NAME", value_delimiter = ',')]
    pub topologies: Vec<String>,
    /// Threads that run topologies [default: one for each core, at most 4]
    #[arg(long, env = "SHOP_THREADS", value_name = "N")]
    pub threads: Option<NonZeroUsize>,
    /// Directory of the state; made when missing
    #[arg(long, env = "SHOP_STATE", value_name = "DIR", default_value = "./state")]
    pub state: PathBuf,
    /// How many other workers follow each task, to answer for it and to take it over quickly
    #[arg(long, env = "SHOP_STANDBYS", value_name = "N", default_value_t = 0)]
    pub standbys: usize,
    /// Where other processes reach this one [default: the address that it serves on]
    #[arg(long, env = "SHOP_ADVERTISE", value_name = "HOST:PORT")]
    pub advertise: Option<String>,
    /// Memory for state and caches, such as 64MiB or 2GiB
    #[arg(long, env = "SHOP_MEMORY_BUDGET", value_name = "SIZE", default_value = "256MiB", value_parser = bytes)]
    pub memory_budget: usize,
    /// An order that is not paid within this time fails, such as 15m or 90s; alike for all workers
    #[arg(long, env = "SHOP_PAYMENT_TIMEOUT", value_name = "TIME", default_value = "15m", value_parser = duration)]
    pub payment_timeout: Duration,
    /// How clients are served
    #[command(flatten)]
    pub interface: Interface,
    /// What is logged
    #[command(flatten)]
    pub logging: Logging,
}

/// `shop api`
#[derive(Args, Clone, Debug)]
pub struct ApiServer {
    /// The cluster
    #[command(flatten)]
    pub cluster: Cluster,
    /// Directory of the state that it follows, to answer every request by itself; made when missing
    #[arg(long, env = "SHOP_STATE", value_name = "DIR", default_value = "./api-state")]
    pub state: PathBuf,
    /// Memory for state and caches, such as 64MiB or 2GiB
    #[arg(long, env = "SHOP_MEMORY_BUDGET", value_name = "SIZE", default_value = "256MiB", value_parser = bytes)]
    pub memory_budget: usize,
    /// Write requests through the outbox of a MySQL or MariaDB database, which `shop cdc` relays
    #[command(flatten)]
    pub database: Database,
    /// How long the outbox keeps its rows
    #[command(flatten)]
    pub retention: Retention,
    /// A gate before coupons
    #[command(flatten)]
    pub gate: Gate,
    /// How clients are served
    #[command(flatten)]
    pub interface: Interface,
    /// What is logged
    #[command(flatten)]
    pub logging: Logging,
}

/// `shop cdc`
#[derive(Args, Clone, Debug)]
pub struct Cdc {
    /// The cluster
    #[command(flatten)]
    pub cluster: Cluster,
    /// Directory of what the process knows of itself; made when missing
    #[arg(long, env = "SHOP_STATE", value_name = "DIR", default_value = "./cdc-state")]
    pub state: PathBuf,
    /// Follow the outbox of a MySQL or MariaDB database in its binlog
    #[command(flatten)]
    pub outbox: Outbox,
    /// How clients are served
    #[command(flatten)]
    pub interface: Interface,
    /// What is logged
    #[command(flatten)]
    pub logging: Logging,
}
