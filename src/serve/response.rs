//! An answer: JSON, bytes or a stream of events, and how it goes out.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{HeaderMap, StatusCode};
use serde::Serialize;

use super::activity::{Activity, Phase};
use super::error::ApiError;
use super::events::{EventBody, Events};
use crate::clock::Clock;

/// A long body goes out in pieces of this many bytes, so that a slow client's connection does not buffer all of it.
const PIECE: usize = 32 << 10;

/// The answer to one request.
pub struct Response(pub(super) hyper::Response<Content>);

impl Response {
    /// A value as JSON.
    ///
    /// # Errors
    /// 500 if it does not serialize: a map whose keys are not text, or an error of its own.
    pub fn json<T: Serialize + ?Sized>(status: StatusCode, value: &T) -> Result<Response, ApiError> {
        let body = serde_json::to_vec(value).map_err(ApiError::internal)?;
        Ok(Response::bytes(status, "application/json", body))
    }

    /// Bytes of this content type.
    #[must_use]
    pub fn bytes(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response {
        let mut response = Response::empty(status);
        *response.0.body_mut() = Content::Whole(body.into());
        response.0.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        response
    }

    /// A status and no body.
    #[must_use]
    pub fn empty(status: StatusCode) -> Response {
        let mut response = hyper::Response::new(Content::Whole(Bytes::new()));
        *response.status_mut() = status;
        Response(response)
    }

    /// A stream of server-sent events, made by `producer`. It begins with `retry: 2000`, carries a heartbeat comment where the server's
    /// configuration says so, and ends when the producer does, the caller's authorization expires, or the server stops.
    ///
    /// The producer runs only while the client takes what it sends, and is dropped when the client leaves.
    /// ```
    /// use millstream::serve::{Event, Response};
    ///
    /// let countdown = Response::events(|mut events| async move {
    ///     for left in (0..10).rev() {
    ///         events.send(&Event::new("left", left.to_string().as_bytes())).await;
    ///     }
    /// });
    /// ```
    #[must_use]
    pub fn events<F>(producer: impl FnOnce(Events) -> F) -> Response
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let mut response = Response::empty(StatusCode::OK);
        *response.0.body_mut() = Content::Events(Box::new(EventBody::new(producer)));
        let headers = response.0.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
        response
    }

    /// The same answer with a header more.
    ///
    /// # Panics
    /// If the value is not visible ASCII: a programming error.
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: impl Into<Bytes>) -> Response {
        let value = HeaderValue::from_maybe_shared(value.into()).expect("a header's value is visible ASCII");
        self.0.headers_mut().insert(name, value);
        self
    }

    /// The status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.0.status()
    }

    /// The headers.
    #[must_use]
    pub fn headers(&self) -> &HeaderMap {
        self.0.headers()
    }
}

/// What an answer carries.
pub(super) enum Content {
    Whole(Bytes),
    Events(Box<EventBody>),
}

/// Appends the head of an answer that goes out without hyper.
pub(super) fn write_head(status: StatusCode, headers: &HeaderMap, out: &mut Vec<u8>) {
    out.extend_from_slice(
        format!("HTTP/1.1 {} {}\r\n", status.as_u16(), status.canonical_reason().unwrap_or_default()).as_bytes(),
    );
    for (name, value) in headers {
        out.extend_from_slice(&[name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
    }
    let now = Duration::from_millis(Clock::System.now().0.try_into().unwrap_or(0));
    out.extend_from_slice(format!("date: {}\r\n\r\n", httpdate::fmt_http_date(UNIX_EPOCH + now)).as_bytes());
}

/// A whole body on its way to hyper. When hyper drops it, the answer is given.
pub(super) struct Body {
    pub(super) bytes: Bytes,
    pub(super) activity: Arc<Activity>,
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.bytes.is_empty() {
            return Poll::Ready(None);
        }
        let piece = self.bytes.len().min(PIECE);
        Poll::Ready(Some(Ok(Frame::data(self.bytes.split_to(piece)))))
    }

    fn is_end_stream(&self) -> bool {
        self.bytes.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes.len() as u64)
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        self.activity.enter(Phase::Waiting);
    }
}
