//! The socket between hyper and the network: it notes what happens on it, and mends two things that hyper decides for itself.
//!
//! - What hyper cannot read as HTTP it refuses with a head of its own, without a body. That head is held back here, and its status noted:
//!   the connection then answers in the shape of every other error.
//! - A client may close its sending side and still wait for the answer, but hyper takes that for a disconnection. The end is held back while
//!   an answer is made; it is let through where a body lacks bytes, and where a stream's client is gone. Whoever enters such a phase wakes
//!   the connection, to read again.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::activity::{Activity, Phase};

pub(super) struct Socket {
    stream: TcpStream,
    activity: Arc<Activity>,
}

impl Socket {
    pub(super) fn new(stream: TcpStream, activity: Arc<Activity>) -> Socket {
        Socket { stream, activity }
    }

    pub(super) fn into_inner(self) -> TcpStream {
        self.stream
    }
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(cx, buf);
        if let Poll::Ready(Ok(())) = result {
            let is_end = buf.filled().len() == before && buf.remaining() > 0;
            match self.activity.phase() {
                Phase::Waiting if !is_end => self.activity.enter(Phase::Reading),
                Phase::Receiving if !is_end => self.activity.enter(Phase::Asking),
                // The next read comes when the answer is given, in the same task: nobody needs to be woken for it.
                Phase::Asking | Phase::Answering if is_end => return Poll::Pending,
                _ => {}
            }
        }
        result
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let refusal = refusal(buf);
        let ours = &buf[..refusal.map_or(buf.len(), |(at, _)| at)];
        if let (Some((_, status)), true) = (refusal, ours.is_empty()) {
            self.activity.refuse(status);
            return Poll::Ready(Ok(buf.len()));
        }
        let result = Pin::new(&mut self.stream).poll_write(cx, ours);
        self.activity.wrote(result.is_ready());
        result
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(())) // a TCP stream has no buffer of its own
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Where hyper's own refusal begins in what is written, and its status. It is the last thing on a connection, has no body, and lacks the
/// request id that every answer of ours carries.
fn refusal(written: &[u8]) -> Option<(usize, u16)> {
    const LONGEST: usize = 192;
    if !written.ends_with(b"\r\n\r\n") {
        return None;
    }
    let tail_at = written.len().saturating_sub(LONGEST);
    let tail = &written[tail_at..];
    let at = tail.windows(10).rposition(|bytes| bytes == b"HTTP/1.1 4")?;
    let head = &tail[at..];
    let has = |line: &[u8]| head.windows(line.len()).any(|bytes| bytes == line);
    let is_hypers = has(b"\r\nconnection: close\r\n") && has(b"\r\ncontent-length: 0\r\n") && !has(b"\r\nx-request-id: ");
    let status = std::str::from_utf8(&head[9..12]).ok()?.parse().ok()?;
    is_hypers.then_some((tail_at + at, status))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_hypers_own_refusal_is_held_back() {
        let bare = "HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
        let ours = "HTTP/1.1 405 Method Not Allowed\r\nx-request-id: 1\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
        let json = "HTTP/1.1 200 OK\r\nx-request-id: 1\r\ncontent-length: 2\r\n\r\n{}";
        let check =
            |written: &str, expected: Option<(usize, u16)>| assert_eq!(refusal(written.as_bytes()), expected, "{written}");
        check(bare, Some((0, 431)));
        check(&format!("{json}{bare}"), Some((json.len(), 431)));
        check(ours, None);
        check(json, None);
        check(&format!("{bare}{json}"), None);
    }
}
