//! The HTTP server over real sockets, with raw bytes: what clients do right, wrong, slowly and not at all.

#![expect(clippy::unwrap_used, reason = "in a test an unwrap is an assertion; clippy sees only the functions marked as tests")]

mod application;
mod client;
mod feeds;
mod limits;
mod protocol;
mod streams;
mod world;

use std::net::SocketAddr;
use std::thread::JoinHandle;
use std::time::Duration;

use millstream::serve::{Caller, Config, Request, Routes, Server};
use tokio::sync::oneshot;

pub use self::client::Client;

/// A server in a thread of its own, stopped when it is dropped.
pub struct Running {
    pub address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

type Authorize = fn(&Request) -> Result<Caller, millstream::serve::ApiError>;

impl Running {
    pub fn start<S: Send + 'static>(config: Config, routes: Routes<S>) -> Running {
        Running::with(config, routes, |server| server)
    }

    pub fn authorized<S: Send + 'static>(config: Config, routes: Routes<S>, authorize: Authorize) -> Running {
        Running::with(config, routes, move |server| server.authorize(authorize))
    }

    pub fn with<S: Send + 'static>(
        config: Config,
        routes: Routes<S>,
        prepare: impl FnOnce(Server) -> Server + Send + 'static,
    ) -> Running {
        let (address, bound) = std::sync::mpsc::channel();
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            runtime.block_on(async {
                let server = prepare(Server::bind(config).await.unwrap());
                address.send(server.address()).unwrap();
                server.run(routes, async { drop(stopped.await) }).await;
            });
        });
        Running { address: bound.recv().unwrap(), stop: Some(stop), thread: Some(thread) }
    }

    pub fn connect(&self) -> Client {
        Client::connect(self.address)
    }

    /// Tells the server to stop, without waiting.
    pub fn tell_to_stop(&mut self) {
        drop(self.stop.take());
    }

    /// Waits until it has stopped.
    pub fn join(&mut self) {
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.tell_to_stop();
        if !std::thread::panicking() {
            self.join();
        }
    }
}

/// A free port, and deadlines that a test can wait for.
pub fn config() -> Config {
    Config {
        head_timeout: Duration::from_millis(200),
        body_timeout: Duration::from_millis(200),
        idle_timeout: Duration::from_secs(5),
        stall_timeout: Duration::from_millis(400),
        heartbeat: Duration::from_millis(50),
        shutdown_grace: Duration::from_secs(2),
        ..Config::listen(([127, 0, 0, 1], 0).into())
    }
}
