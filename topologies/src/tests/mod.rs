//! The shop's topologies together, on the test driver: what happens from outside in any order, what is processed in any order that
//! partitions allow, with crashes between, and what must hold once all is quiet.

mod books;
mod saga;
mod traffic;
mod world;
