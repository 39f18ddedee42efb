//! The topology `coupons`: who gets a coupon is decided here and nowhere else.
//!
//! ```text
//! shop.coupons ──▶ create-coupon ─┐
//!                                 ├─ coupons, coupons-by-age, coupon-claims
//! coupon-issue ──▶ decide-claim ──┘
//!                        └──▶ shop.notifications
//! ```
//! Both topics are keyed by the coupon, so one task sees all that happens to a coupon, in order: first come is first in the partition.
//! What a record changes and what its user is told are one transaction, so that whatever crashes, a coupon is issued at most `limit` times
//! and to each user at most once.

use millstream::codec::{self, Codec, Data, Decimal, Json};
use millstream::{Process, ProcessError, Record, Scope, Store, StreamBuilder, Topic};
use serde::{Deserialize, Serialize};

use super::domain::{Coupon, Decision, Terms, decide};
use crate::notifications::{NOTIFICATIONS, Notification, News};
use crate::time::Iso;

/// Both topics have equally many: a coupon's terms and its claims meet in one task.
const PARTITIONS: u32 = 3;

/// The catalogue: coupons to be created.
pub const CATALOGUE: Topic<u64, Terms> = Topic::with_codecs("shop.coupons", &Decimal, &Json).partitions(PARTITIONS).keep_forever();

/// Claims. Other programs may write here, too.
pub const COUPON_ISSUE: Topic<u64, CouponIssueRequest> =
    Topic::with_codecs("coupon-issue", &Decimal, &Json).partitions(PARTITIONS).retention_ms(7 * 24 * 3_600_000);

/// Every coupon.
pub const COUPONS: Store<u64, Coupon> = Store::keyed("coupons");

/// The coupons by when they were created, for listing.
pub const COUPONS_BY_AGE: Store<(i64, u64), u64> = Store::ordered("coupons-by-age");

/// Who has which coupon, and since when: (coupon, user) -> milliseconds.
pub const COUPON_CLAIMS: Store<(u64, u64), i64> = Store::keyed("coupon-claims");

/// A user wants a coupon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CouponIssueRequest {
    /// The coupon; also the record's key.
    pub coupon_id: u64,
    /// The user.
    pub user_id: u64,
    /// When the user asked.
    pub requested_at: Iso,
}

impl Data for Coupon {
    const CODEC: &'static dyn Codec<Coupon> = &Json;
}

impl Data for Terms {
    const CODEC: &'static dyn Codec<Terms> = &Json;
}

impl Data for CouponIssueRequest {
    const CODEC: &'static dyn Codec<CouponIssueRequest> = &Json;
}

/// Adds the topology.
pub fn declare(builder: &mut StreamBuilder) {
    builder
        .stream(&CATALOGUE)
        .process(Process::new("create-coupon", create_coupon).store(&COUPONS).store(&COUPONS_BY_AGE));
    builder
        .stream(&COUPON_ISSUE)
        .process(Process::new("decide-claim", decide_claim).store(&COUPONS).store(&COUPON_CLAIMS))
        .to(&NOTIFICATIONS);
}

/// The first terms of a coupon hold; later ones change nothing.
fn create_coupon(ctx: &mut Scope<'_, u64, ()>, record: Record<u64, Terms>) -> Result<(), ProcessError> {
    let (coupon_id, terms) = (record.key, record.value);
    same_coupon(coupon_id, terms.coupon_id)?;
    if ctx.store(&COUPONS).get(&coupon_id)?.is_none() {
        ctx.store(&COUPONS).put(&coupon_id, &Coupon::new(terms))?;
        ctx.store(&COUPONS_BY_AGE).put(&(record.timestamp.0, coupon_id), &coupon_id)?;
    }
    Ok(())
}

/// A claim is decided at the time of its record, and its user hears of it.
fn decide_claim(ctx: &mut Scope<'_, u64, Notification>, record: Record<u64, CouponIssueRequest>) -> Result<(), ProcessError> {
    let (at, CouponIssueRequest { coupon_id, user_id, .. }) = (record.timestamp, record.value);
    same_coupon(record.key, coupon_id)?;
    let claim = (coupon_id, user_id);
    let coupon = ctx.store(&COUPONS).get(&coupon_id)?;
    let has_it = ctx.store(&COUPON_CLAIMS).get(&claim)?.is_some();
    let news = match decide(coupon, has_it, at) {
        Decision::Issue(coupon) => {
            ctx.store(&COUPONS).put(&coupon_id, &coupon)?;
            ctx.store(&COUPON_CLAIMS).put(&claim, &at.0)?;
            News::CouponIssued { coupon_id, coupon_name: coupon.name }
        }
        Decision::Refuse(reason) => News::CouponRejected { coupon_id, reason },
    };
    ctx.forward(Record::new(user_id, Notification { at_ms: at.0, news }, at))
}

/// The key decides which task gets a record: about another coupon that task knows nothing.
fn same_coupon(key: u64, coupon_id: u64) -> Result<(), ProcessError> {
    if key == coupon_id {
        return Ok(());
    }
    let error = codec::Error::invalid("record of its coupon", format_args!("the key is {key} and couponId is {coupon_id}"));
    Err(ProcessError::Undecodable { part: "value", error })
}
