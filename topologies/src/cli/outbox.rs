//! The flags of the outbox: of whatever process relays it, or writes to it.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::duration;
use crate::{cdc, outbox};

/// The database.
#[derive(Args, Clone, Debug)]
pub struct Database {
    /// Database with the outbox, such as mysql://user:password@host:3306/app?require_ssl=true; better given by the environment
    #[arg(long, env = "SHOP_MYSQL", value_name = "URL", hide_env_values = true)]
    pub mysql: Option<String>,
    /// File with the certificates that the database's must be signed by [default: the system's]
    #[arg(long, env = "SHOP_MYSQL_CA", value_name = "FILE", requires = "mysql")]
    pub mysql_ca: Option<PathBuf>,
    /// The outbox, in the URL's database or as database.table; made when missing
    #[arg(long, env = "SHOP_CDC_TABLE", value_name = "TABLE", default_value = "outbox_events")]
    pub cdc_table: String,
    /// Name that the position in the binlog is kept by
    #[arg(long, env = "SHOP_CDC_NAME", value_name = "NAME", default_value = "outbox")]
    pub cdc_name: String,
}

impl Database {
    /// Where it is; `None` if there is none.
    ///
    /// # Errors
    /// One sentence that names the flag.
    pub fn address(&self) -> Result<Option<cdc::Address>, String> {
        let address = |url: &String| cdc::Address::new(url, self.mysql_ca.clone(), &self.cdc_table);
        self.mysql.as_ref().map(address).transpose()
    }
}

/// How long the outbox keeps its rows, of whatever process writes to it.
#[derive(Args, Clone, Copy, Debug)]
pub struct Retention {
    /// How long rows of the outbox are kept that were relayed, such as 7d or 12h; off keeps them for ever
    #[arg(long, env = "SHOP_OUTBOX_RETENTION", value_name = "TIME", default_value = "7d", value_parser = keep)]
    pub outbox_retention: Keep,
}

/// How long to keep something; nothing is for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep(pub Option<Duration>);

fn keep(text: &str) -> Result<Keep, String> {
    const DAY: Duration = Duration::from_secs(24 * 3_600);
    if text == "off" {
        return Ok(Keep(None));
    }
    let days = text.strip_suffix('d').and_then(|days| days.parse().ok()).and_then(|days| DAY.checked_mul(days));
    let time = days.map_or_else(|| duration(text), Ok)?;
    if time < outbox::LEAST_RETENTION {
        return Err("rows are kept for 1h at least, or off keeps them for ever".into());
    }
    Ok(Keep(Some(time)))
}

/// The outbox to follow, and how its rows become records.
#[derive(Args, Clone, Debug)]
pub struct Outbox {
    /// The database
    #[command(flatten)]
    pub database: Database,
    /// Id among the database's replicas [default: a random one for each connection]
    #[arg(long, env = "SHOP_CDC_SERVER_ID", value_name = "N", requires = "mysql")]
    pub cdc_server_id: Option<NonZeroU32>,
    /// Topic of an event type, such as OrderPaid=order-events; may be repeated
    #[arg(long, env = "SHOP_CDC_ROUTE", value_name = "TYPE=TOPIC", value_delimiter = ',')]
    pub cdc_route: Vec<String>,
    /// Option of Debezium's outbox event router, such as table.field.event.key=aggregate_id; may be repeated, in the environment by ;
    #[arg(long, env = "SHOP_CDC_OPTION", value_name = "NAME=VALUE", value_delimiter = ';')]
    pub cdc_option: Vec<String>,
    /// What becomes of rows that are there at the first start
    #[arg(long, env = "SHOP_CDC_SNAPSHOT", value_name = "MODE", default_value = "initial")]
    pub cdc_snapshot: SnapshotMode,
    /// How to find the place in the binlog again after a restart
    #[arg(long, env = "SHOP_CDC_POSITION", value_name = "BY", default_value = "gtid")]
    pub cdc_position: PositionBy,
    /// Forget how far the outbox was relayed and relay every row that is there, once more
    #[arg(long, env = "SHOP_RESNAPSHOT", requires = "mysql")]
    pub resnapshot: bool,
    /// Write every row to the topic ecommerce.outbox_events, too
    #[arg(long, env = "SHOP_RAW_TOPIC", requires = "mysql")]
    pub raw_topic: bool,
}

/// What becomes of rows that are there at the first start, in Debezium's words.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
#[value(rename_all = "snake_case")]
pub enum SnapshotMode {
    /// They are relayed
    Initial,
    /// They are passed over, and stay in the table
    NoData,
}

/// How a place in the binlog is found again.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum PositionBy {
    /// By transaction ids where the database has them, which hold on any server of a cluster
    Gtid,
    /// By file and offset, which hold on this server only
    File,
}

impl Outbox {
    /// How to relay it; `None` without a database.
    ///
    /// # Errors
    /// One sentence that names the flag.
    pub fn settings(&self) -> Result<Option<cdc::Settings>, String> {
        let Some(address) = self.database.address()? else { return Ok(None) };
        let mut routing = cdc::Routing::default();
        for option in &self.cdc_option {
            routing.set(option).map_err(|error| format!("--cdc-option {error}"))?;
        }
        for route in &self.cdc_route {
            routing.add_route(route).map_err(|error| format!("--cdc-route {error}"))?;
        }
        Ok(Some(cdc::Settings {
            name: self.database.cdc_name.clone(),
            address,
            routing,
            server_id: self.cdc_server_id.map(NonZeroU32::get),
            snapshot_rows: self.cdc_snapshot == SnapshotMode::Initial,
            resnapshot: self.resnapshot,
            prefers_gtids: self.cdc_position == PositionBy::Gtid,
            raw_topic: self.raw_topic,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_retention_is_a_time_or_none() {
        let hours = |hours: u64| Some(Keep(Some(Duration::from_secs(hours * 3_600))));
        for (text, read) in [
            ("7d", hours(7 * 24)),
            ("12h", hours(12)),
            ("1h", hours(1)),
            ("off", Some(Keep(None))),
            ("59m", None),
            ("0d", None),
            ("7", None),
            ("-7d", None),
            ("99999999999999999999d", None),
        ] {
            assert_eq!(keep(text).ok(), read, "{text}");
        }
    }
}
