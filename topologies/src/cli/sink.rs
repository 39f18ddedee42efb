//! The flags of deliveries to an endpoint, of whatever process delivers, and of the endpoint to try them with.

use std::fs;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::{Cluster, Interface, Logging, duration};
use crate::sink::{Settings, Target};

/// How events are delivered.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Deliveries")]
pub struct Delivery {
    /// File with the token that deliveries carry as Authorization: Bearer
    #[arg(long, env = "SHOP_SINK_TOKEN_FILE", value_name = "FILE")]
    pub sink_token_file: Option<PathBuf>,
    /// Events that are on their way at the same time, at most; of one order never more than one
    #[arg(long, env = "SHOP_SINK_CONCURRENCY", value_name = "N", default_value = "16")]
    pub concurrency: NonZeroUsize,
    /// How long one try may take, such as 5s or 500ms
    #[arg(long, env = "SHOP_SINK_TRY_TIMEOUT", value_name = "TIME", default_value = "5s", value_parser = duration)]
    pub try_timeout: Duration,
    /// Pause before the first retry; the second and third are four and sixteen times as long, each up to twice that by chance
    #[arg(long, env = "SHOP_SINK_FIRST_RETRY", value_name = "TIME", default_value = "500ms", value_parser = duration)]
    pub first_retry: Duration,
    /// How long nothing is tried after more than half of the last tries failed
    #[arg(long, env = "SHOP_SINK_OPEN_FOR", value_name = "TIME", default_value = "10s", value_parser = duration)]
    pub open_for: Duration,
    /// URL that is told of dead letters, and when the circuit opens and closes, by a POST of JSON
    #[arg(long, env = "SHOP_ALERT_URL", value_name = "URL", hide_env_values = true)]
    pub alert_url: Option<String>,
}

impl Delivery {
    /// How to deliver to this URL, which `flag` named.
    ///
    /// # Errors
    /// One sentence that names the flag.
    pub fn settings(&self, flag: &str, url: &str) -> Result<Settings, String> {
        let mut target = Target::new(url).map_err(|error| format!("{flag}: {error}"))?;
        if let Some(file) = &self.sink_token_file {
            let token = fs::read_to_string(file);
            let token = token.map_err(|error| format!("--sink-token-file {} cannot be read: {error}", file.display()))?;
            target = target.with_token(token.trim()).map_err(|error| format!("--sink-token-file: {error}"))?;
        }
        let alerts = self.alert_url.as_deref().map(Target::new).transpose().map_err(|error| format!("--alert-url: {error}"))?;
        let Delivery { try_timeout, first_retry, open_for, .. } = *self;
        Ok(Settings { target, alerts, concurrency: self.concurrency.get(), try_timeout, first_retry, open_for })
    }
}

/// `shop sink`
#[derive(Args, Clone, Debug)]
pub struct Sink {
    /// The cluster
    #[command(flatten)]
    pub cluster: Cluster,
    /// Where the events of data-platform go, each as a POST of JSON with X-Idempotency-Key
    #[arg(long, env = "SHOP_SINK_URL", value_name = "URL")]
    pub url: String,
    /// How events are delivered
    #[command(flatten)]
    pub delivery: Delivery,
    /// Directory of what the process knows of itself; made when missing
    #[arg(long, env = "SHOP_STATE", value_name = "DIR", default_value = "./sink-state")]
    pub state: PathBuf,
    /// How clients are served
    #[command(flatten)]
    pub interface: Interface,
    /// What is logged
    #[command(flatten)]
    pub logging: Logging,
}

/// `shop receive`
#[derive(Args, Clone, Debug)]
pub struct Receive {
    /// How clients are served
    #[command(flatten)]
    pub interface: Interface,
    /// What is logged
    #[command(flatten)]
    pub logging: Logging,
}
