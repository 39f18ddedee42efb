//! How a server behaves: its address, its limits and its deadlines. Nothing here is read from the environment.

use std::net::SocketAddr;
use std::time::Duration;

/// The configuration of a [`Server`](super::Server). Every field has a default that is right for most.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The most open connections. One more is answered 503 and closed.
    pub max_connections: usize,
    /// The longest request body, in bytes. A longer one is answered 413.
    pub max_body_bytes: usize,
    /// The longest request head, in bytes, 8192 or more. A longer one is answered 431.
    pub max_head_bytes: usize,
    /// From the first byte of a request until its head is complete; then it is answered 408.
    pub head_timeout: Duration,
    /// From the head of a request until its body is complete; then it is answered 408.
    pub body_timeout: Duration,
    /// How long a connection may be without a request before it is closed.
    pub idle_timeout: Duration,
    /// How long a client may take nothing of what was sent to it before it is cut off.
    pub stall_timeout: Duration,
    /// The time from one heartbeat comment of an event stream to the next.
    pub heartbeat: Duration,
    /// How long requests that run may go on once the server is told to stop.
    pub shutdown_grace: Duration,
    /// The origins, such as `https://shop.example`, whose pages may read answers (CORS).
    pub allowed_origins: Vec<String>,
    /// How many requests a caller may make; without, any number.
    pub rate_limit: Option<RateLimit>,
}

/// A token bucket for each caller, or for each address where callers have no names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// Requests per second in the long run, 1 or more.
    pub per_second: u32,
    /// Requests at once after a pause, 1 or more.
    pub burst: u32,
}

impl Config {
    /// The defaults, listening here.
    #[must_use]
    pub fn listen(address: SocketAddr) -> Config {
        Config {
            listen: address,
            max_connections: 20_000,
            max_body_bytes: 64 << 10,
            max_head_bytes: 16 << 10,
            head_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(75),
            stall_timeout: Duration::from_secs(20),
            heartbeat: Duration::from_secs(15),
            shutdown_grace: Duration::from_secs(5),
            allowed_origins: Vec::new(),
            rate_limit: None,
        }
    }
}
