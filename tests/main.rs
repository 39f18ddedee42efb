//! The tests of the library, in one binary: each module is one subject.

mod app;
#[cfg(feature = "kafka")]
mod cluster;
mod conformance;
mod crash;
mod engine;
mod log;
#[cfg(feature = "kafka")]
mod ports;
mod power;
#[cfg(feature = "http")]
mod serve;
mod tidy;
