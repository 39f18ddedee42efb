//! A request as a handler sees it: its path's parameters, query, headers and body, read with the limits that hold for all, and who asks.

use std::borrow::Cow;
use std::fmt;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use hyper::body::{Body as _, Frame, Incoming};
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::http::request::Parts;
use hyper::{HeaderMap, Method, StatusCode};
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use super::activity::{Activity, Phase};
use super::error::ApiError;
use super::query;
use super::routes::{Params, Route};
use crate::record::Partition;
use crate::runtime::{Behind, Handle, Token};

/// Ids are JSON numbers that every client can hold exactly.
const ID_END: u64 = 1 << 53;

/// Names one request in answers and logs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RequestId(pub(super) u64);

/// The header that every answer carries.
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

impl RequestId {
    pub(super) fn header(self) -> HeaderValue {
        HeaderValue::from_maybe_shared(Bytes::from(self.to_string())).expect("hexadecimal digits")
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Who asks, as [`Server::authorize`](super::Server::authorize) found out. What a caller may do is for the application to say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Caller {
    /// The caller's name, if it has one; rate limits and idempotency keys are per name.
    pub name: Option<String>,
    /// What the caller is, in the application's words.
    pub role: String,
    /// When the caller must prove again who it is; a stream ends then.
    pub expires_at: Option<Instant>,
}

/// One request.
pub struct Request {
    pub(super) head: Parts,
    pub(super) body: Incoming,
    pub(super) route: Arc<Route>,
    pub(super) params: Params,
    pub(super) peer: SocketAddr,
    pub(super) id: RequestId,
    pub(super) caller: Caller,
    pub(super) activity: Arc<Activity>,
    pub(super) max_body_bytes: usize,
    pub(super) body_timeout: Duration,
}

impl Request {
    /// The method.
    #[must_use]
    pub fn method(&self) -> &Method {
        &self.head.method
    }

    /// The path as it was sent, without the query.
    #[must_use]
    pub fn path(&self) -> &str {
        self.head.uri.path()
    }

    /// The pattern of the route that matched, such as `/api/orders/{orderId}`.
    #[must_use]
    pub fn route(&self) -> &str {
        &self.route.pattern
    }

    /// The headers.
    #[must_use]
    pub fn headers(&self) -> &HeaderMap {
        &self.head.headers
    }

    /// A header's text; `None` if it is absent or not visible ASCII.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.headers.get(name)?.to_str().ok()
    }

    /// This request's id.
    #[must_use]
    pub fn id(&self) -> RequestId {
        self.id
    }

    /// Who asks.
    #[must_use]
    pub fn caller(&self) -> &Caller {
        &self.caller
    }

    /// Where the connection comes from.
    #[must_use]
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Whether the client wants a stream of events in place of one answer.
    #[must_use]
    pub fn wants_events(&self) -> bool {
        let accepts =
            |value: &str| value.split(',').any(|part| part.split(';').next().is_some_and(|t| t.trim() == "text/event-stream"));
        self.head.method == Method::GET && self.header("accept").is_some_and(accepts)
    }

    /// A parameter of the path, decoded.
    ///
    /// # Errors
    /// 400 `INVALID_FIELD` if it is not percent-encoded UTF-8.
    ///
    /// # Panics
    /// If the route has no parameter of this name.
    pub fn param(&self, name: &str) -> Result<Cow<'_, str>, ApiError> {
        let at = self.route.params.iter().position(|known| known == name);
        let at = at.unwrap_or_else(|| panic!("the route {:?} has no parameter {name:?}", self.route.pattern));
        let raw = &self.path()[self.params.range(at)];
        query::decode(raw, false).ok_or_else(|| ApiError::invalid_field(name, "is not percent-encoded UTF-8"))
    }

    /// A parameter of the path as an id: a whole number from 0, below 2^53.
    ///
    /// # Errors
    /// 400 `INVALID_FIELD` if it is none.
    ///
    /// # Panics
    /// If the route has no parameter of this name.
    pub fn param_id(&self, name: &str) -> Result<u64, ApiError> {
        let id = parse_digits(&self.param(name)?).filter(|id| *id < ID_END);
        id.ok_or_else(|| ApiError::invalid_field(name, "must be a whole number from 0 to 2^53 - 1"))
    }

    /// A parameter of the query, decoded; of several with this name the first.
    ///
    /// # Errors
    /// 400 `INVALID_FIELD` if it is not percent-encoded UTF-8.
    pub fn query(&self, name: &str) -> Result<Option<Cow<'_, str>>, ApiError> {
        let Some(raw) = self.head.uri.query().and_then(|query| query::find(query, name)) else { return Ok(None) };
        query::decode(raw, true).map(Some).ok_or_else(|| ApiError::invalid_field(name, "is not percent-encoded UTF-8"))
    }

    /// A parameter of the query as a whole number within the bounds, or `default` without it.
    ///
    /// # Errors
    /// 400 `INVALID_FIELD` if it is none, or not within them.
    pub fn query_number(&self, name: &str, default: u64, bounds: std::ops::RangeInclusive<u64>) -> Result<u64, ApiError> {
        let Some(text) = self.query(name)? else { return Ok(default) };
        parse_digits(&text).filter(|number| bounds.contains(number)).ok_or_else(|| {
            ApiError::invalid_field(name, format_args!("must be a whole number from {} to {}", bounds.start(), bounds.end()))
        })
    }

    /// The whole body.
    ///
    /// # Errors
    /// 413 if it is longer than the limit, 408 if it does not come in time, 400 `BAD_REQUEST` if it is malformed or cut off.
    pub async fn body(&mut self) -> Result<Bytes, ApiError> {
        let declared = self.head.headers.get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()).and_then(|v| v.parse::<u64>().ok());
        if declared.is_some_and(|bytes| bytes > self.max_body_bytes as u64) {
            return Err(self.too_large());
        }
        if self.body.is_end_stream() {
            return Ok(Bytes::new());
        }
        let read = tokio::time::timeout(self.body_timeout, self.read_body());
        let body =
            read.await.map_err(|_| ApiError::new(StatusCode::REQUEST_TIMEOUT, "REQUEST_TIMEOUT", "the body took too long"))??;
        self.activity.enter(Phase::Answering);
        Ok(body)
    }

    async fn read_body(&mut self) -> Result<Bytes, ApiError> {
        let mut whole = Bytes::new();
        let mut parts = BytesMut::new();
        while let Some(frame) = poll_fn(|cx| self.poll_frame(cx)).await {
            let malformed =
                |error| ApiError::new(StatusCode::BAD_REQUEST, "BAD_REQUEST", format!("the body is malformed: {error}"));
            let Ok(data) = frame.map_err(malformed)?.into_data() else { continue };
            if whole.len() + parts.len() + data.len() > self.max_body_bytes {
                return Err(self.too_large());
            }
            if whole.is_empty() && parts.is_empty() {
                whole = data; // most bodies come in one piece, which is not copied
                continue;
            }
            if parts.is_empty() {
                parts.extend_from_slice(&std::mem::take(&mut whole));
            }
            parts.extend_from_slice(&data);
        }
        Ok(if parts.is_empty() { whole } else { parts.freeze() })
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        if frame.is_pending() && self.activity.phase() == Phase::Asking {
            self.activity.enter(Phase::Receiving);
            cx.waker().wake_by_ref();
        }
        frame
    }

    fn too_large(&self) -> ApiError {
        let message = format!("the body is longer than {} bytes", self.max_body_bytes);
        ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "BODY_TOO_LARGE", message)
    }

    /// The body as JSON. Fields that `T` does not name are ignored.
    ///
    /// # Errors
    /// As [`Request::body`]; 415 if it is not declared as JSON, 400 `INVALID_JSON` if it is none, and 400 `INVALID_FIELD` naming the field
    /// if it does not fit `T`.
    pub async fn json<T: DeserializeOwned>(&mut self) -> Result<T, ApiError> {
        self.expect_json()?;
        from_json(&self.body().await?)
    }

    /// As [`Request::json`], but a request without a body is `T::default()`.
    ///
    /// # Errors
    /// As [`Request::json`].
    pub async fn json_or_default<T: DeserializeOwned + Default>(&mut self) -> Result<T, ApiError> {
        if self.body.is_end_stream() {
            return Ok(T::default());
        }
        self.json().await
    }

    /// The body, declared as JSON; `{}` where there is none.
    ///
    /// # Errors
    /// As [`Request::body`] and [`Request::expect_json`].
    pub async fn body_or_empty_object(&mut self) -> Result<Bytes, ApiError> {
        if self.body.is_end_stream() {
            return Ok(Bytes::from_static(b"{}"));
        }
        self.expect_json()?;
        self.body().await
    }

    /// Refuses a body that is not declared as JSON. A page of another origin cannot declare that without asking first (CORS).
    ///
    /// # Errors
    /// 415.
    pub fn expect_json(&self) -> Result<(), ApiError> {
        let declared = self.head.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let essence = declared.split(';').next().unwrap_or_default().trim();
        if essence.eq_ignore_ascii_case("application/json") {
            return Ok(());
        }
        let message = "the body must be JSON, with Content-Type: application/json";
        Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "UNSUPPORTED_MEDIA_TYPE", message))
    }

    /// Read-your-writes: waits until the store's view includes the position of `?at_least=`, if there is one, at most `?wait_ms=`.
    ///
    /// # Errors
    /// 400 `INVALID_FIELD` if one of them is unreadable, 504 `VIEW_BEHIND` if the view does not come so far in time.
    pub async fn at_least(&self, application: &Handle, store: &str) -> Result<(), ApiError> {
        let (wait, token) = (self.wait()?, self.token()?);
        let Some(token) = token else { return Ok(()) };
        waited(application.at_least(&token, store, wait).await)
    }

    /// The same for these partitions of the store alone.
    pub(super) async fn at_least_in(&self, application: &Handle, store: &str, partitions: &[Partition]) -> Result<(), ApiError> {
        let (wait, token) = (self.wait()?, self.token()?);
        let Some(token) = token else { return Ok(()) };
        waited(application.at_least_in(&token, store, partitions, wait).await)
    }

    fn token(&self) -> Result<Option<Token>, ApiError> {
        let wrong = |error| ApiError::invalid_field("at_least", error);
        self.query("at_least")?.map(|text| text.parse().map_err(wrong)).transpose()
    }

    /// How long the request may wait for what it names.
    pub(super) fn wait(&self) -> Result<Duration, ApiError> {
        self.query_number("wait_ms", 2_000, 0..=10_000).map(Duration::from_millis)
    }

    /// The path and the query as they were sent.
    pub(super) fn path_and_query(&self) -> &str {
        self.head.uri.path_and_query().map_or("/", |whole| whole.as_str())
    }
}

fn waited(outcome: Result<(), Behind>) -> Result<(), ApiError> {
    outcome.map_err(|error| match error {
        Behind::Unreadable(_) => ApiError::invalid_field("at_least", error),
        Behind::TimedOut => ApiError::new(StatusCode::GATEWAY_TIMEOUT, "VIEW_BEHIND", error.to_string()).retry_after(1),
    })
}

/// Reads a JSON object into `T`, with the errors of [`Request::json`].
///
/// # Errors
/// 400 `INVALID_JSON` or `INVALID_FIELD`.
pub fn from_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    let invalid =
        |why: &dyn fmt::Display| ApiError::new(StatusCode::BAD_REQUEST, "INVALID_JSON", format!("the body is not JSON: {why}"));
    let text = std::str::from_utf8(bytes).map_err(|error| invalid(&error))?;
    let is_object = text.trim_start().starts_with('{'); // serde would take a list for a struct, field by field
    let error = match serde_json::from_str(text) {
        Ok(value) if is_object => return Ok(value),
        Ok(_) => return Err(ApiError::invalid_field("the body", "must be an object")),
        Err(error) => error,
    };
    // The first misfit may come before a syntax error, which is the worse one.
    if let Err(error) = serde_json::from_str::<serde::de::IgnoredAny>(text) {
        return Err(invalid(&error));
    }
    if !is_object {
        return Err(ApiError::invalid_field("the body", "must be an object"));
    }
    // Read once more, slower, to learn where it does not fit.
    let tracked: Result<T, _> = serde_path_to_error::deserialize(&mut serde_json::Deserializer::from_str(text));
    let path = tracked.err().map(|tracked| tracked.path().to_string()).filter(|path| path != ".");
    Err(ApiError::invalid_field(path.as_deref().unwrap_or("the body"), format_args!("is not acceptable: {error}")))
}

/// Digits only: no sign, no space.
fn parse_digits(text: &str) -> Option<u64> {
    text.bytes().all(|c| c.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_that_does_not_fit_names_its_field() {
        #[derive(serde::Deserialize, Debug)]
        #[serde(rename_all = "camelCase")]
        struct Order {
            #[expect(dead_code)]
            user_id: u64,
            #[expect(dead_code)]
            items: Vec<Item>,
        }
        #[derive(serde::Deserialize, Debug)]
        struct Item {
            #[expect(dead_code)]
            quantity: u32,
        }
        let check = |body: &str, code: &str, words: &str| {
            let error = from_json::<Order>(body.as_bytes()).expect_err(body);
            assert!(error.code() == code && error.to_string().contains(words), "{body}: {error}");
        };
        check("{", "INVALID_JSON", "EOF");
        check("", "INVALID_JSON", "EOF");
        check("[1,]", "INVALID_JSON", "column 4");
        check("[1,[]]", "INVALID_FIELD", "the body must be an object");
        check("null", "INVALID_FIELD", "the body must be an object");
        check("{\"userId\":-1,}", "INVALID_JSON", "column 14");
        check(&"[".repeat(30_000), "INVALID_JSON", "EOF");
        check("{\"userId\":1,\"items\":[]}x", "INVALID_JSON", "trailing");
        check("{\"userId\":-1}", "INVALID_FIELD", "userId is not");
        check("{\"userId\":1}", "INVALID_FIELD", "missing field `items`");
        check("{\"userId\":1,\"items\":[{\"quantity\":1},{\"quantity\":1.5}]}", "INVALID_FIELD", "items[1].quantity is not");
        from_json::<Order>(b"{\"userId\":1,\"items\":[],\"more\":true}").expect("unknown fields are ignored");
    }

    #[test]
    fn numbers_are_digits() {
        assert_eq!(
            ["7", "007", "", "+7", "-7", " 7", "7 ", "18446744073709551616"].map(parse_digits),
            [Some(7), Some(7), None, None, None, None, None, None]
        );
    }
}
