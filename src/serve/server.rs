//! The server: listens, hands each connection to a task of its own, and stops in order.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use prometheus_client::registry::Registry;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::config::Config;
use super::connection;
use super::error::ApiError;
use super::metrics::Metrics;
use super::request::{Caller, Request};
use super::routes::{Routes, Table};
use super::service::{Authorize, Service};

/// How many connections may wait to be accepted: a rush comes at once.
const BACKLOG: u32 = 4_096;
/// How many connections beyond the limit are told why, at a time; more are closed without a word.
const MAX_REFUSALS: usize = 256;
/// The pause after a failed accept, when the process has no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The address could not be taken.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {source}")]
pub struct BindError {
    /// The address.
    pub address: SocketAddr,
    source: std::io::Error,
}

/// An HTTP/1.1 server that has its address and does not accept yet.
///
/// ```no_run
/// use millstream::serve::{self, Config, Routes, Server};
///
/// # async fn example(app: millstream::Handle) -> Result<(), Box<dyn std::error::Error>> {
/// let server = Server::bind(Config::listen("127.0.0.1:8080".parse()?)).await?;
/// let server = server.metrics(&mut app.registry().write());
/// let routes = Routes::new(()).merge(serve::application_routes(&app));
/// server.run(routes, async { tokio::signal::ctrl_c().await.expect("a signal handler") }).await;
/// # Ok(())
/// # }
/// ```
pub struct Server {
    listener: TcpListener,
    config: Config,
    metrics: Metrics,
    authorize: Option<Authorize>,
}

impl Server {
    /// Takes the address. Clients can connect from now on, and are served once the server runs.
    ///
    /// # Errors
    /// If the address is in use or not this machine's.
    pub async fn bind(config: Config) -> Result<Server, BindError> {
        let address = config.listen;
        let listener = listen(address).map_err(|source| BindError { address, source })?;
        Ok(Server { listener, config, metrics: Metrics::default(), authorize: None })
    }

    /// The address, with the port that was taken.
    ///
    /// # Panics
    /// If the operating system does not know its own socket.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.listener.local_addr().expect("a listening socket has an address")
    }

    /// Asks this function who the caller of each request is, before the handler; an error is the answer. It also sees the route, so it
    /// can refuse whole routes. Without it, callers have no names and may do everything.
    #[must_use]
    pub fn authorize(mut self, who: impl Fn(&Request) -> Result<Caller, ApiError> + Send + Sync + 'static) -> Server {
        self.authorize = Some(Box::new(who));
        self
    }

    /// Registers the server's metrics.
    #[must_use]
    pub fn metrics(self, registry: &mut Registry) -> Server {
        self.metrics.register(registry);
        self
    }

    /// Serves until `shutdown` is done; then takes no more requests, ends the streams, and gives what runs the time that the
    /// configuration allows.
    ///
    /// # Panics
    /// If two routes contradict each other.
    pub async fn run<S>(self, routes: Routes<S>, shutdown: impl Future<Output = ()>) {
        let Server { listener, config, metrics, authorize } = self;
        let service = Arc::new(Service::new(config, metrics, Table::new(routes), authorize));
        let (stop, stopping) = watch::channel(false);
        let (mut connections, mut refusals) = (JoinSet::new(), JoinSet::new());
        let mut shutdown = pin!(shutdown);
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                Some(_) = connections.join_next() => continue,
                Some(_) = refusals.join_next() => continue,
                () = &mut shutdown => break,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let _ = stream.set_nodelay(true); // fails only for a connection that is gone, which its task will see
            if connections.len() < service.config.max_connections {
                let counted = service.metrics.connection();
                let serve = connection::serve(stream, peer, Arc::clone(&service), stopping.clone());
                connections.spawn(async move {
                    serve.await;
                    drop(counted);
                });
                continue;
            }
            service.metrics.refused_connection();
            if refusals.len() < MAX_REFUSALS {
                let id = service.next_id();
                let full = ApiError::unavailable("TOO_MANY_CONNECTIONS", "too many connections are open");
                refusals.spawn(async move { connection::refuse(stream, &full, id).await });
            }
        }
        drop(listener);
        service.stopping.store(true, Ordering::Release);
        stop.send_replace(true);
        let done = async { while connections.join_next().await.is_some() {} };
        if timeout(service.config.shutdown_grace, done).await.is_err() {
            tracing::warn!(connections = connections.len(), "closing connections whose requests did not end in time");
            connections.shutdown().await;
        }
    }
}

fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?; // a restart takes the address at once; it does not share it
    socket.bind(address)?;
    socket.listen(BACKLOG)
}
