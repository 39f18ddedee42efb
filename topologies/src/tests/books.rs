//! All that the shop has written down, and what must be true of it once nothing is left to do and nothing is waited for.

use std::collections::BTreeMap;

use millstream::{Record, Topic};

use super::world::{Act, World};
use crate::deliveries::{DELIVERIES, Delivery, DeliveryStatus};
use crate::events;
use crate::inventory::domain::Product;
use crate::inventory::topology::PRODUCTS;
use crate::notifications::{HEARD, News};
use crate::orders::domain::{Order, PaymentStatus, Progress, Stage, Status};
use crate::orders::events::OrderStatusChanged;
use crate::orders::topology::{DATA_PLATFORM, EARLY_PAYMENTS, EarlyPayments, ORDERS, REJECTED};
use crate::payments::{PAYMENT_EVENTS, PAYMENTS, Payment, PaymentEvent, PaymentRefunded};
use crate::points::POINTS;

type Bytes = Option<Vec<u8>>;

/// Where what cannot be processed would be.
const DEAD_LETTERS: [Topic<Bytes, Bytes>; 8] = [
    Topic::new("order-events.dlq"),
    Topic::new("payment-events.dlq"),
    Topic::new("shop.payments-by-order.dlq"),
    Topic::new("shop.saga.dlq"),
    Topic::new("shop.refunds.dlq"),
    Topic::new("shop.inventory.dlq"),
    Topic::new("shop.points.dlq"),
    Topic::new("shop.deliveries.dlq"),
];

/// The shop's books.
#[derive(Debug, PartialEq)]
pub struct Books {
    pub orders: BTreeMap<u64, Order>,
    payments: BTreeMap<u64, Payment>,
    early: Vec<(u64, EarlyPayments)>,
    products: BTreeMap<u64, Product>,
    points: BTreeMap<u64, u64>,
    deliveries: BTreeMap<u64, Delivery>,
    /// By user and number.
    heard: Vec<((u64, u64), News)>,
    data_platform: Vec<OrderStatusChanged>,
    refunds: Vec<PaymentRefunded>,
    rejected: Vec<Record<u64, Vec<u8>>>,
    dead: Vec<Record<Bytes, Bytes>>,
}

impl Books {
    /// Reads them. Topics are read on from where they were read before: a shop's books are read once.
    pub fn of(world: &mut World) -> Books {
        let driver = &mut world.driver;
        let refund = |record: &Record<u64, Vec<u8>>| match events::read(record).expect("an event of payments") {
            PaymentEvent::Refunded(refund) => Some(refund),
            PaymentEvent::Completed(_) | PaymentEvent::Failed(_) => None,
        };
        Books {
            refunds: driver.read(&PAYMENT_EVENTS).iter().filter_map(refund).collect(),
            data_platform: driver.read(&DATA_PLATFORM).iter().map(|r| events::read(r).expect("a change of status")).collect(),
            dead: DEAD_LETTERS.iter().flat_map(|topic| driver.read(topic)).collect(),
            rejected: driver.read(&REJECTED),
            orders: driver.rows(&ORDERS).into_iter().collect(),
            payments: driver.rows(&PAYMENTS).into_iter().collect(),
            early: driver.rows(&EARLY_PAYMENTS),
            products: driver.rows(&PRODUCTS).into_iter().collect(),
            points: driver.rows(&POINTS).into_iter().map(|(user, row)| (user, row.balance)).collect(),
            deliveries: driver.rows(&DELIVERIES).into_iter().collect(),
            heard: driver.rows(&HEARD).into_iter().filter_map(|(at, event)| Some((at, event.value?.news))).collect(),
        }
    }

    /// What the contract promises of a shop that is quiet.
    pub fn check(&self, world: &World) {
        assert!(self.dead.is_empty(), "nothing fails: {:?}", self.dead);
        assert!(self.early.is_empty(), "no payment waits for its order for ever: {:?}", self.early);
        for (product, added) in &world.stock {
            let Product { available, reserved, sold, .. } = self.products[product];
            assert_eq!(available + reserved + sold, *added, "all stock of product {product} is somewhere");
            let held = |counts: fn(Status) -> bool| {
                let orders = self.orders.values().filter(|order| counts(order.status()));
                orders
                    .flat_map(|o| &o.terms.items)
                    .filter(|item| item.product_id == *product)
                    .map(|item| item.quantity)
                    .sum::<u64>()
            };
            assert_eq!(reserved, held(|status| status == Status::Pending), "product {product} reserved");
            assert_eq!(sold, held(is_live), "product {product} sold");
        }
        for (user, added) in &world.points {
            let live = self.orders.values().filter(|order| order.terms.user_id == *user && is_live(order.status()));
            let used: u64 = live.map(|order| order.terms.use_points).sum();
            assert_eq!(self.points[user] + used, *added, "all points of user {user} are somewhere");
        }
        for order in self.orders.values() {
            self.check_order(order);
        }
        for payment in self.payments.values() {
            self.check_payment(payment);
        }
        self.check_acts(world);
    }

    fn check_order(&self, order: &Order) {
        let id = order.terms.order_id;
        assert!(
            matches!(
                order.stage,
                Stage::Confirmed { .. } | Stage::Shipped { .. } | Stage::Delivered { .. } | Stage::Ended { .. }
            ),
            "{order:?}"
        );
        assert!(order.steps.iter().all(|(_, progress)| *progress != Progress::Running), "{order:?}");
        let statuses: Vec<Status> = order.history.iter().map(|change| change.status).collect();
        assert_eq!(statuses[0], Status::Pending);
        assert!(statuses.windows(2).all(|pair| may_follow(pair[0], pair[1])), "{statuses:?}");

        let told = self.data_platform.iter().filter(|change| change.order_id == id).map(|change| change.status);
        assert_eq!(told.collect::<Vec<_>>(), statuses[1..], "the data platform hears every change of order {id}");
        let heard: Vec<Status> = self.news_of(order).filter_map(status_of).collect();
        assert_eq!(heard, statuses[1..], "the user hears every change of order {id}");

        let completed = self.payments.values().filter(|p| p.order_id == id && p.status == PaymentStatus::Completed);
        let live = usize::from(is_live(order.status()));
        assert_eq!(completed.count(), live, "order {id} is {} and has as many payments", order.status().name());
        let delivery = self.deliveries.get(&id).map(|delivery| delivery.status);
        let expected = match order.status() {
            Status::Confirmed => Some(DeliveryStatus::Created),
            Status::Shipped => Some(DeliveryStatus::Shipped),
            Status::Delivered => Some(DeliveryStatus::Delivered),
            _ => delivery.and(Some(DeliveryStatus::Cancelled)),
        };
        assert_eq!(delivery, expected, "the delivery of order {id}, which is {}", order.status().name());

        let paid = self.news_of(order).position(|news| matches!(news, News::PaymentCompleted { .. }));
        let done = self.news_of(order).position(|news| matches!(news, News::OrderCompleted { .. }));
        assert!(done.is_none() || paid.is_some_and(|paid| Some(paid) < done), "order {id} is completed after it is paid");
    }

    fn check_payment(&self, payment: &Payment) {
        let id = payment.payment_id;
        let given_back = usize::from(payment.status == PaymentStatus::Refunded);
        assert_eq!(self.refunds.iter().filter(|refund| refund.payment_id == id).count(), given_back, "refunds of payment {id}");
        let heard =
            self.heard.iter().filter(|(_, news)| matches!(news, News::PaymentRefunded { payment_id, .. } if *payment_id == id));
        assert_eq!(heard.count(), given_back, "the user hears of the refund of payment {id}");
        let order = self.orders.get(&payment.order_id);
        let noted = order.and_then(|order| order.payments.iter().find(|known| known.payment_id == id));
        let unmatched = payment.reason.as_deref() == Some("ORDER_NOT_FOUND") || payment.status == PaymentStatus::Failed;
        assert!(noted.is_some() || unmatched, "no order knows payment {id}: {payment:?}");
        assert!(
            noted.is_none_or(|noted| (noted.amount, noted.status) == (payment.amount, payment.status)),
            "{noted:?} {payment:?}"
        );
    }

    /// What came from outside was applied or is kept with the reason; nothing is lost and nothing counts twice.
    fn check_acts(&self, world: &World) {
        let acts = |which: fn(&Act) -> bool| world.acts.iter().filter(|act| which(act)).count();
        let rejected = |event_type: &str| {
            let is = |record: &&Record<u64, Vec<u8>>| record.headers.get("eventType") == Some(event_type.as_bytes());
            self.rejected.iter().filter(is).count()
        };
        let turned =
            |status| self.orders.values().flat_map(|order| &order.history).filter(|change| change.status == status).count();
        let heard = |which: fn(&News) -> bool| self.heard.iter().filter(|(_, news)| which(news)).count();
        for (kind, come, applied) in [
            ("OrderCreated", acts(|act| matches!(act, Act::Order { .. })), self.orders.len()),
            ("OrderCancelled", acts(|act| matches!(act, Act::Cancel { .. })), turned(Status::Cancelled)),
            ("OrderShipped", acts(|act| matches!(act, Act::Ship { .. })), turned(Status::Shipped)),
            ("OrderDelivered", acts(|act| matches!(act, Act::Deliver { .. })), turned(Status::Delivered)),
        ] {
            assert_eq!(come, applied + rejected(kind), "every {kind} was applied or is kept");
        }
        let unheard = self.rejected.iter().filter(|record| reason(record) == "ORDER_NOT_FOUND" && is_cancel(record)).count();
        let refused = heard(|news| matches!(news, News::CancelRejected { .. }));
        assert_eq!(refused + unheard, rejected("OrderCancelled"), "whoever cancels in vain hears it, where there is an order");
        let mut payments: Vec<u64> = world.acts.iter().filter_map(payment_of).collect();
        payments.sort_unstable();
        payments.dedup();
        assert_eq!(self.payments.keys().copied().collect::<Vec<_>>(), payments, "every payment is known");
    }

    fn news_of(&self, order: &Order) -> impl Iterator<Item = &News> {
        let (user, id) = (order.terms.user_id, order.terms.order_id);
        self.heard.iter().filter(move |((to, _), news)| *to == user && order_of(news) == Some(id)).map(|(_, news)| news)
    }
}

fn is_live(status: Status) -> bool {
    matches!(status, Status::Confirmed | Status::Shipped | Status::Delivered)
}

/// The contract's state machine, once more and from its own words.
fn may_follow(before: Status, after: Status) -> bool {
    use Status::{Cancelled, Confirmed, Delivered, Failed, Pending, Shipped};
    match before {
        Pending => matches!(after, Confirmed | Cancelled | Failed),
        Confirmed => matches!(after, Cancelled | Shipped),
        Shipped => after == Delivered,
        Delivered | Cancelled | Failed => false,
    }
}

fn status_of(news: &News) -> Option<Status> {
    match news {
        News::OrderCompleted { .. } => Some(Status::Confirmed),
        News::OrderShipped { .. } => Some(Status::Shipped),
        News::OrderDelivered { .. } => Some(Status::Delivered),
        News::OrderCancelled { .. } => Some(Status::Cancelled),
        News::OrderFailed { .. } => Some(Status::Failed),
        _ => None,
    }
}

fn order_of(news: &News) -> Option<u64> {
    match news {
        News::PaymentCompleted { order_id, .. }
        | News::PaymentRefunded { order_id, .. }
        | News::OrderCompleted { order_id, .. }
        | News::OrderCancelled { order_id, .. }
        | News::OrderFailed { order_id, .. }
        | News::CancelRejected { order_id, .. }
        | News::OrderShipped { order_id, .. }
        | News::OrderDelivered { order_id, .. } => Some(*order_id),
        News::CouponIssued { .. } | News::CouponRejected { .. } => None,
    }
}

fn payment_of(act: &Act) -> Option<u64> {
    match act {
        Act::Pay { payment, .. } | Act::PayFails { payment, .. } => Some(*payment),
        _ => None,
    }
}

fn is_cancel(record: &Record<u64, Vec<u8>>) -> bool {
    record.headers.get("eventType") == Some(b"OrderCancelled")
}

fn reason(record: &Record<u64, Vec<u8>>) -> String {
    String::from_utf8_lossy(record.headers.get("__streams.errors.message").unwrap_or_default()).into_owned()
}
