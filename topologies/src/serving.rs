//! What every process of the shop that serves does alike: it takes its address, says that it serves, and ends in order when it is asked to,
//! or when it cannot go on.

use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use millstream::serve::{Config as HttpConfig, RateLimit, Routes, Server};
use millstream::{App, Handle, Health};
use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;

use crate::api::auth::Secret;
use crate::api::write::Home;
use crate::cdc::{self, Relay};
use crate::cli::{Interface, Logging};
use crate::gate::{self, Gate};
use crate::outbox::{self, Outbox};
use crate::{logging, open_files, sink};

/// How often it is looked whether the application still runs.
const LOOK: Duration = Duration::from_millis(500);

/// How long a process that was asked to stop may take to do so in order.
const PATIENCE: Duration = Duration::from_secs(9);

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

/// It cannot run as it was told to.
pub fn misconfigured(error: impl ToString) -> Error {
    Error::Misconfigured(error.to_string())
}

/// Runs a process that serves until it is over.
///
/// # Errors
/// Of `serve`, or if the system gives no threads.
pub fn run(logging: &Logging, serve: impl Future<Output = Result<(), Error>>) -> Result<(), Error> {
    logging::start(logging.log_level, logging.log_format);
    open_files::allow();
    let runtime = Builder::new_multi_thread().thread_name("http").enable_all().build().map_err(misconfigured)?;
    runtime.block_on(serve)
}

/// An address that is taken, and who may call.
pub struct Front {
    server: Server,
    secret: Option<Secret>,
    asked_to_stop: oneshot::Receiver<()>,
}

impl Front {
    /// Takes the address.
    ///
    /// # Errors
    /// If it cannot be had, or the configuration is wrong.
    pub async fn open(interface: &Interface) -> Result<Front, Error> {
        Front::bind(interface, http_config(interface)?).await
    }

    /// As [`Front::open`], for bodies of up to so many bytes.
    ///
    /// # Errors
    /// The same.
    pub async fn open_for_bodies(interface: &Interface, max_body_bytes: usize) -> Result<Front, Error> {
        Front::bind(interface, HttpConfig { max_body_bytes, ..http_config(interface)? }).await
    }

    async fn bind(interface: &Interface, http: HttpConfig) -> Result<Front, Error> {
        let secret = interface.auth_secret_file.as_deref().map(Secret::read).transpose().map_err(Error::Misconfigured)?;
        let asked_to_stop = signals().map_err(misconfigured)?;
        Ok(Front { server: Server::bind(http).await.map_err(misconfigured)?, secret, asked_to_stop })
    }

    /// The address.
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// A token that may do everything, where tokens are asked for.
    pub fn admin_token(&self, app: &Handle) -> Option<String> {
        self.secret.as_ref().map(|secret| secret.admin_token(app))
    }

    /// Serves until a signal comes, the application fails, or one of the parts ends, which is then the error. Parts that are to finish something
    /// do so while the last requests are answered.
    ///
    /// # Errors
    /// Why the part ended.
    pub async fn serve<S: Send + Sync + 'static>(self, app: &Handle, routes: Routes<S>, mut parts: Parts) -> Result<(), Error> {
        let mut server = self.server.metrics(&mut app.registry().write());
        let address = server.address();
        if let Some(secret) = &self.secret {
            server = server.authorize(secret.authorize(app.clone()));
        }
        say_where(address);
        let mut ended = None;
        let over = async {
            tokio::select! {
                () = until_over(self.asked_to_stop, app) => {}
                error = parts.failed() => ended = Some(error),
            }
            parts.stop.send_replace(true);
        };
        server.run(routes, over).await;
        tracing::info!("stopping");
        parts.end().await;
        ended.map_or(Ok(()), Err)
    }
}

impl Front {
    /// Serves what has no application until a signal comes.
    pub async fn serve_alone<S: Send + Sync + 'static>(self, routes: Routes<S>) {
        say_where(self.server.address());
        let asked_to_stop = async { drop(self.asked_to_stop.await) };
        self.server.run(routes, asked_to_stop).await;
    }
}

/// The line that says that it serves.
fn say_where(address: SocketAddr) {
    if let Err(error) = writeln!(std::io::stdout(), "shop serves on http://{address}") {
        tracing::warn!(%error, "standard output cannot be written");
    }
}

/// What runs beside the application and appends to its log. A part ends by itself only when it cannot go on.
pub struct Parts {
    running: JoinSet<Result<(), Error>>,
    stop: watch::Sender<bool>,
}

impl Parts {
    /// No parts.
    pub fn none() -> Parts {
        Parts { running: JoinSet::new(), stop: watch::Sender::new(false) }
    }

    /// Relays an outbox. It is dropped where it stands when it is to stop: what it has appended holds, with its position.
    pub fn relay(&mut self, app: &Handle, outbox: cdc::Settings) {
        let (relay, mut stop) = (Relay::new(app, outbox), self.stop.subscribe());
        self.running.spawn(async move {
            tokio::select! {
                stopped = relay.run() => Err(stopped.into()),
                _ = stop.wait_for(|stop| *stop) => Ok(()),
            }
        });
    }

    /// Where requests are written: through an outbox, if there is one.
    pub fn home(&mut self, app: &Handle, outbox: Option<outbox::Settings>) -> Home {
        let Some(outbox::Settings { address, relay, retention }) = outbox else { return Home::Log };
        let (sender, relayed) = watch::channel(None);
        let outbox = Outbox::open(app, address, relayed);
        let (followed, kept) = (outbox::follow(app.clone(), relay, sender), outbox.clone().keep(app.clone(), retention));
        let mut stop = self.stop.subscribe();
        self.running.spawn(async move {
            tokio::select! {
                stopped = kept => Err(stopped.into()),
                never = followed => match never {},
                _ = stop.wait_for(|stop| *stop) => Ok(()),
            }
        });
        Home::Outbox(outbox)
    }

    /// The gate before coupons, if there is one.
    ///
    /// # Errors
    /// If Redis does not let the shop in.
    pub async fn gate(&mut self, app: &Handle, settings: Option<gate::Settings>) -> Result<Option<Arc<Gate>>, Error> {
        let Some(settings) = settings else { return Ok(None) };
        let gate = Gate::open(app, settings).await.map_err(Error::Misconfigured)?;
        let (kept, mut stop) = (Arc::clone(&gate).keep(), self.stop.subscribe());
        self.running.spawn(async move {
            tokio::select! {
                never = kept => match never {},
                _ = stop.wait_for(|stop| *stop) => Ok(()),
            }
        });
        Ok(Some(gate))
    }

    /// Delivers events. What is out is finished when it is to stop.
    pub fn deliver(&mut self, app: &Handle, deliveries: sink::Settings) {
        let delivering = sink::run(app.clone(), deliveries, self.stop.subscribe());
        self.running.spawn(async move { delivering.await.map_err(Error::Failed) });
    }

    /// Waits until one cannot go on; for ever where there is none.
    async fn failed(&mut self) -> Error {
        loop {
            match self.running.join_next().await {
                None => std::future::pending().await,
                Some(Ok(Ok(()))) => {}
                Some(Ok(Err(error))) => return error,
                Some(Err(panic)) => return Error::Failed(format!("a part of the shop failed: {panic}")),
            }
        }
    }

    /// Waits for all of them, which were asked to stop.
    async fn end(mut self) {
        while let Some(ended) = self.running.join_next().await {
            if let Ok(Err(error)) = ended {
                tracing::warn!("{error}");
            }
        }
    }
}

impl From<cdc::Stop> for Error {
    fn from(stop: cdc::Stop) -> Error {
        match stop {
            cdc::Stop::Misconfigured(sentence) => Error::Misconfigured(sentence),
            cdc::Stop::Failed(sentence) => Error::Failed(sentence),
        }
    }
}

/// Stops the application after it has served.
///
/// # Errors
/// Why it had failed, else why serving ended.
pub async fn stop(app: App, served: Result<(), Error>) -> Result<(), Error> {
    app.handle().feed_from(None);
    match tokio::task::spawn_blocking(|| app.stop()).await {
        Ok(None) => served,
        Ok(Some(reason)) => Err(Error::Failed(reason)),
        Err(panic) => Err(Error::Failed(panic.to_string())),
    }
}

fn http_config(interface: &Interface) -> Result<HttpConfig, Error> {
    if let Some(origin) = interface.cors_origin.iter().find(|origin| !origin.bytes().all(|byte| byte.is_ascii_graphic())) {
        return Err(Error::Misconfigured(format!("--cors-origin {origin:?} is not an origin such as https://shop.example")));
    }
    let limit = interface.rate_limit.map(|limit| RateLimit { per_second: limit.get(), burst: limit.get() });
    Ok(HttpConfig { allowed_origins: interface.cors_origin.clone(), rate_limit: limit, ..HttpConfig::listen(interface.listen) })
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

/// Listens for SIGTERM and SIGINT: the first asks the process to stop, the second ends it at once. So does the first after a while, for brokers, a
/// database or a disk may not answer. The log is then as a crash leaves it, which the next start mends.
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
        end_in_time();
        // Nobody listens if the application has failed and stops already.
        let _ = stop.send(());
        next().await;
        std::process::exit(1);
    });
    Ok(asked_to_stop)
}

/// Ends the process when its time is over, whatever its other threads wait for.
#[expect(clippy::disallowed_methods, reason = "it waits for no event: the process is over before its time is, or ends now")]
fn end_in_time() {
    let end = || {
        std::thread::sleep(PATIENCE);
        tracing::warn!("what was begun could not be finished in {} s, and is left to the next start", PATIENCE.as_secs());
        std::process::exit(0);
    };
    if let Err(error) = std::thread::Builder::new().name("end".into()).spawn(end) {
        tracing::warn!(%error, "nothing sees to it that this process ends in time");
    }
}
