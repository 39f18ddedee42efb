//! The topology `statistics`: how many orders are made and confirmed in each minute, what they come to, and how many coupons are issued.
//!
//! ```text
//! orders, coupons ──▶ shop.statistics ──▶ statistics, in windows of a minute
//! ```
//! What is counted is keyed by the partition that it happened in, which spreads it evenly and keeps the keys few. A minute is the sum
//! of its keys.

use millstream::codec::{Codec, Data, Decimal, Json};
use millstream::{ProcessError, Record, Scope, Store, StreamBuilder, TimeWindows, Timestamp, Topic, Windowed};
use serde::{Deserialize, Serialize};

/// The size of a window.
pub const MINUTE_MS: i64 = 60_000;

/// How long a minute can be looked at, and may still be added to.
const KEPT_MS: i64 = 7 * 24 * 3_600_000;

/// What happened, by the partition that it happened in. One partition: its keys are few and the work for each is little, while every partition
/// that a commit appends to is one more request to the brokers of a cluster.
pub const STATISTICS: Topic<u64, Happened> = Topic::with_codecs("shop.statistics", &Decimal, &Json);

/// What happened in each minute, by partition.
pub const PER_MINUTE: Store<Windowed<u64>, Figures> = Store::ordered("statistics");

/// Something that is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
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
    pub fn with(self, happened: Happened) -> Figures {
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

impl Data for Happened {
    const CODEC: &'static dyn Codec<Happened> = &Json;
}

impl Data for Figures {
    const CODEC: &'static dyn Codec<Figures> = &Json;
}

/// Adds the topology.
pub fn declare(builder: &mut StreamBuilder) {
    // Whatever is late by less than a minute is kept counts, for nothing is emitted when it ends.
    let minutes = TimeWindows::tumbling_ms(MINUTE_MS).grace_ms(KEPT_MS);
    let happened = builder.stream(&STATISTICS).group_by_key().windowed_by(minutes);
    happened.aggregate(PER_MINUTE.name(), Figures::default, |_, happened, figures| figures.with(happened));
}

/// Lets something be counted, by a processor that has [`STATISTICS`] as a sink. Records of other programs may have any time; one that lies
/// in the future would close every minute until then.
///
/// # Errors
/// As every send.
pub fn note<K: Data, V: Clone + Send + Sync + 'static>(
    ctx: &mut Scope<'_, K, V>,
    happened: Happened,
    at: Timestamp,
) -> Result<(), ProcessError> {
    let (partition, at) = (ctx.partition().0.into(), at.min(ctx.wall_clock()));
    ctx.send(&STATISTICS, Record::new(partition, happened, at))
}

#[cfg(test)]
mod tests {
    use millstream::testing::TestDriver;

    use super::*;
    use crate::topology;

    #[test]
    fn a_minute_has_what_happened_in_it_also_late_and_after_a_crash() {
        let mut driver = TestDriver::new(topology::all(&topology::Settings::default()).expect("the topologies are right"));
        let happen = |driver: &mut TestDriver, key, happened, at| {
            driver.pipe(&STATISTICS, &Record::new(key, happened, Timestamp(at)));
        };
        happen(&mut driver, 0, Happened::OrderCreated, 5);
        happen(&mut driver, 0, Happened::OrderConfirmed(700), MINUTE_MS - 1);
        happen(&mut driver, 0, Happened::OrderConfirmed(30), 3_600_000);
        driver.restart();
        happen(&mut driver, 0, Happened::OrderConfirmed(1), MINUTE_MS - 1); // an hour late
        happen(&mut driver, 5, Happened::CouponIssued, MINUTE_MS);
        let mut rows = driver.rows(&PER_MINUTE);
        rows.sort_by_key(|(window, _)| window.start);
        let rows: Vec<_> = rows.into_iter().map(|(window, figures)| (window.key, window.start.0, figures)).collect();
        let (none, hour) = (Figures::default(), 3_600_000);
        let expected = [
            (0, 0, Figures { orders_created: 1, orders_confirmed: 2, revenue: 701, ..none }),
            (5, MINUTE_MS, Figures { coupons_issued: 1, ..none }),
            (0, hour, Figures { orders_confirmed: 1, revenue: 30, ..none }),
        ];
        assert_eq!(rows, expected);
    }
}
