//! One connection, from accept to close: requests one after the other through hyper, the deadlines, and an orderly end.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use hyper::StatusCode;
use hyper::body::Incoming;
use hyper::header::{CONNECTION, CONTENT_LENGTH, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use super::activity::{Activity, Due};
use super::error::ApiError;
use super::request::RequestId;
use super::response::{Content, Response, write_head};
use super::service::Service;
use super::socket::Socket;
use super::stream::{self, Detached};

/// How long a client may go on sending after its refusal, so that it reads the refusal in place of a reset.
const LINGER: Duration = Duration::from_secs(1);
/// How much of it is read.
const LINGER_BYTES: usize = 1 << 20;

/// Serves the connection until the client leaves, a deadline passes, or `stopping` turns true and what runs is done.
pub(super) async fn serve(stream: TcpStream, peer: SocketAddr, service: Arc<Service>, mut stopping: watch::Receiver<bool>) {
    let activity = Arc::new(Activity::new());
    let socket = TokioIo::new(Socket::new(stream, Arc::clone(&activity)));
    let answer = service_fn(|request: hyper::Request<Incoming>| service.answer(request, peer, Arc::clone(&activity)));
    let mut connection = builder(service.config.max_head_bytes).serve_connection(socket, answer);
    let mut timer = pin!(sleep_until(Instant::now()));
    let mut told = false;
    let end = loop {
        tokio::select! {
            biased;
            end = poll_fn(|cx| {
                let done = connection.poll_without_shutdown(cx);
                match activity.detached() {
                    Some(stream) => Poll::Ready(End::Stream(stream)),
                    None => done.map(|_| activity.refused().map_or(End::Close, |status| End::Refuse(unreadable(status)))),
                }
            }) => break end,
            // The server's side is never dropped before it said so; an error would mean that it stops as well.
            _ = stopping.wait_for(|stop| *stop), if !told => {
                told = true;
                std::pin::Pin::new(&mut connection).graceful_shutdown();
            }
            () = &mut timer => match activity.due(&service.config) {
                Due::LookAt(at) => timer.as_mut().reset(at),
                Due::SlowHead => break End::Refuse(too_slow()),
                Due::Close => break End::Close,
            },
        }
    };
    let socket = connection.into_parts().io.into_inner().into_inner();
    match end {
        End::Close => close(socket).await,
        End::Refuse(error) => refuse(socket, error, service.next_id()).await,
        End::Stream(stream) => {
            if stream::run(&socket, stream, service.config.stall_timeout, &mut stopping).await {
                close(socket).await;
            }
        }
    }
}

/// What is left to do when hyper is done with a connection.
enum End {
    Close,
    Refuse(ApiError),
    Stream(Detached),
}

fn builder(max_head_bytes: usize) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .header_read_timeout(None) // hyper would close without a word, and would make a timer for each request
        .max_header_size(max_head_bytes)
        .max_buf_size(max_head_bytes.max(32 << 10))
        .writev(false); // small answers: one contiguous write
    builder
}

fn unreadable(status: u16) -> ApiError {
    match status {
        414 => ApiError::new(StatusCode::URI_TOO_LONG, "URI_TOO_LONG", "the request's URI is too long"),
        431 => {
            ApiError::new(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "HEADERS_TOO_LARGE", "the request's headers are too large")
        }
        _ => ApiError::new(StatusCode::BAD_REQUEST, "BAD_REQUEST", "this is not an HTTP/1.1 request"),
    }
}

fn too_slow() -> ApiError {
    ApiError::new(StatusCode::REQUEST_TIMEOUT, "REQUEST_TIMEOUT", "the request's head took too long")
}

/// Answers with the error, outside of hyper, and closes.
pub(super) async fn refuse(mut socket: TcpStream, error: ApiError, id: RequestId) {
    let Response(response) = error.into_response(id);
    let (mut head, content) = response.into_parts();
    let Content::Whole(body) = content else { return };
    head.headers.insert(CONNECTION, HeaderValue::from_static("close"));
    head.headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
    let mut answer = Vec::new();
    write_head(head.status, &head.headers, &mut answer);
    answer.extend_from_slice(&body);
    // A client that does not take these few bytes is not owed more.
    let _ = timeout(LINGER, socket.write_all(&answer)).await;
    close(socket).await;
}

/// Ends our side, then waits a moment for the client's: closing with bytes unread would reset the connection, and the client could lose
/// the answer that it has not read yet.
async fn close(mut socket: TcpStream) {
    if socket.shutdown().await.is_err() {
        return; // gone already
    }
    let drain = async {
        let mut left = LINGER_BYTES;
        while left > 0 && socket.readable().await.is_ok() {
            let mut buffer = [0; 4096];
            match socket.try_read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => left = left.saturating_sub(read),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(_) => break,
            }
        }
    };
    let _ = timeout(LINGER, drain).await;
}
