//! What an order is: its terms, where it is, what others do for it. How it gets from one to the other is in [`machine`](super::machine).

use serde::{Deserialize, Serialize};

use super::events::OrderCreated;
use crate::time::Iso;

/// Why an order failed.
pub mod reason {
    /// A product does not suffice.
    pub const OUT_OF_STOCK: &str = "OUT_OF_STOCK";
    /// The user has not as many points as the order uses.
    pub const INSUFFICIENT_POINTS: &str = "INSUFFICIENT_POINTS";
    /// The payment provider said no.
    pub const PAYMENT_FAILED: &str = "PAYMENT_FAILED";
    /// Nobody paid in time.
    pub const PAYMENT_TIMEOUT: &str = "PAYMENT_TIMEOUT";
}

/// Where an order is, as everybody sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Status {
    /// Stock is reserved, payment awaited, steps run.
    Pending,
    /// Paid and complete.
    Confirmed,
    /// With the carrier.
    Shipped,
    /// With the user. Final.
    Delivered,
    /// Final.
    Cancelled,
    /// Final.
    Failed,
}

impl Status {
    /// Every way from one to another; `None` where an order begins.
    pub const TRANSITIONS: [(Option<Status>, Status); 7] = [
        (None, Status::Pending),
        (Some(Status::Pending), Status::Confirmed),
        (Some(Status::Pending), Status::Cancelled),
        (Some(Status::Pending), Status::Failed),
        (Some(Status::Confirmed), Status::Cancelled),
        (Some(Status::Confirmed), Status::Shipped),
        (Some(Status::Shipped), Status::Delivered),
    ];

    /// The name that is written.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Status::Pending => "PENDING",
            Status::Confirmed => "CONFIRMED",
            Status::Shipped => "SHIPPED",
            Status::Delivered => "DELIVERED",
            Status::Cancelled => "CANCELLED",
            Status::Failed => "FAILED",
        }
    }
}

/// How an order ends that is not delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum End {
    /// Somebody wanted it so.
    Cancelled,
    /// It could not be carried out.
    Failed,
}

/// Where an order is within its saga. `payment` is the one that was applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Stage {
    /// Stock is being reserved; a payment may have come already.
    Reserving {
        /// The payment that waits for the stock.
        payment: Option<u64>,
    },
    /// Stock is reserved, payment awaited.
    Unpaid,
    /// Paid: reservation is confirmed, points are taken, the delivery is created.
    Completing {
        /// What paid for it.
        payment: u64,
    },
    /// All done.
    Confirmed {
        /// What paid for it.
        payment: u64,
    },
    /// With the carrier.
    Shipped {
        /// What paid for it.
        payment: u64,
    },
    /// With the user.
    Delivered {
        /// What paid for it.
        payment: u64,
    },
    /// To be undone, once what still runs has answered.
    Stopping {
        /// What it comes to.
        end: End,
        /// What paid for it, to be refunded.
        payment: Option<u64>,
    },
    /// Being undone.
    Undoing {
        /// What it comes to.
        end: End,
    },
    /// All undone.
    Ended {
        /// What it came to.
        end: End,
    },
}

/// What others do for an order. A step forward is undone by its opposite.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Step {
    /// Inventory: keep what the order needs of a product.
    Reserve(u64),
    /// Inventory: it is sold.
    Sell(u64),
    /// Inventory: put back what was reserved or sold.
    Release(u64),
    /// Points: take what the order uses.
    TakePoints,
    /// Points: give them back.
    ReturnPoints,
    /// Deliveries: prepare one.
    CreateDelivery,
    /// Deliveries: there will be none.
    CancelDelivery,
    /// Payments: give a payment back.
    Refund(u64),
}

impl Step {
    /// Whether the step carries the order on, and does not take it back.
    #[must_use]
    pub fn is_forward(self) -> bool {
        match self {
            Step::Reserve(_) | Step::Sell(_) | Step::TakePoints | Step::CreateDelivery => true,
            Step::Release(_) | Step::ReturnPoints | Step::CancelDelivery | Step::Refund(_) => false,
        }
    }

    /// What undoes the step, if something must.
    #[must_use]
    pub fn opposite(self) -> Option<Step> {
        match self {
            Step::Reserve(product) => Some(Step::Release(product)),
            Step::TakePoints => Some(Step::ReturnPoints),
            Step::CreateDelivery => Some(Step::CancelDelivery),
            // What was sold was reserved before: one release gives it back.
            Step::Sell(_) | Step::Release(_) | Step::ReturnPoints | Step::CancelDelivery | Step::Refund(_) => None,
        }
    }
}

/// How far a step is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Progress {
    /// It is asked for.
    Running,
    /// It is done.
    Done,
    /// It cannot be done, and nothing was.
    Refused,
}

/// What a participant says of a step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Answer {
    /// It is done.
    Done,
    /// It cannot be done, for this reason.
    Refused(String),
}

/// A payment for an order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OrderPayment {
    /// The payment.
    pub payment_id: u64,
    /// How much.
    pub amount: u64,
    /// What became of it.
    pub status: PaymentStatus,
    /// Why it was not applied, or is given back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What became of a payment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum PaymentStatus {
    /// The money is there.
    Completed,
    /// There is no money.
    Failed,
    /// The money was given back.
    Refunded,
}

/// A status and since when.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Change {
    /// The status.
    pub status: Status,
    /// Since when.
    pub at: Iso,
}

/// An order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Order {
    /// What it was made with.
    pub terms: OrderCreated,
    /// When it fails if it is not paid.
    pub pay_until: Iso,
    /// Where it is.
    pub stage: Stage,
    /// What others were asked to do for it, in that order.
    pub steps: Vec<(Step, Progress)>,
    /// All payments that came for it.
    pub payments: Vec<OrderPayment>,
    /// Why it ends without being delivered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Every status it had.
    pub history: Vec<Change>,
}
