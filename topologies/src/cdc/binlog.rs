//! From the events of a binlog to transactions of outbox rows: which table a row belongs to, where a transaction begins and ends, and
//! what was rolled back. Follows both servers; an event that could hide a row and is not understood ends the relay, never the row.
//!
//! ```text
//! between ──GTID, BEGIN──▶ within ──XID, COMMIT, XA COMMIT ONE PHASE──▶ between   rows go out, the position moves
//!                            ├──ROLLBACK──▶ between                               rows are dropped, the position moves
//!                            ├──XA PREPARE──▶ between                             rows go out as undecided
//!                            └──8 MiB of rows──▶ within                           rows go out, the position names how many
//! ```

use std::collections::HashMap;
use std::time::Duration;

use mysql_async::binlog::BinlogChecksumAlg;
use mysql_async::binlog::events::{Event, GtidEvent, QueryEvent, RotateEvent, TableMapEvent, TransactionPayloadEvent};
use mysql_async::binlog::events::{WriteRowsEvent, WriteRowsEventV1};
use uuid::Uuid;

use super::gtid::Gtid;
use super::position::Position;
use super::rows::{Layout, TableMap};
use super::stream::{Broken, Events};
use super::table::{Columns, Row, TableName};

/// A transaction that holds more than this many bytes of rows goes out in parts.
const SPLIT_BYTES: usize = 8 << 20;

/// The numbers of the events that are acted on; those from 160 on are MariaDB's.
mod types {
    pub const QUERY: u8 = 2;
    pub const ROTATE: u8 = 4;
    pub const FORMAT_DESCRIPTION: u8 = 15;
    pub const XID: u8 = 16;
    pub const TABLE_MAP: u8 = 19;
    pub const PRE_GA_ROWS: std::ops::RangeInclusive<u8> = 20..=22;
    pub const WRITE_ROWS_V1: u8 = 23;
    pub const UPDATE_ROWS_V1: u8 = 24;
    pub const DELETE_ROWS_V1: u8 = 25;
    pub const INCIDENT: u8 = 26;
    pub const HEARTBEAT: u8 = 27;
    pub const WRITE_ROWS: u8 = 30;
    pub const UPDATE_ROWS: u8 = 31;
    pub const DELETE_ROWS: u8 = 32;
    pub const GTID: u8 = 33;
    pub const ANONYMOUS_GTID: u8 = 34;
    pub const XA_PREPARE: u8 = 38;
    pub const PARTIAL_UPDATE_ROWS: u8 = 39;
    pub const TRANSACTION_PAYLOAD: u8 = 40;
    pub const HEARTBEAT_V2: u8 = 41;
    pub const TAGGED_GTID: u8 = 42;
    pub const MARIADB_GTID: u8 = 162;
    pub const QUERY_COMPRESSED: u8 = 165;
    pub const COMPRESSED_ROWS: std::ops::RangeInclusive<u8> = 166..=171;
}

/// What the binlog came to.
#[derive(Debug, PartialEq)]
pub enum Happened {
    /// A transaction was committed, with these rows of the outbox; or a part of one.
    Committed(Group),
    /// Nothing of the outbox, but the position moved.
    Moved,
    /// The server has nothing more for now.
    Idle,
    /// Updates or deletes of outbox rows, which are none of the relay's business.
    Ignored,
}

/// Rows of one transaction.
#[derive(Debug, PartialEq)]
pub struct Group {
    /// The rows, in order.
    pub rows: Vec<Row>,
    /// Where to go on after them.
    pub position: Position,
    /// When it was committed, in milliseconds since 1970; to the second where the server says no more.
    pub committed_ms: i64,
    /// Why these rows cannot be taken for committed.
    pub undecided: Option<&'static str>,
}

/// Why the binlog cannot be followed any further.
#[derive(Debug, thiserror::Error)]
pub enum Stopped {
    /// The connection is gone: another one may do better.
    #[error(transparent)]
    Broken(#[from] Broken),
    /// An event cannot be read.
    #[error("a binlog event that ends at {file}:{end} cannot be read: {cause}")]
    Unreadable {
        /// The file.
        file: String,
        /// Where the event ends.
        end: u32,
        /// What is wrong.
        cause: String,
    },
    /// The table is not what the rows were written to.
    #[error("the table {0} has changed since the rows that come next were written")]
    TableChanged(TableName),
    /// The server lost events.
    #[error("the server says that events are missing from its binlog at {0}")]
    Incident(String),
    /// Rows cannot be read as they are.
    #[error("{0}")]
    Unsupported(String),
}

/// An open transaction.
#[derive(Default)]
struct Open {
    gtid: Option<Gtid>,
    /// Begun by `BEGIN` or by a GTID that needs none: it ends by a commit or a rollback; else by its one statement.
    begun: bool,
    rows: Vec<Row>,
    bytes: usize,
    /// How many rows of the outbox there were so far.
    seen: u64,
    committed_ms: Option<i64>,
    /// Where the compressed event ends that holds the transaction: the events within have no place in the file.
    payload_end: Option<u32>,
}

/// Follows a binlog from a position.
pub struct Reader {
    events: Events,
    silence: Duration,
    table: TableName,
    now: Columns,
    /// The tables of the statement that comes, by the number it gives them: the outbox's columns, or none of our business.
    maps: HashMap<u64, TableMap>,
    position: Position,
    /// How many rows of the transaction that comes first have been relayed before.
    skip: u64,
    open: Option<Open>,
    /// A statement changed the table: what follows it must be read with the columns it has then.
    stale: bool,
}

impl Reader {
    /// A reader of `table`, which now has these columns, whose events begin at `position`.
    #[must_use]
    pub fn new(events: Events, silence: Duration, table: TableName, now: Columns, position: Position) -> Reader {
        let skip = position.rows;
        Reader { events, silence, table, now, maps: HashMap::new(), position, skip, open: None, stale: false }
    }

    /// Where the next transaction begins.
    #[must_use]
    pub fn position(&self) -> &Position {
        &self.position
    }

    /// The next thing that happened.
    ///
    /// # Errors
    /// See [`Stopped`].
    pub async fn next(&mut self) -> Result<Happened, Stopped> {
        loop {
            if self.stale && self.open.is_none() {
                return Err(Stopped::TableChanged(self.table.clone()));
            }
            let event = self.events.next(self.silence).await?;
            if let Some(happened) = self.take(&event)? {
                return Ok(happened);
            }
        }
    }

    fn unreadable(&self, event: &Event, cause: impl ToString) -> Stopped {
        Stopped::Unreadable { file: self.position.file.clone(), end: event.header().log_pos(), cause: cause.to_string() }
    }

    fn take(&mut self, event: &Event) -> Result<Option<Happened>, Stopped> {
        let header = event.header();
        let unreadable = |error: std::io::Error| self.unreadable(event, error);
        match header.event_type_raw() {
            types::HEARTBEAT | types::HEARTBEAT_V2 => return Ok(Some(Happened::Idle)),
            types::ROTATE => self.rotate(event)?,
            types::FORMAT_DESCRIPTION => self.maps.clear(),
            types::MARIADB_GTID => {
                let open = mariadb_gtid(event).ok_or_else(|| self.unreadable(event, "it is too short"))?;
                self.open = Some(open);
            }
            types::GTID | types::TAGGED_GTID | types::ANONYMOUS_GTID => {
                let mut open = Open::default();
                if header.event_type_raw() != types::ANONYMOUS_GTID {
                    let gtid = event.read_event::<GtidEvent>().map_err(unreadable)?;
                    let tag = gtid.tag().map(ToString::to_string).unwrap_or_default();
                    open.gtid = Some(Gtid::MySql { source: (Uuid::from_bytes(gtid.sid()), tag), number: gtid.gno() });
                    let ms = i64::try_from(gtid.immediate_commit_timestamp() / 1_000).unwrap_or(0);
                    open.committed_ms = Some(ms).filter(|ms| *ms > 0);
                }
                self.open = Some(open);
            }
            types::TRANSACTION_PAYLOAD => {
                // The client library gives the events within one by one, and is silent about a payload that it cannot read.
                let payload = event.read_event::<TransactionPayloadEvent<'_>>().map_err(unreadable)?;
                drop(payload);
                self.open.get_or_insert_default().payload_end = Some(header.log_pos());
            }
            types::QUERY => {
                let query = event.read_event::<QueryEvent<'_>>().map_err(unreadable)?;
                return self.query(event, &query.query(), &query.schema());
            }
            types::QUERY_COMPRESSED => return Ok(self.statement_ended(event)),
            types::XID => return Ok(Some(self.end(event, true, None))),
            types::XA_PREPARE => {
                let one_phase = event.data().first() == Some(&1);
                let undecided = (!one_phase).then_some("it was written within an XA transaction, which may be rolled back");
                return Ok(Some(self.end(event, true, undecided)));
            }
            types::TABLE_MAP => self.map(event)?,
            types::WRITE_ROWS_V1 => {
                let rows = event.read_event::<WriteRowsEventV1<'_>>().map_err(unreadable)?;
                let Some(layout) = self.layout(rows.table_id()) else { return Ok(None) };
                let has = rows.columns_after_image().iter().by_vals();
                let rows = layout.rows(has, rows.rows_data()).map_err(unreadable)?;
                return Ok(self.insert(event, rows));
            }
            types::WRITE_ROWS => {
                let rows = event.read_event::<WriteRowsEvent<'_>>().map_err(unreadable)?;
                let Some(layout) = self.layout(rows.table_id()) else { return Ok(None) };
                let has = rows.columns_after_image().iter().by_vals();
                let rows = layout.rows(has, rows.rows_data()).map_err(unreadable)?;
                return Ok(self.insert(event, rows));
            }
            types::UPDATE_ROWS_V1
            | types::DELETE_ROWS_V1
            | types::UPDATE_ROWS
            | types::DELETE_ROWS
            | types::PARTIAL_UPDATE_ROWS => {
                return Ok(self.is_ours(event).then_some(Happened::Ignored));
            }
            compressed if types::COMPRESSED_ROWS.contains(&compressed) && self.is_ours(event) => {
                let why = "rows of the outbox are compressed, by log_bin_compress: switch it off, then start with --resnapshot";
                return Err(Stopped::Unsupported(why.into()));
            }
            ancient if types::PRE_GA_ROWS.contains(&ancient) => {
                return Err(Stopped::Unsupported("the server is older than MySQL 5.1".into()));
            }
            types::INCIDENT => return Err(Stopped::Incident(self.position.to_string())),
            _ => {}
        }
        Ok(None)
    }

    fn rotate(&mut self, event: &Event) -> Result<(), Stopped> {
        let rotate = event.read_event::<RotateEvent<'_>>().map_err(|error| self.unreadable(event, error))?;
        let name = file_name(event, rotate.name_raw());
        self.position.file = String::from_utf8(name.to_vec()).map_err(|error| self.unreadable(event, error))?;
        // The first event of a dump is one, too, and names the place that the dump begins at.
        if self.open.is_none() {
            self.position.offset = rotate.position();
        }
        Ok(())
    }

    fn map(&mut self, event: &Event) -> Result<(), Stopped> {
        let said = event.data();
        // Every transaction says it anew.
        if table_number(said).and_then(|number| self.maps.get(&number)).is_some_and(|map| map.said == said) {
            return Ok(());
        }
        let unreadable = |error: std::io::Error| self.unreadable(event, error);
        let map = event.read_event::<TableMapEvent<'_>>().map_err(unreadable)?;
        let is_ours = map.database_name() == self.table.database && map.table_name() == self.table.table;
        let layout = if is_ours {
            let layout = Layout::of(&map, &self.now).map_err(unreadable)?;
            Some(layout.ok_or_else(|| Stopped::TableChanged(self.table.clone()))?)
        } else {
            None
        };
        let number = map.table_id();
        self.maps.insert(number, TableMap { said: said.to_owned(), layout });
        Ok(())
    }

    /// How the rows of the table of this number are written, if that is the outbox.
    fn layout(&self, number: u64) -> Option<&Layout> {
        self.maps.get(&number)?.layout.as_ref()
    }

    /// Whether a rows event is of the outbox, by the table's number at its start.
    fn is_ours(&self, event: &Event) -> bool {
        table_number(event.data()).is_none_or(|number| self.layout(number).is_some())
    }

    fn query(&mut self, event: &Event, query: &str, schema: &str) -> Result<Option<Happened>, Stopped> {
        let mut words = query.split_ascii_whitespace().map(|word| word.trim_end_matches(';').to_ascii_uppercase());
        let (first, second) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        match (first.as_str(), second.as_str()) {
            ("BEGIN", "") | ("XA", "START" | "BEGIN") => {
                self.open.get_or_insert_default().begun = true;
                Ok(None)
            }
            ("COMMIT", "") => Ok(Some(self.end(event, true, None))),
            ("ROLLBACK", "") => Ok(Some(self.end(event, false, None))),
            ("ALTER" | "CREATE" | "DROP" | "RENAME", _) if self.names_table(query, schema) => {
                self.stale = true;
                Ok(self.statement_ended(event))
            }
            ("INSERT" | "REPLACE" | "LOAD", _) if self.names_table(query, schema) => {
                let happened = self.insert(event, vec![Row::of_statement(query)]);
                Ok(happened.or_else(|| self.statement_ended(event)))
            }
            _ => Ok(self.statement_ended(event)),
        }
    }

    /// Whether a statement is about the outbox; told by its text, which errs on the safe side.
    fn names_table(&self, query: &str, schema: &str) -> bool {
        let (query, table) = (query.to_ascii_lowercase(), self.table.table.to_ascii_lowercase());
        let is_name = |c: char| c.is_alphanumeric() || c == '_' || c == '$';
        let named = query.split(|c| !is_name(c)).any(|word| word == table);
        named && (schema == self.table.database || query.contains(&self.table.database.to_ascii_lowercase()))
    }

    /// A statement that needs no commit is a transaction of its own.
    fn statement_ended(&mut self, event: &Event) -> Option<Happened> {
        let within = self.open.as_ref().is_some_and(|open| open.begun);
        (!within).then(|| self.end(event, true, None))
    }

    fn insert(&mut self, event: &Event, rows: Vec<Row>) -> Option<Happened> {
        let open = self.open.get_or_insert_default();
        for row in rows {
            open.seen += 1;
            if open.seen > self.skip {
                open.bytes += row.size();
                open.rows.push(row);
            }
        }
        (open.bytes > SPLIT_BYTES).then(|| {
            open.bytes = 0;
            let position = Position { rows: open.seen, ..self.position.clone() };
            let committed_ms = open.committed_ms.unwrap_or_else(|| i64::from(event.header().timestamp()) * 1_000);
            Happened::Committed(Group { rows: std::mem::take(&mut open.rows), position, committed_ms, undecided: None })
        })
    }

    /// The transaction ends with this event.
    fn end(&mut self, event: &Event, is_committed: bool, undecided: Option<&'static str>) -> Happened {
        let header = event.header();
        let open = self.open.take().unwrap_or_default();
        let end = open.payload_end.unwrap_or(header.log_pos());
        if end > 0 {
            self.position.offset = u64::from(end);
        }
        if let (Some(gtids), Some(gtid)) = (&mut self.position.gtids, &open.gtid) {
            gtids.add(gtid);
        }
        (self.position.rows, self.skip) = (0, 0);
        self.maps.clear();
        if open.seen == 0 || !is_committed {
            return Happened::Moved;
        }
        let committed_ms = open.committed_ms.unwrap_or_else(|| i64::from(header.timestamp()) * 1_000);
        Happened::Committed(Group { rows: open.rows, position: self.position.clone(), committed_ms, undecided })
    }
}

/// Number, domain and flags of a transaction of MariaDB (`Gtid_log_event` in its `log_event.h`).
fn mariadb_gtid(event: &Event) -> Option<Open> {
    const STANDALONE: u8 = 1;
    let data = event.data();
    let sequence = u64::from_le_bytes(*data.first_chunk()?);
    let domain = u32::from_le_bytes(*data.get(8..)?.first_chunk()?);
    let gtid = Gtid::MariaDb { domain, server: event.header().server_id(), sequence };
    Some(Open { gtid: Some(gtid), begun: data.get(12)? & STANDALONE == 0, ..Open::default() })
}

/// The name in a ROTATE. The one that begins a dump comes before it is known that events have checksums, so its own follows the name.
fn file_name<'a>(event: &Event, name: &'a [u8]) -> &'a [u8] {
    let knows_checksums = matches!(event.footer().get_checksum_alg(), Ok(Some(BinlogChecksumAlg::BINLOG_CHECKSUM_ALG_CRC32)));
    match name.split_last_chunk::<4>() {
        Some((shorter, sum)) if !knows_checksums && crc32_of(event, shorter.len()) == u32::from_le_bytes(*sum) => shorter,
        _ => name,
    }
}

/// The checksum (CRC-32 of zlib) of a ROTATE's header and of its data up to the end of the name.
fn crc32_of(event: &Event, name_len: usize) -> u32 {
    let header = event.header();
    let bytes = [
        &header.timestamp().to_le_bytes()[..],
        &[header.event_type_raw()],
        &header.server_id().to_le_bytes(),
        &header.event_size().to_le_bytes(),
        &header.log_pos().to_le_bytes(),
        &header.flags_raw().to_le_bytes(),
        event.data().get(..8 + name_len).unwrap_or_default(),
    ]
    .concat();
    let step = |crc: u32, byte: &u8| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xEDB8_8320 } else { crc >> 1 })
    };
    !bytes.iter().fold(!0, step)
}

/// The number of a table, which events about it begin with.
fn table_number(said: &[u8]) -> Option<u64> {
    let mut number = [0; 8];
    number[..6].copy_from_slice(said.first_chunk::<6>()?);
    Some(u64::from_le_bytes(number))
}
