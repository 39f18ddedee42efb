//! All topologies of the shop. Each is declared in a file of its own; they are connected by topics alone, so any of them can also be shown
//! or run by itself.

use millstream::{StreamBuilder, Topology, TopologyError};

use crate::{coupons, notifications};

/// The name of the application, which its internal topics begin with.
const APPLICATION: &str = "shop";

/// The topologies by name.
const ALL: [(&str, fn(&mut StreamBuilder)); 2] =
    [("coupons", coupons::topology::declare), ("notifications", notifications::declare)];

/// All of them.
///
/// # Errors
/// If one is declared wrongly.
pub fn all() -> Result<Topology, TopologyError> {
    build(&ALL)
}

/// The one of this name, if there is one.
///
/// # Errors
/// If it is declared wrongly.
pub fn named(name: &str) -> Option<Result<Topology, TopologyError>> {
    let found = ALL.iter().position(|(known, _)| *known == name)?;
    Some(build(&ALL[found..=found]))
}

/// What can be asked for, for people.
#[must_use]
pub fn names() -> String {
    ALL.map(|(name, _)| name).join(", ")
}

fn build(topologies: &[(&str, fn(&mut StreamBuilder))]) -> Result<Topology, TopologyError> {
    let mut builder = StreamBuilder::new(APPLICATION);
    for (_, declare) in topologies {
        declare(&mut builder);
    }
    builder.build()
}
