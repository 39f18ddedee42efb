//! What a client is told when its request is refused or fails: `{"error":{"code","message","requestId"}}`.
//! The inner cause of a failure goes to the log, never to the client.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::{HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use serde::Serialize;

use super::request::{REQUEST_ID, RequestId};
use super::response::Response;

/// An answer that is an error. Handlers return it by `?`.
///
/// ```
/// use millstream::serve::{ApiError, StatusCode};
///
/// let sold_out = ApiError::new(StatusCode::CONFLICT, "COUPON_SOLD_OUT", "all 100 coupons are taken");
/// assert_eq!(sold_out.to_string(), "COUPON_SOLD_OUT: all 100 coupons are taken");
/// ```
#[derive(Clone, Debug)]
pub struct ApiError {
    status: StatusCode,
    code: &'static str,
    message: Cow<'static, str>,
    header: Option<Box<(HeaderName, HeaderValue)>>,
    cause: Option<Box<str>>,
}

impl ApiError {
    /// An error with a code for programs and a message for people.
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<Cow<'static, str>>) -> ApiError {
        ApiError { status, code, message: message.into(), header: None, cause: None }
    }

    /// 400: a field of the body, the path or the query is not what it must be. The message begins with the field's name.
    pub fn invalid_field(field: &str, why: impl fmt::Display) -> ApiError {
        ApiError::new(StatusCode::BAD_REQUEST, "INVALID_FIELD", format!("{field} {why}"))
    }

    /// 401: who asks is not known, or no longer.
    pub fn unauthenticated(message: impl Into<Cow<'static, str>>) -> ApiError {
        ApiError::new(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", message)
            .with_header(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))
    }

    /// 403: who asks may not do this.
    pub fn forbidden(message: impl Into<Cow<'static, str>>) -> ApiError {
        ApiError::new(StatusCode::FORBIDDEN, "FORBIDDEN", message)
    }

    /// 404 with a code that says what was not found.
    pub fn not_found(code: &'static str, message: impl Into<Cow<'static, str>>) -> ApiError {
        ApiError::new(StatusCode::NOT_FOUND, code, message)
    }

    /// 429: the caller has asked too often, and may again after so many seconds.
    pub(super) fn rate_limited(message: impl Into<Cow<'static, str>>, seconds: u64) -> ApiError {
        ApiError::new(StatusCode::TOO_MANY_REQUESTS, "RATE_LIMITED", message).retry_after(seconds)
    }

    /// 503: try again after a second.
    pub fn unavailable(code: &'static str, message: impl Into<Cow<'static, str>>) -> ApiError {
        ApiError::new(StatusCode::SERVICE_UNAVAILABLE, code, message).retry_after(1)
    }

    /// 504: whether anything was appended is not known. Safe to repeat with the same idempotency key.
    pub fn outcome_unknown(message: impl Into<Cow<'static, str>>) -> ApiError {
        ApiError::new(StatusCode::GATEWAY_TIMEOUT, "OUTCOME_UNKNOWN", message)
    }

    /// 500: our mistake. The cause is logged with the request's id, which is all that the client is told.
    pub fn internal(cause: impl fmt::Display) -> ApiError {
        let error = ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "INTERNAL", "the request failed inside the server");
        ApiError { cause: Some(cause.to_string().into()), ..error }
    }

    /// The same error with `Retry-After`, in whole seconds.
    #[must_use]
    pub fn retry_after(self, seconds: u64) -> ApiError {
        self.with_header(RETRY_AFTER, HeaderValue::from(seconds))
    }

    /// The same error with this header in place of its own.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> ApiError {
        self.header = Some(Box::new((name, value)));
        self
    }

    /// The status of the answer.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The code for programs.
    #[must_use]
    pub fn code(&self) -> &'static str {
        self.code
    }

    /// The answer. Logs what is not told.
    pub(super) fn into_response(self, id: RequestId) -> Response {
        if let Some(cause) = &self.cause {
            tracing::error!(request = %id, %cause, "a request failed");
        }
        let mut response = Response::bytes(self.status, "application/json", self.body(id));
        response.0.headers_mut().insert(REQUEST_ID, id.header());
        response.0.headers_mut().extend(self.header.map(|header| *header));
        response
    }

    fn body(&self, request: RequestId) -> Bytes {
        #[derive(Serialize)]
        struct Body<'a> {
            error: Inner<'a>,
        }
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Inner<'a> {
            code: &'a str,
            message: &'a str,
            request_id: &'a str,
        }
        let request_id = request.to_string();
        let body = Body { error: Inner { code: self.code, message: &self.message, request_id: &request_id } };
        serde_json::to_vec(&body).expect("three strings are JSON").into()
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

impl std::error::Error for ApiError {}
