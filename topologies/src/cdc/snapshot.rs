//! The rows that are there when a relay begins: read at one moment that has a place in the binlog, so that what comes from the binlog after
//! that place and the snapshot together are every row, once.
//!
//! MariaDB says where in the binlog a consistent snapshot lies. MySQL does not, so while the place is asked for, the outbox is locked
//! against writers: nobody who has written to it is then uncommitted.

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Row as SqlRow};

use super::cell::Cell;
use super::gtid::Gtids;
use super::position::Position;
use super::server::{Address, Flavor, Server};
use super::table::{Row, TableName, select_list};
use super::{Trouble, misconfigured};

/// What there was, and where the binlog goes on from.
#[derive(Debug)]
pub struct Snapshot {
    /// The rows, oldest first.
    pub rows: Vec<Row>,
    /// The place.
    pub position: Position,
}

/// What to read.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// The rows too, or only the place, which then says what was passed over.
    pub rows: bool,
    /// The columns that order the rows.
    pub order: &'a [&'a str],
    /// A snapshot of more bytes is refused: it is one transaction of the log, and in memory.
    pub max_bytes: usize,
}

/// Takes the snapshot.
///
/// # Errors
/// [`Trouble`].
pub async fn take(server: &mut Server, address: &Address, wanted: &Wanted<'_>) -> Result<Snapshot, Trouble> {
    let lock = match server.flavor {
        Flavor::MariaDb => None,
        Flavor::MySql => Some(lock(address).await?),
    };
    run(server, "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ").await?;
    run(server, "START TRANSACTION WITH CONSISTENT SNAPSHOT").await?;
    let mut position = place(server).await?;
    drop(lock); // the lock ends with its connection
    let rows = if wanted.rows {
        rows(server, &address.table, wanted).await?
    } else {
        position.passed_over = latest(server, &address.table).await?;
        Vec::new()
    };
    run(server, "COMMIT").await?;
    Ok(Snapshot { rows, position })
}

async fn run(server: &mut Server, statement: &str) -> Result<(), Trouble> {
    server.conn.query_drop(statement).await.map_err(|error| server.trouble(error))
}

async fn lock(address: &Address) -> Result<Conn, Trouble> {
    let mut conn = address.open().await?;
    let lock = format!("LOCK TABLES {} READ", address.table.quoted());
    match conn.query_drop(lock).await {
        Ok(()) => {}
        // A user for replication often has RELOAD in place of LOCK TABLES: then all tables are locked for that moment.
        Err(mysql_async::Error::Server(error)) if matches!(error.code, 1044 | 1142) => {
            let locked = conn.query_drop("FLUSH TABLES WITH READ LOCK").await;
            locked.map_err(|error| match error {
                mysql_async::Error::Server(error) if error.code == 1227 => {
                    misconfigured(format!("a snapshot takes the right LOCK TABLES or RELOAD: {}", error.message))
                }
                error => address.trouble(error),
            })?;
        }
        Err(error) => return Err(address.trouble(error)),
    }
    Ok(conn)
}

/// The binlog's end as the snapshot has it.
async fn place(server: &mut Server) -> Result<Position, Trouble> {
    if server.flavor == Flavor::MariaDb {
        let status: Vec<(String, String)> = server
            .conn
            .query("SHOW STATUS WHERE Variable_name IN ('Binlog_snapshot_file', 'Binlog_snapshot_position')")
            .await
            .map_err(|error| server.trouble(error))?;
        let value =
            |name: &str| status.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.clone());
        let (file, offset) = (value("binlog_snapshot_file"), value("binlog_snapshot_position"));
        let (Some(file), Some(Ok(offset))) = (file.filter(|file| !file.is_empty()), offset.map(|offset| offset.parse::<u64>()))
        else {
            return Err(misconfigured("the server does not say where in its binlog a consistent snapshot lies".into()));
        };
        let query = "SELECT BINLOG_GTID_POS(?, ?)";
        let gtids: Option<Option<String>> =
            server.conn.exec_first(query, (&file, offset)).await.map_err(|error| server.trouble(error))?;
        let gtids = gtids.flatten().map(|text| Gtids::mariadb(&text)).transpose();
        let gtids = gtids.map_err(|error| Trouble::Passing(error.to_string()))?;
        return Ok(Position { file, offset, gtids, rows: 0, passed_over: None });
    }
    // Renamed in MySQL 8.2; the old name is gone in 8.4.
    let status: Option<SqlRow> = match server.conn.query_first("SHOW BINARY LOG STATUS").await {
        Err(mysql_async::Error::Server(error)) if error.code == 1064 => {
            server.conn.query_first("SHOW MASTER STATUS").await.map_err(|error| server.trouble(error))?
        }
        status => status.map_err(|error| server.trouble(error))?,
    };
    let place = status.and_then(|row| Some((row.get_opt::<String, _>(0)?.ok()?, row.get_opt::<u64, _>(1)?.ok()?)));
    let (file, offset) = place.ok_or_else(|| misconfigured("the server does not say where its binlog ends".into()))?;
    let gtids = if server.has_gtids {
        let executed: String = server.first("SELECT @@GLOBAL.gtid_executed").await?;
        Some(Gtids::mysql(&executed.replace(['\n', '\r'], "")).map_err(|error| Trouble::Passing(error.to_string()))?)
    } else {
        None
    };
    Ok(Position { file, offset, gtids, rows: 0, passed_over: None })
}

/// When the latest of the rows was created; none where there are none, or where the table does not say.
async fn latest(server: &mut Server, table: &TableName) -> Result<Option<String>, Trouble> {
    if !server.columns.iter().any(|column| column.name.eq_ignore_ascii_case("created_at")) {
        return Ok(None);
    }
    server.first(&format!("SELECT CAST(MAX(created_at) AS CHAR) FROM {}", table.quoted())).await
}

async fn rows(server: &mut Server, table: &TableName, wanted: &Wanted<'_>) -> Result<Vec<Row>, Trouble> {
    let columns = server.columns.clone();
    let order: Vec<String> = wanted.order.iter().map(|column| super::table::quote(column)).collect();
    let query = format!("SELECT {} FROM {} ORDER BY {}", select_list(&columns), table.quoted(), order.join(", "));
    let trouble = |error| Trouble::Passing(format!("the rows of {table} cannot be read: {error}"));
    let mut answer = server.conn.exec_iter(query, ()).await.map_err(trouble)?;
    let (mut rows, mut bytes) = (Vec::new(), 0);
    while let Some(row) = answer.next().await.map_err(trouble)? {
        let cells = columns.iter().zip(row.unwrap()).map(|(column, value)| Cell::of_query(&column.kind, value)).collect();
        let row = Row { columns: columns.clone(), cells };
        bytes += row.size();
        if bytes > wanted.max_bytes {
            let (rows, limit) = (rows.len(), wanted.max_bytes >> 20);
            return Err(misconfigured(format!(
                "table {table} holds more than {limit} MiB ({rows} rows are not all of it), and a snapshot is one transaction: \
                 delete rows that were relayed already, or begin at the end with --cdc-snapshot no_data"
            )));
        }
        rows.push(row);
    }
    Ok(rows)
}
