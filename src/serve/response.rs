//! An answer: JSON, bytes or a stream of events, and the body that carries it to hyper.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{HeaderMap, StatusCode};
use serde::Serialize;

use super::activity::{Activity, Phase};
use super::error::ApiError;
use super::events::{EventBody, Events};

/// A long body goes out in pieces of this many bytes, so that a slow client's connection does not buffer all of it.
const PIECE: usize = 32 << 10;

/// The answer to one request.
pub struct Response(pub(super) hyper::Response<Body>);

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
        response.0.body_mut().content = Content::Whole(body.into());
        response.0.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        response
    }

    /// A status and no body.
    #[must_use]
    pub fn empty(status: StatusCode) -> Response {
        let mut response = hyper::Response::new(Body { content: Content::Whole(Bytes::new()), activity: None });
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
        response.0.body_mut().content = Content::Events(Box::new(EventBody::new(producer)));
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

/// A response's body on its way to hyper. When hyper drops it, the answer is given.
pub(super) struct Body {
    pub(super) content: Content,
    pub(super) activity: Option<Arc<Activity>>,
}

pub(super) enum Content {
    Whole(Bytes),
    Events(Box<EventBody>),
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let data = match &mut self.content {
            Content::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Content::Whole(bytes) => Poll::Ready(Some(bytes.split_to(bytes.len().min(PIECE)))),
            Content::Events(events) => events.poll(cx),
        };
        data.map(|data| data.map(|data| Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        matches!(&self.content, Content::Whole(bytes) if bytes.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Content::Events(_) => SizeHint::default(),
        }
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        if let Some(activity) = &self.activity {
            activity.enter(Phase::Waiting);
        }
    }
}
