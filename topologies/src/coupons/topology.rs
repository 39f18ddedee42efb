//! The topology `coupons`: who gets a coupon is decided here and nowhere else.
//!
//! ```text
//! shop.coupons ──▶ create-coupon ─┐
//!                                 ├─ coupons, coupons-by-age, coupon-claims, user-coupons, coupon-statistics
//! coupon-issue ──▶ decide-claim ──┘
//!                        └──▶ shop.notifications
//! ```
//! Both topics are keyed by the coupon, so one task sees all that happens to a coupon, in order: first come is first in the partition.
//! What a record changes and what its user is told are one transaction, so that whatever crashes, a coupon is issued at most `limit` times
//! and to each user at most once.

use millstream::codec::{Codec, Data, Decimal, Json};
use millstream::{Process, ProcessError, Record, Scope, Store, StreamBuilder, Topic};
use serde::{Deserialize, Serialize};

use super::domain::{Coupon, Decision, Terms, decide};
use crate::events::{self, EventTopic, expect_key};
use crate::notifications::{NOTIFICATIONS, News, Notification};
use crate::statistics::{self, COUPON_STATISTICS, Happened};
use crate::time::Iso;

/// Both topics have equally many: a coupon's terms and its claims meet in one task.
const PARTITIONS: u32 = 3;

/// The catalogue: coupons to be created.
pub const CATALOGUE: Topic<u64, Terms> =
    Topic::with_codecs("shop.coupons", &Decimal, &Json).partitions(PARTITIONS).keep_forever();

const COUPON_ISSUE_NAME: &str = "coupon-issue";

/// Claims. Other programs may write here, too.
pub const COUPON_ISSUE: Topic<u64, CouponIssueRequest> =
    Topic::with_codecs(COUPON_ISSUE_NAME, &Decimal, &Json).partitions(PARTITIONS).retention_ms(7 * 24 * 3_600_000);

/// The same, as any program writes it.
pub const CLAIM_EVENTS: EventTopic = events::topic(COUPON_ISSUE_NAME);

/// Every coupon.
pub const COUPONS: Store<u64, Coupon> = Store::keyed("coupons");

/// The coupons by when they were created, for listing.
pub const COUPONS_BY_AGE: Store<(i64, u64), u64> = Store::ordered("coupons-by-age");

/// Who has which coupon, and since when: (coupon, user) -> milliseconds.
pub const COUPON_CLAIMS: Store<(u64, u64), i64> = Store::keyed("coupon-claims");

/// Which coupons a user has, by (user, (when it was issued, in milliseconds, coupon)).
pub const USER_COUPONS: Store<(u64, (i64, u64)), UserCoupon> = Store::ordered("user-coupons");

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

impl Data for UserCoupon {
    const CODEC: &'static dyn Codec<UserCoupon> = &Json;
}

impl Data for Terms {
    const CODEC: &'static dyn Codec<Terms> = &Json;
}

impl Data for CouponIssueRequest {
    const CODEC: &'static dyn Codec<CouponIssueRequest> = &Json;
}

/// Adds the topology.
pub fn declare(builder: &mut StreamBuilder) {
    builder.stream(&CATALOGUE).process(Process::new("create-coupon", create_coupon).store(&COUPONS).store(&COUPONS_BY_AGE));
    let decide = Process::new("decide-claim", decide_claim).store(&COUPONS).store(&COUPON_CLAIMS).store(&USER_COUPONS);
    builder.stream(&COUPON_ISSUE).process(decide.store(&COUPON_STATISTICS)).to(&NOTIFICATIONS);
}

/// The first terms of a coupon hold; later ones change nothing.
fn create_coupon(ctx: &mut Scope<'_, u64, ()>, record: Record<u64, Terms>) -> Result<(), ProcessError> {
    let (coupon_id, terms) = (record.key, record.value);
    expect_key(coupon_id, "couponId", terms.coupon_id)?;
    if ctx.store(&COUPONS).get(&coupon_id)?.is_none() {
        ctx.store(&COUPONS).put(&coupon_id, &Coupon::new(terms))?;
        ctx.store(&COUPONS_BY_AGE).put(&(record.timestamp.0, coupon_id), &coupon_id)?;
    }
    Ok(())
}

/// A claim is decided at the time of its record, and its user hears of it.
fn decide_claim(ctx: &mut Scope<'_, u64, Notification>, record: Record<u64, CouponIssueRequest>) -> Result<(), ProcessError> {
    let (at, CouponIssueRequest { coupon_id, user_id, .. }) = (record.timestamp, record.value);
    expect_key(record.key, "couponId", coupon_id)?;
    let claim = (coupon_id, user_id);
    let coupon = ctx.store(&COUPONS).get(&coupon_id)?;
    let has_it = ctx.store(&COUPON_CLAIMS).get(&claim)?.is_some();
    let news = match decide(coupon, has_it, at) {
        Decision::Issue(coupon) => {
            ctx.store(&COUPONS).put(&coupon_id, &coupon)?;
            ctx.store(&COUPON_CLAIMS).put(&claim, &at.0)?;
            let (coupon_name, issued_at) = (coupon.name.clone(), Iso(at));
            ctx.store(&USER_COUPONS).put(&(user_id, (at.0, coupon_id)), &UserCoupon { coupon_id, coupon_name, issued_at })?;
            statistics::count(ctx, &COUPON_STATISTICS, Happened::CouponIssued, at)?;
            News::CouponIssued { coupon_id, coupon_name: coupon.name }
        }
        Decision::Refuse(reason) => News::CouponRejected { coupon_id, reason },
    };
    ctx.forward(Record::new(user_id, Notification { at_ms: at.0, news }, at))
}

#[cfg(test)]
mod tests {
    use millstream::testing::TestDriver;
    use millstream::{Headers, Timestamp};

    use super::*;
    use crate::coupons::domain::Refusal;
    use crate::notifications::HEARD;
    use crate::topology;

    const COUPON: u64 = 7;

    fn driver() -> TestDriver {
        TestDriver::new(topology::all(&topology::Settings::default()).expect("the topologies are right"))
    }

    fn create(driver: &mut TestDriver, limit: u64, at: i64) {
        let terms =
            Terms { coupon_id: COUPON, name: "Seven".into(), limit, opens_at: Some(Iso(Timestamp(100))), closes_at: None };
        driver.pipe(&CATALOGUE, &Record::new(COUPON, terms, Timestamp(at)));
    }

    fn claim(driver: &mut TestDriver, coupon_id: u64, user_id: u64, at: i64) {
        let request = CouponIssueRequest { coupon_id, user_id, requested_at: Iso(Timestamp(at)) };
        driver.pipe(&COUPON_ISSUE, &Record::new(coupon_id, request, Timestamp(at)));
    }

    #[test]
    fn the_first_come_get_it_and_everybody_hears() {
        let mut driver = driver();
        claim(&mut driver, COUPON, 1, 100); // there is no such coupon yet
        create(&mut driver, 2, 101);
        claim(&mut driver, COUPON, 1, 99); // not open at that time
        claim(&mut driver, COUPON, 1, 102);
        claim(&mut driver, COUPON, 1, 103);
        driver.restart(); // all state from the changelogs
        claim(&mut driver, COUPON, 2, 104);
        claim(&mut driver, COUPON, 3, 105);

        let coupon = driver.get(&COUPONS, &COUPON).expect("the coupon");
        assert_eq!((coupon.issued, coupon.remaining()), (2, 0));
        assert_eq!(driver.rows(&COUPON_CLAIMS), [((COUPON, 1), 102), ((COUPON, 2), 104)]);
        let rejected = |reason| News::CouponRejected { coupon_id: COUPON, reason };
        let issued = || News::CouponIssued { coupon_id: COUPON, coupon_name: "Seven".into() };
        let mut heard = driver.rows(&HEARD);
        heard.sort_by_key(|(place, _)| *place);
        let heard: Vec<_> =
            heard.into_iter().filter_map(|((user, _), event)| event.value.map(|heard| (user, heard.at_ms, heard.news))).collect();
        let expected = [
            (1, 100, rejected(Refusal::NotFound)),
            (1, 99, rejected(Refusal::NotOpen)),
            (1, 102, issued()),
            (1, 103, rejected(Refusal::AlreadyIssued)),
            (2, 104, issued()),
            (3, 105, rejected(Refusal::SoldOut)),
        ];
        assert_eq!(heard, expected);
        let owned: Vec<_> = driver.rows(&USER_COUPONS).into_iter().map(|(place, coupon)| (place, coupon.issued_at.0.0)).collect();
        assert_eq!(owned, [((1, (102, COUPON)), 102), ((2, (104, COUPON)), 104)]);
    }

    #[test]
    fn the_first_terms_hold() {
        let mut driver = driver();
        create(&mut driver, 2, 100);
        claim(&mut driver, COUPON, 1, 101);
        create(&mut driver, 5, 102);
        let coupon = driver.get(&COUPONS, &COUPON).expect("the coupon");
        assert_eq!((coupon.limit, coupon.issued), (2, 1));
        assert_eq!(driver.rows(&COUPONS_BY_AGE), [((100, COUPON), COUPON)]);
    }

    #[test]
    fn what_is_no_claim_is_parked_and_changes_nothing() {
        let mut driver = driver();
        create(&mut driver, 2, 100);
        let good = r#"{"couponId":7,"userId":1,"requestedAt":"2026-01-31T12:00:00Z"}"#;
        let other = good.replace('7', "8");
        for (key, value) in [("7", other.as_str()), ("7", "{}"), ("7", "x"), ("seven", good), ("07", good)] {
            driver.pipe_bytes(COUPON_ISSUE.name(), Some(key.as_bytes()), Some(value.as_bytes()), Timestamp(200), &Headers::EMPTY);
        }
        assert_eq!(driver.rows(&COUPON_CLAIMS), []);
        driver.pipe_bytes(COUPON_ISSUE.name(), Some(b"7"), Some(good.as_bytes()), Timestamp(201), &Headers::EMPTY);
        assert_eq!(driver.rows(&COUPON_CLAIMS), [((COUPON, 1), 201)], "the partition goes on");
    }
}
