//! HTTP over any running application: a program mounts what is the same for every application and adds its own routes.
//!
//! [`Server`] takes an address and serves [`Routes`], with limits, deadlines, errors in one shape, CORS, rate limits and an orderly stop.
//! [`application_routes`] are the views, their watches, dead letters, topology, metrics and health of an application. A [`Feed`] shows the
//! events of each key of a topic as an event stream that a client can come back to.
//!
//! Nothing here knows what an application means, decides anything about it, or writes to it (but to replay dead letters). The only
//! module that names hyper.
//!
//! ```text
//! server ─▶ connection ─▶ service ─▶ routes ─▶ handlers (application/, the program's own) ─▶ peers
//!            socket        cors        request, response, error
//!            activity      rate        events, feed
//!            stream
//! ```

mod activity;
mod application;
mod config;
mod connection;
mod cors;
mod error;
mod events;
mod feed;
mod metrics;
mod peers;
mod query;
mod rate;
mod request;
mod response;
mod routes;
mod server;
mod service;
mod socket;
mod stream;

pub use hyper::{HeaderMap, Method, StatusCode, header};

pub use self::application::{application_routes, show_dead_letter};
pub use self::config::{Config, RateLimit};
pub use self::error::ApiError;
pub use self::events::{Event, Events};
pub use self::feed::{Feed, Shown};
pub use self::request::{Caller, Request, RequestId, from_json};
pub use self::response::Response;
pub use self::routes::Routes;
pub use self::server::{BindError, Server};
