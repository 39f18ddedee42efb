//! The outbox table as it is declared, and its rows.
//!
//! A binlog names columns by their place only (unless `binlog_row_metadata` is FULL) and does not always say what is unsigned or binary,
//! so names and kinds come from `information_schema`. What does not fit it any more is told, never guessed.

use std::fmt::Write as _;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use mysql_async::binlog::events::{OptionalMetaExtractor, TableMapEvent};
use mysql_async::consts::ColumnType;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};

use super::cell::{Cell, iso};

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
    /// A date, which becomes days since 1970.
    Date,
    /// A time of day or a stretch of time, which becomes microseconds.
    Time,
    /// One of these texts.
    Enum(Vec<String>),
    /// Any of these texts.
    Set(Vec<String>),
    /// So many bits: one is true or false, several are bytes, the least first.
    Bit(u32),
    /// A number with an exponent, of half or full precision.
    Real,
    /// A number with a fixed number of digits.
    Decimal,
    /// A year.
    Year,
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
            "binary" => Kind::Bytes { fixed: number(column_type).unwrap_or(0) as usize },
            "varbinary" | "tinyblob" | "blob" | "mediumblob" | "longblob" => Kind::Bytes { fixed: 0 },
            "json" => Kind::Json,
            "tinyint" => Kind::Integer { unsigned, bits: 8 },
            "smallint" => Kind::Integer { unsigned, bits: 16 },
            "mediumint" => Kind::Integer { unsigned, bits: 24 },
            "int" => Kind::Integer { unsigned, bits: 32 },
            "bigint" => Kind::Integer { unsigned, bits: 64 },
            "datetime" => Kind::DateTime { digits },
            "timestamp" => Kind::Timestamp { digits },
            "date" => Kind::Date,
            "time" => Kind::Time,
            "enum" => Kind::Enum(choices(column_type)),
            "set" => Kind::Set(choices(column_type)),
            "bit" => Kind::Bit(number(column_type).unwrap_or(1)),
            "float" | "double" => Kind::Real,
            "decimal" => Kind::Decimal,
            "year" => Kind::Year,
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
            Kind::Date => matches!(binlog, MYSQL_TYPE_DATE | MYSQL_TYPE_NEWDATE),
            Kind::Time => matches!(binlog, MYSQL_TYPE_TIME | MYSQL_TYPE_TIME2),
            Kind::Enum(_) => matches!(binlog, MYSQL_TYPE_ENUM | MYSQL_TYPE_STRING),
            Kind::Set(_) => matches!(binlog, MYSQL_TYPE_SET | MYSQL_TYPE_STRING),
            Kind::Bit(_) => matches!(binlog, MYSQL_TYPE_BIT),
            Kind::Real => matches!(binlog, MYSQL_TYPE_FLOAT | MYSQL_TYPE_DOUBLE),
            Kind::Decimal => matches!(binlog, MYSQL_TYPE_DECIMAL | MYSQL_TYPE_NEWDECIMAL),
            Kind::Year => matches!(binlog, MYSQL_TYPE_YEAR),
            Kind::Other(_) => true,
        }
    }
}

/// The number in the declaration of a column.
fn number(column_type: &str) -> Option<u32> {
    column_type.split(|c: char| !c.is_ascii_digit()).find(|digits| !digits.is_empty())?.parse().ok()
}

/// The texts in the declaration of a column, such as `enum('a','it''s')`.
fn choices(column_type: &str) -> Vec<String> {
    let (mut choices, mut rest) = (Vec::new(), column_type);
    while let Some((_, after)) = rest.split_once('\'') {
        let (mut choice, mut from) = (String::new(), after);
        while let Some((part, after)) = from.split_once('\'') {
            choice.push_str(part);
            from = after;
            match after.strip_prefix('\'') {
                Some(after) => {
                    choice.push('\'');
                    from = after;
                }
                None => break,
            }
        }
        choices.push(choice);
        rest = from;
    }
    choices
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
    fn declarations_are_read() {
        assert_eq!(choices("enum('small','it''s','','a,b')"), ["small", "it's", "", "a,b"]);
        assert_eq!((number("bit(10)"), number("binary(16)"), number("bit")), (Some(10), Some(16), None));
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
