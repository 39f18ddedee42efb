//! What an operator sees of the shop beyond the engine's and the server's metrics. Read off the views when it is scraped, so it is right
//! after a restart, too.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Weak};

use millstream::{Direction, MAX_PAGE, QueryError, Range};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use crate::api::Api;
use crate::orders::domain::Status;
use crate::orders::topology::Counted;

/// Registers the shop's metrics. They end with the API.
pub fn register(api: &Arc<Api>, registry: &mut Registry) {
    registry.register_collector(Box::new(Readings { api: Arc::downgrade(api) }));
}

struct Readings {
    api: Weak<Api>,
}

impl std::fmt::Debug for Readings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Readings")
    }
}

impl Collector for Readings {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let Some(api) = self.api.upgrade() else { return Ok(()) };
        let mut gauge = |name: &str, help: &str, value: u64| {
            ConstGauge::new(value).encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)
        };
        match issued(&api) {
            Ok(issued) => gauge("coupon_issue_count", "Coupons issued so far", issued)?,
            Err(error) => tracing::error!(%error, "the issued coupons cannot be counted"),
        }
        let counts = match order_counts(&api) {
            Ok(counts) => counts,
            Err(error) => {
                tracing::error!(%error, "the orders cannot be counted");
                return Ok(());
            }
        };
        let count = |what: Counted<'_>| counts.get(&what.to_string()).copied().unwrap_or(0);
        let completed = count(Counted::Turned(Some(Status::Pending), Status::Confirmed));
        gauge("order_completed_count", "Orders completed so far", completed)?;
        let help = "Events that orders refused";
        ConstCounter::new(count(Counted::Refused)).encode(encoder.encode_descriptor(
            "shop_rejected_events",
            help,
            None,
            MetricType::Counter,
        )?)?;
        let help = "Changes of orders' statuses; from nothing where they begin";
        let mut family = encoder.encode_descriptor("shop_order_transitions", help, None, MetricType::Counter)?;
        for (from, to) in Status::TRANSITIONS {
            let labels = [("from", from.map_or("", Status::name)), ("to", to.name())];
            ConstCounter::new(count(Counted::Turned(from, to))).encode(family.encode_family(&labels)?)?;
        }
        let help = "Orders that failed, by the reason";
        let mut family = encoder.encode_descriptor("shop_orders_failed", help, None, MetricType::Counter)?;
        let any_reason = Counted::Failed("").to_string();
        for (name, count) in &counts {
            if let Some(reason) = name.strip_prefix(&any_reason) {
                ConstCounter::new(*count).encode(family.encode_family(&[("reason", reason)])?)?;
            }
        }
        Ok(())
    }
}

/// What each partition counted, together.
fn order_counts(api: &Api) -> Result<BTreeMap<String, u64>, QueryError> {
    let mut counts = BTreeMap::new();
    for (name, count) in api.order_counts().page(&Range::all(), Direction::Forward, MAX_PAGE)?.ahead() {
        *counts.entry(name).or_default() += count;
    }
    Ok(counts)
}

/// The sum over all coupons.
fn issued(api: &Api) -> Result<u64, QueryError> {
    let (mut issued, mut from) = (0, Bound::Unbounded);
    loop {
        let range = Range::new(from.as_ref().map(|key: &[u8; 8]| &key[..]), Bound::Unbounded);
        let rows = api.coupons().page(&range, Direction::Forward, MAX_PAGE)?.ahead();
        issued += rows.iter().map(|(_, coupon)| coupon.issued).sum::<u64>();
        match rows.last() {
            Some((last, _)) if rows.len() == MAX_PAGE => from = Bound::Excluded(last.to_be_bytes()),
            _ => return Ok(issued),
        }
    }
}
