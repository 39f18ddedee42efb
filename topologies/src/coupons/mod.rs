//! First-come coupons: what a coupon is and who gets one ([`domain`]), and the topology that decides it, record by record ([`topology`]).

pub mod domain;
pub mod topology;
