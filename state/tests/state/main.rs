//! What `millstream-state` promises, tested through its public interface.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod contract;
mod faults;
mod model;
mod opening;
mod support;
mod threads;
mod ttl;
