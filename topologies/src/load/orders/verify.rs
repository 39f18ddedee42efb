//! The end of a trade: when nothing is sent any more and everything has come to rest, what the shop shows has to agree with what it has
//! answered, order by order, product by product and user by user. Everything is read through the public API.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use serde::Deserialize;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::Trade;
use super::ledger::{Counts, DeliveryStatus, Holdings, Ledger, Payment, PaymentStatus, Shown, Status};
use super::plan::PRODUCTS;
use crate::load::caller::Caller;
use crate::load::heard::Heard;
use crate::load::listen::replay;
use crate::load::random::Random;
use crate::load::{Error, POLL, READERS, SETTLE, locked};

/// How many of the last orders are waited for before everything is checked.
const NEWEST: usize = 512;
/// How often some product is looked at while it changes.
const LOOK: Duration = Duration::from_millis(50);

/// What was found to hold.
#[derive(Clone, Copy, Debug, Default)]
pub struct Verified {
    pub orders: u64,
    /// Confirmed, shipped or delivered.
    pub live: u64,
    pub pending: u64,
    pub cancelled: u64,
    pub failed: u64,
    pub refunds: u64,
    /// Payments of orders that nobody made.
    pub unmatched: u64,
    /// Events that users heard.
    pub events: u64,
    /// That were ever confirmed.
    confirmed: u64,
    /// What these come to.
    revenue: u64,
}

impl Verified {
    fn add(&mut self, other: Verified) {
        let Verified { orders, live, pending, cancelled, failed, refunds, unmatched, events, confirmed, revenue } = other;
        self.orders += orders;
        self.live += live;
        self.pending += pending;
        self.cancelled += cancelled;
        self.failed += failed;
        self.refunds += refunds;
        self.unmatched += unmatched;
        self.events += events;
        self.confirmed += confirmed;
        self.revenue += revenue;
    }

    fn count(&mut self, order: &Shown) {
        self.orders += 1;
        if order.was_confirmed() {
            self.confirmed += 1;
            self.revenue += order.total_amount;
        }
        *match order.status {
            Status::Pending => &mut self.pending,
            Status::Cancelled => &mut self.cancelled,
            Status::Failed => &mut self.failed,
            Status::Confirmed | Status::Shipped | Status::Delivered => &mut self.live,
        } += 1;
        self.refunds += order.payments.iter().filter(|payment| payment.status == PaymentStatus::Refunded).count() as u64;
    }
}

/// Looks at one product after the other until it is aborted: what there is of it is never less than nothing, nor more than was added.
pub async fn watch_counts(trade: Arc<Trade>) -> Result<(), Error> {
    let (mut caller, mut random) = (trade.run.caller(), Random(0));
    loop {
        sleep(LOOK).await;
        let product = random.below(PRODUCTS.into()) as u32;
        // A count below 0 would not be read.
        let _: Counts = caller.json(&format!("/api/products/{}", trade.id(product))).await?;
    }
}

/// Waits until the last orders are at rest. If that never happens, the checks that follow say so.
pub async fn settle(trade: &Trade) -> Result<(), Error> {
    let mut caller = trade.run.caller();
    let until = Instant::now() + SETTLE;
    let newest = trade.state().ledger.newest(NEWEST);
    for order in newest {
        loop {
            // One that an outside program made may not be there yet.
            let shown: Option<Shown> = caller.json_if_any(&format!("/api/orders/{order}"), "ORDER_NOT_FOUND").await?;
            if shown.is_some_and(|shown| trade.state().ledger.is_at_rest(&shown)) || Instant::now() >= until {
                break;
            }
            sleep(POLL).await;
        }
    }
    Ok(())
}

/// Checks all there is. `each_user` is called as users are done.
pub async fn verify(trade: &Arc<Trade>, each_user: impl Fn() + Send + Sync + 'static) -> Result<Verified, Error> {
    let (next, each_user) = (Arc::new(AtomicU32::new(0)), Arc::new(each_user));
    let mut readers = JoinSet::new();
    for _ in 0..READERS {
        let (trade, next, each_user) = (Arc::clone(trade), Arc::clone(&next), Arc::clone(&each_user));
        readers.spawn(async move {
            let (mut caller, mut found, mut holdings) = (trade.run.caller(), Verified::default(), Holdings::default());
            loop {
                let user = next.fetch_add(1, Relaxed);
                if user >= trade.users {
                    return Ok::<_, Error>((found, holdings));
                }
                check_user(&trade, &mut caller, user, &mut found, &mut holdings).await?;
                each_user();
            }
        });
    }
    let (mut all, mut holdings) = (Verified::default(), Holdings::default());
    while let Some(done) = readers.join_next().await {
        let (found, held) = done.expect("no reader panics or is aborted")?;
        all.add(found);
        holdings.add(&held);
    }
    let mut caller = trade.run.caller();
    check_stats(&mut caller, &all).await?;
    let unmatched = trade.state().ledger.unmatched();
    for (payment, order) in &unmatched {
        check_unmatched(trade, &mut caller, *payment, *order).await?;
    }
    all.unmatched = unmatched.len() as u64;
    for product in 0..PRODUCTS {
        let counts: Counts = caller.json(&format!("/api/products/{}", trade.id(product))).await?;
        trade.state().ledger.check_product(product, &counts, &holdings)?;
    }
    Ok(all)
}

#[derive(Deserialize)]
struct Stats {
    windows: Vec<Window>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Window {
    orders_created: u64,
    orders_confirmed: u64,
    revenue: u64,
}

/// What happened in all must be at least what this load did; there may have been other loads, and other users.
async fn check_stats(caller: &mut Caller, found: &Verified) -> Result<(), Error> {
    let until = Instant::now() + SETTLE;
    let due = (found.orders, found.confirmed, found.revenue);
    loop {
        let stats: Stats = caller.json("/api/stats?window=1d").await?;
        let sum = |of: fn(&Window) -> u64| stats.windows.iter().map(of).sum::<u64>();
        let counted = (sum(|w| w.orders_created), sum(|w| w.orders_confirmed), sum(|w| w.revenue));
        if counted.0 >= due.0 && counted.1 >= due.1 && counted.2 >= due.2 {
            return Ok(());
        }
        if Instant::now() >= until {
            return Err(Error::Broken(format!(
                "statistics count fewer orders, confirmed ones or revenue than there are: {counted:?}, not {due:?}"
            )));
        }
        sleep(POLL).await;
    }
}

#[derive(Deserialize)]
struct Points {
    balance: u64,
}

async fn check_user(
    trade: &Trade,
    caller: &mut Caller,
    user: u32,
    found: &mut Verified,
    holdings: &mut Holdings,
) -> Result<(), Error> {
    let id = trade.id(user);
    let until = Instant::now() + SETTLE;
    // Of what is read one after the other, a view may be a moment behind an event.
    let (orders, heard, held) = loop {
        let orders = orders_of(caller, id).await?;
        let at_rest = {
            let ledger = &trade.state().ledger;
            orders.len() >= ledger.orders_of(user) && orders.iter().all(|order| ledger.is_at_rest(order))
        };
        let is_over = Instant::now() >= until;
        if at_rest || is_over {
            let Points { balance } = caller.json(&format!("/api/users/{id}/points")).await?;
            let due = trade.state().ledger.events_due(&orders);
            let mut heard = trade.heard.get(user as usize).map_or_else(Heard::default, |live| locked(live).clone());
            replay(trade, id, &mut heard, due).await?;
            let checked = trade.state().ledger.check_user(user, &orders, balance, heard.all());
            match checked {
                Ok(held) => break (orders, heard, held),
                Err(error) if is_over => return Err(error.into()),
                Err(_) => {}
            }
        }
        sleep(POLL).await;
    };
    for order in &orders {
        check_delivery(caller, order).await?;
        for payment in &order.payments {
            check_payment(caller, order, payment).await?;
        }
        found.count(order);
    }
    found.events += heard.all().len() as u64;
    holdings.add(&held);
    Ok(())
}

#[derive(Deserialize)]
struct Delivery {
    status: DeliveryStatus,
}

/// A delivery hears last of what becomes of its order, so it is given some time.
async fn check_delivery(caller: &mut Caller, order: &Shown) -> Result<(), Error> {
    let path = format!("/api/deliveries/{}", order.order_id);
    let until = Instant::now() + SETTLE;
    loop {
        let delivery: Option<Delivery> = caller.json_if_any(&path, "DELIVERY_NOT_FOUND").await?;
        let delivery = delivery.map(|delivery| delivery.status);
        match Ledger::check_delivery(order, delivery) {
            Err(broken) if Instant::now() >= until => return Err(broken.into()),
            Err(_) => sleep(POLL).await,
            Ok(()) => return Ok(()),
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Seen {
    order_id: u64,
    status: PaymentStatus,
    reason: Option<String>,
}

async fn check_payment(caller: &mut Caller, order: &Shown, payment: &Payment) -> Result<(), Error> {
    let seen: Seen = caller.json(&format!("/api/payments/{}", payment.payment_id)).await?;
    if (seen.order_id, seen.status) != (order.order_id, payment.status) {
        let (id, status) = (payment.payment_id, seen.status);
        return Err(Error::Broken(format!("payment {id} is {status:?} for order {}: {order:?}", seen.order_id)));
    }
    Ok(())
}

async fn check_unmatched(trade: &Trade, caller: &mut Caller, payment: u64, order: u64) -> Result<(), Error> {
    let until = Instant::now() + SETTLE;
    let seen = loop {
        let seen: Option<Seen> = caller.json_if_any(&format!("/api/payments/{payment}"), "PAYMENT_NOT_FOUND").await?;
        match seen {
            Some(seen) => break seen,
            None if Instant::now() >= until => return Err(Error::Broken(format!("payment {payment} of the outbox never came"))),
            None => sleep(POLL).await,
        }
    };
    trade.state().ledger.check_unmatched(payment, seen.status, seen.reason.as_deref())?;
    let made: Option<Shown> = caller.json_if_any(&format!("/api/orders/{order}"), "ORDER_NOT_FOUND").await?;
    if made.is_some() || seen.order_id != order {
        return Err(Error::Broken(format!(
            "payment {payment} of order {order}, which nobody made, is of {}: {made:?}",
            seen.order_id
        )));
    }
    Ok(())
}

#[derive(Deserialize)]
struct Page {
    orders: Vec<Shown>,
    next: Option<String>,
}

/// All orders of a user, page by page.
async fn orders_of(caller: &mut Caller, user: u64) -> Result<Vec<Shown>, Error> {
    let (mut orders, mut path) = (Vec::new(), format!("/api/users/{user}/orders?limit=200"));
    loop {
        let page: Page = caller.json(&path).await?;
        orders.extend(page.orders);
        match page.next {
            Some(next) => path = format!("/api/users/{user}/orders?limit=200&before={next}"),
            None => return Ok(orders),
        }
    }
}
