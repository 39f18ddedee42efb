//! Change data capture: follows the outbox table of MySQL or MariaDB in its binlog, as a replica does, and appends each inserted row to its
//! topic, once. What Debezium's Outbox Event Router would have written stands in the topics afterwards.
//!
//! ```text
//! server ──events──▶ stream ──▶ binlog ──transactions──▶ relay ──records and position, one transaction──▶ log
//!                   checksums   which rows are             topic, key,
//!                               committed                  headers (routing)
//! ```
//! The position is in the log (`position`), in the transaction of the records that it stands behind, so what was relayed and how far are
//! never two things: a crash, of either side, is repaired by reading it and asking the server to go on from there. Rows that cannot be
//! routed are parked in a dead-letter topic, in the same transaction. No query is made after the snapshot but when the table has changed.

mod binlog;
mod cell;
mod gtid;
mod json;
mod position;
mod relay;
mod replays;
mod routing;
mod rows;
mod server;
mod snapshot;
mod status;
mod stream;
mod table;
mod topic_regex;

pub use self::gtid::Gtids;
pub use self::position::{CDC_POSITIONS, POSITIONS, Position};
pub use self::relay::Relay;
pub use self::routing::Routing;
pub use self::server::{Address, Flavor, Server};
pub use self::table::TableName;

/// How a relay works.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The name of its position. Two relays of one name would take turns.
    pub name: String,
    /// The server and the outbox.
    pub address: Address,
    /// How rows become records.
    pub routing: Routing,
    /// The id it has among the server's replicas; none is a random one for each connection.
    pub server_id: Option<u32>,
    /// Whether a first start relays the rows that are there; else it passes them over, and they stay.
    pub snapshot_rows: bool,
    /// Begin anew with a snapshot, wherever the relay stood.
    pub resnapshot: bool,
    /// Whether to go on by transaction ids where there are some; else by file and offset.
    pub prefers_gtids: bool,
    /// Whether every row also goes to the raw topic, as JSON.
    pub raw_topic: bool,
}

/// Why a relay ended for good: one sentence.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Stop {
    /// It cannot run as it was told to.
    #[error("{0}")]
    Misconfigured(String),
    /// It cannot go on.
    #[error("{0}")]
    Failed(String),
}

/// What stands in the way.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// It may be gone when it is tried again.
    #[error("{0}")]
    Passing(String),
    /// The table was changed: its columns must be read again.
    #[error("{0}")]
    TableChanged(String),
    /// It stays.
    #[error("{0}")]
    Fatal(Stop),
}

fn misconfigured(sentence: String) -> Trouble {
    Trouble::Fatal(Stop::Misconfigured(sentence))
}

fn failed(sentence: String) -> Trouble {
    Trouble::Fatal(Stop::Failed(sentence))
}
