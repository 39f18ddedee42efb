//! What happens to orders, as it stands in `order-events` and `data-platform`.

use millstream::codec;
use serde::{Deserialize, Serialize};

use super::domain::Status;
use crate::events::{Event, from_payload, to_payload};
use crate::time::Iso;

/// Numbers below this are exact in every JSON reader.
pub const END: u64 = 1 << 53;
/// How many lines an order may have.
pub const MAX_ITEMS: usize = 100;
/// How much of one product an order may take.
pub const MAX_QUANTITY: u64 = 1_000_000;

/// One line of an order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Item {
    /// The product; no two lines have the same.
    pub product_id: u64,
    /// How many.
    pub quantity: u64,
    /// The price of one when the order was made.
    pub unit_price: u64,
}

/// An order was made: its terms, which never change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OrderCreated {
    /// The order; also the record's key.
    pub order_id: u64,
    /// The order's name for people.
    pub order_number: String,
    /// Who ordered.
    pub user_id: u64,
    /// What.
    pub items: Vec<Item>,
    /// The sum of the lines.
    pub total_amount: u64,
    /// How many points pay for a part of it.
    #[serde(default)]
    pub use_points: u64,
    /// When.
    pub created_at: Iso,
}

impl OrderCreated {
    /// What is to be paid in money.
    #[must_use]
    pub fn amount_due(&self) -> u64 {
        self.total_amount - self.use_points
    }

    /// Whether these terms make sense: whoever writes to the topic may be wrong.
    ///
    /// # Errors
    /// What does not fit, in words.
    pub fn check(&self) -> Result<(), &'static str> {
        if !(1..=MAX_ITEMS).contains(&self.items.len()) {
            return Err("an order has 1 to 100 items");
        }
        if self.items.iter().any(|item| !(1..=MAX_QUANTITY).contains(&item.quantity)) {
            return Err("a quantity is 1 to 1,000,000");
        }
        let mut products: Vec<u64> = self.items.iter().map(|item| item.product_id).collect();
        products.sort_unstable();
        if products.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err("a product has one line");
        }
        if total(self.items.iter().map(|item| (item.quantity, item.unit_price))) != Some(self.total_amount) {
            return Err("totalAmount is not the sum of the items");
        }
        if self.use_points > self.total_amount {
            return Err("usePoints is more than totalAmount");
        }
        Ok(())
    }
}

/// The sum of quantities and prices, if it can be written.
pub fn total(lines: impl Iterator<Item = (u64, u64)>) -> Option<u64> {
    let total = lines.map(|(quantity, price)| u128::from(quantity) * u128::from(price)).sum::<u128>();
    u64::try_from(total).ok().filter(|total| *total < END)
}

/// An order is to be cancelled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OrderCancelled {
    /// The order.
    pub order_id: u64,
    /// Why, in words of whoever cancels.
    pub reason: String,
    /// When.
    pub cancelled_at: Iso,
}

/// An order was handed to the carrier.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OrderShipped {
    /// The order.
    pub order_id: u64,
    /// When.
    pub shipped_at: Iso,
}

/// An order reached its user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OrderDelivered {
    /// The order.
    pub order_id: u64,
    /// When.
    pub delivered_at: Iso,
}

/// What stands in `order-events`. Whether it may happen, the order decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OrderEvent {
    /// It was made.
    Created(OrderCreated),
    /// It is to be cancelled.
    Cancelled(OrderCancelled),
    /// It was handed to the carrier.
    Shipped(OrderShipped),
    /// It reached its user.
    Delivered(OrderDelivered),
}

impl OrderEvent {
    /// The order.
    #[must_use]
    pub fn order_id(&self) -> u64 {
        match self {
            OrderEvent::Created(event) => event.order_id,
            OrderEvent::Cancelled(event) => event.order_id,
            OrderEvent::Shipped(event) => event.order_id,
            OrderEvent::Delivered(event) => event.order_id,
        }
    }
}

impl Event for OrderEvent {
    fn read(event_type: &str, payload: &[u8]) -> Option<Result<OrderEvent, codec::Error>> {
        Some(match event_type {
            "OrderCreated" => from_payload(payload).map(OrderEvent::Created),
            "OrderCancelled" => from_payload(payload).map(OrderEvent::Cancelled),
            "OrderShipped" => from_payload(payload).map(OrderEvent::Shipped),
            "OrderDelivered" => from_payload(payload).map(OrderEvent::Delivered),
            _ => return None,
        })
    }

    fn event_type(&self) -> &'static str {
        match self {
            OrderEvent::Created(_) => "OrderCreated",
            OrderEvent::Cancelled(_) => "OrderCancelled",
            OrderEvent::Shipped(_) => "OrderShipped",
            OrderEvent::Delivered(_) => "OrderDelivered",
        }
    }

    fn payload(&self) -> Result<Vec<u8>, codec::Error> {
        match self {
            OrderEvent::Created(event) => to_payload(event),
            OrderEvent::Cancelled(event) => to_payload(event),
            OrderEvent::Shipped(event) => to_payload(event),
            OrderEvent::Delivered(event) => to_payload(event),
        }
    }
}

/// An order has another status; for other systems.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OrderStatusChanged {
    /// The order.
    pub order_id: u64,
    /// The order's name for people.
    pub order_number: String,
    /// Who ordered.
    pub user_id: u64,
    /// What it is now.
    pub status: Status,
    /// What was ordered.
    pub items: Vec<Item>,
    /// The sum of the lines.
    pub total_amount: u64,
    /// Since when.
    pub at: Iso,
}

impl Event for OrderStatusChanged {
    fn read(event_type: &str, payload: &[u8]) -> Option<Result<OrderStatusChanged, codec::Error>> {
        (event_type == "OrderStatusChanged").then(|| from_payload(payload))
    }

    fn event_type(&self) -> &'static str {
        "OrderStatusChanged"
    }

    fn payload(&self) -> Result<Vec<u8>, codec::Error> {
        to_payload(self)
    }
}
