//! The database server: connecting, whether it is set up so that its binlog can be followed, the table, and asking for the binlog.
//! Everything that is asked of it with a query is here and in the snapshot, and is asked once a connection; events bring the rest.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use mysql_async::prelude::{FromRow, Queryable};
use mysql_async::{
    BinlogStreamRequest, Conn, DriverError, Error, IoError, Opts, OptsBuilder, Pool, PoolConstraints, PoolOpts, SslOpts,
};
use uuid::Uuid;

use super::gtid::Gtids;
use super::position::Position;
use super::stream::Events;
use super::table::{Column, Columns, Kind, TableName};
use super::{Trouble, misconfigured};

/// How long the server may be silent between heartbeats, in nanoseconds as its variable has it.
const HEARTBEAT_NANOS: u64 = 1_000_000_000;
/// The connection is dead if nothing came for so long.
pub const SILENCE: Duration = Duration::from_secs(10);
const CONNECT: Duration = Duration::from_secs(10);
/// The most connections of a pool.
const POOL: usize = 32;
/// How long a connection stays that nobody uses.
const IDLE: Duration = Duration::from_secs(60);
/// Rows of up to a gigabyte, which is the most that a server sends.
const MAX_PACKET: usize = 1 << 30;

/// Where the server is, and how to speak to it.
#[derive(Clone, Debug)]
pub struct Address {
    opts: Opts,
    /// Whether a connection was ever made: until then a handshake that fails is a wrong setting, later a server that goes away.
    has_connected: Arc<AtomicBool>,
    /// The outbox.
    pub table: TableName,
}

impl Address {
    /// Reads a URL such as `mysql://user:password@host:3306/database?require_ssl=true`.
    ///
    /// # Errors
    /// One sentence, without the password.
    pub fn new(url: &str, ca: Option<PathBuf>, table: &str) -> Result<Address, String> {
        let opts =
            Opts::from_url(url).map_err(|error| format!("--mysql is not mysql://USER:PASSWORD@HOST:PORT/DATABASE: {error}"))?;
        let (database, table) = match (table.split_once('.'), opts.db_name()) {
            (Some((database, table)), _) => (database, table),
            (None, Some(database)) => (database, table),
            (None, None) => return Err("--mysql names no database: mysql://USER:PASSWORD@HOST:PORT/DATABASE".into()),
        };
        let table = TableName { database: database.to_owned(), table: table.to_owned() };
        if let Some(error) = ca.as_ref().and_then(|ca| std::fs::File::open(ca).err()) {
            return Err(format!("--mysql-ca cannot be read: {error}"));
        }
        let ssl = match ca {
            Some(ca) => Some(opts.ssl_opts().cloned().unwrap_or_default().with_root_certs(vec![ca.into()])),
            None => opts.ssl_opts().cloned(),
        };
        let opts = OptsBuilder::from_opts(opts.clone())
            .ssl_opts::<Option<SslOpts>>(ssl)
            .prefer_socket(false)
            .max_allowed_packet(Some(MAX_PACKET))
            .tcp_nodelay(true);
        Ok(Address { opts: opts.into(), has_connected: Arc::default(), table })
    }

    /// Opens a connection.
    ///
    /// # Errors
    /// [`Trouble`].
    pub async fn open(&self) -> Result<Conn, Trouble> {
        let opened = tokio::time::timeout(CONNECT, Conn::new(self.opts.clone())).await;
        match opened {
            Ok(Ok(conn)) => {
                self.has_connected.store(true, Relaxed);
                Ok(conn)
            }
            Ok(Err(error)) => Err(self.trouble(error)),
            Err(_) => Err(Trouble::Passing(format!("{} does not answer", self.place()))),
        }
    }

    /// A pool of connections, each of which is set up by these statements.
    #[must_use]
    pub fn pool(&self, setup: &[String]) -> Pool {
        let limits = PoolConstraints::new(0, POOL).expect("none is not more than some");
        // What a connection is set up with stays as it is, so it needs no reset between two uses.
        // Without a time to live every connection above the least number, which is none, would be closed after its first use.
        let pool = PoolOpts::default()
            .with_constraints(limits)
            .with_inactive_connection_ttl(IDLE)
            .with_ttl_check_interval(IDLE)
            .with_reset_connection(false);
        Pool::new(OptsBuilder::from_opts(self.opts.clone()).pool_opts(pool).setup(setup.to_vec()))
    }

    /// Where the server is, for people.
    #[must_use]
    pub fn place(&self) -> String {
        format!("mysql://{}:{}", self.opts.ip_or_hostname(), self.opts.tcp_port())
    }

    fn lacks_rights(&self, said: &str) -> Trouble {
        misconfigured(format!(
            "{}: the user has not the rights that following the binlog takes, REPLICATION SLAVE and REPLICATION CLIENT: {said}",
            self.place()
        ))
    }

    /// Whether it helps to try again, by the error's code.
    #[must_use]
    pub fn trouble(&self, error: Error) -> Trouble {
        let place = self.place();
        match error {
            Error::Server(error) => match error.code {
                // Access denied, in its kinds; unknown database; an authentication that is not possible; no connection without TLS.
                1044 | 1045 | 1049 | 1142 | 1143 | 1251 | 1370 | 1698 | 3118 | 3159 => {
                    misconfigured(format!("{place}: {}", error.message))
                }
                1227 => self.lacks_rights(&error.message),
                _ => Trouble::Passing(format!("{place}: {} ({})", error.message, error.code)),
            },
            Error::Driver(error @ (DriverError::UnknownAuthPlugin { .. } | DriverError::NoClientSslFlagFromServer)) => {
                misconfigured(format!("{place}: {error}"))
            }
            Error::Io(IoError::Tls(error)) if !self.has_connected.load(Relaxed) => {
                misconfigured(format!("{place}: TLS: {error}"))
            }
            Error::Io(IoError::Tls(error)) => Trouble::Passing(format!("{place}: TLS: {error}")),
            error => Trouble::Passing(format!("{place}: {error}")),
        }
    }
}

/// Which server it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavor {
    /// MariaDB.
    MariaDb,
    /// MySQL.
    MySql,
}

/// A connection to a server that can be followed.
pub struct Server {
    /// The connection.
    pub conn: Conn,
    /// Which server it is.
    pub flavor: Flavor,
    /// Whether it numbers transactions.
    pub has_gtids: bool,
    /// Whether a commit is in the binlog on its disk before it is told.
    pub syncs_binlog: bool,
    /// The table's columns.
    pub columns: Columns,
    address: Address,
}

impl Server {
    /// Connects, makes the outbox where it is missing, and checks that its rows can be followed.
    ///
    /// # Errors
    /// [`Trouble`], fatal with one sentence if the server is set up otherwise than it must be.
    pub async fn connect(address: &Address, needed: &[String]) -> Result<Server, Trouble> {
        let conn = address.open().await?;
        let mut server = Server {
            conn,
            flavor: Flavor::MySql,
            has_gtids: false,
            syncs_binlog: true,
            columns: Vec::new().into(),
            address: address.clone(),
        };
        server.ask("SET time_zone='+00:00', NAMES utf8mb4").await?;
        server.check().await?;
        server.find_table(needed).await?;
        Ok(server)
    }

    async fn ask(&mut self, statement: &str) -> Result<(), Trouble> {
        self.conn.query_drop(statement).await.map_err(|error| self.address.trouble(error))
    }

    /// The first row of a query's answer.
    ///
    /// # Errors
    /// [`Trouble`], also if there is none.
    pub async fn first<T: FromRow + Send + 'static>(&mut self, query: &str) -> Result<T, Trouble> {
        let first = self.conn.query_first(query).await.map_err(|error| self.address.trouble(error))?;
        first.ok_or_else(|| Trouble::Passing(format!("the server has no answer to {query:?}")))
    }

    /// Whether it helps to try again.
    #[must_use]
    pub fn trouble(&self, error: Error) -> Trouble {
        self.address.trouble(error)
    }

    async fn check(&mut self) -> Result<(), Trouble> {
        let place = self.address.place();
        let (version, log_bin): (String, u8) = self.first("SELECT VERSION(), @@log_bin").await?;
        let is_mariadb = version.to_ascii_lowercase().contains("mariadb");
        self.flavor = if is_mariadb { Flavor::MariaDb } else { Flavor::MySql };
        if log_bin == 0 {
            return Err(misconfigured(format!("{place} writes no binlog: start it with --log-bin")));
        }
        let (format, image): (String, String) = self.first("SELECT @@GLOBAL.binlog_format, @@GLOBAL.binlog_row_image").await?;
        if !format.eq_ignore_ascii_case("ROW") {
            return Err(misconfigured(format!("{place} has binlog_format={format}: it must be ROW")));
        }
        if !image.to_ascii_uppercase().starts_with("FULL") {
            return Err(misconfigured(format!("{place} has binlog_row_image={image}: it must be FULL")));
        }
        if is_mariadb {
            let compress: u8 = self.first("SELECT @@GLOBAL.log_bin_compress").await?;
            if compress != 0 {
                return Err(misconfigured(format!("{place} has log_bin_compress=ON, which is not supported: it must be OFF")));
            }
            self.has_gtids = true;
        } else {
            let mode: String = self.first("SELECT @@GLOBAL.gtid_mode").await?;
            self.has_gtids = mode.eq_ignore_ascii_case("ON");
        }
        let sync: u64 = self.first("SELECT @@GLOBAL.sync_binlog").await?;
        self.syncs_binlog = sync == 1;
        Ok(())
    }

    async fn find_table(&mut self, needed: &[String]) -> Result<(), Trouble> {
        let table = self.address.table.clone();
        if self.table_columns(&table).await?.is_empty() {
            let create = format!(
                "CREATE TABLE IF NOT EXISTS {} (id CHAR(36) PRIMARY KEY, aggregate_type VARCHAR(64) NOT NULL, \
                 aggregate_id VARCHAR(64) NOT NULL, event_type VARCHAR(64) NOT NULL, payload JSON NULL, \
                 created_at DATETIME(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6)) ENGINE=InnoDB CHARACTER SET utf8mb4",
                table.quoted()
            );
            let created = self.conn.query_drop(create).await;
            created.map_err(|error| match error {
                Error::Server(error) => misconfigured(format!("table {table} is missing and cannot be made: {}", error.message)),
                error => self.address.trouble(error),
            })?;
            tracing::info!("made the table {table}");
        }
        let columns = self.table_columns(&table).await?;
        for name in needed {
            match columns.iter().find(|column| column.name.eq_ignore_ascii_case(name)) {
                None => return Err(misconfigured(format!("table {table} has no column {name:?}"))),
                Some(Column { kind: Kind::OtherText(charset), .. }) => {
                    let why = format!("column {name:?} of table {table} has the character set {charset}: it must be utf8mb4");
                    return Err(misconfigured(why));
                }
                Some(Column { kind: Kind::Other(kind), .. }) => {
                    return Err(misconfigured(format!("column {name:?} of table {table} is {kind}, which is not supported")));
                }
                Some(_) => {}
            }
        }
        self.columns = columns.into();
        Ok(())
    }

    async fn table_columns(&mut self, table: &TableName) -> Result<Vec<Column>, Trouble> {
        let engine = "SELECT ENGINE FROM information_schema.TABLES WHERE TABLE_SCHEMA=? AND TABLE_NAME=?";
        let names = (&table.database, &table.table);
        let engine: Option<Option<String>> =
            self.conn.exec_first(engine, names).await.map_err(|error| self.address.trouble(error))?;
        match engine {
            None => return Ok(Vec::new()),
            Some(Some(engine)) if engine.eq_ignore_ascii_case("InnoDB") => {}
            Some(engine) => {
                let engine = engine.unwrap_or_else(|| "a view".into());
                return Err(misconfigured(format!("table {table} is {engine}: only InnoDB has transactions to relay")));
            }
        }
        let columns = "SELECT COLUMN_NAME, DATA_TYPE, COLUMN_TYPE, CHARACTER_SET_NAME, DATETIME_PRECISION \
                       FROM information_schema.COLUMNS WHERE TABLE_SCHEMA=? AND TABLE_NAME=? ORDER BY ORDINAL_POSITION";
        type Declared = (String, String, String, Option<String>, Option<u8>);
        let columns: Vec<Declared> = self.conn.exec(columns, names).await.map_err(|error| self.address.trouble(error))?;
        let column = |(name, data_type, column_type, charset, digits): Declared| {
            Column::new(name, &data_type, &column_type, charset.as_deref(), digits)
        };
        Ok(columns.into_iter().map(column).collect())
    }

    /// Asks for the binlog from a position on. By transaction ids if there are some and it `prefers_gtids`, else by file and offset.
    ///
    /// # Errors
    /// [`Trouble`]. That the position is no longer there, the first event says.
    pub async fn follow(mut self, position: &Position, server_id: u32, prefers_gtids: bool) -> Result<Events, Trouble> {
        self.ask(&format!("SET @master_heartbeat_period={HEARTBEAT_NANOS}, @source_heartbeat_period={HEARTBEAT_NANOS}")).await?;
        let uuid = Uuid::new_v4();
        self.ask(&format!("SET @slave_uuid='{uuid}', @replica_uuid='{uuid}'")).await?;
        let gtids = position.gtids.as_ref().filter(|gtids| prefers_gtids && self.has_gtids && !gtids.is_empty());
        let mut request = BinlogStreamRequest::new(server_id);
        if self.flavor == Flavor::MariaDb {
            self.ask("SET @mariadb_slave_capability=4").await?;
        }
        match gtids {
            Some(gtids @ Gtids::MariaDb(_)) if self.flavor == Flavor::MariaDb => {
                self.ask(&format!(
                    "SET @slave_connect_state='{gtids}', @slave_gtid_strict_mode=0, @slave_gtid_ignore_duplicates=0"
                ))
                .await?;
            }
            Some(gtids @ Gtids::MySql(_)) if self.flavor == Flavor::MySql => {
                request = request.with_gtid().with_gtid_set(gtids.to_sids());
            }
            _ => request = request.with_filename(position.file.as_bytes()).with_pos(position.offset),
        }
        let address = self.address.clone();
        let stream = self.conn.get_binlog_stream(request).await.map_err(|error| match error {
            // MariaDB does not say which right is missing, as if it had not let the user in.
            Error::Server(error) if matches!(error.code, 1045 | 1227) => address.lacks_rights(&error.message),
            error => address.trouble(error),
        })?;
        Ok(Events::new(stream))
    }

    /// Whether the server still has the file of a position, as far as it may be asked.
    ///
    /// # Errors
    /// [`Trouble`].
    pub async fn still_has(&mut self, position: &Position) -> Result<bool, Trouble> {
        let files: Vec<mysql_async::Row> =
            self.conn.query("SHOW BINARY LOGS").await.map_err(|error| self.address.trouble(error))?;
        let is_it = |row: &mysql_async::Row| {
            let (name, size) = (row.get_opt::<String, _>(0), row.get_opt::<u64, _>(1));
            matches!((name, size), (Some(Ok(name)), Some(Ok(size))) if name == position.file && size >= position.offset)
        };
        Ok(files.iter().any(is_it))
    }
}
