//! The engine through its public interface, on the test driver: what a topology may be, what failing records do, time, and
//! how types become bytes.

mod codecs;
mod failures;
mod sinks;
mod stream_joins;
mod time;
mod topologies;
mod windows;
