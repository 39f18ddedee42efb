//! From the bytes of an event of the binlog to rows, whole ones only; nothing is fetched here. The client library reads them too, and describes
//! each column of each row anew, which took an eighth of the relay's CPU; here a table's columns are looked at once.

use std::io::{Error, ErrorKind, Result};

use mysql_async::binlog::events::{OptionalMetaExtractor, TableMapEvent};
use mysql_async::binlog::value::BinlogValue;
use mysql_async::consts::ColumnType;
use mysql_common::io::ParseBuf;

use super::cell::Cell;
use super::table::{Columns, Row, columns_of};

/// A table as the binlog says it before the rows.
pub struct TableMap {
    /// The event as it was.
    pub said: Vec<u8>,
    /// Of the outbox.
    pub layout: Option<Layout>,
}

/// How rows of the outbox are written.
pub struct Layout {
    columns: Columns,
    values: Vec<ValueLayout>,
}

/// How the values of a column are written.
struct ValueLayout {
    kind: ColumnType,
    meta: Vec<u8>,
    is_unsigned: bool,
}

impl ValueLayout {
    fn read<'a>(&'a self, rest: &mut ParseBuf<'a>) -> Result<BinlogValue<'a>> {
        rest.parse((self.kind, self.meta.as_slice(), self.is_unsigned, false))
    }
}

impl Layout {
    /// Nothing if the table is not as it is declared `now`.
    ///
    /// # Errors
    /// If the event cannot be read.
    pub fn of(map: &TableMapEvent<'_>, now: &Columns) -> Result<Option<Layout>> {
        let Some(columns) = columns_of(map, now) else { return Ok(None) };
        let optional = OptionalMetaExtractor::new(map.iter_optional_meta())?;
        // Of numbers only.
        let mut signedness = optional.iter_signedness();
        let value = |place: usize| {
            let kind = map.get_column_type(place).map_err(|error| invalid(&error.to_string()))?;
            let kind = kind.ok_or_else(|| invalid("a column has no type"))?;
            let is_unsigned = kind.is_numeric_type() && signedness.next().unwrap_or_default();
            Ok(ValueLayout { kind, meta: map.get_column_metadata(place).unwrap_or_default().to_owned(), is_unsigned })
        };
        let values = (0..columns.len()).map(value).collect::<Result<_>>()?;
        Ok(Some(Layout { columns, values }))
    }

    /// The inserted rows of an event: for each column whether it has it, and its rows as bytes.
    ///
    /// # Errors
    /// If they cannot be read, or are not whole, as in a session that has set `binlog_row_image` for itself.
    pub fn rows<'a>(&'a self, has: impl Iterator<Item = bool>, rows: &'a [u8]) -> Result<Vec<Row>> {
        if has.filter(|has| *has).count() != self.values.len() {
            return Err(invalid("a row has not all columns of its table: binlog_row_image must be FULL in all sessions"));
        }
        let mut rest = ParseBuf(rows);
        let mut read = Vec::new();
        while !rest.is_empty() {
            let nulls = rest.checked_eat(self.values.len().div_ceil(8)).ok_or(ErrorKind::UnexpectedEof)?;
            let mut cells = Vec::with_capacity(self.values.len());
            for (place, (column, layout)) in self.columns.iter().zip(&self.values).enumerate() {
                let is_null = nulls[place / 8] >> (place % 8) & 1 == 1;
                cells.push(if is_null { Cell::Null } else { Cell::of_binlog(&column.kind, layout.read(&mut rest)?) });
            }
            read.push(Row { columns: self.columns.clone(), cells });
        }
        Ok(read)
    }
}

fn invalid(text: &str) -> Error {
    Error::new(ErrorKind::InvalidData, text)
}

#[cfg(test)]
mod tests {
    use super::super::table::{Column, Kind};
    use super::*;

    #[test]
    fn rows_are_read_as_they_are_written_and_only_whole() {
        let column = |name: &str, kind| Column { name: name.to_owned(), kind };
        let columns = [column("number", Kind::Integer { unsigned: true, bits: 32 }), column("text", Kind::Text)];
        let values = vec![
            ValueLayout { kind: ColumnType::MYSQL_TYPE_LONG, meta: Vec::new(), is_unsigned: true },
            ValueLayout { kind: ColumnType::MYSQL_TYPE_VARCHAR, meta: vec![64, 0], is_unsigned: false },
        ];
        let layout = Layout { columns: Columns::from(columns), values };
        let bytes = [&[0, 0xfe, 0xff, 0xff, 0xff, 2, b'h', b'i'][..], &[0b10, 1, 0, 0, 0]].concat();
        let text = |row: &Row| row.cells.iter().map(|cell| cell.to_text().map(|text| text.to_string())).collect::<Vec<_>>();
        let rows = layout.rows([true, true].into_iter(), &bytes).expect("two rows");
        let expected = [vec![Some("4294967294".to_owned()), Some("hi".to_owned())], vec![Some("1".to_owned()), None]];
        assert_eq!(rows.iter().map(text).collect::<Vec<_>>(), expected);
        let refused = layout.rows([true, false].into_iter(), &bytes).map(|rows| rows.len()).unwrap_err();
        assert!(refused.to_string().contains("binlog_row_image"), "{refused}");
    }
}
