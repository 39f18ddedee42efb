//! One request, from its head to its answer: route, caller, rate, handler, and what every answer carries. A handler's error or panic is
//! an answer too, so nothing here fails.

use std::convert::Infallible;
use std::future::Future;
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body as _, Incoming};
use hyper::header::{ALLOW, CACHE_CONTROL, CONNECTION, HOST, HeaderValue, TRANSFER_ENCODING};
use hyper::{Method, StatusCode, Version};
use tokio::time::Instant;

use super::activity::{Activity, Phase};
use super::config::Config;
use super::cors::Cors;
use super::error::ApiError;
use super::metrics::Metrics;
use super::rate::{Buckets, Who};
use super::request::{Caller, REQUEST_ID, Request, RequestId};
use super::response::{Body, Content, Response, write_head};
use super::routes::{Answer, Route, Table};
use super::stream::Detached;

/// Tells who asks, or refuses: 401, 403.
pub(super) type Authorize = Box<dyn Fn(&Request) -> Result<Caller, ApiError> + Send + Sync>;

pub(super) struct Service {
    pub(super) config: Config,
    pub(super) metrics: Metrics,
    table: Table,
    authorize: Option<Authorize>,
    buckets: Option<Buckets>,
    cors: Cors,
    next_id: AtomicU64,
}

impl Service {
    pub(super) fn new(config: Config, metrics: Metrics, table: Table, authorize: Option<Authorize>) -> Service {
        Service {
            buckets: config.rate_limit.map(Buckets::new),
            cors: Cors::new(&config.allowed_origins),
            next_id: AtomicU64::new(RandomState::new().hash_one("request ids")),
            config,
            metrics,
            table,
            authorize,
        }
    }

    /// Ids of one process differ; those of two processes begin at random places, and are spread so that they don't look alike.
    pub(super) fn next_id(&self) -> RequestId {
        let mut id = self.next_id.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        id = (id ^ (id >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
        RequestId(id ^ (id >> 32))
    }

    /// Takes a request on: all but the handler's own work is done at once.
    pub(super) fn answer(
        self: &Arc<Self>,
        request: hyper::Request<Incoming>,
        peer: SocketAddr,
        activity: Arc<Activity>,
    ) -> Exchange {
        activity.enter(if request.body().is_end_stream() { Phase::Answering } else { Phase::Asking });
        let mut exchange = Exchange {
            service: Arc::clone(self),
            activity,
            started: Instant::now(),
            id: self.next_id(),
            method: request.method().clone(),
            version: request.version(),
            origin: self.cors.allowed(request.headers()),
            route: None,
            until: None,
            outcome: Outcome::Known(None),
        };
        exchange.outcome = match exchange.begin(request, peer) {
            Ok(outcome) => outcome,
            Err(error) => Outcome::Known(Some(Err(error))),
        };
        exchange
    }
}

/// A request that is being answered.
pub(super) struct Exchange {
    service: Arc<Service>,
    activity: Arc<Activity>,
    started: Instant,
    id: RequestId,
    method: Method,
    version: Version,
    origin: Option<HeaderValue>,
    route: Option<Arc<Route>>,
    /// When the caller's authorization ends.
    until: Option<Instant>,
    outcome: Outcome,
}

enum Outcome {
    /// Empty once it was taken.
    Known(Option<Result<Response, ApiError>>),
    Running(Answer),
}

impl Exchange {
    fn begin(&mut self, request: hyper::Request<Incoming>, peer: SocketAddr) -> Result<Outcome, ApiError> {
        if request.version() == Version::HTTP_11 && !request.headers().contains_key(HOST) {
            return Err(ApiError::new(StatusCode::BAD_REQUEST, "BAD_REQUEST", "an HTTP/1.1 request names its host"));
        }
        let found = self.service.table.find(request.uri().path());
        let (route, params) = found.ok_or_else(|| ApiError::not_found("NOT_FOUND", "there is nothing at this path"))?;
        self.route = Some(Arc::clone(&route));
        let Some(handler) = route.handler(&self.method) else {
            if self.method == Method::OPTIONS {
                let permitted = self.origin.is_some() && Cors::is_preflight(&self.method, request.headers());
                return Ok(Outcome::Known(Some(Ok(options(&route, permitted)))));
            }
            let message = format!("{} does not take {}", request.uri().path(), self.method);
            let error = ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "METHOD_NOT_ALLOWED", message);
            return Err(error.with_header(ALLOW, route.allow.clone()));
        };
        let (head, body) = request.into_parts();
        let Config { max_body_bytes, body_timeout, .. } = self.service.config;
        let (id, caller, activity) = (self.id, Caller::default(), Arc::clone(&self.activity));
        let mut request =
            Request { head, body, route: Arc::clone(&route), params, peer, id, caller, activity, max_body_bytes, body_timeout };
        if let Some(authorize) = &self.service.authorize {
            request.caller = authorize(&request)?;
            self.until = request.caller.expires_at;
        }
        if let Some(buckets) = &self.service.buckets {
            let who = request.caller.name.clone().map_or(Who::Address(peer.ip()), Who::Caller);
            let refused = |wait: Duration| ApiError::rate_limited("too many requests from this caller", wait.as_secs() + 1);
            buckets.take(who, Instant::now()).map_err(refused)?;
        }
        Ok(Outcome::Running(handler(request)))
    }

    /// Makes a response of the outcome, with what every response carries. A stream is left with the connection instead.
    fn finish(&mut self, outcome: Result<Response, ApiError>) -> Option<hyper::Response<Body>> {
        let response = outcome.unwrap_or_else(|error| error.into_response(self.id)).0;
        let (mut head, content) = response.into_parts();
        head.headers.insert(REQUEST_ID, self.id.header());
        if matches!(self.method, Method::GET | Method::HEAD) && !head.headers.contains_key(CACHE_CONTROL) {
            head.headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        }
        let service = &self.service;
        service.cors.mark(self.origin.take(), &mut head.headers);
        let pattern = self.route.as_ref().map_or("(none)", |route| &route.pattern);
        service.metrics.answered(pattern, known_method(&self.method), head.status.as_u16(), self.started.elapsed());
        let bytes = match content {
            Content::Whole(bytes) => bytes,
            Content::Events(_) if self.method == Method::HEAD => Bytes::new(),
            Content::Events(mut events) => {
                events.open(service.config.heartbeat, self.until, service.metrics.stream());
                let chunked = self.version == Version::HTTP_11;
                if chunked {
                    head.headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
                }
                head.headers.insert(CONNECTION, HeaderValue::from_static("close"));
                let mut bytes = Vec::new();
                write_head(head.status, &head.headers, &mut bytes);
                self.activity.detach(Detached { head: bytes, events, chunked });
                return None;
            }
        };
        Some(hyper::Response::from_parts(head, Body { bytes, activity: Arc::clone(&self.activity) }))
    }
}

impl Future for Exchange {
    type Output = Result<hyper::Response<Body>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let outcome = match &mut self.outcome {
            Outcome::Known(outcome) => outcome.take().expect("a future is not polled after its end"),
            Outcome::Running(answer) => {
                // A panic is one request's error, and not the end of the connection and of what is pipelined on it. The future is not
                // polled again, so nobody sees what it may have left half done.
                let polled = catch_unwind(AssertUnwindSafe(|| answer.as_mut().poll(cx)));
                ready!(polled.unwrap_or_else(|panic| {
                    let text =
                        panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
                    Poll::Ready(Err(ApiError::internal(format_args!("panic: {}", text.unwrap_or("of unknown kind")))))
                }))
            }
        };
        self.outcome = Outcome::Known(None);
        // The connection sees a stream after this, and drops hyper together with this future.
        self.finish(outcome).map_or(Poll::Pending, |response| Poll::Ready(Ok(response)))
    }
}

fn options(route: &Route, may_permit: bool) -> Response {
    let mut response = Response::empty(StatusCode::NO_CONTENT);
    response.0.headers_mut().insert(ALLOW, route.allow.clone());
    if may_permit {
        Cors::permit(route.allow.clone(), response.0.headers_mut());
    }
    response
}

/// The methods that are counted by name.
fn known_method(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}
