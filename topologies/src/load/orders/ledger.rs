//! What the shop has told of orders: which it made, what it accepted for each, and what has to be true of an order once nothing happens
//! to it any more. Each check says in one sentence what is wrong. Nothing is sent here.

use std::collections::HashMap;
use std::time::Duration;

use serde::Deserialize;
use tokio::time::Instant;

use super::plan::{Order, PRODUCTS, SCARCE, SCARCE_STOCK};
use super::plan::{PLENTY, price};
use crate::load::heard::Told;
use crate::load::{Broken, SETTLE};

/// Everything that was accepted.
pub struct Ledger {
    /// Id of the user of number 0; likewise for products.
    base: u64,
    /// Every order, by its id.
    orders: HashMap<u64, Made>,
    /// The orders of each user.
    of_users: Vec<Vec<u64>>,
    /// All points ever added, by user.
    points: Vec<u64>,
    /// All stock ever added, by product.
    stock: [u64; PRODUCTS as usize],
    /// Payments of orders that nobody makes: since when, which payment, which order.
    unmatched: Vec<(Instant, u64, u64)>,
}

/// How long a payment waits for its order, until it is given back.
const MATCHED_WITHIN: Duration = Duration::from_secs(15 * 60);

/// An order that was made, and what was accepted for it.
struct Made {
    order: Order,
    /// Each payment, and whether it failed.
    payments: Vec<(u64, bool)>,
    cancels: usize,
    ships: usize,
    delivers: usize,
    /// The shop has refused a cancel.
    uncancellable: bool,
    /// The shop has refused a good payment.
    unpayable: bool,
}

/// What a user hears.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heard {
    /// The id of the event.
    pub id: u64,
    /// What happened.
    pub what: What,
    /// To which order.
    pub order: u64,
    /// By which payment; 0 where there is none.
    pub payment: u64,
}

impl Told for Heard {
    fn id(&self) -> u64 {
        self.id
    }
}

/// What can happen to an order, as its user hears it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum What {
    PaymentCompleted,
    PaymentRefunded,
    OrderCompleted,
    OrderCancelled,
    OrderFailed,
    CancelRejected,
    OrderShipped,
    OrderDelivered,
}

/// The status of an order, as the shop writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Status {
    Pending,
    Confirmed,
    Shipped,
    Delivered,
    Cancelled,
    Failed,
}

impl Status {
    /// Whether what was ordered is sold, and what was paid is kept.
    #[must_use]
    pub fn is_live(self) -> bool {
        matches!(self, Status::Confirmed | Status::Shipped | Status::Delivered)
    }

    /// What the user hears when an order gets it.
    fn heard_as(self) -> Option<What> {
        match self {
            Status::Pending => None,
            Status::Confirmed => Some(What::OrderCompleted),
            Status::Shipped => Some(What::OrderShipped),
            Status::Delivered => Some(What::OrderDelivered),
            Status::Cancelled => Some(What::OrderCancelled),
            Status::Failed => Some(What::OrderFailed),
        }
    }

    /// The contract's state machine.
    fn may_follow(self, before: Status) -> bool {
        use Status::{Cancelled, Confirmed, Delivered, Failed, Pending, Shipped};
        matches!(
            (before, self),
            (Pending, Confirmed | Cancelled | Failed) | (Confirmed, Cancelled | Shipped) | (Shipped, Delivered)
        )
    }
}

/// The status of a payment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum PaymentStatus {
    Completed,
    Failed,
    Refunded,
}

/// The status of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum DeliveryStatus {
    Created,
    Shipped,
    Delivered,
    Cancelled,
}

/// An order, as the shop shows it.
#[derive(Deserialize, Debug)]
#[serde(rename_all = "camelCase")]
pub struct Shown {
    /// The order.
    pub order_id: u64,
    user_id: u64,
    /// Where it is.
    pub status: Status,
    items: Vec<Item>,
    /// The sum of its lines.
    pub total_amount: u64,
    /// How many points it uses.
    pub use_points: u64,
    amount_due: u64,
    /// What was paid for it.
    pub payments: Vec<Payment>,
    /// Why it was not carried out.
    pub reason: Option<String>,
    history: Vec<Change>,
    saga: HashMap<String, String>,
}

#[derive(Deserialize, Debug)]
#[serde(rename_all = "camelCase")]
struct Item {
    product_id: u64,
    quantity: u64,
    unit_price: u64,
}

/// A payment, as an order shows it.
#[derive(Deserialize, Debug)]
#[serde(rename_all = "camelCase")]
pub struct Payment {
    /// The payment.
    pub payment_id: u64,
    amount: u64,
    /// What became of it.
    pub status: PaymentStatus,
    reason: Option<String>,
}

impl Shown {
    /// Whether it was ever confirmed.
    #[must_use]
    pub fn was_confirmed(&self) -> bool {
        self.history.iter().any(|change| change.status == Status::Confirmed)
    }
}

impl Payment {
    /// Whether the order took it, though it may have given it back later.
    fn was_applied(&self) -> bool {
        let refused = ["ORDER_NOT_PAYABLE", "AMOUNT_MISMATCH", "ORDER_NOT_FOUND"];
        self.status != PaymentStatus::Failed && !self.reason.as_deref().is_some_and(|reason| refused.contains(&reason))
    }
}

#[derive(Deserialize, Debug)]
struct Change {
    status: Status,
}

/// A product's counts.
#[derive(Deserialize, Debug)]
pub struct Counts {
    available: u64,
    reserved: u64,
    sold: u64,
}

/// What orders hold of each product.
#[derive(Clone, Default)]
pub struct Holdings {
    reserved: [u64; PRODUCTS as usize],
    sold: [u64; PRODUCTS as usize],
}

impl Holdings {
    /// These and those.
    pub fn add(&mut self, others: &Holdings) {
        self.reserved.iter_mut().zip(others.reserved).for_each(|(sum, n)| *sum += n);
        self.sold.iter_mut().zip(others.sold).for_each(|(sum, n)| *sum += n);
    }
}

/// What was accepted for an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// A payment.
    Payment {
        /// Its id.
        id: u64,
        /// Whether the provider said that it failed.
        failed: bool,
    },
    /// A cancel.
    Cancel,
    /// That it was shipped.
    Ship,
    /// That it was delivered.
    Deliver,
}

impl Ledger {
    /// For users and products whose ids begin at `base`.
    #[must_use]
    pub fn new(base: u64, users: u32) -> Ledger {
        let plenty = |product| if product < PRODUCTS - SCARCE { PLENTY } else { SCARCE_STOCK };
        Ledger {
            base,
            orders: HashMap::new(),
            of_users: vec![Vec::new(); users as usize],
            points: vec![0; users as usize],
            stock: std::array::from_fn(|product| plenty(product as u32)),
            unmatched: Vec::new(),
        }
    }

    /// How many orders were made.
    #[must_use]
    pub fn made(&self) -> u64 {
        self.orders.len() as u64
    }

    /// An order was made.
    pub fn add_order(&mut self, id: u64, order: Order) -> Result<(), Broken> {
        self.of_users[order.user as usize].push(id);
        let (payments, cancels, ships, delivers) = (Vec::new(), 0, 0, 0);
        let made = Made { order, payments, cancels, ships, delivers, uncancellable: false, unpayable: false };
        if self.orders.insert(id, made).is_some() { Err(format!("two orders have the id {id}")) } else { Ok(()) }
    }

    /// A user was given points.
    pub fn add_points(&mut self, user: u32, add: u64) {
        self.points[user as usize] += add;
    }

    /// There is more of a product.
    pub fn add_stock(&mut self, product: u32, add: u64) {
        self.stock[product as usize] += add;
    }

    /// Something was accepted for an order.
    pub fn accepted(&mut self, order: u64, what: Accepted) {
        let made = self.made_order(order);
        match what {
            Accepted::Payment { id, failed } => made.payments.push((id, failed)),
            Accepted::Cancel => made.cancels += 1,
            Accepted::Ship => made.ships += 1,
            Accepted::Deliver => made.delivers += 1,
        }
    }

    /// A cancel was refused for what the order is.
    pub fn uncancellable(&mut self, order: u64) {
        self.made_order(order).uncancellable = true;
    }

    /// A payment was refused for what the order is.
    pub fn unpayable(&mut self, order: u64) {
        self.made_order(order).unpayable = true;
    }

    /// A payment was told of an order that nobody makes.
    pub fn add_unmatched(&mut self, payment: u64, order: u64) {
        self.unmatched.push((Instant::now(), payment, order));
    }

    /// All of them: payment and order.
    #[must_use]
    pub fn unmatched(&self) -> Vec<(u64, u64)> {
        self.unmatched.iter().map(|(_, payment, order)| (*payment, *order)).collect()
    }

    /// Checks a payment of an order that nobody makes: it is kept while its order might come, and then given back.
    pub fn check_unmatched(&self, payment: u64, status: PaymentStatus, reason: Option<&str>) -> Result<(), Broken> {
        let told = self.unmatched.iter().find(|(_, known, _)| *known == payment).map_or_else(Instant::now, |(told, ..)| *told);
        let right = match (status, reason) {
            (PaymentStatus::Completed, None) => told.elapsed() < MATCHED_WITHIN + SETTLE,
            (PaymentStatus::Refunded, Some("ORDER_NOT_FOUND")) => told.elapsed() >= MATCHED_WITHIN,
            _ => false,
        };
        let seconds = told.elapsed().as_secs();
        if right { Ok(()) } else { Err(format!("payment {payment} of no order is {status:?} for {reason:?} after {seconds} s")) }
    }

    fn made_order(&mut self, id: u64) -> &mut Made {
        self.orders.get_mut(&id).expect("only an order that was made is acted on")
    }

    /// The user of an order of this load.
    #[must_use]
    pub fn user_of(&self, order: u64) -> Option<u32> {
        self.orders.get(&order).map(|made| made.order.user)
    }

    /// How many orders a user made.
    #[must_use]
    pub fn orders_of(&self, user: u32) -> usize {
        self.of_users[user as usize].len()
    }

    /// The orders that were made last.
    #[must_use]
    pub fn newest(&self, count: usize) -> Vec<u64> {
        let mut ids: Vec<u64> = self.orders.keys().copied().collect();
        ids.sort_unstable();
        ids.split_off(ids.len().saturating_sub(count))
    }

    /// Whether everything that was accepted for an order has come to it, and nothing that follows from it is under way.
    #[must_use]
    pub fn is_at_rest(&self, shown: &Shown) -> bool {
        let Some(made) = self.orders.get(&shown.order_id) else { return true };
        let is_known = |id: u64| shown.payments.iter().any(|payment| payment.payment_id == id);
        let cancelled = made.cancels == 0 || shown.status != Status::Pending && shown.status != Status::Confirmed;
        let paid = shown.status != Status::Pending || !shown.payments.iter().any(Payment::was_applied);
        let ended = shown.reason.is_none() || matches!(shown.status, Status::Cancelled | Status::Failed);
        let quiet = !shown.saga.values().any(|progress| progress == "RUNNING");
        cancelled && paid && ended && quiet && made.payments.iter().all(|(id, _)| is_known(*id))
    }

    /// How many events a user is to hear, by the orders that it has.
    #[must_use]
    pub fn events_due(&self, orders: &[Shown]) -> usize {
        let due = |shown: &Shown| {
            let refunds = shown.payments.iter().filter(|payment| payment.status == PaymentStatus::Refunded).count();
            let applied = shown.payments.iter().filter(|payment| payment.was_applied()).count();
            shown.history.len() - 1 + refunds + applied + self.rejected_cancels(shown)
        };
        orders.iter().map(due).sum()
    }

    /// How many of its cancels have to have been rejected.
    fn rejected_cancels(&self, shown: &Shown) -> usize {
        let cancels = self.orders.get(&shown.order_id).map_or(0, |made| made.cancels);
        cancels - usize::from(shown.status == Status::Cancelled).min(cancels)
    }

    /// Checks all orders of a user, its points and all that it has heard; gives what the orders hold of each product.
    pub fn check_user(&self, user: u32, orders: &[Shown], balance: u64, heard: &[Heard]) -> Result<Holdings, Broken> {
        let id = self.base + u64::from(user);
        let mut shown: Vec<u64> = orders.iter().map(|order| order.order_id).collect();
        let mut made = self.of_users[user as usize].clone();
        shown.sort_unstable();
        made.sort_unstable();
        if shown != made {
            return Err(format!("user {id} made {} orders and has {}, or others", made.len(), shown.len()));
        }
        let mut by_order: HashMap<u64, Vec<Heard>> = HashMap::new();
        heard.iter().for_each(|event| by_order.entry(event.order).or_default().push(*event));
        let mut holdings = Holdings::default();
        let mut used = 0;
        for order in orders {
            self.check_order(id, order, &by_order.remove(&order.order_id).unwrap_or_default())?;
            if order.status.is_live() {
                used += order.use_points;
            }
            for Item { product_id, quantity, .. } in &order.items {
                let product = (product_id - self.base) as usize;
                match order.status {
                    Status::Pending => holdings.reserved[product] += quantity,
                    status if status.is_live() => holdings.sold[product] += quantity,
                    _ => {}
                }
            }
        }
        if let Some(order) = by_order.keys().next() {
            return Err(format!("user {id} heard of order {order}, which it did not make"));
        }
        let added = self.points[user as usize];
        if balance + used != added {
            return Err(format!("user {id} was given {added} points, has {balance}, and its orders use {used}"));
        }
        Ok(holdings)
    }

    fn check_order(&self, user: u64, shown: &Shown, heard: &[Heard]) -> Result<(), Broken> {
        let (id, status, made) = (shown.order_id, shown.status, &self.orders[&shown.order_id]);
        let broken = |what: &str| Err(format!("order {id} of user {user}, which is {status:?}, {what}: {shown:?}"));
        let lines = made
            .order
            .lines
            .iter()
            .map(|(product, quantity)| (self.base + u64::from(*product), (*quantity).into(), price(*product)));
        let items = shown.items.iter().map(|item| (item.product_id, item.quantity, item.unit_price));
        let (total, points) = (made.order.total(), made.order.points);
        if shown.user_id != user
            || !lines.eq(items)
            || (shown.total_amount, shown.use_points, shown.amount_due) != (total, points, total - points)
        {
            return broken("is not as it was made");
        }
        if !self.is_at_rest(shown) {
            return broken("does not come to rest");
        }
        let statuses: Vec<Status> = shown.history.iter().map(|change| change.status).collect();
        if statuses.first() != Some(&Status::Pending)
            || statuses.last() != Some(&status)
            || statuses.windows(2).any(|pair| !pair[1].may_follow(pair[0]))
        {
            return broken("has an impossible history");
        }

        let mut payments: Vec<(u64, bool)> =
            shown.payments.iter().map(|p| (p.payment_id, p.status == PaymentStatus::Failed)).collect();
        let mut accepted = made.payments.clone();
        payments.sort_unstable();
        accepted.sort_unstable();
        if payments != accepted {
            return broken(&format!("has other payments than were accepted, {accepted:?}"));
        }
        let completed: Vec<&Payment> = shown.payments.iter().filter(|p| p.status == PaymentStatus::Completed).collect();
        if completed.len() != usize::from(status.is_live()) || completed.iter().any(|p| p.amount != shown.amount_due) {
            return broken("keeps more or less than one payment of what is due");
        }
        if shown.payments.iter().filter(|payment| payment.was_applied()).count() > 1 {
            return broken("was paid more than once");
        }
        if made.cancels == 0 && status == Status::Cancelled
            || made.ships == 0 && statuses.contains(&Status::Shipped)
            || made.delivers == 0 && statuses.contains(&Status::Delivered)
            || made.payments.is_empty() && statuses.contains(&Status::Confirmed)
        {
            return broken("is where nobody brought it");
        }
        if made.uncancellable && matches!(status, Status::Pending | Status::Confirmed) {
            return broken("can be cancelled, but a cancel was refused");
        }
        if made.unpayable && status == Status::Pending {
            return broken("can be paid, but a payment was refused");
        }

        let count = |what: What| heard.iter().filter(|event| event.what == what).count();
        for passed in [Status::Confirmed, Status::Shipped, Status::Delivered, Status::Cancelled, Status::Failed] {
            let (times, heard) = (usize::from(statuses.contains(&passed)), passed.heard_as().map_or(0, count));
            if times != heard {
                return broken(&format!("became {passed:?} {times} times, and its user heard so {heard} times"));
            }
        }
        let rejected = self.rejected_cancels(shown);
        if count(What::CancelRejected) != rejected {
            return broken(&format!(
                "was to refuse {rejected} cancels, and its user heard so {} times",
                count(What::CancelRejected)
            ));
        }
        for payment in &shown.payments {
            let times = |what| heard.iter().filter(|e| e.what == what && e.payment == payment.payment_id).count();
            let (paid, refunded) = (usize::from(payment.was_applied()), usize::from(payment.status == PaymentStatus::Refunded));
            if (times(What::PaymentCompleted), times(What::PaymentRefunded)) != (paid, refunded) {
                return broken(&format!("has payment {}, of which its user heard otherwise: {heard:?}", payment.payment_id));
            }
        }
        let at = |what: What| heard.iter().position(|event| event.what == what);
        if at(What::OrderCompleted).is_some_and(|completed| at(What::PaymentCompleted).is_none_or(|paid| paid > completed)) {
            return broken("was completed before it was paid");
        }
        Ok(())
    }

    /// Checks the delivery of an order; `None` where there is none.
    pub fn check_delivery(shown: &Shown, delivery: Option<DeliveryStatus>) -> Result<(), Broken> {
        let right = match shown.status {
            Status::Confirmed => delivery == Some(DeliveryStatus::Created),
            Status::Shipped => delivery == Some(DeliveryStatus::Shipped),
            Status::Delivered => delivery == Some(DeliveryStatus::Delivered),
            Status::Pending | Status::Cancelled | Status::Failed => delivery.is_none_or(|d| d == DeliveryStatus::Cancelled),
        };
        if right { Ok(()) } else { Err(format!("order {} is {:?}, and its delivery {delivery:?}", shown.order_id, shown.status)) }
    }

    /// Checks a product by what all orders hold of it.
    pub fn check_product(&self, product: u32, counts: &Counts, holdings: &Holdings) -> Result<(), Broken> {
        let (id, at) = (self.base + u64::from(product), product as usize);
        let Counts { available, reserved, sold } = counts;
        if available + reserved + sold != self.stock[at] {
            return Err(format!("of product {id} {} were added, and it has {counts:?}", self.stock[at]));
        }
        if (*reserved, *sold) != (holdings.reserved[at], holdings.sold[at]) {
            let (pending, live) = (holdings.reserved[at], holdings.sold[at]);
            return Err(format!("product {id} has {counts:?}, but pending orders hold {pending} and live ones {live}"));
        }
        Ok(())
    }
}
