//! The sink: delivers the events of `data-platform` to an HTTP endpoint of somebody else's.
//!
//! ```text
//! log ──records──▶ courier ──▶ lanes ──one of a key at a time──▶ endpoint ──▶ what it means
//!  ▲                  │         which may go,      if the breaker lets it          │
//!  │                  │         how far it is                                      │
//!  └──offsets and dead letters, one transaction────◀────────────────────────────────┘
//! ```
//! What must hold: an offset is committed only when everything before it was delivered or is parked, in the same transaction; events of one
//! order go out one after the other. So after a crash some events go out once more, with the same idempotency key and body, and none is
//! missing. While the circuit is open nothing is tried and nothing is given up.
//!
//! It is a group of its own (`shop-sink`), beside the topology and not in it: a topology's offset says that a record was processed, and this
//! one must not move before the other side has said yes. Several sinks on Kafka share the partitions. What
//! `shop dlq` replays comes through a topic that only sinks read.

mod alerts;
mod breaker;
mod courier;
mod endpoint;
mod lanes;
mod status;

use std::time::Duration;

use millstream::Handle;
use tokio::sync::watch;

use self::alerts::Alerts;
use self::courier::Courier;
use self::status::Status;

pub use self::endpoint::Target;

/// How a sink works.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where events go.
    pub target: Target,
    /// Who is told when the circuit opens or closes, and of dead letters.
    pub alerts: Option<Target>,
    /// How many events are out at the same time, at most.
    pub concurrency: usize,
    /// How long a try may take.
    pub try_timeout: Duration,
    /// The pause before the first retry; the two after it are four and sixteen times as long.
    pub first_retry: Duration,
    /// How long nothing is tried once the circuit has opened.
    pub open_for: Duration,
}

/// Delivers until it is asked to stop, and then finishes what is out.
///
/// # Errors
/// Why it cannot go on, in one sentence.
pub async fn run(app: Handle, settings: Settings, stopping: watch::Receiver<bool>) -> Result<(), String> {
    let status = Status::register(&app);
    let alerts = Alerts::start(settings.alerts.as_ref(), &settings.target, &app, &status)?;
    let tokio = tokio::runtime::Handle::current();
    let courier = move || Courier::new(app, settings, status, alerts, tokio)?.run(&stopping);
    // The log's members block.
    tokio::task::spawn_blocking(courier).await.map_err(|panic| format!("the sink failed: {panic}"))?
}
