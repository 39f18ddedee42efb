//! The events of a binlog connection, one after the other, each checked: its checksum, and that it is one that may be passed over if it is.
//! What the client library panics on (a packet cut short) is an error here like any other.

use std::convert::Infallible;
use std::future::ready;
use std::pin::Pin;
use std::time::Duration;

use bytes::Buf;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Body, Frame};
use mysql_async::BinlogStream;
use mysql_async::binlog::BinlogChecksumAlg;
use mysql_async::binlog::events::Event;
use tower::{ServiceExt, service_fn};

type Answer = Result<Event, mysql_async::Error>;

/// A connection that the server sends its binlog on.
///
/// The client library gives its events as a `futures_core::Stream`, a trait that no crate of the shop's own dependencies offers for use; a
/// body of HTTP is made of such a stream, and can be read frame by frame.
pub struct Events(Pin<Box<dyn Body<Data = Carried, Error = Infallible> + Send>>);

/// An event in place of a piece of a body.
pub struct Carried(Answer);

impl Buf for Carried {
    fn remaining(&self) -> usize {
        0
    }

    fn chunk(&self) -> &[u8] {
        &[]
    }

    fn advance(&mut self, _: usize) {}
}

/// Why there is no next event.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// The server or the connection said so.
    #[error(transparent)]
    Sql(#[from] mysql_async::Error),
    /// The server ended the stream.
    #[error("the server ended the binlog stream")]
    Ended,
    /// Nothing came for so long that the connection must be dead.
    #[error("the server sent nothing, not even a heartbeat, for {} s", .0.as_secs())]
    Silent(Duration),
    /// What came is not what the server wrote.
    #[error("a binlog event of type {event_type} that ends at offset {end} does not have the checksum it was written with")]
    Checksum {
        /// The type's number.
        event_type: u8,
        /// Where it ends in its file.
        end: u32,
    },
}

impl Events {
    /// The events of a connection.
    #[must_use]
    pub fn new(stream: BinlogStream) -> Events {
        let carry = |answer: Answer| ready(Ok::<_, Infallible>(Frame::data(Carried(answer))));
        Events(Box::pin(StreamBody::new(service_fn(carry).call_all(stream))))
    }

    /// The next event. Cancelling loses nothing.
    ///
    /// # Errors
    /// See [`Broken`]; the connection is of no use any more.
    pub async fn next(&mut self, silence: Duration) -> Result<Event, Broken> {
        let frame = tokio::time::timeout(silence, self.0.frame()).await.map_err(|_| Broken::Silent(silence))?;
        let Some(Ok(frame)) = frame else { return Err(Broken::Ended) };
        let Carried(answer) = frame.into_data().map_err(|_| Broken::Ended)?;
        let event = answer?;
        verify(&event)?;
        Ok(event)
    }
}

/// The checksum holds, where the event has one: those within a compressed transaction have none.
fn verify(event: &Event) -> Result<(), Broken> {
    let footer = event.footer();
    let (true, Ok(Some(BinlogChecksumAlg::BINLOG_CHECKSUM_ALG_CRC32)), Some(written)) =
        (footer.get_checksum_enabled(), footer.get_checksum_alg(), event.checksum())
    else {
        return Ok(());
    };
    if event.calc_checksum(BinlogChecksumAlg::BINLOG_CHECKSUM_ALG_CRC32) == u32::from_le_bytes(written) {
        return Ok(());
    }
    Err(Broken::Checksum { event_type: event.header().event_type_raw(), end: event.header().log_pos() })
}
