//! The tables that requests are written to, beside the outbox: what was asked for, for other programs of the database to read, and the answers
//! to idempotency keys. They are made where they are missing, and every statement is tried out once, in a transaction that is rolled back:
//! what does not fit, or is not allowed, is told before a request comes.

use millstream::Timestamp;
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Error, Transaction, TxOpts};
use uuid::Uuid;

use super::event::{NewEvent, Row};
use crate::cdc::TableName;
use crate::time::Iso;

/// Made at the start.
const TABLES: [(&str, &str); 5] = [
    (
        "shop_coupon_requests",
        "request_id CHAR(36) PRIMARY KEY, coupon_id BIGINT UNSIGNED NOT NULL, user_id BIGINT UNSIGNED NOT NULL, \
         requested_at DATETIME(6) NOT NULL, KEY (coupon_id, user_id)",
    ),
    (
        "shop_orders",
        "order_id BIGINT UNSIGNED PRIMARY KEY, order_number VARCHAR(64) NOT NULL, user_id BIGINT UNSIGNED NOT NULL, \
         total_amount BIGINT UNSIGNED NOT NULL, use_points BIGINT UNSIGNED NOT NULL, created_at DATETIME(6) NOT NULL, \
         KEY (user_id)",
    ),
    (
        "shop_order_requests",
        "request_id CHAR(36) PRIMARY KEY, order_id BIGINT UNSIGNED NOT NULL, request VARCHAR(16) NOT NULL, \
         reason VARCHAR(200) NULL, requested_at DATETIME(6) NOT NULL, KEY (order_id)",
    ),
    (
        "shop_payments",
        "payment_id BIGINT UNSIGNED PRIMARY KEY, order_id BIGINT UNSIGNED NOT NULL, user_id BIGINT UNSIGNED NOT NULL, \
         amount BIGINT UNSIGNED NOT NULL, status VARCHAR(16) NOT NULL, paid_at DATETIME(6) NOT NULL, KEY (order_id)",
    ),
    (
        "shop_requests",
        "request_key BINARY(32) PRIMARY KEY, fingerprint BINARY(32) NOT NULL, answer MEDIUMBLOB NOT NULL, event_id CHAR(36) NOT NULL, \
         created_at DATETIME(6) NOT NULL, KEY (created_at)",
    ),
];

const CLAIM: &str = "INSERT INTO shop_coupon_requests (request_id, coupon_id, user_id, requested_at) VALUES (?, ?, ?, ?)";
const ORDER: &str = "INSERT INTO shop_orders (order_id, order_number, user_id, total_amount, use_points, created_at) \
                     VALUES (?, ?, ?, ?, ?, ?)";
const ORDER_REQUEST: &str =
    "INSERT INTO shop_order_requests (request_id, order_id, request, reason, requested_at) VALUES (?, ?, ?, ?, ?)";
const PAYMENT: &str =
    "INSERT INTO shop_payments (payment_id, order_id, user_id, amount, status, paid_at) VALUES (?, ?, ?, ?, ?, ?)";
const ANSWER: &str = "INSERT INTO shop_requests (request_key, fingerprint, answer, event_id, created_at) VALUES (?, ?, ?, ?, ?)";
/// What was answered to a key.
pub const ANSWERED: &str = "SELECT fingerprint, answer, event_id FROM shop_requests WHERE request_key = ?";
/// Forgets answers of before a time.
pub const SWEEP: &str = "DELETE FROM shop_requests WHERE created_at < ? LIMIT 1000";

/// The answer to an idempotency key.
#[derive(Clone)]
pub struct Answer {
    /// The key, hashed with who asks.
    pub key: [u8; 32],
    /// A hash of what is asked for.
    pub fingerprint: [u8; 32],
    /// The answer.
    pub answer: Vec<u8>,
}

/// Makes the tables that are missing, and tries all statements out; that rows of the outbox may be deleted, only if somebody `deletes`.
///
/// # Errors
/// The database's.
pub async fn prepare(conn: &mut Conn, outbox: &TableName, deletes: bool) -> mysql_async::Result<()> {
    let there: Vec<String> =
        conn.query("SELECT TABLE_NAME FROM information_schema.TABLES WHERE TABLE_SCHEMA = DATABASE()").await?;
    // Who has all of them needs no right to make any.
    for (table, columns) in TABLES.iter().filter(|(table, _)| !there.iter().any(|name| name.eq_ignore_ascii_case(table))) {
        conn.query_drop(format!("CREATE TABLE IF NOT EXISTS {table} ({columns}) ENGINE=InnoDB CHARACTER SET utf8mb4")).await?;
    }
    let mut transaction = conn.start_transaction(TxOpts::default()).await?;
    let (at, nobody) = (Timestamp(0), u64::MAX);
    let name = || "rehearsal".to_owned();
    for row in [
        Row::CouponRequest { user_id: nobody },
        Row::Order { order_number: name(), user_id: nobody, total_amount: nobody, use_points: nobody },
        Row::OrderRequest { request: "DELIVER", reason: Some(name()) },
        Row::Payment { order_id: nobody, user_id: nobody, amount: nobody, status: "COMPLETED" },
    ] {
        let id = Uuid::new_v4();
        insert_row(&mut transaction, id, random_id(id), at, &row).await?;
        let event = (id.to_string(), "Rehearsal", nobody.to_string(), "CouponIssueRequest", "{}".to_owned(), datetime(at));
        transaction.exec_drop(insert_event(outbox), event).await?;
    }
    if deletes {
        transaction.exec_drop(format!("DELETE FROM {} WHERE id = ?", outbox.quoted()), (Uuid::new_v4().to_string(),)).await?;
    }
    let key = [*Uuid::new_v4().as_bytes(), *Uuid::new_v4().as_bytes()].concat();
    let key: [u8; 32] = *key.first_chunk().expect("twice sixteen bytes");
    insert_answer(&mut transaction, &Answer { key, fingerprint: key, answer: Vec::new() }, Uuid::new_v4(), at).await?;
    let _: Option<mysql_async::Row> = transaction.exec_first(ANSWERED, (key.as_slice(),)).await?;
    transaction.exec_drop("DELETE FROM shop_requests WHERE request_key = ?", (key.as_slice(),)).await?;
    transaction.rollback().await
}

/// An id that no order or payment has: theirs are below 2^53.
fn random_id(id: Uuid) -> u64 {
    id.as_u64_pair().0 | 1 << 63
}

/// Writes what was asked for, and the row that is relayed.
///
/// # Errors
/// The database's.
pub async fn insert(transaction: &mut Transaction<'_>, outbox: &TableName, event: &NewEvent) -> mysql_async::Result<()> {
    let (aggregate, aggregate_id) = event.aggregate;
    insert_row(transaction, event.id, aggregate_id, event.at, &event.row).await?;
    // As text: MySQL makes no JSON of bytes.
    let payload = String::from_utf8(event.payload.clone()).map_err(|error| Error::Other(error.into()))?;
    let row = (event.id.to_string(), aggregate, aggregate_id.to_string(), event.event_type, payload, datetime(event.at));
    transaction.exec_drop(insert_event(outbox), row).await
}

fn insert_event(outbox: &TableName) -> String {
    let table = outbox.quoted();
    format!("INSERT INTO {table} (id, aggregate_type, aggregate_id, event_type, payload, created_at) VALUES (?, ?, ?, ?, ?, ?)")
}

async fn insert_row(
    transaction: &mut Transaction<'_>,
    id: Uuid,
    aggregate_id: u64,
    at: Timestamp,
    row: &Row,
) -> mysql_async::Result<()> {
    let (id, at) = (id.to_string(), datetime(at));
    match row {
        Row::CouponRequest { user_id } => transaction.exec_drop(CLAIM, (id, aggregate_id, user_id, at)).await,
        Row::Order { order_number, user_id, total_amount, use_points } => {
            transaction.exec_drop(ORDER, (aggregate_id, order_number, user_id, total_amount, use_points, at)).await
        }
        Row::OrderRequest { request, reason } => {
            transaction.exec_drop(ORDER_REQUEST, (id, aggregate_id, request, reason, at)).await
        }
        Row::Payment { order_id, user_id, amount, status } => {
            transaction.exec_drop(PAYMENT, (aggregate_id, order_id, user_id, amount, status, at)).await
        }
    }
}

/// Keeps the answer to a key. Another transaction that does the same is waited for.
///
/// # Errors
/// The database's; 1062 if the key has an answer.
pub async fn insert_answer(
    transaction: &mut Transaction<'_>,
    answer: &Answer,
    event: Uuid,
    at: Timestamp,
) -> mysql_async::Result<()> {
    let Answer { key, fingerprint, answer } = answer;
    let row = (key.as_slice(), fingerprint.as_slice(), answer.as_slice(), event.to_string(), datetime(at));
    transaction.exec_drop(ANSWER, row).await
}

/// A time as a DATETIME in UTC.
pub fn datetime(at: Timestamp) -> String {
    Iso(at).to_string().replace('T', " ").trim_end_matches('Z').to_owned()
}
