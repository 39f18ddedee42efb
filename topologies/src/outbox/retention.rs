//! How long the outbox keeps its rows: old ones are deleted once the relay has passed them, by whichever process writes requests. Nothing here
//! decides what is relayed: the relay reads the binlog, and ignores that rows are deleted.
//!
//! ```text
//! rows are seen ──▶ where the database is then ──▶ the relay's durable position has passed that ──▶ the old ones of them are deleted
//! ```
//! So a row that was not relayed stays, however old it is, and a crash at any moment leaves rows for the next pass. Rows that the relay passed
//! over at its first start were not: its position names the time when the latest of them was created, and nothing is deleted that is not later than
//! that. What a relayed row is still
//! good for, it must be there for: a commit whose answer was lost is looked up by it within seconds ([`LEAST`] is far more). Answers to idempotency
//! keys are kept elsewhere, and name an event only as a place in the binlog.
//!
//! A pass goes along the primary key, a page at a time: the table has no index by time, and one would cost every insert.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use millstream::{Handle, Timestamp, Upstream};
use mysql_async::prelude::Queryable;
use mysql_async::{Error, IsolationLevel, TxOpts, Value, from_row_opt};
use prometheus_client::metrics::counter::Counter;

use super::places::Relayed;
use super::{Shared, schema};

/// The shortest time that rows are kept for: longer than any clock of the processes is wrong, and than any lookup takes.
pub const LEAST: Duration = Duration::from_secs(3_600);
/// Between two passes: the table is read through in each.
const PASS_EVERY: Duration = Duration::from_secs(3_600);
/// Between two pages.
const REST: Duration = Duration::from_millis(10);
/// After the database did not do it.
const REST_OF_TROUBLE: Duration = Duration::from_secs(1);
/// Rows that are looked at together; and deleted together, few enough for the database to find them by their keys in a small table, too.
const PAGE: usize = 1_000;
const CHUNK: usize = 100;
/// Whether a row is old, and later than what was passed over, if something was.
const IS_OLD: &str = "created_at < ? AND COALESCE(created_at > ?, TRUE)";

/// Deletes old rows.
pub struct Retention {
    database: Arc<Shared>,
    relayed: Arc<Relayed>,
    keep_ms: i64,
    pruned: Counter,
}

impl Retention {
    /// Of rows older than that. How many were deleted is among the application's metrics.
    pub fn new(app: &Handle, database: Arc<Shared>, relayed: Arc<Relayed>, keep: Duration) -> Retention {
        let pruned = Counter::default();
        let help = "Rows of the outbox that were deleted, being old and relayed";
        app.registry().write().register("shop_outbox_pruned", help, pruned.clone());
        Retention { database, relayed, keep_ms: i64::try_from(keep.as_millis()).unwrap_or(i64::MAX), pruned }
    }

    /// Passes over the table again and again.
    pub async fn keep(self) -> Infallible {
        let mut after = String::new();
        loop {
            let rest = match self.page(&after).await {
                Ok(Some(last)) => {
                    after = last;
                    REST
                }
                Ok(None) => {
                    after.clear();
                    PASS_EVERY
                }
                Err(error) => {
                    tracing::debug!(%error, "old rows of the outbox are still there");
                    REST_OF_TROUBLE
                }
            };
            tokio::time::sleep(rest).await;
        }
    }

    /// Deletes the old rows of a page; its last id, or nothing at the end of the table.
    async fn page(&self, after: &str) -> mysql_async::Result<Option<String>> {
        let before = schema::datetime(Timestamp(self.database.clock.now().0.saturating_sub(self.keep_ms).max(0)));
        let rows = self.read(&before, self.relayed.passed_over(), after).await?;
        let last = rows.last().map(|(id, _)| id.clone());
        let old: Vec<String> = rows.into_iter().filter_map(|(id, is_old)| is_old.unwrap_or(false).then_some(id)).collect();
        if !old.is_empty() {
            // MySQL shows a row a moment before it counts its transaction among those that were executed.
            tokio::time::sleep(REST).await;
            self.relayed.drained().await;
            // As the position has it that has passed them.
            self.delete(&before, self.relayed.passed_over(), &old).await?;
        }
        Ok(last)
    }

    async fn read(
        &self,
        before: &str,
        passed_over: Option<String>,
        after: &str,
    ) -> mysql_async::Result<Vec<(String, Option<bool>)>> {
        let table = self.database.address.table.quoted();
        let query = format!("SELECT id, {IS_OLD} FROM {table} WHERE id > ? ORDER BY id LIMIT {PAGE}");
        let values = (before, passed_over, after);
        let rows: Vec<mysql_async::Row> = self.database.pool.get_conn().await?.exec(query, values).await?;
        rows.into_iter().map(|row| from_row_opt(row).map_err(|error| Error::Other(error.into()))).collect()
    }

    async fn delete(&self, before: &str, passed_over: Option<String>, ids: &[String]) -> mysql_async::Result<()> {
        let marks = vec!["?"; CHUNK].join(", ");
        let statement = format!("DELETE FROM {} WHERE {IS_OLD} AND id IN ({marks})", self.database.address.table.quoted());
        let mut conn = self.database.pool.get_conn().await?;
        for chunk in ids.chunks(CHUNK) {
            // Locks these rows and nothing between them, so nobody's insert waits.
            let mut options = TxOpts::default();
            options.with_isolation_level(IsolationLevel::ReadCommitted);
            let mut transaction = conn.start_transaction(options).await?;
            // One statement for any number: the last id fills it up.
            let ids = chunk.iter().chain(std::iter::repeat(&chunk[chunk.len() - 1])).take(CHUNK);
            let bounds = [Value::from(before), Value::from(passed_over.clone())];
            let values: Vec<Value> = bounds.into_iter().chain(ids.map(Value::from)).collect();
            transaction.exec_drop(&statement, values).await?;
            let deleted = transaction.affected_rows();
            transaction.commit().await?;
            self.pruned.inc_by(deleted);
        }
        Ok(())
    }
}
