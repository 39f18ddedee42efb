//! The log from outside: what every home of it must do (`contract`), and what the embedded one and Kafka do besides.

#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

mod contract;
mod embedded;
#[cfg(feature = "kafka")]
pub mod kafka;
pub mod support;
