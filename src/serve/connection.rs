//! One connection, from accept to close: requests one after the other through hyper, the deadlines, and an orderly end.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;
use hyper::body::Incoming;
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
use super::service::Service;
use super::socket::Socket;

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
    let mut refusal = loop {
        tokio::select! {
            biased;
            _ = std::future::poll_fn(|cx| connection.poll_without_shutdown(cx)) => break None,
            // The server's side is never dropped before it said so; an error would mean that it stops as well.
            _ = stopping.wait_for(|stop| *stop), if !told => {
                told = true;
                std::pin::Pin::new(&mut connection).graceful_shutdown();
            }
            () = &mut timer => match activity.due(&service.config) {
                Due::LookAt(at) => timer.as_mut().reset(at),
                Due::SlowHead => break Some(ApiError::new(StatusCode::REQUEST_TIMEOUT, "REQUEST_TIMEOUT", "the request's head took too long")),
                Due::Close => break None,
            },
        }
    };
    refusal = refusal.or_else(|| activity.refused().map(unreadable));
    let stream = connection.into_parts().io.into_inner().into_inner();
    if let Some(error) = refusal {
        refuse(stream, &error, service.next_id()).await;
    } else {
        close(stream).await;
    }
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

/// Answers with the error, outside of hyper, and closes.
pub(super) async fn refuse(mut stream: TcpStream, error: &ApiError, id: RequestId) {
    let body = error.body(id);
    let status = error.status();
    let mut answer = format!("HTTP/1.1 {} {}\r\n", status.as_u16(), status.canonical_reason().unwrap_or_default()).into_bytes();
    if let Some((name, value)) = error.header() {
        answer.extend_from_slice(&[name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
    }
    let length = body.len();
    let rest =
        format!("content-type: application/json\r\nx-request-id: {id}\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n");
    answer.extend_from_slice(rest.as_bytes());
    answer.extend_from_slice(&body);
    // A client that does not take these few bytes is not owed more.
    let _ = timeout(LINGER, stream.write_all(&answer)).await;
    close(stream).await;
}

/// Ends our side, then waits a moment for the client's: closing with bytes unread would reset the connection, and the client could lose
/// the answer that it has not read yet.
async fn close(mut stream: TcpStream) {
    if stream.shutdown().await.is_err() {
        return; // gone already
    }
    let drain = async {
        let mut left = LINGER_BYTES;
        while left > 0 && stream.readable().await.is_ok() {
            let mut buffer = [0; 4096];
            match stream.try_read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => left = left.saturating_sub(read),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(_) => break,
            }
        }
    };
    let _ = timeout(LINGER, drain).await;
}
