//! The tests of the library, in one binary: each module is one subject.

mod log;
mod tidy;
