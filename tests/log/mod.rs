//! The log from outside: what every home of it must do (`contract`), and what the embedded one does besides.

mod contract;
mod embedded;
mod support;
