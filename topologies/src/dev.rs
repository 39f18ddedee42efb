//! `shop dev`: the whole shop in one process on the embedded log, from taking the address to a clean end.
//!
//! It says that it serves once log and state are open and restored; `/readyz` is 503 until the views have also processed what the log held
//! beyond that.

use millstream::{App, Config};

use crate::api::{Api, routes};
use crate::cli::Dev;
use crate::serving::{self, Error, Front, Parts, misconfigured};
use crate::topology::Settings;
use crate::{demo, metrics, outbox, restoring, topology};

/// Serves until a signal comes.
///
/// # Errors
/// See [`Error`].
pub fn run(dev: &Dev) -> Result<(), Error> {
    serving::run(&dev.logging, serve(dev))
}

async fn serve(dev: &Dev) -> Result<(), Error> {
    let outbox = dev.outbox.settings().map_err(Error::Misconfigured)?;
    let gate = dev.gate.settings().map_err(Error::Misconfigured)?;
    let deliveries = dev.sink_url.as_deref().map(|url| dev.delivery.settings("--sink-url", url));
    let deliveries = deliveries.transpose().map_err(Error::Misconfigured)?;
    let front = Front::open(&dev.interface).await?;
    let mut config =
        Config { state_memory_bytes: dev.memory_budget, restore_listener: restoring::bar(), ..Config::embedded(&dev.data) };
    if let Some(threads) = dev.threads {
        config.threads = threads.get();
    }
    let settings = Settings { payment_timeout_ms: dev.payment_timeout.as_millis() as i64 };
    let app = App::start(topology::all(&settings).map_err(misconfigured)?, config).map_err(misconfigured)?;
    let handle = app.handle();
    let mut parts = Parts::none();
    // Where an outbox is routed otherwise, what the shop would write there would not come back to its topics.
    let own = outbox.as_ref().filter(|outbox| outbox.routing.is_of_the_shop());
    if own.is_none() && outbox.is_some() {
        tracing::warn!("requests go straight to the log: the outbox is routed otherwise than the shop's own");
    }
    let retention = dev.retention.outbox_retention.0;
    let through = own.map(|outbox| outbox::Settings { address: outbox.address.clone(), relay: outbox.name.clone(), retention });
    let home = parts.home(&handle, through);
    let gate = parts.gate(&handle, gate).await?;
    let api = Api::new(&handle, dev.interface.lang, home, gate);
    metrics::register(&api, &mut handle.registry().write());
    let demo = dev.demo.then(|| tokio::spawn(demo::run(front.address(), front.admin_token(&handle))));
    outbox.into_iter().for_each(|outbox| parts.relay(&handle, outbox));
    deliveries.into_iter().for_each(|deliveries| parts.deliver(&handle, deliveries));
    let served = front.serve(&handle, routes(&api), parts).await;
    if let Some(demo) = demo {
        demo.abort();
    }
    drop((api, handle));
    serving::stop(app, served).await
}
