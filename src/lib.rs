//! Millstream: a stream processor in the manner of Kafka Streams.

pub mod codec;
pub mod log;
mod record;

pub use record::{Headers, Offset, Partition, Record, Timestamp};
