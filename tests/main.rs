//! All tests of the library from outside, in one binary: RocksDB is linked once.

mod log;
