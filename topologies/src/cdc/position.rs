//! How far the binlog has been relayed: what is written to the log in one transaction with the records, and read back at the start.
//! Nothing else remembers it, so a crash neither loses nor repeats a row.

use millstream::codec::{Codec, Data, Json, Optional};
use millstream::{Store, Topic};
use serde::{Deserialize, Serialize};

use super::gtid::Gtids;
use super::table::Column;

/// The positions, by the name of the relay: the last one of each counts.
pub const POSITIONS: Topic<String, Position> = Topic::with_codecs("shop.cdc-position", String::CODEC, &Json).compacted();

/// The same as a global table, for whoever waits for the relay, in whatever process.
pub const CDC_POSITIONS: Store<String, Position> = Store::keyed("cdc-positions");

/// The table's columns as they are at the position, by the name of the relay: rows that were written before the table was changed are read
/// by what it was then. Null while that is not known.
pub const COLUMNS: Topic<String, Option<Vec<Column>>> =
    Topic::with_codecs("shop.cdc-columns", String::CODEC, &Optional(&Json)).compacted();

/// A place between two transactions of a binlog, or within one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Position {
    /// The binlog file.
    pub file: String,
    /// Where in it the next transaction begins, in bytes.
    pub offset: u64,
    /// The transactions before it, where the server numbers them.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "as_text")]
    pub gtids: Option<Gtids>,
    /// How many rows of the next transaction have been relayed: more than 0 only where a large one was split.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub rows: u64,
    /// The latest `created_at`, as the database writes it, of the rows that the snapshot passed over: nobody has relayed those. None where it
    /// relayed all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passed_over: Option<String>,
}

fn is_zero(rows: &u64) -> bool {
    *rows == 0
}

impl Data for Position {
    const CODEC: &'static dyn Codec<Position> = &Json;
}

impl std::fmt::Display for Position {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.file, self.offset)?;
        if let Some(gtids) = &self.gtids {
            write!(f, " ({gtids})")?;
        }
        if self.rows > 0 {
            write!(f, " and {} rows", self.rows)?;
        }
        Ok(())
    }
}

/// Transaction ids as people know them.
mod as_text {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    use super::Gtids;

    pub fn serialize<S: Serializer>(gtids: &Option<Gtids>, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&gtids.as_ref().map(ToString::to_string).unwrap_or_default())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Gtids>, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map(Some).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_read_as_it_was_written() {
        let gtids = "0-1-7".parse().ok();
        for position in [
            Position { file: "binlog.000001".into(), offset: 4, gtids: None, rows: 0, passed_over: None },
            Position { file: "binlog.000001".into(), offset: u64::MAX, gtids, rows: 3, passed_over: Some("2026-01-31".into()) },
        ] {
            let mut bytes = Vec::new();
            Position::CODEC.encode(&position, &mut bytes).expect("JSON");
            assert_eq!(Position::CODEC.decode(Some(&bytes)), Ok(position), "{}", String::from_utf8_lossy(&bytes));
        }
    }
}
