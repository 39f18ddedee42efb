//! The envelope of events, as every program that writes or reads the shop's topics knows it: the payload is JSON, and the headers say
//! what it is: `id` (a UUID), `eventType`, `occurredAt`.

use millstream::codec::{self, Decimal, RawBytes};
use millstream::{Headers, ProcessError, Record, Timestamp, Topic};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::time::Iso;

/// A topic of events of several types, keyed by the aggregate's id.
pub type EventTopic = Topic<u64, Vec<u8>>;

/// Such a topic.
pub const fn topic(name: &'static str) -> EventTopic {
    Topic::with_codecs(name, &Decimal, &RawBytes)
}

/// The name of an event's type, by which its payload is read.
const EVENT_TYPE: &str = "eventType";

/// A set of events that a topic carries.
pub trait Event: Sized {
    /// Reads the payload of an event of this type. `None` if the type is not one of the set.
    ///
    /// # Errors
    /// If the payload is not one of this type.
    fn read(event_type: &str, payload: &[u8]) -> Option<Result<Self, codec::Error>>;

    /// The name of this event's type.
    fn event_type(&self) -> &'static str;

    /// The payload.
    ///
    /// # Errors
    /// If it is not JSON; it always is.
    fn payload(&self) -> Result<Vec<u8>, codec::Error>;
}

/// Reads a payload.
///
/// # Errors
/// If it is not the JSON of a `T`.
pub fn from_payload<T: DeserializeOwned>(payload: &[u8]) -> Result<T, codec::Error> {
    serde_json::from_slice(payload).map_err(|error| codec::Error::invalid("json", error))
}

/// Writes a payload.
///
/// # Errors
/// If `T` has no JSON.
pub fn to_payload<T: Serialize>(event: &T) -> Result<Vec<u8>, codec::Error> {
    serde_json::to_vec(event).map_err(|error| codec::Error::invalid("json", error))
}

/// Reads the event that a record carries.
///
/// # Errors
/// [`ProcessError::Undecodable`], so that the record is parked: the type is missing or unknown, or the payload is not of it.
pub fn read<E: Event>(record: &Record<u64, Vec<u8>>) -> Result<E, ProcessError> {
    let event_type = record.headers.get(EVENT_TYPE).and_then(|name| std::str::from_utf8(name).ok());
    let event_type = event_type.ok_or_else(|| undecodable("event", "the header eventType is missing"))?;
    match E::read(event_type, &record.value) {
        Some(Ok(event)) => Ok(event),
        Some(Err(error)) => Err(ProcessError::Undecodable { part: "value", error }),
        None => Err(undecodable("event", format_args!("eventType {event_type:?} is not known here"))),
    }
}

/// That a record is not what its topic holds.
pub fn undecodable(what: &'static str, reason: impl std::fmt::Display) -> ProcessError {
    ProcessError::Undecodable { part: "value", error: codec::Error::invalid(what, reason) }
}

/// The key decides which task gets a record: about another aggregate that task knows nothing.
///
/// # Errors
/// [`ProcessError::Undecodable`] if the payload names another one.
pub fn expect_key(key: u64, field: &'static str, id: u64) -> Result<(), ProcessError> {
    if key == id { Ok(()) } else { Err(undecodable("record of its key", format_args!("the key is {key} and {field} is {id}"))) }
}

/// The record that carries an event.
///
/// # Errors
/// If the event has no JSON; it always has.
pub fn record<E: Event>(key: u64, event: &E, id: Uuid, at: Timestamp) -> Result<Record<u64, Vec<u8>>, codec::Error> {
    Ok(Record { key, value: event.payload()?, timestamp: at, headers: headers(id, event.event_type(), at) })
}

/// The headers of an event.
#[must_use]
pub fn headers(id: Uuid, event_type: &str, at: Timestamp) -> Headers {
    Headers::from_iter([("id", id.to_string()), (EVENT_TYPE, event_type.to_owned()), ("occurredAt", Iso(at).to_string())])
}

/// The id of an event that follows from what happened: the same whenever it is computed (RFC 9562, version 8).
#[must_use]
pub fn derived_id(event_type: &str, aggregate: u64, number: u64) -> Uuid {
    let mut hash = Sha256::new();
    hash.update(event_type);
    hash.update(aggregate.to_be_bytes());
    hash.update(number.to_be_bytes());
    let [id, ..] = *hash.finalize().as_chunks::<16>().0 else { unreachable!("a hash has 32 bytes") };
    uuid::Builder::from_custom_bytes(id).into_uuid()
}
