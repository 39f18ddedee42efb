//! What users hear.
//!
//! ```text
//! coupons, orders ──▶ shop.notifications ──▶ notifications, in the process that they listen to
//! ```
//! Every topology that has news for a user writes them to one topic, keyed by the user, in the transaction that decides them. A user's news lie in
//! one partition, and their places there are the ids of the events on the user's stream: one growing sequence over all kinds of news, the
//! same for good, whatever crashes. Languages and wording are not decided here.

use millstream::codec::{Codec, Data, Decimal, Json};
use millstream::{FeedEvent, Store, Topic};
use serde::{Deserialize, Serialize};

use crate::coupons::domain::Refusal;

/// For how long a client that was away can catch up.
const KEPT_MS: u64 = 24 * 3_600_000;

/// News for users, by user. They are kept for another day, so that a process that was away for less than that has all of the last one.
pub const NOTIFICATIONS: Topic<u64, Notification> =
    Topic::with_codecs("shop.notifications", &Decimal, &Json).partitions(3).retention_ms(2 * KEPT_MS);

/// What users have heard, by (user, id).
pub const HEARD: Store<(u64, u64), FeedEvent<Notification>> = Store::ordered("notifications").ttl_ms(KEPT_MS);

/// Something that happened to a user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Notification {
    /// When, in milliseconds since 1970.
    pub at_ms: i64,
    /// What.
    pub news: News,
}

/// What can happen to a user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", rename_all_fields = "camelCase")]
pub enum News {
    /// The user got a coupon.
    CouponIssued {
        /// Which.
        coupon_id: u64,
        /// Its name.
        coupon_name: String,
    },
    /// The user did not get a coupon.
    CouponRejected {
        /// Which.
        coupon_id: u64,
        /// Why.
        reason: Refusal,
    },
    /// A payment was applied to the user's order.
    PaymentCompleted {
        /// Which.
        payment_id: u64,
        /// The order.
        order_id: u64,
        /// How much.
        amount: u64,
    },
    /// A payment was given back.
    PaymentRefunded {
        /// Which.
        payment_id: u64,
        /// The order.
        order_id: u64,
        /// How much.
        amount: u64,
        /// Why.
        reason: String,
    },
    /// An order is paid and all that it needs is done.
    OrderCompleted {
        /// Which.
        order_id: u64,
        /// Its name for people.
        order_number: String,
        /// The sum of its lines.
        total_amount: u64,
    },
    /// An order is cancelled.
    OrderCancelled {
        /// Which.
        order_id: u64,
        /// Its name for people.
        order_number: String,
        /// Why.
        reason: String,
    },
    /// An order could not be carried out.
    OrderFailed {
        /// Which.
        order_id: u64,
        /// Its name for people.
        order_number: String,
        /// Why.
        reason: String,
    },
    /// An order cannot be cancelled any more.
    CancelRejected {
        /// Which.
        order_id: u64,
        /// Why.
        reason: String,
    },
    /// The carrier has an order.
    OrderShipped {
        /// Which.
        order_id: u64,
        /// Its name for people.
        order_number: String,
    },
    /// The user has an order.
    OrderDelivered {
        /// Which.
        order_id: u64,
        /// Its name for people.
        order_number: String,
    },
}

impl Data for Notification {
    const CODEC: &'static dyn Codec<Notification> = &Json;
}
