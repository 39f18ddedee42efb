//! All topologies of the shop. Each is declared in a file of its own; they are connected by topics alone, so any of them can also be shown
//! or run by itself.

use millstream::{StreamBuilder, Topology, TopologyError};

use crate::cdc::{CDC_POSITIONS, POSITIONS};
use crate::coupons::topology::{CATALOGUE, COUPON_ISSUE};
use crate::inventory::topology::INVENTORY;
use crate::notifications::{HEARD, NOTIFICATIONS};
use crate::orders::topology::ORDER_EVENTS;
use crate::payments::PAYMENT_EVENTS;
use crate::points::POINTS_COMMANDS;
use crate::{coupons, deliveries, inventory, orders, payments, points};

/// The name of the application, which its internal topics begin with.
const APPLICATION: &str = "shop";

/// What the topologies can be told.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// An order that is not paid by then fails, in milliseconds.
    pub payment_timeout_ms: i64,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { payment_timeout_ms: 15 * 60_000 }
    }
}

/// Adds one topology.
type Declare = fn(&mut StreamBuilder, &Settings);

/// The topologies by name.
const ALL: [(&str, Declare); 6] = [
    ("coupons", |builder, _| coupons::topology::declare(builder)),
    ("orders", |builder, settings| orders::topology::declare(builder, settings.payment_timeout_ms)),
    ("payments", |builder, _| payments::declare(builder)),
    ("inventory", |builder, _| inventory::topology::declare(builder)),
    ("points", |builder, _| points::declare(builder)),
    ("deliveries", |builder, _| deliveries::declare(builder)),
];

/// All of them.
///
/// # Errors
/// If one is declared wrongly.
pub fn all(settings: &Settings) -> Result<Topology, TopologyError> {
    whole(settings).build()
}

/// All of them, what users hear, and how far relays have come, for whoever waits for them.
fn whole(settings: &Settings) -> StreamBuilder {
    let mut builder = declared(&ALL, settings);
    builder.feed(&NOTIFICATIONS, &HEARD);
    builder.global_table(&POSITIONS, CDC_POSITIONS.name());
    builder
}

/// The one of this name, if there is one.
///
/// # Errors
/// If it is declared wrongly.
pub fn named(name: &str) -> Option<Result<Topology, TopologyError>> {
    let found = ALL.iter().position(|(known, _)| *known == name)?;
    Some(declared(&ALL[found..=found], &Settings::default()).build())
}

/// What can be asked for, for people.
#[must_use]
pub fn names() -> String {
    ALL.map(|(name, _)| name).join(", ")
}

/// All of them, for processes that share a log: with requests by idempotency key.
///
/// # Errors
/// If one is declared wrongly.
pub fn shared(settings: &Settings) -> Result<Topology, TopologyError> {
    let mut builder = whole(settings);
    builder.accept_requests(6, |requests| {
        requests
            .sink(&CATALOGUE)
            .sink(&COUPON_ISSUE)
            .sink(&ORDER_EVENTS)
            .sink(&PAYMENT_EVENTS)
            .sink(&INVENTORY)
            .sink(&POINTS_COMMANDS)
    });
    builder.build()
}

fn declared(topologies: &[(&str, Declare)], settings: &Settings) -> StreamBuilder {
    let mut builder = StreamBuilder::new(APPLICATION);
    for (_, declare) in topologies {
        declare(&mut builder, settings);
    }
    builder
}
