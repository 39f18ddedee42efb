//! The log from outside: what every home of it must do (`contract`), and what the embedded one does besides.

#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

mod contract;
mod embedded;
mod support;
