//! The topology `orders`: every order's way, from what happens to it to what others are asked to do for it.
//!
//! ```text
//! order-events ───────────────┐            ┌──▶ shop.inventory, shop.points, shop.deliveries, shop.refunds
//! shop.payments-by-order ─────┼──▶ orders ─┼──▶ shop.notifications, data-platform
//! shop.saga ──────────────────┘      │     └──▶ order-events.rejected
//!   ▲   answers of the participants  ├── orders, orders-by-user, early-payments, order-counts, order-statistics
//!   └────── what time has come to ───┘
//! ```
//! All three topics are keyed by the order, so one task sees all that happens to an order, one after the other: the first wins. What happens is
//! decided by [`Order::apply`]; here it is only carried to and fro. What an event changes and what it asks of others are one transaction.
//!
//! **Payments meet their orders here**, in either order of arrival: one that comes first waits for 15 minutes. A windowed join would say
//! so in one line, but tells of a payment without an order only once others come after it. Money is not kept waiting for traffic, so
//! the wait ends by a timer. What time comes to goes through `shop.saga` with the time it was due, so that it takes its place among what
//! happened before, also after the shop was down for longer.

use std::fmt;

use millstream::codec::{Codec, Data, Decimal, Json};
use millstream::{Process, ProcessError, Record, Scope, Store, StreamBuilder, TimeDomain, Timestamp, Topic};
use serde::{Deserialize, Serialize};

use super::domain::{Answer, Order, Status, Step};
use super::events::{OrderCreated, OrderEvent, OrderStatusChanged};
use super::machine::{Effect, Event as Happening, Refusal};
use crate::deliveries::{DELIVERY_COMMANDS, DeliveryCommand};
use crate::events::{self, Event as _, EventTopic, derived_id, expect_key};
use crate::inventory::domain::StockStep;
use crate::inventory::topology::{INVENTORY, InventoryCommand};
use crate::notifications::{NOTIFICATIONS, News, Notification};
use crate::payments::{PAYMENTS_BY_ORDER, PaymentNote, REFUNDS, Refund};
use crate::points::{POINTS_COMMANDS, PointsCommand, PointsStep};
use crate::statistics::{self, Happened, ORDER_STATISTICS};
use crate::time::Iso;

/// As many for everything that is keyed by the order: it meets in one task.
pub const PARTITIONS: u32 = 6;

/// How long a payment waits for its order.
const EARLY_PAYMENT_MS: i64 = 15 * 60_000;

/// What happens to orders. Other programs may write here, too.
pub const ORDER_EVENTS: EventTopic = events::topic("order-events").partitions(PARTITIONS).retention_ms(7 * 24 * 3_600_000);

/// What was refused, with the reason in its headers.
pub const REJECTED: EventTopic = events::topic("order-events.rejected").partitions(PARTITIONS).retention_ms(30 * 24 * 3_600_000);

/// Every change of an order's status, for other systems.
pub const DATA_PLATFORM: EventTopic = events::topic("data-platform").partitions(3).retention_ms(30 * 24 * 3_600_000);

/// Answers of the participants, and what time has come to, by order.
pub const SAGA: Topic<u64, SagaMessage> = Topic::with_codecs("shop.saga", &Decimal, &Json).partitions(PARTITIONS);

/// Every order.
pub const ORDERS: Store<u64, Order> = Store::keyed("orders");

/// The orders of each user, by (user, order).
pub const ORDERS_BY_USER: Store<(u64, u64), u64> = Store::ordered("orders-by-user");

/// Payments that wait for their order, in the order in which they came.
pub const EARLY_PAYMENTS: Store<u64, EarlyPayments> = Store::keyed("early-payments");

/// What orders have gone through, by the name of [`Counted`]; a count for each partition.
pub const ORDER_COUNTS: Store<String, u64> = Store::keyed("order-counts");

/// What is counted of orders.
#[derive(Clone, Copy, Debug)]
pub enum Counted<'a> {
    /// An order went from one status to another; it began, where there is none before.
    Turned(Option<Status>, Status),
    /// An order failed, for this reason.
    Failed(&'a str),
    /// An event was refused.
    Refused,
}

impl fmt::Display for Counted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Counted::Turned(from, to) => write!(f, "turned:{}:{}", from.map_or("", Status::name), to.name()),
            Counted::Failed(reason) => write!(f, "failed:{reason}"),
            Counted::Refused => f.write_str("refused"),
        }
    }
}

/// What an order hears from within the shop.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum SagaMessage {
    /// A step is over.
    Answered {
        /// Which.
        step: Step,
        /// How.
        answer: Answer,
    },
    /// The order was not paid in time.
    Unpaid,
    /// A payment has waited long enough for its order.
    Unmatched {
        /// Which.
        payment_id: u64,
    },
}

impl Data for Order {
    const CODEC: &'static dyn Codec<Order> = &Json;
}

impl Data for SagaMessage {
    const CODEC: &'static dyn Codec<SagaMessage> = &Json;
}

/// Payments that came before their order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EarlyPayments(Vec<PaymentNote>);

impl Data for EarlyPayments {
    const CODEC: &'static dyn Codec<EarlyPayments> = &Json;
}

/// A timer of an order, and what it says when it fires.
#[derive(Clone, Serialize, Deserialize)]
struct Timer {
    order_id: u64,
    says: SagaMessage,
}

impl Data for Timer {
    const CODEC: &'static dyn Codec<Timer> = &Json;
}

#[derive(Clone)]
enum Input {
    Event(Vec<u8>),
    Payment(PaymentNote),
    Message(SagaMessage),
}

/// Adds the topology. An order that is not paid within `payment_timeout_ms` fails.
pub fn declare(builder: &mut StreamBuilder, payment_timeout_ms: i64) {
    let events = builder.stream(&ORDER_EVENTS).map_values(Input::Event);
    let payments = builder.stream(&PAYMENTS_BY_ORDER).map_values(Input::Payment);
    let messages = builder.stream(&SAGA).map_values(Input::Message);
    let orders = Process::new("orders", move |ctx, record| take(ctx, record, payment_timeout_ms))
        .on_timer(|ctx, timer: Timer, at| ctx.send(&SAGA, Record::new(timer.order_id, timer.says, at)))
        .store(&ORDERS)
        .store(&ORDERS_BY_USER)
        .store(&EARLY_PAYMENTS)
        .store(&ORDER_COUNTS)
        .store(&ORDER_STATISTICS)
        .sink(&INVENTORY)
        .sink(&POINTS_COMMANDS)
        .sink(&DELIVERY_COMMANDS)
        .sink(&REFUNDS)
        .sink(&NOTIFICATIONS)
        .sink(&DATA_PLATFORM)
        .sink(&REJECTED)
        .sink(&SAGA);
    events.merge(&payments).merge(&messages).process(orders);
}

type Orders<'a> = Scope<'a, u64, ()>;

fn take(ctx: &mut Orders<'_>, record: Record<u64, Input>, payment_timeout_ms: i64) -> Result<(), ProcessError> {
    let Record { key, value, timestamp, headers } = record;
    match value {
        Input::Event(payload) => take_event(ctx, Record { key, value: payload, timestamp, headers }, payment_timeout_ms),
        Input::Payment(payment) => take_payment(ctx, Record { key, value: payment, timestamp, headers }),
        Input::Message(message) => hear(ctx, key, message, timestamp),
    }
}

fn take_event(ctx: &mut Orders<'_>, record: Record<u64, Vec<u8>>, payment_timeout_ms: i64) -> Result<(), ProcessError> {
    let event: OrderEvent = events::read(&record)?;
    let (order_id, at) = (record.key, record.timestamp);
    expect_key(order_id, "orderId", event.order_id())?;
    let order = ctx.store(&ORDERS).get(&order_id)?;
    let happening = match event {
        OrderEvent::Created(terms) => {
            let refused = terms.check().err().or(order.is_some().then_some(Refusal::Exists.code()));
            return match refused {
                Some(reason) => reject(ctx, record, reason),
                None => create(ctx, terms, at, payment_timeout_ms),
            };
        }
        OrderEvent::Cancelled(cancelled) => Happening::Cancel { reason: cancelled.reason },
        OrderEvent::Shipped(_) => Happening::Ship,
        OrderEvent::Delivered(_) => Happening::Deliver,
    };
    let Some(mut order) = order else { return reject(ctx, record, Refusal::NotFound.code()) };
    let is_cancel = matches!(happening, Happening::Cancel { .. });
    let Err(refusal) = apply(ctx, &mut order, happening, at)? else { return Ok(()) };
    if is_cancel {
        tell(ctx, &order, News::CancelRejected { order_id, reason: refusal.code().into() }, at)?;
    }
    reject(ctx, record, refusal.code())
}

fn create(ctx: &mut Orders<'_>, terms: OrderCreated, at: Timestamp, payment_timeout_ms: i64) -> Result<(), ProcessError> {
    let (order_id, user_id) = (terms.order_id, terms.user_id);
    ctx.store(&ORDERS_BY_USER).put(&(user_id, order_id), &order_id)?;
    count(ctx, Counted::Turned(None, Status::Pending))?;
    statistics::count(ctx, &ORDER_STATISTICS, Happened::OrderCreated, at)?;
    let pay_until = at.plus_ms(payment_timeout_ms);
    let (mut order, effects) = Order::new(terms, at, pay_until);
    carry_out(ctx, &order, effects, at)?;
    ctx.schedule(TimeDomain::WallClock, pay_until, &Timer { order_id, says: SagaMessage::Unpaid })?;
    ctx.store(&ORDERS).put(&order_id, &order)?;
    for payment in ctx.store(&EARLY_PAYMENTS).take(&order_id)?.unwrap_or_default().0 {
        pay(ctx, &mut order, Record::new(order_id, payment, at))?;
    }
    Ok(())
}

fn take_payment(ctx: &mut Orders<'_>, record: Record<u64, PaymentNote>) -> Result<(), ProcessError> {
    let order_id = record.key;
    if let Some(mut order) = ctx.store(&ORDERS).get(&order_id)? {
        return pay(ctx, &mut order, record);
    }
    let mut waiting = ctx.store(&EARLY_PAYMENTS).get(&order_id)?.unwrap_or_default();
    let timer = Timer { order_id, says: SagaMessage::Unmatched { payment_id: record.value.payment_id } };
    waiting.0.push(record.value);
    ctx.store(&EARLY_PAYMENTS).put(&order_id, &waiting)?;
    ctx.schedule(TimeDomain::WallClock, ctx.wall_clock().plus_ms(EARLY_PAYMENT_MS), &timer)
}

fn pay(ctx: &mut Orders<'_>, order: &mut Order, record: Record<u64, PaymentNote>) -> Result<(), ProcessError> {
    let PaymentNote { payment_id, amount, completed } = record.value;
    let event = if completed { Happening::Paid { payment_id, amount } } else { Happening::PaymentFailed { payment_id, amount } };
    let Err(refusal) = apply(ctx, order, event, record.timestamp)? else { return Ok(()) };
    let payload = events::to_payload(&record.value).map_err(ProcessError::failed)?;
    reject(ctx, record.with_value(payload), refusal.code())
}

fn hear(ctx: &mut Orders<'_>, order_id: u64, message: SagaMessage, at: Timestamp) -> Result<(), ProcessError> {
    let happening = match message {
        SagaMessage::Answered { step, answer } => Happening::Answered { step, answer },
        SagaMessage::Unpaid => Happening::TimedOut,
        SagaMessage::Unmatched { payment_id } => return give_up(ctx, order_id, payment_id, at),
    };
    // Whoever answers to no order has given an early payment back.
    let Some(mut order) = ctx.store(&ORDERS).get(&order_id)? else { return Ok(()) };
    apply(ctx, &mut order, happening, at)?.map_err(|refusal| ProcessError::failed(refusal.code()))
}

/// Gives a payment back that still waits for its order.
fn give_up(ctx: &mut Orders<'_>, order_id: u64, payment_id: u64, at: Timestamp) -> Result<(), ProcessError> {
    let EarlyPayments(waiting) = ctx.store(&EARLY_PAYMENTS).take(&order_id)?.unwrap_or_default();
    let (given_up, waiting): (Vec<_>, Vec<_>) = waiting.into_iter().partition(|payment| payment.payment_id == payment_id);
    if !waiting.is_empty() {
        ctx.store(&EARLY_PAYMENTS).put(&order_id, &EarlyPayments(waiting))?;
    }
    for payment in given_up.iter().filter(|payment| payment.completed) {
        let refund = Refund { order_id, reason: Refusal::NotFound.code().into() };
        ctx.send(&REFUNDS, Record::new(payment.payment_id, refund, at))?;
    }
    Ok(())
}

/// Applies what happened to an order, keeps it, and carries out what follows.
fn apply(ctx: &mut Orders<'_>, order: &mut Order, event: Happening, at: Timestamp) -> Result<Result<(), Refusal>, ProcessError> {
    let was_unpaid = order.is_unpaid();
    let (outcome, effects) = order.apply(event, at);
    let order_id = order.terms.order_id;
    ctx.store(&ORDERS).put(&order_id, order)?;
    if was_unpaid && !order.is_unpaid() {
        ctx.unschedule(TimeDomain::WallClock, order.pay_until.0, &Timer { order_id, says: SagaMessage::Unpaid })?;
    }
    carry_out(ctx, order, effects, at)?;
    Ok(outcome)
}

/// Sends what follows from an event to whom it concerns.
fn carry_out(ctx: &mut Orders<'_>, order: &Order, effects: Vec<Effect>, at: Timestamp) -> Result<(), ProcessError> {
    let OrderCreated { order_id, user_id, .. } = order.terms;
    let stock = |product_id, step| Record::new(product_id, InventoryCommand::ForOrder { order_id, step }, at);
    let points = |step| Record::new(user_id, PointsCommand::ForOrder { order_id, step }, at);
    let delivery = |command| Record::new(order_id, command, at);
    for effect in effects {
        match effect {
            Effect::Ask(Step::Reserve(product_id)) => {
                let lines = order.terms.items.iter().filter(|item| item.product_id == product_id);
                let quantity = lines.map(|item| item.quantity).sum();
                ctx.send(&INVENTORY, stock(product_id, StockStep::Reserve(quantity)))?;
            }
            Effect::Ask(Step::Sell(product_id)) => ctx.send(&INVENTORY, stock(product_id, StockStep::Sell))?,
            Effect::Ask(Step::Release(product_id)) => ctx.send(&INVENTORY, stock(product_id, StockStep::Release))?,
            Effect::Ask(Step::TakePoints) => ctx.send(&POINTS_COMMANDS, points(PointsStep::Take(order.terms.use_points)))?,
            Effect::Ask(Step::ReturnPoints) => ctx.send(&POINTS_COMMANDS, points(PointsStep::Return))?,
            Effect::Ask(Step::CreateDelivery) => ctx.send(&DELIVERY_COMMANDS, delivery(DeliveryCommand::Create { user_id }))?,
            Effect::Ask(Step::CancelDelivery) => ctx.send(&DELIVERY_COMMANDS, delivery(DeliveryCommand::Cancel))?,
            Effect::Ask(Step::Refund(payment_id)) => {
                let payment = order.payments.iter().find(|payment| payment.payment_id == payment_id);
                let reason = payment.and_then(|payment| payment.reason.clone()).unwrap_or_default();
                ctx.send(&REFUNDS, Record::new(payment_id, Refund { order_id, reason }, at))?;
            }
            Effect::Paid { payment_id, amount } => tell(ctx, order, News::PaymentCompleted { payment_id, order_id, amount }, at)?,
            Effect::Turned(status) => announce(ctx, order, status, at)?,
        }
    }
    Ok(())
}

/// An order has another status: its user, other systems and the counts are told.
fn announce(ctx: &mut Orders<'_>, order: &Order, status: Status, at: Timestamp) -> Result<(), ProcessError> {
    let OrderCreated { order_id, user_id, total_amount, .. } = order.terms;
    let (order_number, items) = (order.terms.order_number.clone(), order.terms.items.clone());
    let reason = || order.reason.clone().unwrap_or_default();
    let delivery = |command| Record::new(order_id, command, at);
    count(ctx, Counted::Turned(order.status_before(), status))?;
    let changed =
        OrderStatusChanged { order_id, order_number: order_number.clone(), user_id, status, items, total_amount, at: Iso(at) };
    let id = derived_id(changed.event_type(), order_id, order.history.len() as u64);
    ctx.send(&DATA_PLATFORM, events::record(order_id, &changed, id, at).map_err(ProcessError::failed)?)?;
    let news = match status {
        Status::Pending => return Ok(()),
        Status::Confirmed => {
            statistics::count(ctx, &ORDER_STATISTICS, Happened::OrderConfirmed(total_amount), at)?;
            News::OrderCompleted { order_id, order_number, total_amount }
        }
        Status::Shipped => {
            ctx.send(&DELIVERY_COMMANDS, delivery(DeliveryCommand::Ship))?;
            News::OrderShipped { order_id, order_number }
        }
        Status::Delivered => {
            ctx.send(&DELIVERY_COMMANDS, delivery(DeliveryCommand::Deliver))?;
            News::OrderDelivered { order_id, order_number }
        }
        Status::Cancelled => News::OrderCancelled { order_id, order_number, reason: reason() },
        Status::Failed => {
            count(ctx, Counted::Failed(&reason()))?;
            News::OrderFailed { order_id, order_number, reason: reason() }
        }
    };
    tell(ctx, order, news, at)
}

/// The order's user hears.
fn tell(ctx: &mut Orders<'_>, order: &Order, news: News, at: Timestamp) -> Result<(), ProcessError> {
    ctx.send(&NOTIFICATIONS, Record::new(order.terms.user_id, Notification { at_ms: at.0, news }, at))
}

/// Keeps an event that is refused.
fn reject(ctx: &mut Orders<'_>, record: Record<u64, Vec<u8>>, reason: &str) -> Result<(), ProcessError> {
    count(ctx, Counted::Refused)?;
    ctx.reject(&REJECTED, record, reason)
}

fn count(ctx: &mut Orders<'_>, what: Counted<'_>) -> Result<(), ProcessError> {
    let mut counts = ctx.store(&ORDER_COUNTS);
    let what = what.to_string();
    let count = counts.get(&what)?.unwrap_or(0);
    counts.put(&what, &(count + 1))
}
