//! Asking other processes of the application over HTTP. Connections are kept, an answer is bounded in size and time, and a request reads only,
//! so one that was lost with a kept connection is sent once more. An answer without an end has a connection of its own and is read line by line,
//! each bounded in size; how long to wait for one is up to who reads.

use std::collections::HashMap;
use std::future::poll_fn;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body as _, Incoming};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{HOST, HeaderMap, RETRY_AFTER};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long a process may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(1);
/// How many connections to one process are kept while nobody uses them.
const IDLE: usize = 16;
/// The longest answer that is read, in bytes.
const MAX_ANSWER: usize = 64 << 20;

/// The body of a request: none.
type Nothing = String;

/// Why there is no answer that goes on and on.
pub(super) struct Refusal {
    /// For people.
    pub(super) why: String,
    /// How long the process is to be left alone, if it says so.
    pub(super) retry_after: Option<Duration>,
}

impl From<String> for Refusal {
    fn from(why: String) -> Refusal {
        Refusal { why, retry_after: None }
    }
}

/// How long a process that gives this answer is to be left alone, if it says so in seconds.
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    headers.get(RETRY_AFTER)?.to_str().ok()?.parse().ok().map(Duration::from_secs)
}

/// Connections to other processes, by their `host:port`.
#[derive(Default)]
pub(super) struct Peers(Mutex<HashMap<String, Vec<SendRequest<Nothing>>>>);

impl Peers {
    /// Sends a request, made anew for each attempt, and reads the answer whole.
    ///
    /// # Errors
    /// Why there is no answer, for people.
    pub(super) async fn ask(
        &self,
        endpoint: &str,
        request: impl Fn() -> hyper::http::request::Builder,
        deadline: Duration,
    ) -> Result<Response<Bytes>, String> {
        let asked = timeout(deadline, self.ask_for_long(endpoint, request));
        asked.await.unwrap_or_else(|_| Err(format!("{endpoint} does not answer in time")))
    }

    async fn ask_for_long(
        &self,
        endpoint: &str,
        request: impl Fn() -> hyper::http::request::Builder,
    ) -> Result<Response<Bytes>, String> {
        let request = || {
            let made = request().header(HOST, endpoint).body(Nothing::new());
            made.map_err(|error| format!("{endpoint} cannot be asked: {error}"))
        };
        let kept = self.0.lock().get_mut(endpoint).and_then(Vec::pop);
        if let Some(connection) = kept
            && let Ok(answer) = self.send(endpoint, connection, request()?).await
        {
            return Ok(answer);
        }
        let connection = connect(endpoint).await.map_err(|error| format!("{endpoint} cannot be reached: {error}"))?;
        self.send(endpoint, connection, request()?).await.map_err(|error| format!("{endpoint} gives no answer: {error}"))
    }

    /// Sends a request whose answer goes on and on, and reads its head.
    ///
    /// # Errors
    /// Why there is no such answer.
    pub(super) async fn open(
        &self,
        endpoint: &str,
        request: hyper::http::request::Builder,
        deadline: Duration,
    ) -> Result<Lines, Refusal> {
        let request = request.header(HOST, endpoint).body(Nothing::new()).map_err(|error| error.to_string())?;
        let answered = timeout(deadline, async {
            let mut connection = connect(endpoint).await?;
            let answer = connection.send_request(request).await?;
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>((connection, answer))
        });
        let (connection, answer) = match answered.await {
            Ok(Ok(answered)) => answered,
            Ok(Err(error)) => return Err(format!("{endpoint} gives no answer: {error}").into()),
            Err(_) => return Err(format!("{endpoint} does not answer in time").into()),
        };
        match answer.status() {
            StatusCode::OK => Ok(Lines { body: answer.into_body(), read: Vec::new(), begin: 0, _connection: connection }),
            status => Err(Refusal { why: format!("{endpoint} answers {status}"), retry_after: retry_after(answer.headers()) }),
        }
    }

    async fn send(
        &self,
        endpoint: &str,
        mut connection: SendRequest<Nothing>,
        request: Request<Nothing>,
    ) -> Result<Response<Bytes>, Box<dyn std::error::Error + Send + Sync>> {
        connection.ready().await?;
        let answer = read(connection.send_request(request).await?).await?;
        let mut idle = self.0.lock();
        let kept = idle.entry(endpoint.to_owned()).or_default();
        if kept.len() < IDLE {
            kept.push(connection);
        }
        Ok(answer)
    }
}

async fn connect(endpoint: &str) -> Result<SendRequest<Nothing>, Box<dyn std::error::Error + Send + Sync>> {
    let stream = timeout(CONNECT, TcpStream::connect(endpoint)).await??;
    stream.set_nodelay(true)?;
    let (sender, connection) = handshake(TokioIo::new(stream)).await?;
    // It ends with its sender; what goes wrong with it is seen there.
    tokio::spawn(async move { drop(connection.await) });
    Ok(sender)
}

async fn read(answer: Response<Incoming>) -> Result<Response<Bytes>, Box<dyn std::error::Error + Send + Sync>> {
    let (head, mut body) = answer.into_parts();
    let mut whole = Vec::new();
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        let Ok(data) = frame?.into_data() else { continue };
        if whole.len() + data.len() > MAX_ANSWER {
            return Err(format!("the answer is longer than {MAX_ANSWER} bytes").into());
        }
        whole.extend_from_slice(&data);
    }
    Ok(Response::from_parts(head, whole.into()))
}

/// The lines of an answer as they come. Dropping it ends the answer.
pub(super) struct Lines {
    body: Incoming,
    read: Vec<u8>,
    /// Where the next line begins in what was read.
    begin: usize,
    _connection: SendRequest<Nothing>,
}

impl Lines {
    /// The next line, without its end; `None` once the answer or its connection has ended. Nothing is lost when the future is dropped.
    pub(super) async fn next(&mut self) -> Option<&[u8]> {
        let mut looked = self.begin;
        let end = loop {
            if let Some(at) = self.read[looked..].iter().position(|byte| *byte == b'\n') {
                break looked + at;
            }
            self.read.drain(..std::mem::take(&mut self.begin));
            looked = self.read.len();
            let frame = poll_fn(|cx| Pin::new(&mut self.body).poll_frame(cx)).await?.ok()?;
            self.read.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
            if self.read.len() > MAX_ANSWER {
                return None;
            }
        };
        let begin = std::mem::replace(&mut self.begin, end + 1);
        Some(&self.read[begin..end])
    }
}
