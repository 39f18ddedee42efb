//! The shop from outside: the real binary is started, driven over HTTP, stopped and killed, and has to keep its contract.
//! Nothing here knows how it works inside.

mod anywhere;
mod auth;
mod bounds;
mod cdc;
mod coupons;
mod crash;
mod events;
mod faults;
mod gate;
mod hostile;
mod http;
mod idempotency;
mod kafka;
mod lifecycle;
mod operations;
mod orders;
mod outbox;
#[path = "../../tests/ports.rs"]
mod ports;
mod routes;
mod shop;
mod sink;
mod stack;
mod views;
