//! The flags of the gate before coupons, of whatever process takes claims.

use clap::{Args, ValueEnum};

use crate::gate::{Settings, WhenDown};

/// The gate.
#[derive(Args, Clone, Debug)]
pub struct Gate {
    /// Redis that counts who is let in to claim a coupon, such as redis://:password@host:6379/0; better given by the environment
    #[arg(long, env = "SHOP_REDIS", value_name = "URL", hide_env_values = true)]
    pub redis: Option<String>,
    /// What becomes of claims while Redis is away
    #[arg(long, env = "SHOP_GATE_DOWN", value_name = "POLICY", default_value = "open")]
    pub gate_down: GateDown,
}

/// What becomes of claims while Redis is away.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum GateDown {
    /// They are taken by what the views know
    Open,
    /// They get 503
    Closed,
}

impl Gate {
    /// Where Redis is; `None` without one.
    ///
    /// # Errors
    /// One sentence that names the flag.
    pub fn settings(&self) -> Result<Option<Settings>, String> {
        let when_down = match self.gate_down {
            GateDown::Open => WhenDown::Open,
            GateDown::Closed => WhenDown::Closed,
        };
        self.redis.as_deref().map(|url| Settings::new(url, when_down)).transpose()
    }
}
