//! Orders: what they are, what may happen to them, and the saga that carries them through.

pub mod domain;
pub mod events;
pub mod machine;
pub mod topology;
