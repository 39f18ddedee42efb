//! A running application from outside, in a temporary directory: what it promises over restarts, failures of the log and the disk, and to
//! those who append, read and watch.

mod ahead;
mod dead_letters;
mod faults;
mod feeds;
mod global_tables;
mod idle;
#[cfg(feature = "kafka")]
mod kafka;
mod operating;
#[cfg(feature = "kafka")]
mod peers;
mod reading;
mod requests;
mod starting;
pub mod support;
