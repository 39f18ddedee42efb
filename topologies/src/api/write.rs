//! How every write is carried out: as one transaction of the log or of a database, at most once for an `Idempotency-Key`, and answered with the
//! position of what was written. A refusal has written nothing.

use std::future::Future;

use millstream::serve::header::HeaderName;
use millstream::serve::{ApiError, Request, Response, StatusCode};
use millstream::{Accepted, AppendError, Events, Headers, RequestError, RequestKey, Timestamp, Token};
use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::Api;
use super::known::CATCH_UP;
use crate::events;
use crate::gate::Admission;
use crate::outbox::{self, Kept, NewEvent, Outbox, Written};

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

/// Where events are written first that other programs know. The shop's own commands always go to the log.
pub enum Home {
    /// The log.
    Log,
    /// A database, from whose outbox they come to the log.
    Outbox(Outbox),
}

/// What to write, and what to answer once that is durable.
pub struct Write {
    status: StatusCode,
    body: Vec<u8>,
    what: What,
    /// The place at the gate that is needed for it.
    admission: Option<Admission>,
}

enum What {
    Commands(Events),
    Event(Box<NewEvent>),
}

impl Write {
    /// Commands to the shop's own topologies, and an answer with a body.
    pub fn new(status: StatusCode, body: &impl Serialize, events: Events) -> Result<Write, ApiError> {
        let body = serde_json::to_vec(body).map_err(ApiError::internal)?;
        Ok(Write { status, body, what: What::Commands(events), admission: None })
    }

    /// An event, and an answer with a body.
    pub fn event(status: StatusCode, body: &impl Serialize, event: NewEvent) -> Result<Write, ApiError> {
        let body = serde_json::to_vec(body).map_err(ApiError::internal)?;
        Ok(Write { status, body, what: What::Event(Box::new(event)), admission: None })
    }

    /// The same for a user that the gate has let in.
    #[must_use]
    pub fn admitted(self, admission: Option<Admission>) -> Write {
        Write { admission, ..self }
    }
}

/// Why nothing was written, or why that is not known.
enum Failed {
    NotWritten(ApiError),
    Unknown(ApiError),
}

impl Failed {
    /// The answer. A place at the gate is given back if nothing was written.
    async fn told(self, admission: Option<Admission>) -> ApiError {
        match (self, admission) {
            (Failed::NotWritten(error), Some(admission)) => {
                admission.give_back().await;
                error
            }
            (Failed::NotWritten(error) | Failed::Unknown(error), _) => error,
        }
    }
}

impl From<AppendError> for Failed {
    fn from(error: AppendError) -> Failed {
        match &error {
            AppendError::Log(log) if !log.is_outcome_unknown() => Failed::NotWritten(error.into()),
            AppendError::Codec { .. } => Failed::NotWritten(error.into()),
            AppendError::Log(_) | AppendError::NoRequests | AppendError::Requests(_) => Failed::Unknown(error.into()),
        }
    }
}

impl From<outbox::Error> for Failed {
    fn from(error: outbox::Error) -> Failed {
        match &error {
            outbox::Error::Unavailable(_) => {
                tracing::warn!("a request was refused: {error}");
                Failed::NotWritten(ApiError::unavailable("LOG_UNAVAILABLE", "the database cannot take it now"))
            }
            outbox::Error::Reused => Failed::NotWritten(reused()),
            outbox::Error::StillRunning => Failed::NotWritten(still_running()),
            outbox::Error::OutcomeUnknown(_) => {
                tracing::warn!("what became of a request is not known: {error}");
                Failed::Unknown(ApiError::outcome_unknown("whether the database has it is not known"))
            }
        }
    }
}

fn reused() -> ApiError {
    ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "IDEMPOTENCY_KEY_REUSED", "this idempotency key was used for another request")
}

fn still_running() -> ApiError {
    ApiError::outcome_unknown("the first request of this idempotency key still runs")
}

/// How a request with a key ends without the log.
enum Ended {
    Refused(ApiError),
    Failed(Failed),
    Answered(Response),
}

/// Writes what `decide` says, unless it refuses or a request of the same key was carried out before.
///
/// # Errors
/// The refusal; 400 or 422 for the key; 503 or 504 for what becomes of it in the log, or in the database.
pub async fn carry_out<F>(api: &Api, request: &Request, body: &[u8], decide: impl FnOnce() -> F) -> Result<Response, ApiError>
where
    F: Future<Output = Result<Write, ApiError>>,
{
    let Some(key) = request.headers().get(IDEMPOTENCY_KEY) else {
        let decided = decide().await;
        if decided.is_err() {
            // It may be refused for what is not durable yet.
            api.app.settled().await?;
        }
        let Write { status, body, what, admission } = decided?;
        return match write(api, what).await {
            Ok(position) => Ok(answer(status, body, &position)),
            Err(failed) => Err(failed.told(admission).await),
        };
    };
    let key =
        RequestKey { key: key_of_caller(key.as_bytes(), request)?, fingerprint: fingerprint(request, body)?, keep_ms: KEPT_MS };
    let (mut place, mut is_in_database, row_key) = (None, false, Sha256::digest(&key.key).into());
    let (admitted, written, fingerprint) = (&mut place, &mut is_in_database, key.fingerprint);
    // Within this, so that a key is for one request over what the log keeps and what the database does.
    let once = api.app.once(&key, || async move {
        let decided = decide().await;
        let goes_there = matches!(&decided, Ok(Write { what: What::Event(_), .. }));
        // What goes there meets the row of its key. Of anything else, a refusal as well, the database may know the answer already.
        if let Home::Outbox(outbox) = &api.home
            && !goes_there
            && let Some(before) = outbox.answered(row_key, fingerprint).await.map_err(|error| Ended::Failed(error.into()))?
        {
            return Err(read_answer(&before.answer, &Token::upstream(before.place)));
        }
        let Write { status, body, what, admission } = decided.map_err(Ended::Refused)?;
        *admitted = admission;
        let to_keep = kept(status, &body);
        match (&api.home, what) {
            (_, What::Commands(events)) => Ok(Accepted { events, answer: to_keep }),
            (Home::Log, What::Event(event)) => Ok(Accepted { events: event.into_events(), answer: to_keep }),
            (Home::Outbox(outbox), What::Event(event)) => {
                let row = outbox::Answer { key: row_key, fingerprint, answer: to_keep };
                let outcome = outbox.write(*event, Some(row)).await;
                *written = outcome.is_ok();
                Err(match outcome {
                    Ok(Written::Now { place }) => Ended::Answered(answer(status, body, &Token::upstream(place))),
                    Ok(Written::Before(before)) => read_answer(&before.answer, &Token::upstream(before.place)),
                    Err(error) => Ended::Failed(error.into()),
                })
            }
        }
    });
    let ended = match once.await {
        Ok(carried_out) => read_answer(&carried_out.answer, &carried_out.position),
        Err(RequestError::Refused(Ended::Refused(refusal))) => refuse(api, &key, refusal).await,
        Err(RequestError::Refused(ended)) => ended,
        Err(RequestError::Reused) => Ended::Refused(reused()),
        Err(RequestError::StillRunning) => Ended::Refused(still_running()),
        Err(RequestError::Append(error)) if is_in_database => Ended::Failed(not_settled(error)),
        Err(RequestError::Append(error)) => Ended::Failed(error.into()),
    };
    match ended {
        Ended::Answered(response) => Ok(response),
        Ended::Refused(refusal) => Err(refusal),
        Ended::Failed(failed) => Err(failed.told(place).await),
    }
}

/// Refuses a request with a key, unless it is one that was asked before and carried out only now.
async fn refuse(api: &Api, key: &RequestKey, refusal: ApiError) -> Ended {
    match api.app.asked_before(key, CATCH_UP).await {
        Ok(None) => Ended::Refused(refusal),
        Ok(Some(before)) => read_answer(&before.answer, &before.position),
        Err(RequestError::Refused(behind)) => Ended::Refused(ApiError::unavailable("NOT_READY", behind.to_string())),
        Err(RequestError::Reused) => Ended::Refused(reused()),
        Err(RequestError::StillRunning) => Ended::Refused(still_running()),
        Err(RequestError::Append(error)) => Ended::Failed(error.into()),
    }
}

/// Writes without a key; gives the position.
async fn write(api: &Api, what: What) -> Result<Token, Failed> {
    let events = match (&api.home, what) {
        (_, What::Commands(events)) => events,
        (Home::Log, What::Event(event)) => event.into_events(),
        (Home::Outbox(outbox), What::Event(event)) => {
            let (Written::Now { place } | Written::Before(Kept { place, .. })) = outbox.write(*event, None).await?;
            // It was decided by what the log holds, perhaps not durably yet.
            api.app.settled().await.map_err(not_settled)?;
            return Ok(Token::upstream(place));
        }
    };
    Ok(api.app.append(events).await?)
}

/// The database has it, and the log failed before what it was decided by was durable.
fn not_settled(error: AppendError) -> Failed {
    Failed::Unknown(ApiError::outcome_unknown(format!("it is written, but {error}")))
}

fn read_answer(kept: &[u8], position: &Token) -> Ended {
    match read_kept(kept) {
        Ok((status, body)) => Ended::Answered(answer(status, body, position)),
        Err(error) => Ended::Refused(error),
    }
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
