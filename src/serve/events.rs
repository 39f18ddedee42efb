//! Server-sent events: how they are written, and the body that streams them.
//!
//! A client costs no task and no queue here: its producer is a future inside the response's body, which runs when the connection has room,
//! and what it sends lies in one small buffer until the connection takes it. So a client that does not read stops its own producer only;
//! what feeds the producer (a watch) is bounded itself and cuts it off.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::time::{Instant, Sleep, sleep_until};

use super::metrics::OpenStream;

/// How many bytes a producer may be ahead of the connection.
const AHEAD: usize = 16 << 10;

/// How long a browser waits before it comes back.
const BEGINNING: &[u8] = b"retry: 2000\n\n";

const HEARTBEAT: &[u8] = b":\n\n";

/// One event.
#[derive(Clone, Copy, Debug)]
pub struct Event<'a> {
    name: &'a str,
    data: &'a [u8],
    id: Option<u64>,
}

impl<'a> Event<'a> {
    /// An event with a name, such as `coupon-issued`, and UTF-8 data, mostly JSON.
    ///
    /// # Panics
    /// If the name has a line break: a programming error.
    #[must_use]
    pub fn new(name: &'a str, data: &'a [u8]) -> Event<'a> {
        assert!(!name.contains(['\n', '\r']), "an event's name is one line");
        Event { name, data, id: None }
    }

    /// The same with an id, which a client that comes back sends as `Last-Event-ID`.
    #[must_use]
    pub fn id(mut self, id: u64) -> Event<'a> {
        self.id = Some(id);
        self
    }

    fn write(&self, out: &mut Vec<u8>) {
        if let Some(id) = self.id {
            out.extend_from_slice(b"id: ");
            out.extend_from_slice(id.to_string().as_bytes());
            out.push(b'\n');
        }
        out.extend_from_slice(b"event: ");
        out.extend_from_slice(self.name.as_bytes());
        for line in self.data.split(|byte| matches!(byte, b'\n' | b'\r')) {
            out.extend_from_slice(b"\ndata: ");
            out.extend_from_slice(line);
        }
        out.extend_from_slice(b"\n\n");
    }
}

#[derive(Default)]
struct Shared {
    buffer: Vec<u8>,
    too_slow: bool,
}

/// Where a producer puts its events; see [`Response::events`](super::Response::events).
pub struct Events(Arc<Mutex<Shared>>);

impl Events {
    /// Sends an event, once the client has taken most of what was sent before.
    pub async fn send(&mut self, event: &Event<'_>) {
        // No waker: the body runs the producer again whenever the connection took a piece.
        poll_fn(|_| if self.0.lock().buffer.len() < AHEAD { Poll::Ready(()) } else { Poll::Pending }).await;
        event.write(&mut self.0.lock().buffer);
    }

    /// Notes that the stream ends because its client did not keep up.
    pub fn cut_off(self) {
        self.0.lock().too_slow = true;
    }
}

/// The body of a stream.
pub(super) struct EventBody {
    producer: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    shared: Arc<Mutex<Shared>>,
    open: Option<Open>,
}

/// What the server adds to a stream when it goes out.
struct Open {
    timer: Pin<Box<Sleep>>,
    heartbeat: Duration,
    until: Option<Instant>,
    stopping: Arc<AtomicBool>,
    stream: OpenStream,
}

impl EventBody {
    pub(super) fn new<F: Future<Output = ()> + Send + 'static>(producer: impl FnOnce(Events) -> F) -> EventBody {
        let shared = Arc::new(Mutex::new(Shared { buffer: BEGINNING.to_vec(), too_slow: false }));
        let producer = producer(Events(Arc::clone(&shared)));
        EventBody { producer: Some(Box::pin(producer)), shared, open: None }
    }

    /// Lets the stream run: with a heartbeat, until then, or until the server stops.
    pub(super) fn open(&mut self, heartbeat: Duration, until: Option<Instant>, stopping: Arc<AtomicBool>, stream: OpenStream) {
        let first = Instant::now() + heartbeat;
        let timer = Box::pin(sleep_until(until.map_or(first, |until| until.min(first))));
        self.open = Some(Open { timer, heartbeat, until, stopping, stream });
    }

    /// The next bytes; `None` at the end.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if self.open.as_ref().is_some_and(|open| open.stopping.load(Ordering::Acquire)) {
            return Poll::Ready(None);
        }
        if self.producer.as_mut().is_some_and(|producer| producer.as_mut().poll(cx).is_ready()) {
            self.producer = None;
        }
        let mut shared = self.shared.lock();
        if !shared.buffer.is_empty() {
            return Poll::Ready(Some(std::mem::take(&mut shared.buffer).into()));
        }
        let Some(open) = &mut self.open else { return Poll::Ready(None) };
        if self.producer.is_none() {
            if std::mem::take(&mut shared.too_slow) {
                open.stream.too_slow();
            }
            return Poll::Ready(None);
        }
        if open.timer.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        let now = Instant::now();
        if open.until.is_some_and(|until| until <= now) {
            return Poll::Ready(None);
        }
        let next = now + open.heartbeat;
        open.timer.as_mut().reset(open.until.map_or(next, |until| until.min(next)));
        Poll::Ready(Some(Bytes::from_static(HEARTBEAT)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::metrics::Metrics;
    use super::*;

    #[test]
    fn events_are_written_line_by_line() {
        let check = |event: Event<'_>, expected: &str| {
            let mut out = Vec::new();
            event.write(&mut out);
            assert_eq!(String::from_utf8_lossy(&out), expected);
        };
        check(Event::new("change", b"{}"), "event: change\ndata: {}\n\n");
        check(Event::new("a", "쿠폰".as_bytes()).id(7), "id: 7\nevent: a\ndata: 쿠폰\n\n");
        check(Event::new("a", b"1\n2"), "event: a\ndata: 1\ndata: 2\n\n");
        check(Event::new("a", b""), "event: a\ndata: \n\n");
    }

    fn opened(producer: impl Future<Output = ()> + Send + 'static, until: Duration, stopping: &Arc<AtomicBool>) -> EventBody {
        let mut body = EventBody::new(|_events| producer);
        body.open(Duration::from_millis(20), Some(Instant::now() + until), Arc::clone(stopping), Metrics::default().stream());
        body
    }

    #[tokio::test]
    async fn a_stream_beats_and_ends_when_the_authorization_does() {
        let stopping = Arc::new(AtomicBool::new(false));
        let start = Instant::now();
        let mut body = opened(std::future::pending(), Duration::from_millis(90), &stopping);
        let mut seen = Vec::new();
        while let Some(bytes) = poll_fn(|cx| body.poll(cx)).await {
            seen.push(bytes);
        }
        assert!(start.elapsed() >= Duration::from_millis(90));
        assert_eq!(seen[0], BEGINNING);
        assert!((2..=5).contains(&seen.len()) || start.elapsed() > Duration::from_millis(110), "{seen:?}");
        assert!(seen[1..].iter().all(|beat| beat == HEARTBEAT), "{seen:?}");

        let mut body = opened(std::future::pending(), Duration::from_secs(60), &stopping);
        stopping.store(true, Ordering::Release);
        assert_eq!(poll_fn(|cx| body.poll(cx)).await, None, "the server stops");
    }

    #[tokio::test]
    async fn a_producer_is_never_far_ahead_of_its_client() {
        let made = Arc::new(Mutex::new(0));
        let counter = Arc::clone(&made);
        let mut body = EventBody::new(|mut events| async move {
            for _ in 0..100 {
                events.send(&Event::new("kilobyte", &[b'x'; 1024])).await;
                *counter.lock() += 1;
            }
        });
        let mut received = 0;
        while let Some(bytes) = poll_fn(|cx| body.poll(cx)).await {
            received += bytes.len();
            assert!(*made.lock() * 1024 <= received, "{} made, {received} bytes taken", *made.lock());
            assert!(bytes.len() < AHEAD + 2 * 1024, "{} bytes in one piece", bytes.len());
        }
        assert_eq!(*made.lock(), 100);
    }
}
