//! The routes that are the same for every application. They read; only a replay of dead letters appends, and that is the engine's, and
//! pausing changes nothing that lasts.

mod dead_letters;
mod gather;
mod operations;
mod parts;
mod views;
mod watches;

use std::sync::Arc;

pub use self::dead_letters::show as show_dead_letter;
use self::gather::Views;
use super::error::ApiError;
use super::routes::Routes;
use crate::log;
use crate::runtime::{AppendError, Handle, QueryError};

/// Views and their watches, dead letters, topology, metrics and health of a running application.
///
/// | route | gives |
/// |---|---|
/// | `GET /views` | `{stores:[{name, keyType, valueType, kind, partitions, entries, positions}]}` |
/// | `GET /views/{store}/{key}` | `{key, value}`; 404 without a value |
/// | `GET /views/{store}` | `{entries:[{key, value}], next?}` in the order of keys. `?prefix=`, `?from=` (included) and `?to=` (left out) are keys, `?limit=` is 1 to 500 (100), `?after=` the last answer's `next` |
/// | both with `Accept: text/event-stream` | a watch: events `change {key, value, position}`, first what is there now (of one key also `null`), then every committed change; and `reset {partitions}` before the rows of these partitions come anew, which of one key does not need to be told |
/// | `GET /dlq` | `{topics:[{topic, records}]}` |
/// | `GET /dlq/{topic}` | `{records:[…], next?}`; `?limit=` is 1 to 500 (50), `?after=` the last answer's `next` |
/// | `POST /dlq/{topic}/replay` | body `{from?, to?, key?, dryRun?}`; `{matched, replayed}` |
/// | `GET /topology` | `?format=` `text` (default), `mermaid` or `dot` |
/// | `GET /metrics` | OpenMetrics |
/// | `GET /healthz` | 200 while the process works, also without its log; 503 once it has failed |
/// | `GET /readyz` | 200 once the views hold what the log held at the start, `{status, state}`; else 503 |
/// | `POST /pause`, `POST /resume` | stops processing in this process, and goes on: [`Handle::pause`]; `{state}` |
///
/// Views have all partitions, also those that other processes have: each is read where its task runs. While it moves, a process that follows
/// it answers, and the answer says in `X-View-Staleness-Ms` how old it may be; where nobody does, it is 503 `NOT_READY` with `Retry-After`. A
/// watch goes on where its tasks go. What it may have missed meanwhile it shows anew: the value of a key once more, of a prefix all rows after a
/// `reset`. Rows that are not among them are gone.
///
/// Reads take `?at_least=` and `?wait_ms=`: see [`Request::at_least`](super::Request::at_least).
#[must_use]
pub fn application_routes(application: &Handle) -> Routes<Handle> {
    let views = Routes::new(Views { application: application.clone(), peers: Arc::default() })
        .get("/views", views::list)
        .get("/views/{store}", views::rows)
        .get("/views/{store}/{key}", views::row);
    Routes::new(application.clone())
        .get("/dlq", dead_letters::topics)
        .get("/dlq/{topic}", dead_letters::records)
        .post("/dlq/{topic}/replay", dead_letters::replay)
        .get("/topology", operations::topology)
        .get("/metrics", operations::metrics)
        .get("/healthz", operations::health)
        .get("/readyz", operations::ready)
        .post("/pause", operations::pause)
        .post("/resume", operations::resume)
        .merge(views)
}

impl From<QueryError> for ApiError {
    fn from(error: QueryError) -> ApiError {
        match error {
            QueryError::Elsewhere { .. } => ApiError::unavailable("NOT_READY", error.to_string()),
            QueryError::Log(error) => error.into(),
            error => ApiError::internal(error),
        }
    }
}

impl From<AppendError> for ApiError {
    fn from(error: AppendError) -> ApiError {
        match error {
            AppendError::Log(error) => error.into(),
            AppendError::Requests(error) => error.into(),
            error @ (AppendError::Codec { .. } | AppendError::NoRequests) => ApiError::internal(error),
        }
    }
}

impl From<log::Error> for ApiError {
    fn from(error: log::Error) -> ApiError {
        if error.is_outcome_unknown() {
            ApiError::outcome_unknown("whether it was appended is not known")
        } else if error.is_retriable() {
            ApiError::unavailable("LOG_UNAVAILABLE", error.to_string())
        } else {
            ApiError::internal(error)
        }
    }
}

/// Runs what may read from disk for long where it holds nobody up.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, ApiError> {
    tokio::task::spawn_blocking(work).await.map_err(ApiError::internal)
}
