//! Workload W2: orders with their payments, as a topology and as the input that the workload defines.

use millstream::codec::{Codec, Data, Json};
use millstream::{JoinWindows, Stream};
use serde::{Deserialize, Serialize};

use crate::{SplitMix64, T0};

const FIVE_MINUTES: JoinWindows = JoinWindows::of_ms(5 * 60_000);

/// An order.
#[allow(missing_docs)]
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Order {
    pub order_id: String,
    pub user_id: String,
    pub amount: u64,
    pub ordered_at: i64,
}

/// A payment of one.
#[allow(missing_docs)]
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Payment {
    pub payment_id: String,
    pub order_id: String,
    pub paid: u64,
    pub method: String,
    pub paid_at: i64,
}

/// Both.
#[allow(missing_docs)]
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PaidOrder {
    pub order_id: String,
    pub user_id: String,
    pub amount: u64,
    pub ordered_at: i64,
    pub payment_id: String,
    pub method: String,
    pub paid: u64,
    pub paid_at: i64,
}

impl Data for Order {
    const CODEC: &'static dyn Codec<Order> = &Json;
}

impl Data for Payment {
    const CODEC: &'static dyn Codec<Payment> = &Json;
}

impl Data for PaidOrder {
    const CODEC: &'static dyn Codec<PaidOrder> = &Json;
}

/// Orders with their payments; the stores are `paid-left` and `paid-right`.
pub fn paid(orders: &Stream<String, Order>, payments: &Stream<String, Payment>) -> Stream<String, PaidOrder> {
    orders.join_stream("paid", payments, FIVE_MINUTES, |order, payment| PaidOrder {
        order_id: order.order_id,
        user_id: order.user_id,
        amount: order.amount,
        ordered_at: order.ordered_at,
        payment_id: payment.payment_id,
        method: payment.method,
        paid: payment.paid,
        paid_at: payment.paid_at,
    })
}

/// Key, timestamp and value of each record: so many orders, and the payments of nine out of ten of them, each in the order of time.
#[must_use]
pub fn orders_and_payments(orders: u64) -> (Vec<(String, i64, Order)>, Vec<(String, i64, Payment)>) {
    let mut random = SplitMix64(2);
    let (mut ordered, mut payments) = (Vec::new(), Vec::new());
    for i in 0..orders {
        let key = format!("order-{i:07}");
        let (user, amount) = (random.below(100_000_000), 1000 + random.below(99_000));
        let (unpaid, delay) = (random.below(10) == 0, random.below(60_001));
        let ordered_at = T0 + i as i64;
        let order = Order { order_id: key.clone(), user_id: format!("user-{user:08}"), amount, ordered_at };
        ordered.push((key.clone(), ordered_at, order));
        if !unpaid {
            let (paid_at, method) = (ordered_at + delay as i64, ["CARD", "TRANSFER", "POINT"][(i % 3) as usize].to_owned());
            let payment = Payment { payment_id: format!("pay-{i:07}"), order_id: key.clone(), paid: amount, method, paid_at };
            payments.push((key, paid_at, payment));
        }
    }
    payments.sort_by_key(|(_, paid_at, _)| *paid_at);
    (ordered, payments)
}
