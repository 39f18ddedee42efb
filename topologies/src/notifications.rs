//! The topology `notifications`: what users hear, numbered user by user.
//!
//! ```text
//! shop.notifications ──▶ number ── notification-counts, notifications, user-coupons
//! ```
//! Every topology that has news for a user writes them to one topic, keyed by the user. Here each gets the user's next number, in the
//! transaction that reads it: so the same news have the same number for good, whatever crashes, and one user's numbers are one growing
//! sequence over all kinds of news. The number is the id of the event on the user's stream. Languages and wording are not decided here.

use millstream::codec::{Codec, Data, Decimal, Json};
use millstream::{Process, ProcessError, Record, Scope, Store, StreamBuilder, Timestamp, Topic};
use serde::{Deserialize, Serialize};

use crate::coupons::domain::Refusal;
use crate::time::Iso;

/// For how long a client that was away can catch up.
const KEPT_MS: u64 = 24 * 3_600_000;

/// News for users, by user.
pub const NOTIFICATIONS: Topic<u64, Notification> = Topic::with_codecs("shop.notifications", &Decimal, &Json).partitions(3);

/// How many news a user has had: the number of the last one.
pub const NOTIFICATION_COUNTS: Store<u64, u64> = Store::keyed("notification-counts");

/// What users have heard, by (user, number).
pub const HEARD: Store<(u64, u64), Notification> = Store::ordered("notifications").ttl_ms(KEPT_MS);

/// Who has which coupons, by (user, number of the news): in the order in which the user got them.
pub const USER_COUPONS: Store<(u64, u64), UserCoupon> = Store::ordered("user-coupons");

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

/// A coupon that a user has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UserCoupon {
    /// The coupon.
    pub coupon_id: u64,
    /// Its name.
    pub coupon_name: String,
    /// Since when.
    pub issued_at: Iso,
}

impl Data for Notification {
    const CODEC: &'static dyn Codec<Notification> = &Json;
}

impl Data for UserCoupon {
    const CODEC: &'static dyn Codec<UserCoupon> = &Json;
}

/// Adds the topology.
pub fn declare(builder: &mut StreamBuilder) {
    builder
        .stream(&NOTIFICATIONS)
        .process(Process::new("number", number).store(&NOTIFICATION_COUNTS).store(&HEARD).store(&USER_COUPONS));
}

fn number(ctx: &mut Scope<'_, u64, ()>, record: Record<u64, Notification>) -> Result<(), ProcessError> {
    let (user, notification) = (record.key, record.value);
    let number = ctx.store(&NOTIFICATION_COUNTS).get(&user)?.unwrap_or(0) + 1;
    ctx.store(&NOTIFICATION_COUNTS).put(&user, &number)?;
    ctx.store(&HEARD).put(&(user, number), &notification)?;
    if let Notification { at_ms, news: News::CouponIssued { coupon_id, coupon_name } } = notification {
        let coupon = UserCoupon { coupon_id, coupon_name, issued_at: Iso(Timestamp(at_ms)) };
        ctx.store(&USER_COUPONS).put(&(user, number), &coupon)?;
    }
    Ok(())
}
