//! The engine through its public interface, on the test driver: what a topology may be, what failing records do, and time.

mod failures;
mod time;
mod topologies;
