//! One request, from its head to its answer: route, caller, rate, handler, and what every answer carries. A handler's error or panic is
//! an answer too, so nothing here fails.

use std::convert::Infallible;
use std::future::Future;
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body as _, Incoming};
use hyper::header::{ALLOW, CACHE_CONTROL, HOST, HeaderName, HeaderValue};
use hyper::{Method, StatusCode, Version};
use tokio::time::Instant;

use super::activity::{Activity, Phase};
use super::config::Config;
use super::cors::Cors;
use super::error::ApiError;
use super::metrics::Metrics;
use super::rate::{Buckets, Who};
use super::request::{Caller, Request, RequestId};
use super::response::{Body, Content, Response};
use super::routes::{Answer, Route, Table};

/// Tells who asks, or refuses: 401, 403.
pub(super) type Authorize = Box<dyn Fn(&Request) -> Result<Caller, ApiError> + Send + Sync>;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

pub(super) struct Service {
    pub(super) config: Config,
    pub(super) metrics: Metrics,
    pub(super) stopping: Arc<AtomicBool>,
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
            stopping: Arc::new(AtomicBool::new(false)),
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
            buckets.take(who, Instant::now()).map_err(|wait| {
                let error = ApiError::new(StatusCode::TOO_MANY_REQUESTS, "RATE_LIMITED", "too many requests from this caller");
                error.retry_after(wait.as_secs() + 1)
            })?;
        }
        Ok(Outcome::Running(handler(request)))
    }

    /// Makes a response of the outcome, with what every response carries.
    fn finish(&mut self, outcome: Result<Response, ApiError>, cx: &mut Context<'_>) -> hyper::Response<Body> {
        let mut response = outcome.unwrap_or_else(|error| render(error, self.id)).0;
        let headers = response.headers_mut();
        let id = HeaderValue::from_maybe_shared(Bytes::from(self.id.to_string())).expect("hexadecimal digits");
        headers.insert(REQUEST_ID, id);
        if matches!(self.method, Method::GET | Method::HEAD) && !headers.contains_key(CACHE_CONTROL) {
            headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        }
        self.service.cors.mark(self.origin.take(), headers);
        let status = response.status().as_u16();
        let service = &self.service;
        if let Content::Events(events) = &mut response.body_mut().content {
            events.open(service.config.heartbeat, self.until, Arc::clone(&service.stopping), service.metrics.stream());
            self.activity.enter(Phase::Streaming);
            cx.waker().wake_by_ref();
        }
        response.body_mut().activity = Some(Arc::clone(&self.activity));
        let pattern = self.route.as_ref().map_or("(none)", |route| &route.pattern);
        service.metrics.answered(pattern, known_method(&self.method), status, self.started.elapsed());
        response
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
        Poll::Ready(Ok(self.finish(outcome, cx)))
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

fn render(error: ApiError, id: RequestId) -> Response {
    if let Some(cause) = error.cause() {
        tracing::error!(request = %id, cause, "a request failed");
    }
    let mut response = Response::bytes(error.status(), "application/json", error.body(id));
    if let Some((name, value)) = error.header() {
        response.0.headers_mut().insert(name, value.clone());
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
