//! Products and their stock.

pub mod domain;
pub mod topology;
