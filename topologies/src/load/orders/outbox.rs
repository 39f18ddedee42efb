//! The outside program of a trade: it makes orders and tells of payments by rows of an outbox, in transactions of its own database. It never
//! asks the shop, so what it tells may come in any order, twice, or without anything that it belongs to.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use millstream::Clock;
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Opts, OptsBuilder, Params, TxOpts};
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::Trade;
use super::ledger::Accepted;
use super::plan::{Order, Outside, Told, price};
use crate::load::{Error, PATIENCE};
use crate::time::Iso;

/// Ids of orders and payments, for each seed so many: all below 2^46, which is less than any that the API gives.
const ID_BITS: u32 = 22;
const SEED_MASK: u64 = (1 << (46 - ID_BITS)) - 1;
/// How many transactions are written at the same time.
const WRITERS: usize = 4;
const TRY_AGAIN: Duration = Duration::from_millis(200);

/// A row that came before with the same id, from a try whose end was not heard, changes nothing.
const INSERT: &str = "INSERT INTO outbox_events (id, aggregate_type, aggregate_id, event_type, payload) VALUES (?, ?, ?, ?, ?) \
                      ON DUPLICATE KEY UPDATE id = id";

/// The database.
pub struct Outbox {
    opts: Opts,
    writers: [Mutex<Option<Conn>>; WRITERS],
    turn: AtomicU64,
    first_id: u64,
    ids: AtomicU64,
}

/// A row: one event.
struct Row {
    id: Uuid,
    aggregate: &'static str,
    aggregate_id: u64,
    event_type: &'static str,
    payload: Value,
}

impl Outbox {
    /// Does not connect yet.
    #[must_use]
    pub fn new(opts: &Opts, seed: u32) -> Outbox {
        // The column with the time has none of a time zone, and is read as UTC.
        let opts =
            OptsBuilder::from_opts(opts.clone()).prefer_socket(false).tcp_nodelay(true).init(vec!["SET time_zone = '+00:00'"]);
        let first_id = (u64::from(seed) & SEED_MASK) << ID_BITS;
        let (turn, ids) = (AtomicU64::new(0), AtomicU64::new(1));
        Outbox { opts: opts.into(), writers: Default::default(), turn, first_id, ids }
    }

    /// An id of an order or a payment that nobody else gives.
    fn id(&self) -> u64 {
        self.first_id + self.ids.fetch_add(1, Relaxed)
    }

    /// Commits rows in one transaction, trying again while the database is away.
    async fn commit(&self, rows: &[Row]) -> Result<(), Error> {
        let writer = self.turn.fetch_add(1, Relaxed) as usize % WRITERS;
        let mut conn = self.writers[writer].lock().await;
        let until = Instant::now() + PATIENCE;
        loop {
            let tried = async {
                if conn.is_none() {
                    *conn = Some(Conn::new(self.opts.clone()).await?);
                }
                let conn = conn.as_mut().expect("it was just made");
                let mut transaction = conn.start_transaction(TxOpts::default()).await?;
                transaction.exec_batch(INSERT, rows.iter().map(Row::params)).await?;
                transaction.commit().await
            };
            match tried.await {
                Ok(()) => return Ok(()),
                Err(error @ mysql_async::Error::Io(_)) if Instant::now() < until => {
                    *conn = None;
                    tracing::debug!(%error, "the database is tried again");
                    sleep(TRY_AGAIN).await;
                }
                Err(error) => return Err(Error::Outbox(error.to_string())),
            }
        }
    }
}

impl Row {
    fn payment(payment: u64, order: u64, user: u64, amount: u64) -> Row {
        let payload = json!({
            "paymentId": payment, "orderId": order, "userId": user, "amount": amount, "paidAt": now(),
        });
        Row { id: Uuid::new_v4(), aggregate: "Payment", aggregate_id: payment, event_type: "PaymentCompleted", payload }
    }

    fn order(trade: &Trade, id: u64, order: &Order) -> Row {
        let line = |(product, quantity): &(u32, u32)| json!({"productId": trade.id(*product), "quantity": quantity, "unitPrice": price(*product)});
        let payload = json!({
            "orderId": id, "orderNumber": format!("OUT-{id}"), "userId": trade.id(order.user),
            "items": order.lines.iter().map(line).collect::<Vec<_>>(),
            "totalAmount": order.total(), "usePoints": order.points, "createdAt": now(),
        });
        Row { id: Uuid::new_v4(), aggregate: "Order", aggregate_id: id, event_type: "OrderCreated", payload }
    }

    fn params(&self) -> Params {
        let Row { id, aggregate, aggregate_id, event_type, payload } = self;
        (id.to_string(), *aggregate, aggregate_id.to_string(), *event_type, payload.to_string()).into()
    }
}

fn now() -> Iso {
    Iso(Clock::System.now())
}

/// Makes an order and tells of its payments, commit by commit.
pub async fn make(trade: &Trade, outbox: &Outbox, outside: &Outside) -> Result<(), Error> {
    let Outside { order, commits } = outside;
    let (id, user, due) = (outbox.id(), trade.id(order.user), order.total() - order.points);
    let payments: Vec<(Told, u64)> = Told::PAYMENTS.into_iter().map(|told| (told, outbox.id())).collect();
    {
        let mut state = trade.state();
        state.ledger.add_order(id, order.clone())?;
        state.measured.outside += 1;
        for (told, payment) in &payments {
            if commits.iter().any(|(_, rows)| rows.contains(told)) {
                state.ledger.accepted(id, Accepted::Payment { id: *payment, failed: false });
            }
        }
    }
    for (at, (pause_ms, tells)) in commits.iter().enumerate() {
        sleep(Duration::from_millis(*pause_ms)).await;
        let row = |told: &Told| {
            let payment = || payments.iter().find(|(known, _)| known == told).map_or(0, |(_, payment)| *payment);
            match told {
                Told::Made => Row::order(trade, id, order),
                Told::Paid | Told::PaidAgain => Row::payment(payment(), id, user, due),
                Told::PaidWrong => Row::payment(payment(), id, user, due + 1),
            }
        };
        let rows: Vec<Row> = tells.iter().map(row).collect();
        if at + 1 == commits.len() && trade.is_heard(order.user) {
            trade.state().awaited_outside.insert(id, Instant::now());
        }
        outbox.commit(&rows).await?;
    }
    Ok(())
}

/// Tells of a payment of an order that was made over HTTP.
pub async fn pay(trade: &Trade, outbox: &Outbox, order: u64, due: u64) -> Result<(), Error> {
    let payment = outbox.id();
    let user = {
        let mut state = trade.state();
        state.ledger.accepted(order, Accepted::Payment { id: payment, failed: false });
        state.measured.payments += 1;
        state.ledger.user_of(order).expect("only an order that was made is paid")
    };
    outbox.commit(&[Row::payment(payment, order, trade.id(user), due)]).await
}

/// Tells of a payment of an order that nobody will make.
pub async fn pay_nothing(trade: &Trade, outbox: &Outbox) -> Result<(), Error> {
    let (payment, order) = (outbox.id(), outbox.id());
    trade.state().ledger.add_unmatched(payment, order);
    // Of a user beyond those that are checked.
    outbox.commit(&[Row::payment(payment, order, trade.id(trade.users), 100)]).await
}
