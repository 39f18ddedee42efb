//! A connection that has become an event stream: taken out of hyper's hands, whose buffers (16 KiB a connection) a stream does not need, and
//! written to directly until it ends. Nothing is asked on it any more; the connection closes with the stream.

use std::io::ErrorKind;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;

use super::events::EventBody;

/// How much a client may send on a stream, where it has nothing to say, before it is cut off.
const MAX_CHATTER: usize = 64 << 10;

/// What a handler's answer leaves to be done when it is a stream.
pub(super) struct Detached {
    /// The head of the answer, as it goes out.
    pub(super) head: Vec<u8>,
    pub(super) events: Box<EventBody>,
    /// Whether the client reads chunks (HTTP/1.1), so that it can tell an end from a break.
    pub(super) chunked: bool,
}

/// Why a stream ended before its events did.
enum Gone {
    Left,
    TooSlow,
}

/// Streams until the events end, the client leaves or takes nothing for `stall`, or `stopping` turns true. Answers whether the connection
/// is still there to be closed in order.
pub(super) async fn run(socket: &TcpStream, detached: Detached, stall: Duration, stopping: &mut watch::Receiver<bool>) -> bool {
    let Detached { head, mut events, chunked } = detached;
    match follow(socket, head, &mut events, chunked, stall, stopping).await {
        Ok(()) => true,
        Err(Gone::Left) => false,
        Err(Gone::TooSlow) => {
            events.count_too_slow();
            false
        }
    }
}

async fn follow(
    socket: &TcpStream,
    head: Vec<u8>,
    events: &mut EventBody,
    chunked: bool,
    stall: Duration,
    stopping: &mut watch::Receiver<bool>,
) -> Result<(), Gone> {
    write(socket, &head, stall).await?;
    drop(head);
    let mut chatter = 0;
    loop {
        let data = tokio::select! {
            biased;
            data = std::future::poll_fn(|cx| events.poll(cx)) => data,
            // The server's side is never dropped before it said so; an error would mean that it stops as well.
            _ = stopping.wait_for(|stop| *stop) => None,
            said = chat(socket) => {
                chatter += said?;
                if chatter > MAX_CHATTER {
                    return Err(Gone::Left);
                }
                continue;
            }
        };
        match data {
            Some(data) if chunked => write(socket, &chunk(&data), stall).await?,
            Some(data) => write(socket, &data, stall).await?,
            None if chunked => return write(socket, b"0\r\n\r\n", stall).await,
            None => return Ok(()),
        }
    }
}

fn chunk(data: &Bytes) -> Vec<u8> {
    let mut chunk = Vec::with_capacity(data.len() + 12);
    chunk.extend_from_slice(format!("{:x}\r\n", data.len()).as_bytes());
    chunk.extend_from_slice(data);
    chunk.extend_from_slice(b"\r\n");
    chunk
}

/// Writes all of it.
async fn write(socket: &TcpStream, mut bytes: &[u8], stall: Duration) -> Result<(), Gone> {
    while !bytes.is_empty() {
        match socket.try_write(bytes) {
            Ok(taken) => bytes = &bytes[taken..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                let writable = timeout(stall, socket.writable()).await.map_err(|_| Gone::TooSlow)?;
                writable.map_err(|_| Gone::Left)?;
            }
            Err(_) => return Err(Gone::Left),
        }
    }
    Ok(())
}

/// Waits until the client says something, and answers how many bytes.
async fn chat(socket: &TcpStream) -> Result<usize, Gone> {
    loop {
        socket.ready(Interest::READABLE).await.map_err(|_| Gone::Left)?;
        let mut buffer = [0; 512];
        match socket.try_read(&mut buffer) {
            Ok(0) => return Err(Gone::Left),
            Ok(read) => return Ok(read),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => return Err(Gone::Left),
        }
    }
}
