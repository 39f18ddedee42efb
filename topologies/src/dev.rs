//! `shop dev`: the whole shop in one process on the embedded log, from taking the address to a clean end.
//!
//! It says that it serves once log and state are open and restored; `/readyz` is 503 until the views have also processed what the log held
//! beyond that.

use std::io::Write as _;
use std::time::Duration;

use millstream::serve::{Config as HttpConfig, RateLimit, Server};
use millstream::{App, Config, Handle, Health};
use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::api::auth::Secret;
use crate::api::{Api, routes};
use crate::cdc::{self, Relay};
use crate::cli::Dev;
use crate::topology::Settings;
use crate::{demo, logging, metrics, open_files, topology};

/// How often it is looked whether the application still runs.
const LOOK: Duration = Duration::from_millis(500);

/// Why the shop does not run any more, or never did: one sentence.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot run as it was told to.
    #[error("{0}")]
    Misconfigured(String),
    /// It stopped by itself.
    #[error("{0}")]
    Failed(String),
}

fn misconfigured(error: impl ToString) -> Error {
    Error::Misconfigured(error.to_string())
}

/// Serves until a signal comes.
///
/// # Errors
/// See [`Error`].
pub fn run(dev: &Dev) -> Result<(), Error> {
    logging::start(dev.log_level, dev.log_format);
    open_files::allow();
    let http = http_config(dev)?;
    let secret = dev.auth_secret_file.as_deref().map(Secret::read).transpose().map_err(Error::Misconfigured)?;
    let outbox = dev.outbox.settings().map_err(Error::Misconfigured)?;
    let runtime = Builder::new_multi_thread().thread_name("http").enable_all().build().map_err(misconfigured)?;
    runtime.block_on(serve(dev, http, secret, outbox))
}

fn http_config(dev: &Dev) -> Result<HttpConfig, Error> {
    if let Some(origin) = dev.cors_origin.iter().find(|origin| !origin.bytes().all(|byte| byte.is_ascii_graphic())) {
        return Err(Error::Misconfigured(format!("--cors-origin {origin:?} is not an origin such as https://shop.example")));
    }
    let limit = dev.rate_limit.map(|limit| RateLimit { per_second: limit.get(), burst: limit.get() });
    Ok(HttpConfig { allowed_origins: dev.cors_origin.clone(), rate_limit: limit, ..HttpConfig::listen(dev.listen) })
}

async fn serve(dev: &Dev, http: HttpConfig, secret: Option<Secret>, outbox: Option<cdc::Settings>) -> Result<(), Error> {
    let asked_to_stop = signals().map_err(misconfigured)?;
    let server = Server::bind(http).await.map_err(misconfigured)?;
    let mut config = Config { state_memory_bytes: dev.memory_budget, ..Config::embedded(&dev.data) };
    if let Some(threads) = dev.threads {
        config.threads = threads.get();
    }
    let settings = Settings { payment_timeout_ms: dev.payment_timeout.as_millis() as i64 };
    let app = App::start(topology::all(&settings).map_err(misconfigured)?, config).map_err(misconfigured)?;
    let handle = app.handle();
    let api = Api::new(&handle, dev.lang);
    metrics::register(&api, &mut handle.registry().write());
    let mut server = server.metrics(&mut handle.registry().write());
    let address = server.address();
    if let Some(secret) = &secret {
        server = server.authorize(secret.authorize(handle.clone()));
    }
    let demo = dev.demo.then(|| tokio::spawn(demo::run(address, secret.map(|secret| secret.admin_token(&handle)))));
    let mut relay = outbox.map(|outbox| tokio::spawn(Relay::new(&handle, outbox).run()));
    if let Err(error) = writeln!(std::io::stdout(), "shop serves on http://{address}") {
        tracing::warn!(%error, "standard output cannot be written");
    }
    let mut relay_stopped = None;
    let over = async {
        tokio::select! {
            () = until_over(asked_to_stop, &handle) => {}
            stop = ended(&mut relay) => relay_stopped = Some(stop),
        }
    };
    server.run(routes(&api), over).await;

    tracing::info!("stopping");
    if let Some(demo) = demo {
        demo.abort();
    }
    // Dropped where it stands: what it has appended holds, with its position.
    if let Some(relay) = relay.filter(|_| relay_stopped.is_none()) {
        relay.abort();
        drop(relay.await);
    }
    drop((api, handle));
    let stopped = tokio::task::spawn_blocking(|| app.stop()).await;
    match stopped {
        Ok(None) => relay_stopped.map_or(Ok(()), Err),
        Ok(Some(reason)) => Err(Error::Failed(reason)),
        Err(panic) => Err(Error::Failed(panic.to_string())),
    }
}

/// Waits until the relay cannot go on; for ever where there is none.
async fn ended(relay: &mut Option<JoinHandle<cdc::Stop>>) -> Error {
    match relay {
        None => std::future::pending().await,
        Some(relay) => match relay.await {
            Ok(cdc::Stop::Misconfigured(sentence)) => Error::Misconfigured(sentence),
            Ok(cdc::Stop::Failed(sentence)) => Error::Failed(sentence),
            Err(panic) => Error::Failed(format!("the relay failed: {panic}")),
        },
    }
}

/// Waits until the process is asked to stop, or the application has failed.
async fn until_over(asked_to_stop: oneshot::Receiver<()>, app: &Handle) {
    let failed = async {
        let mut ticks = tokio::time::interval(LOOK);
        while !matches!(app.health(), Health::Failed(_)) {
            ticks.tick().await;
        }
    };
    tokio::select! {
        _ = asked_to_stop => {}
        () = failed => {}
    }
}

/// Listens for SIGTERM and SIGINT: the first asks the process to stop, the second ends it at once. The log is then as a crash leaves it,
/// which the next start mends.
fn signals() -> std::io::Result<oneshot::Receiver<()>> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let (stop, asked_to_stop) = oneshot::channel();
    tokio::spawn(async move {
        let mut next = async || {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        next().await;
        // Nobody listens if the application has failed and stops already.
        let _ = stop.send(());
        next().await;
        std::process::exit(1);
    });
    Ok(asked_to_stop)
}
