//! The topology `payments`: what is known of each payment, and giving payments back.
//!
//! ```text
//! payment-events ──┐           ┌──▶ shop.payments-by-order ──▶ orders
//!                  ├──▶ payments ──▶ shop.saga ─────────────────▶ orders
//! shop.refunds ────┘    payments ──▶ payment-events, shop.notifications
//! ```
//! Payments are keyed by their own id, as the provider tells of them; orders need them by order. So each goes on under the order's key, once,
//! however often the provider tells. A refund is a step of the saga: what is given back is given back once, and the order hears.

use millstream::codec::{self, Codec, Data, Decimal, Json};
use millstream::{Process, ProcessError, Record, Scope, Store, StreamBuilder, Topic};
use serde::{Deserialize, Serialize};

use crate::events::{self, Event, EventTopic, derived_id, expect_key, from_payload, to_payload, undecodable};
use crate::notifications::{NOTIFICATIONS, News, Notification};
use crate::orders::domain::{Answer, PaymentStatus, Step};
use crate::orders::topology::{SAGA, SagaMessage};
use crate::time::Iso;

const PARTITIONS: u32 = 3;

/// What the payment provider tells, and what is given back. Other programs may write here, too.
pub const PAYMENT_EVENTS: EventTopic = events::topic("payment-events").partitions(PARTITIONS).retention_ms(7 * 24 * 3_600_000);

/// Payments to be given back, by payment.
pub const REFUNDS: Topic<u64, Refund> = Topic::with_codecs("shop.refunds", &Decimal, &Json).partitions(PARTITIONS);

/// Payments by order: where they meet.
pub const PAYMENTS_BY_ORDER: Topic<u64, PaymentNote> =
    Topic::with_codecs("shop.payments-by-order", &Decimal, &Json).partitions(crate::orders::topology::PARTITIONS);

/// Every payment.
pub const PAYMENTS: Store<u64, Payment> = Store::keyed("payments");

/// What the provider tells of a payment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PaymentTold {
    /// The payment; also the record's key.
    pub payment_id: u64,
    /// What it is for.
    pub order_id: u64,
    /// Who pays.
    pub user_id: u64,
    /// How much.
    pub amount: u64,
    /// When.
    pub paid_at: Iso,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A payment was given back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PaymentRefunded {
    /// The payment.
    pub payment_id: u64,
    /// What it was for.
    pub order_id: u64,
    /// Who paid.
    pub user_id: u64,
    /// How much.
    pub amount: u64,
    /// Why.
    pub reason: String,
    /// When.
    pub refunded_at: Iso,
}

/// What stands in `payment-events`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PaymentEvent {
    /// The money is there.
    Completed(PaymentTold),
    /// There is no money.
    Failed(PaymentTold),
    /// The money was given back.
    Refunded(PaymentRefunded),
}

impl Event for PaymentEvent {
    fn read(event_type: &str, payload: &[u8]) -> Option<Result<PaymentEvent, codec::Error>> {
        Some(match event_type {
            "PaymentCompleted" => from_payload(payload).map(PaymentEvent::Completed),
            "PaymentFailed" => from_payload(payload).map(PaymentEvent::Failed),
            "PaymentRefunded" => from_payload(payload).map(PaymentEvent::Refunded),
            _ => return None,
        })
    }

    fn event_type(&self) -> &'static str {
        match self {
            PaymentEvent::Completed(_) => "PaymentCompleted",
            PaymentEvent::Failed(_) => "PaymentFailed",
            PaymentEvent::Refunded(_) => "PaymentRefunded",
        }
    }

    fn payload(&self) -> Result<Vec<u8>, codec::Error> {
        match self {
            PaymentEvent::Completed(event) | PaymentEvent::Failed(event) => to_payload(event),
            PaymentEvent::Refunded(event) => to_payload(event),
        }
    }
}

/// A payment as it stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Payment {
    /// The payment.
    pub payment_id: u64,
    /// What it is for.
    pub order_id: u64,
    /// Who pays.
    pub user_id: u64,
    /// How much.
    pub amount: u64,
    /// What became of it.
    pub status: PaymentStatus,
    /// Why it failed or was given back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What an order hears of a payment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PaymentNote {
    /// The payment.
    pub payment_id: u64,
    /// How much.
    pub amount: u64,
    /// Whether the money is there.
    pub completed: bool,
}

/// A payment is to be given back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Refund {
    /// The order that waits for it.
    pub order_id: u64,
    /// Why.
    pub reason: String,
}

impl Data for Payment {
    const CODEC: &'static dyn Codec<Payment> = &Json;
}

impl Data for Refund {
    const CODEC: &'static dyn Codec<Refund> = &Json;
}

impl Data for PaymentNote {
    const CODEC: &'static dyn Codec<PaymentNote> = &Json;
}

#[derive(Clone)]
enum Input {
    Told(Vec<u8>),
    Refund(Refund),
}

/// Adds the topology.
pub fn declare(builder: &mut StreamBuilder) {
    let told = builder.stream(&PAYMENT_EVENTS).map_values(Input::Told);
    let refunds = builder.stream(&REFUNDS).map_values(Input::Refund);
    told.merge(&refunds).process(
        Process::new("payments", take)
            .store(&PAYMENTS)
            .sink(&PAYMENTS_BY_ORDER)
            .sink(&PAYMENT_EVENTS)
            .sink(&NOTIFICATIONS)
            .sink(&SAGA),
    );
}

type Payments<'a> = Scope<'a, u64, ()>;

fn take(ctx: &mut Payments<'_>, record: Record<u64, Input>) -> Result<(), ProcessError> {
    let Record { key, value, timestamp, headers } = record;
    match value {
        Input::Refund(refund) => give_back(ctx, Record { key, value: refund, timestamp, headers }),
        Input::Told(payload) => match events::read(&Record { key, value: payload, timestamp, headers })? {
            PaymentEvent::Completed(told) => note(ctx, &Record::new(key, told, timestamp), PaymentStatus::Completed),
            PaymentEvent::Failed(told) => note(ctx, &Record::new(key, told, timestamp), PaymentStatus::Failed),
            PaymentEvent::Refunded(refunded) => expect_own(ctx, key, &refunded),
        },
    }
}

/// What is told first of a payment holds, and its order hears of it.
fn note(ctx: &mut Payments<'_>, record: &Record<u64, PaymentTold>, status: PaymentStatus) -> Result<(), ProcessError> {
    let PaymentTold { payment_id, order_id, user_id, amount, reason, .. } = record.value.clone();
    expect_key(record.key, "paymentId", payment_id)?;
    match ctx.store(&PAYMENTS).get(&payment_id)? {
        None => {
            let payment = Payment { payment_id, order_id, user_id, amount, status, reason };
            ctx.store(&PAYMENTS).put(&payment_id, &payment)?;
            let note = PaymentNote { payment_id, amount, completed: status == PaymentStatus::Completed };
            ctx.send(&PAYMENTS_BY_ORDER, Record::new(order_id, note, record.timestamp))
        }
        Some(known) => {
            let told_so = match known.status {
                PaymentStatus::Refunded => PaymentStatus::Completed,
                told => told,
            };
            if (known.order_id, known.user_id, known.amount, told_so) == (order_id, user_id, amount, status) {
                return Ok(()); // told twice
            }
            Err(undecodable("payment", format_args!("payment {payment_id} is known otherwise")))
        }
    }
}

/// Refunds are written here alone, and so known when they are read.
fn expect_own(ctx: &mut Payments<'_>, key: u64, refunded: &PaymentRefunded) -> Result<(), ProcessError> {
    expect_key(key, "paymentId", refunded.payment_id)?;
    match ctx.store(&PAYMENTS).get(&key)? {
        Some(Payment { status: PaymentStatus::Refunded, .. }) => Ok(()),
        _ => Err(undecodable("refund", format_args!("payment {key} was not given back by the shop"))),
    }
}

/// Gives a completed payment back, once; whoever asks again hears that it is done.
fn give_back(ctx: &mut Payments<'_>, record: Record<u64, Refund>) -> Result<(), ProcessError> {
    let (payment_id, at, Refund { order_id, reason }) = (record.key, record.timestamp, record.value);
    let payment = ctx.store(&PAYMENTS).get(&payment_id)?.filter(|payment| payment.status != PaymentStatus::Failed);
    let payment = payment.ok_or_else(|| undecodable("refund", format_args!("there is no payment {payment_id} to give back")))?;
    if payment.status == PaymentStatus::Completed {
        let Payment { user_id, amount, .. } = payment;
        let refunded = Payment { status: PaymentStatus::Refunded, reason: Some(reason.clone()), ..payment };
        ctx.store(&PAYMENTS).put(&payment_id, &refunded)?;
        let (order_id, news) = (refunded.order_id, reason.clone());
        let event = PaymentRefunded { payment_id, order_id, user_id, amount, reason, refunded_at: Iso(at) };
        let event = PaymentEvent::Refunded(event);
        let event = events::record(payment_id, &event, derived_id(event.event_type(), payment_id, 0), at);
        ctx.send(&PAYMENT_EVENTS, event.map_err(ProcessError::failed)?)?;
        let news = News::PaymentRefunded { payment_id, order_id, amount, reason: news };
        ctx.send(&NOTIFICATIONS, Record::new(user_id, Notification { at_ms: at.0, news }, at))?;
    }
    let answer = SagaMessage::Answered { step: Step::Refund(payment_id), answer: Answer::Done };
    ctx.send(&SAGA, Record::new(order_id, answer, at))
}
