//! Statistics: how many orders are made and confirmed in each minute, what they come to, and how many coupons are issued.
//!
//! What happens is counted where it is decided, in a store of that topology and in the same commit: a topic and a task of their own would be
//! more for every commit to append to. A minute is the sum of what all partitions have of it.

use millstream::codec::{Codec, Data, Json};
use millstream::{Direction, ProcessError, Scope, Store, Timestamp};
use serde::{Deserialize, Serialize};

/// What is counted together, in milliseconds.
pub const MINUTE_MS: i64 = 60_000;

/// How long a minute can be looked at, and may still be added to.
const KEPT_MS: i64 = 7 * 24 * 3_600_000;

/// Minutes by when they began, in milliseconds since 1970.
pub type Minutes = Store<i64, Figures>;

/// What happened to orders in each minute.
pub const ORDER_STATISTICS: Minutes = Store::ordered("order-statistics");

/// What happened to coupons in each minute.
pub const COUPON_STATISTICS: Minutes = Store::ordered("coupon-statistics");

/// Something that is counted.
#[derive(Clone, Copy, Debug)]
pub enum Happened {
    /// An order was made.
    OrderCreated,
    /// An order was confirmed, of so much in all.
    OrderConfirmed(u64),
    /// A coupon was issued.
    CouponIssued,
}

/// What happened in a stretch of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Figures {
    /// Orders that were made.
    pub orders_created: u64,
    /// Orders that were confirmed.
    pub orders_confirmed: u64,
    /// The sum of what these come to, points included.
    pub revenue: u64,
    /// Coupons that were issued.
    pub coupons_issued: u64,
}

impl Figures {
    /// These and one thing more.
    #[must_use]
    fn with(self, happened: Happened) -> Figures {
        match happened {
            Happened::OrderCreated => Figures { orders_created: self.orders_created + 1, ..self },
            Happened::OrderConfirmed(total) => {
                Figures { orders_confirmed: self.orders_confirmed + 1, revenue: self.revenue.saturating_add(total), ..self }
            }
            Happened::CouponIssued => Figures { coupons_issued: self.coupons_issued + 1, ..self },
        }
    }
}

impl std::ops::AddAssign for Figures {
    fn add_assign(&mut self, other: Figures) {
        let Figures { orders_created, orders_confirmed, revenue, coupons_issued } = other;
        self.orders_created += orders_created;
        self.orders_confirmed += orders_confirmed;
        self.revenue = self.revenue.saturating_add(revenue);
        self.coupons_issued += coupons_issued;
    }
}

impl Data for Figures {
    const CODEC: &'static dyn Codec<Figures> = &Json;
}

/// Counts something that happened, in a store of the processor. Records of other programs may have any time: what lies in the future counts as of
/// now, and what lies before all that is kept does not count.
///
/// # Errors
/// If the state cannot be read.
pub fn count<K: Data, V: Clone + Send + Sync + 'static>(
    ctx: &mut Scope<'_, K, V>,
    minutes: &Minutes,
    happened: Happened,
    at: Timestamp,
) -> Result<(), ProcessError> {
    let now = ctx.wall_clock();
    let minute = at.min(now).0.div_euclid(MINUTE_MS) * MINUTE_MS;
    let oldest = now.0 - KEPT_MS;
    if minute < oldest {
        return Ok(());
    }
    let mut minutes = ctx.store(minutes);
    let figures = match minutes.get(&minute)? {
        Some(figures) => figures,
        // With each new one the old ones go.
        None => {
            let old = minutes.range(&i64::MIN, &oldest, Direction::Forward)?.map(|row| Ok(row?.0));
            let old: Vec<i64> = old.collect::<Result<_, ProcessError>>()?;
            old.iter().try_for_each(|minute| minutes.delete(minute))?;
            Figures::default()
        }
    };
    minutes.put(&minute, &figures.with(happened))
}

#[cfg(test)]
mod tests {
    use millstream::Record;
    use millstream::testing::TestDriver;

    use super::*;
    use crate::coupons::domain::Terms;
    use crate::coupons::topology::{CATALOGUE, COUPON_ISSUE, CouponIssueRequest};
    use crate::time::Iso;
    use crate::topology;

    const COUPON: u64 = 7;

    fn issue(driver: &mut TestDriver, user_id: u64, at: i64) {
        let request = CouponIssueRequest { coupon_id: COUPON, user_id, requested_at: Iso(Timestamp(at)) };
        driver.pipe(&COUPON_ISSUE, &Record::new(COUPON, request, Timestamp(at)));
    }

    /// When minutes began, and how many coupons were issued in each.
    fn issued(driver: &TestDriver) -> Vec<(i64, u64)> {
        let mut rows: Vec<_> =
            driver.rows(&COUPON_STATISTICS).into_iter().map(|(minute, figures)| (minute, figures.coupons_issued)).collect();
        rows.sort_unstable();
        rows
    }

    #[test]
    fn a_minute_has_what_happened_in_it_also_late_and_after_a_crash_until_it_is_forgotten() {
        let mut driver = TestDriver::new(topology::all(&topology::Settings::default()).expect("the topologies are right"));
        let terms = Terms { coupon_id: COUPON, name: "Seven".into(), limit: 100, opens_at: None, closes_at: None };
        driver.pipe(&CATALOGUE, &Record::new(COUPON, terms, Timestamp(0)));
        let third = 3 * MINUTE_MS;
        driver.advance_wall_clock(third);
        issue(&mut driver, 1, 5);
        issue(&mut driver, 2, MINUTE_MS - 1);
        issue(&mut driver, 3, third);
        driver.restart();
        issue(&mut driver, 4, MINUTE_MS - 1); // late
        issue(&mut driver, 5, third + 2 * KEPT_MS); // in the future
        assert_eq!(issued(&driver), [(0, 3), (third, 2)]);

        driver.advance_wall_clock(KEPT_MS);
        issue(&mut driver, 6, MINUTE_MS); // too late
        assert_eq!(issued(&driver), [(0, 3), (third, 2)]);
        issue(&mut driver, 7, third + KEPT_MS);
        assert_eq!(issued(&driver), [(third, 2), (third + KEPT_MS, 1)]);
    }
}
