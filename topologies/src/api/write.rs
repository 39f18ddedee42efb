//! How every write is carried out: its events appended as one transaction, at most once for an `Idempotency-Key`, and answered with the
//! position of what was written. A refusal has written nothing.

use std::future::Future;

use millstream::serve::header::HeaderName;
use millstream::serve::{ApiError, Request, Response, StatusCode};
use millstream::{Accepted, Events, Handle, Headers, RequestError, RequestKey, Timestamp, Token};
use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::events;

/// For how long the answer to a key is kept.
const KEPT_MS: i64 = 24 * 3_600_000;
const MAX_KEY: usize = 128;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const STREAM_POSITION: HeaderName = HeaderName::from_static("x-stream-position");

/// The id of a new event.
#[must_use]
pub fn event_id() -> Uuid {
    Uuid::now_v7()
}

/// The headers of a new event.
#[must_use]
pub fn event_headers(event_type: &str, at: Timestamp) -> Headers {
    events::headers(event_id(), event_type, at)
}

/// What to append, and what to answer once that is durable.
pub struct Write {
    status: StatusCode,
    body: Vec<u8>,
    events: Events,
}

impl Write {
    /// Answers with a body.
    pub fn new(status: StatusCode, body: &impl Serialize, events: Events) -> Result<Write, ApiError> {
        let body = serde_json::to_vec(body).map_err(ApiError::internal)?;
        Ok(Write { status, body, events })
    }
}

/// Writes what `decide` says, unless it refuses or a request of the same key was carried out before.
///
/// # Errors
/// The refusal; 400 or 422 for the key; 503 or 504 for what becomes of it in the log.
pub async fn carry_out<F>(app: &Handle, request: &Request, body: &[u8], decide: impl FnOnce() -> F) -> Result<Response, ApiError>
where
    F: Future<Output = Result<Write, ApiError>>,
{
    let Some(key) = request.headers().get(IDEMPOTENCY_KEY) else {
        let decided = decide().await;
        if decided.is_err() {
            // It may be refused for what is not durable yet.
            app.settled().await?;
        }
        let Write { status, body, events } = decided?;
        let position = app.append(events).await?;
        return Ok(answer(status, body, &position));
    };
    let key =
        RequestKey { key: key_of_caller(key.as_bytes(), request)?, fingerprint: fingerprint(request, body)?, keep_ms: KEPT_MS };
    let once = app.once(&key, || async {
        let Write { status, body, events } = decide().await?;
        Ok(Accepted { events, answer: kept(status, &body) })
    });
    let carried_out = once.await.map_err(|error| match error {
        RequestError::Refused(refusal) => refusal,
        RequestError::Reused => {
            let message = "this idempotency key was used for another request";
            ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "IDEMPOTENCY_KEY_REUSED", message)
        }
        RequestError::StillRunning => ApiError::outcome_unknown("the first request of this idempotency key still runs"),
        RequestError::Append(error) => error.into(),
    })?;
    let (status, body) = read_kept(&carried_out.answer)?;
    Ok(answer(status, body, &carried_out.position))
}

fn answer(status: StatusCode, body: Vec<u8>, position: &Token) -> Response {
    Response::bytes(status, "application/json", body).header(STREAM_POSITION, position.to_string())
}

/// The key among those of all callers: what no key can hold stands between it and the caller's name.
fn key_of_caller(key: &[u8], request: &Request) -> Result<Vec<u8>, ApiError> {
    if !(1..=MAX_KEY).contains(&key.len()) || !key.iter().all(u8::is_ascii_graphic) {
        return Err(ApiError::invalid_field("Idempotency-Key", format_args!("must be 1 to {MAX_KEY} visible ASCII characters")));
    }
    let caller = request.caller().name.as_deref().unwrap_or_default();
    Ok([key, b"\0", caller.as_bytes()].concat())
}

/// A hash of what is asked for. Bodies that differ only in spaces and the order of fields ask for the same.
fn fingerprint(request: &Request, body: &[u8]) -> Result<[u8; 32], ApiError> {
    let json: Value = serde_json::from_slice(body).map_err(ApiError::internal)?;
    let mut hash = Sha256::new();
    for part in [request.method().as_str(), request.path()] {
        hash.update(part);
        hash.update(b"\0");
    }
    hash.update(json.to_string()); // the fields of an object in the order of their names
    Ok(hash.finalize().into())
}

/// An answer as it is kept: two bytes of status, then the body.
fn kept(status: StatusCode, body: &[u8]) -> Vec<u8> {
    [&status.as_u16().to_be_bytes()[..], body].concat()
}

fn read_kept(kept: &[u8]) -> Result<(StatusCode, Vec<u8>), ApiError> {
    let (status, body) = kept.split_first_chunk().ok_or_else(|| ApiError::internal("a kept answer is too short"))?;
    let status = StatusCode::from_u16(u16::from_be_bytes(*status)).map_err(ApiError::internal)?;
    Ok((status, body.to_vec()))
}
