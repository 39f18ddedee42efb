//! Testing a topology without threads, disks or waiting: the same tasks as in production, on a log and state in memory.

mod driver;

pub use self::driver::TestDriver;
