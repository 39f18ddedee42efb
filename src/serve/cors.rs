//! Which pages of other origins may use this server from a browser: those of the configured origins, and no others.

use hyper::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS,
    ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD, HeaderValue, ORIGIN, VARY,
};
use hyper::{HeaderMap, Method};

/// What a page may send beyond what every page may.
const REQUEST_HEADERS: HeaderValue = HeaderValue::from_static("authorization, content-type, idempotency-key, last-event-id");
/// What a page may read beyond what every page may.
const ANSWER_HEADERS: HeaderValue = HeaderValue::from_static("retry-after, x-request-id, x-stream-position, x-view-staleness-ms");
/// For how many seconds a browser may remember the answer to a preflight.
const MAX_AGE: HeaderValue = HeaderValue::from_static("600");

pub(super) struct Cors {
    origins: Vec<HeaderValue>,
}

impl Cors {
    /// # Panics
    /// If an origin is not visible ASCII: a browser could never send it.
    pub(super) fn new(origins: &[String]) -> Cors {
        let header = |origin: &String| HeaderValue::from_str(origin).expect("an origin is visible ASCII");
        Cors { origins: origins.iter().map(header).collect() }
    }

    /// The origin of the page that asks, if it may.
    pub(super) fn allowed(&self, request: &HeaderMap) -> Option<HeaderValue> {
        let origin = request.get(ORIGIN)?;
        self.origins.iter().find(|known| *known == origin).cloned()
    }

    pub(super) fn is_preflight(method: &Method, request: &HeaderMap) -> bool {
        method == Method::OPTIONS && request.contains_key(ORIGIN) && request.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
    }

    /// Adds to an answer what lets the page read it.
    pub(super) fn mark(&self, origin: Option<HeaderValue>, answer: &mut HeaderMap) {
        if self.origins.is_empty() {
            return;
        }
        answer.append(VARY, HeaderValue::from_static("origin"));
        if let Some(origin) = origin {
            answer.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            answer.insert(ACCESS_CONTROL_EXPOSE_HEADERS, ANSWER_HEADERS);
        }
    }

    /// Adds to a preflight's answer what the page may do.
    pub(super) fn permit(methods: HeaderValue, answer: &mut HeaderMap) {
        answer.insert(ACCESS_CONTROL_ALLOW_METHODS, methods);
        answer.insert(ACCESS_CONTROL_ALLOW_HEADERS, REQUEST_HEADERS);
        answer.insert(ACCESS_CONTROL_MAX_AGE, MAX_AGE);
    }
}
