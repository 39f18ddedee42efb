//! The outbox table as it is declared, and its rows: cells in plain kinds, whether they come from the binlog or from a query.
//!
//! A binlog names columns by their place only (unless `binlog_row_metadata` is FULL) and does not always say what is unsigned or binary,
//! so names and kinds come from `information_schema`. What does not fit it any more is told, never guessed.

use std::fmt::Write as _;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use mysql_async::Value;
use mysql_async::binlog::events::{OptionalMetaExtractor, TableMapEvent};
use mysql_async::binlog::value::BinlogValue;
use mysql_async::consts::ColumnType;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};

use super::json;

/// A table, by its database and its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableName {
    /// The database.
    pub database: String,
    /// The table.
    pub table: String,
}

impl std::fmt::Display for TableName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.database, self.table)
    }
}

impl TableName {
    /// The name as SQL has it.
    #[must_use]
    pub fn quoted(&self) -> String {
        format!("{}.{}", quote(&self.database), quote(&self.table))
    }
}

/// A name as SQL has it.
#[must_use]
pub fn quote(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

/// What a column holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// Text, in UTF-8.
    Text,
    /// Text in another character set.
    OtherText(String),
    /// Bytes; `BINARY(n)` is filled with zeros up to its length, which the binlog leaves out.
    Bytes {
        /// The length of a `BINARY`.
        fixed: usize,
    },
    /// MySQL's binary JSON.
    Json,
    /// A whole number.
    Integer {
        /// Whether it has no sign, which the binlog does not always know.
        unsigned: bool,
        /// How long it is.
        bits: u32,
    },
    /// A date and time without a zone, taken as UTC as Debezium does.
    DateTime {
        /// Digits after the second.
        digits: u8,
    },
    /// A moment.
    Timestamp {
        /// Digits after the second.
        digits: u8,
    },
    /// Something that the relay can only hand on as text, by its name in SQL.
    Other(String),
}

/// A column.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// What it holds.
    pub kind: Kind,
}

impl Column {
    /// A column by what `information_schema.columns` says of it.
    #[must_use]
    pub fn new(name: String, data_type: &str, column_type: &str, charset: Option<&str>, digits: Option<u8>) -> Column {
        let unsigned = column_type.to_ascii_lowercase().contains("unsigned");
        let digits = digits.unwrap_or(0);
        let kind = match data_type.to_ascii_lowercase().as_str() {
            "char" | "varchar" | "tinytext" | "text" | "mediumtext" | "longtext" => match charset {
                None | Some("utf8" | "utf8mb3" | "utf8mb4" | "ascii") => Kind::Text,
                Some(other) => Kind::OtherText(other.to_owned()),
            },
            "binary" => {
                let length: String = column_type.chars().filter(char::is_ascii_digit).collect();
                Kind::Bytes { fixed: length.parse().unwrap_or(0) }
            }
            "varbinary" | "tinyblob" | "blob" | "mediumblob" | "longblob" => Kind::Bytes { fixed: 0 },
            "json" => Kind::Json,
            "tinyint" => Kind::Integer { unsigned, bits: 8 },
            "smallint" => Kind::Integer { unsigned, bits: 16 },
            "mediumint" => Kind::Integer { unsigned, bits: 24 },
            "int" => Kind::Integer { unsigned, bits: 32 },
            "bigint" => Kind::Integer { unsigned, bits: 64 },
            "datetime" => Kind::DateTime { digits },
            "timestamp" => Kind::Timestamp { digits },
            other => Kind::Other(other.to_owned()),
        };
        Column { name, kind }
    }

    /// Whether a value of this type in the binlog can be of this column.
    fn fits(&self, binlog: ColumnType) -> bool {
        use ColumnType::*;
        match self.kind {
            Kind::Text | Kind::OtherText(_) | Kind::Bytes { .. } => matches!(
                binlog,
                MYSQL_TYPE_VARCHAR
                    | MYSQL_TYPE_VAR_STRING
                    | MYSQL_TYPE_STRING
                    | MYSQL_TYPE_BLOB
                    | MYSQL_TYPE_TINY_BLOB
                    | MYSQL_TYPE_MEDIUM_BLOB
                    | MYSQL_TYPE_LONG_BLOB
            ),
            Kind::Json => matches!(binlog, MYSQL_TYPE_JSON),
            Kind::Integer { .. } => {
                matches!(binlog, MYSQL_TYPE_TINY | MYSQL_TYPE_SHORT | MYSQL_TYPE_INT24 | MYSQL_TYPE_LONG | MYSQL_TYPE_LONGLONG)
            }
            Kind::DateTime { .. } => matches!(binlog, MYSQL_TYPE_DATETIME | MYSQL_TYPE_DATETIME2),
            Kind::Timestamp { .. } => matches!(binlog, MYSQL_TYPE_TIMESTAMP | MYSQL_TYPE_TIMESTAMP2),
            Kind::Other(_) => true,
        }
    }
}

/// The columns of a table, in order.
pub type Columns = Arc<[Column]>;

/// The columns of the rows that follow a table map: named by the map where it has names, else the table's as it is now. `None` if the table
/// is no longer what it was when these rows were written.
#[must_use]
pub fn columns_of(map: &TableMapEvent<'_>, now: &Columns) -> Option<Columns> {
    let count = usize::try_from(map.columns_count()).ok()?;
    let metadata = OptionalMetaExtractor::new(map.iter_optional_meta()).ok()?;
    let names: Result<Vec<String>, _> =
        metadata.iter_column_name().map(|name| Ok::<_, std::io::Error>(name?.name().into_owned())).collect();
    let names = names.ok()?;
    let columns: Columns = if names.is_empty() {
        (now.len() == count).then(|| Arc::clone(now))?
    } else {
        let known = |name: String| match now.iter().find(|column| column.name.eq_ignore_ascii_case(&name)) {
            Some(column) => column.clone(),
            None => Column { name, kind: Kind::Other("unknown".into()) },
        };
        names.into_iter().map(known).collect()
    };
    let fits = |(place, column): (usize, &Column)| matches!(map.get_column_type(place), Ok(Some(kind)) if column.fits(kind));
    (columns.len() == count && columns.iter().enumerate().all(fits)).then_some(columns)
}

/// What stands in a row at a column.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell {
    /// Nothing.
    Null,
    /// Text.
    Text(String),
    /// Bytes, or what was to be text and is not UTF-8.
    Bytes(Vec<u8>),
    /// A whole number.
    Integer(i128),
    /// Microseconds since 1970.
    Time {
        /// The time.
        micros: i64,
        /// Digits after the second.
        digits: u8,
        /// Whether it has a zone.
        is_moment: bool,
    },
    /// A time that there is not, such as 0000-00-00.
    NoTime,
}

impl Cell {
    /// The value of a column as a row of the binlog has it.
    #[must_use]
    pub fn of_binlog(kind: &Kind, value: BinlogValue<'_>) -> Cell {
        match (kind, value) {
            (_, BinlogValue::Jsonb(value)) => {
                json::to_text(&value).map_or_else(|error| Cell::Text(error.to_string()), Cell::Text)
            }
            (_, BinlogValue::JsonDiff(_)) => Cell::Null, // only updates have these
            (Kind::Timestamp { digits }, BinlogValue::Value(Value::Bytes(text))) => unix_time(&text, *digits),
            (Kind::Timestamp { digits }, BinlogValue::Value(Value::Int(seconds))) => {
                Cell::Time { micros: seconds.saturating_mul(1_000_000), digits: *digits, is_moment: true }
            }
            (kind, BinlogValue::Value(value)) => Cell::of_query(kind, value),
        }
    }

    /// The value of a column as a query gives it, in a session whose time zone is UTC.
    #[must_use]
    pub fn of_query(kind: &Kind, value: Value) -> Cell {
        match (kind, value) {
            (_, Value::NULL) => Cell::Null,
            (Kind::Bytes { fixed }, Value::Bytes(mut bytes)) => {
                bytes.resize(bytes.len().max(*fixed), 0);
                Cell::Bytes(bytes)
            }
            (Kind::OtherText(_), Value::Bytes(bytes)) => Cell::Bytes(bytes),
            (_, Value::Bytes(bytes)) => String::from_utf8(bytes).map_or_else(|error| Cell::Bytes(error.into_bytes()), Cell::Text),
            (Kind::Integer { unsigned: true, bits }, Value::Int(number)) if number < 0 => {
                Cell::Integer(i128::from(number) + (1 << bits))
            }
            (_, Value::Int(number)) => Cell::Integer(i128::from(number)),
            (_, Value::UInt(number)) => Cell::Integer(i128::from(number)),
            (Kind::DateTime { digits }, Value::Date(year, month, day, hour, minute, second, micros)) => {
                civil_time((year, month, day), (hour, minute, second, micros), *digits, false)
            }
            (Kind::Timestamp { digits }, Value::Date(year, month, day, hour, minute, second, micros)) => {
                civil_time((year, month, day), (hour, minute, second, micros), *digits, true)
            }
            (_, other) => Cell::Text(other.as_sql(true).trim_matches('\'').to_owned()),
        }
    }

    /// The value that [`Row::to_json`] made this of.
    fn of_json(kind: &Kind, value: Json) -> Option<Cell> {
        let time = |text: &str, digits, is_moment| match text.parse::<jiff::Timestamp>() {
            Ok(at) => Some(Cell::Time { micros: at.as_microsecond(), digits, is_moment }),
            Err(_) => (text == "0000-00-00").then_some(Cell::NoTime),
        };
        match (kind, value) {
            (_, Json::Null) => Some(Cell::Null),
            (_, Json::Object(object)) => BASE64.decode(object.get("$base64")?.as_str()?).ok().map(Cell::Bytes),
            (Kind::Integer { .. }, Json::String(text)) => text.parse().ok().map(Cell::Integer),
            (_, Json::Number(number)) => number.as_i64().map(|number| Cell::Integer(number.into())),
            (Kind::DateTime { digits }, Json::String(text)) => time(&text, *digits, false),
            (Kind::Timestamp { digits }, Json::String(text)) => time(&text, *digits, true),
            (_, Json::String(text)) => Some(Cell::Text(text)),
            (_, Json::Bool(_) | Json::Array(_)) => None,
        }
    }

    /// The value as text, as a header or a key carries it: as Debezium's router writes it with string converters.
    #[must_use]
    pub fn to_text(&self) -> Option<String> {
        Some(match self {
            Cell::Null | Cell::NoTime => return None,
            Cell::Text(text) => text.clone(),
            Cell::Bytes(bytes) => BASE64.encode(bytes),
            Cell::Integer(number) => number.to_string(),
            Cell::Time { micros, digits, is_moment: true } => iso(*micros, *digits),
            // io.debezium.time.Timestamp up to three digits, MicroTimestamp beyond.
            Cell::Time { micros, digits: 0..=3, .. } => micros.div_euclid(1_000).to_string(),
            Cell::Time { micros, .. } => micros.to_string(),
        })
    }
}

/// Seconds since 1970 as text, with a fraction or without.
fn unix_time(text: &[u8], digits: u8) -> Cell {
    let parsed = std::str::from_utf8(text).ok().and_then(|text| {
        let (seconds, fraction) = text.split_once('.').unwrap_or((text, "0"));
        let seconds: i64 = seconds.parse().ok()?;
        let micros: i64 = format!("{fraction:0<6}").get(..6)?.parse().ok()?;
        (seconds > 0 || micros > 0).then_some(seconds.checked_mul(1_000_000)? + micros)
    });
    parsed.map_or(Cell::NoTime, |micros| Cell::Time { micros, digits, is_moment: true })
}

fn civil_time(date: (u16, u8, u8), time: (u8, u8, u8, u32), digits: u8, is_moment: bool) -> Cell {
    let small = |number: u8| i8::try_from(number).ok();
    let micros = || {
        let day = jiff::civil::Date::new(i16::try_from(date.0).ok()?, small(date.1)?, small(date.2)?).ok()?;
        let days = i64::from(jiff::civil::Date::constant(1970, 1, 1).until(day).ok()?.get_days());
        let seconds = i64::from(time.0) * 3_600 + i64::from(time.1) * 60 + i64::from(time.2);
        Some((days * 86_400 + seconds) * 1_000_000 + i64::from(time.3))
    };
    micros().map_or(Cell::NoTime, |micros| Cell::Time { micros, digits, is_moment })
}

/// As `ZonedTimestamp` has it: as many digits as the column.
fn iso(micros: i64, digits: u8) -> String {
    let digits = usize::from(digits);
    jiff::Timestamp::from_microsecond(micros).map_or_else(|_| micros.to_string(), |time| format!("{time:.digits$}"))
}

/// A row, with the columns it had when it was written.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Its columns.
    pub columns: Columns,
    /// What stands there; fewer than columns where the binlog does not hold the whole row.
    pub cells: Vec<Cell>,
}

/// The one column of what is no row but the statement that wrote it.
const STATEMENT: &str = "statement";

impl Row {
    /// What stands for the rows of a statement, which the binlog does not hold.
    #[must_use]
    pub fn of_statement(statement: &str) -> Row {
        let column = Column { name: STATEMENT.into(), kind: Kind::Text };
        Row { columns: [column].into(), cells: vec![Cell::Text(statement.to_owned())] }
    }

    /// Whether it is no row but a statement.
    #[must_use]
    pub fn is_statement(&self) -> bool {
        matches!(&*self.columns, [column] if column.name == STATEMENT)
    }

    /// What stands at a column; `None` if there is no such column, or the binlog left it out.
    #[must_use]
    pub fn cell(&self, column: &str) -> Option<&Cell> {
        let place = self.columns.iter().position(|known| known.name.eq_ignore_ascii_case(column))?;
        if self.cells.len() < self.columns.len() { None } else { self.cells.get(place) }
    }

    /// All of it as one JSON object, so that nothing is lost when it cannot be routed.
    #[must_use]
    pub fn to_json(&self) -> String {
        let value = |cell: &Cell| match cell {
            Cell::Null => Json::Null,
            Cell::NoTime => Json::from("0000-00-00"),
            Cell::Bytes(bytes) => serde_json::json!({"$base64": BASE64.encode(bytes)}),
            Cell::Integer(number) => i64::try_from(*number).map_or_else(|_| number.to_string().into(), Json::from),
            Cell::Time { micros, .. } => iso(*micros, 6).into(),
            Cell::Text(text) => text.as_str().into(),
        };
        let fields = self.columns.iter().zip(&self.cells).map(|(column, cell)| (column.name.clone(), value(cell)));
        Json::Object(fields.collect::<Map<_, _>>()).to_string()
    }

    /// The row of which [`Row::to_json`] made this, by the kinds that the columns of these names have.
    ///
    /// # Errors
    /// Why there is none.
    pub fn from_json(text: &[u8], columns: &Columns) -> Result<Row, String> {
        let object: Map<String, Json> = serde_json::from_slice(text).map_err(|error| format!("it is no row: {error}"))?;
        let (mut named, mut cells) = (Vec::new(), Vec::new());
        for (name, value) in object {
            let known = columns.iter().find(|column| column.name.eq_ignore_ascii_case(&name));
            let column = known.cloned().unwrap_or_else(|| Column { name, kind: Kind::Other("unknown".into()) });
            cells
                .push(Cell::of_json(&column.kind, value).ok_or_else(|| format!("{} is not what the column holds", column.name))?);
            named.push(column);
        }
        Ok(Row { columns: named.into(), cells })
    }

    /// About how many bytes it takes.
    #[must_use]
    pub fn size(&self) -> usize {
        let bytes = |cell: &Cell| match cell {
            Cell::Text(text) => text.len(),
            Cell::Bytes(bytes) => bytes.len(),
            Cell::Null | Cell::NoTime | Cell::Integer(_) | Cell::Time { .. } => 0,
        };
        self.cells.iter().map(|cell| bytes(cell) + size_of::<Cell>()).sum()
    }
}

/// The columns as a statement that selects them in order.
#[must_use]
pub fn select_list(columns: &Columns) -> String {
    let mut list = String::new();
    for (place, column) in columns.iter().enumerate() {
        // Writing to a string cannot fail.
        let _ = write!(list, "{}{}", if place > 0 { ", " } else { "" }, quote(&column.name));
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_text_as_the_router_writes_it() {
        let date = |digits| Kind::DateTime { digits };
        let time = || Value::Date(2026, 1, 2, 3, 4, 5, 678_901);
        for (kind, value, text) in [
            (Kind::Text, Value::from("ö-3"), Some("ö-3")),
            (Kind::Integer { unsigned: true, bits: 64 }, Value::Int(-1), Some("18446744073709551615")),
            (Kind::Integer { unsigned: true, bits: 24 }, Value::Int(-1), Some("16777215")),
            (Kind::Integer { unsigned: false, bits: 8 }, Value::Int(-1), Some("-1")),
            (Kind::Bytes { fixed: 4 }, Value::Bytes(vec![1, 2]), Some("AQIAAA==")),
            (Kind::Bytes { fixed: 0 }, Value::Bytes(vec![255, 254, 253]), Some("//79")),
            (date(6), time(), Some("1767323045678901")),
            (date(3), time(), Some("1767323045678")),
            (date(6), Value::Date(9999, 12, 31, 23, 59, 59, 999_999), Some("253402300799999999")),
            (date(3), Value::Date(0, 0, 0, 0, 0, 0, 0), None),
            (Kind::Text, Value::NULL, None),
        ] {
            assert_eq!(Cell::of_query(&kind, value.clone()).to_text().as_deref(), text, "{kind:?} {value:?}");
        }
        let moment = Cell::of_binlog(&Kind::Timestamp { digits: 3 }, BinlogValue::Value(Value::from("1767323045.678000")));
        assert_eq!(moment.to_text().as_deref(), Some("2026-01-02T03:04:05.678Z"));
    }

    #[test]
    fn kinds_follow_from_the_declaration() {
        let kind = |data, column, charset| Column::new("c".into(), data, column, charset, Some(3)).kind;
        assert_eq!(kind("bigint", "bigint(20) unsigned", None), Kind::Integer { unsigned: true, bits: 64 });
        assert_eq!(kind("binary", "binary(16)", None), Kind::Bytes { fixed: 16 });
        assert_eq!(kind("varchar", "varchar(64)", Some("latin1")), Kind::OtherText("latin1".into()));
        assert_eq!(kind("datetime", "datetime(3)", None), Kind::DateTime { digits: 3 });
        assert_eq!(kind("geometry", "geometry", None), Kind::Other("geometry".into()));
    }
}
