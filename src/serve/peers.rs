//! Asking other processes of the application over HTTP. Connections are kept, an answer is bounded in size and time, and a request reads only,
//! so one that was lost with a kept connection is sent once more.

use std::collections::HashMap;
use std::future::poll_fn;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body as _, Incoming};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::HOST;
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
    ) -> Result<(StatusCode, Bytes), String> {
        let asked = timeout(deadline, self.ask_for_long(endpoint, request));
        asked.await.unwrap_or_else(|_| Err(format!("{endpoint} does not answer in time")))
    }

    async fn ask_for_long(
        &self,
        endpoint: &str,
        request: impl Fn() -> hyper::http::request::Builder,
    ) -> Result<(StatusCode, Bytes), String> {
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

    async fn send(
        &self,
        endpoint: &str,
        mut connection: SendRequest<Nothing>,
        request: Request<Nothing>,
    ) -> Result<(StatusCode, Bytes), Box<dyn std::error::Error + Send + Sync>> {
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

async fn read(answer: Response<Incoming>) -> Result<(StatusCode, Bytes), Box<dyn std::error::Error + Send + Sync>> {
    let (head, mut body) = answer.into_parts();
    let mut whole = Vec::new();
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        let Ok(data) = frame?.into_data() else { continue };
        if whole.len() + data.len() > MAX_ANSWER {
            return Err(format!("the answer is longer than {MAX_ANSWER} bytes").into());
        }
        whole.extend_from_slice(&data);
    }
    Ok((head.status, whole.into()))
}
