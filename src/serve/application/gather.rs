//! Answers that several processes have a part of. Each task of a store is read where it runs, else where it is followed, and what all of them
//! have found comes together. Which process has which part of a key is not known for every store, so all parts are asked, each process once.
//!
//! A process asks another with the request it was asked with, its caller's authorization included, and with the header `x-view-tasks`, which
//! names the tasks that are asked for; several times, if there are many. A request with that header is answered from what is here, as [`Part`], and never passed on: there is
//! no loop. A watch goes the same way, in [`parts`](super::parts).

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::{AUTHORIZATION, HeaderName, HeaderValue};
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tokio::task::JoinSet;

use super::super::error::ApiError;
use super::super::peers::{Peers, retry_after};
use super::super::request::Request;
use super::super::response::Response;
use super::blocking;
use crate::record::{Offset, Partition};
use crate::runtime::{Handle, Place, QueryError, Seen, TaskPlace};

/// The tasks that another process asks for, each by its name, with commas; for a watch with `@` and the position it knows.
const TASKS: HeaderName = HeaderName::from_static("x-view-tasks");
/// The most bytes of names in one request: servers take 8 KiB of head or more, and much of it may be the client's.
const MOST_NAMES: usize = 4 << 10;
/// How many milliseconds the answer may be behind, where it is not all from the tasks' owners.
const STALENESS: HeaderName = HeaderName::from_static("x-view-staleness-ms");
/// How long a process has for its answer, beside what the request itself may wait.
const ANSWER: Duration = Duration::from_secs(2);

/// What the views are served with.
#[derive(Clone)]
pub(super) struct Views {
    pub(super) application: Handle,
    pub(super) peers: Arc<Peers>,
}

/// Whether a read may take long.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Cost {
    /// A row.
    Little,
    /// A page of rows, perhaps from disk.
    Much,
}

/// What some tasks have.
#[derive(Serialize, Deserialize)]
struct Part<T> {
    /// By their names.
    tasks: Vec<String>,
    staleness_ms: Option<u64>,
    /// Each with its partition.
    found: Vec<(u32, T)>,
}

/// What all tasks have that could be asked.
pub(super) struct Gathered<T> {
    /// Each with its partition, in the order of these.
    pub(super) found: Vec<(u32, T)>,
    /// The tasks that nobody has now.
    pub(super) missing: Vec<TaskPlace>,
    staleness_ms: Option<u64>,
}

/// A request's answer, to whoever asked.
pub(super) enum Answered<T> {
    /// Another process: this is the whole answer.
    Peer(Response),
    Client(Gathered<T>),
}

/// Bytes that travel as text.
pub(super) struct Coded(pub(super) Bytes);

impl Serialize for Coded {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD_NO_PAD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Coded {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Coded, D::Error> {
        let text = String::deserialize(deserializer)?;
        STANDARD_NO_PAD.decode(text).map(|bytes| Coded(bytes.into())).map_err(D::Error::custom)
    }
}

/// Why a process gave no part.
enum Refused {
    /// Another may do.
    Away(String),
    /// The client is to be told.
    Told(ApiError),
}

impl Views {
    /// Reads all of these tasks, wherever they are, after waiting for the request's `?at_least=` in the view of `store`.
    ///
    /// # Errors
    /// Of `read`, of the wait, or what another process refuses the request for.
    pub(super) async fn gather<T, R>(
        &self,
        request: &Request,
        tasks: Vec<TaskPlace>,
        store: Option<&str>,
        cost: Cost,
        read: R,
    ) -> Result<Answered<T>, ApiError>
    where
        T: Serialize + DeserializeOwned + Send + 'static,
        R: Fn(TaskPlace) -> Result<Seen<Vec<T>>, QueryError> + Clone + Send + 'static,
    {
        if let Some(asked) = asked_for(&self.application, request, &tasks)? {
            let asked = asked.into_iter().map(|(task, _)| task).collect();
            let part = self.here(request, asked, store, cost, read).await?;
            return Response::json(StatusCode::OK, &part).map(Answered::Peer);
        }
        if let Some(store) = store {
            request.at_least_in(&self.application, store, &[]).await?;
        }
        let mut left: Vec<(TaskPlace, VecDeque<Place>)> =
            tasks.into_iter().map(|task| (task, self.application.places(task))).collect();
        let mut gathered = Gathered { found: Vec::new(), missing: Vec::new(), staleness_ms: None };
        while !left.is_empty() {
            let mut by_place = BTreeMap::<Place, Vec<TaskPlace>>::new();
            left.retain_mut(|(task, places)| match places.pop_front() {
                Some(place) => {
                    by_place.entry(place).or_default().push(*task);
                    true
                }
                None => {
                    gathered.missing.push(*task);
                    false
                }
            });
            let here = by_place.remove(&Place::Here);
            let mut asked = JoinSet::new();
            for (place, tasks) in by_place {
                let Place::There(endpoint) = place else { continue };
                for (_, names) in requests(tasks, |task| self.application.task_name(*task)) {
                    asked.spawn(ask(Arc::clone(&self.peers), endpoint.clone(), Forwarded::of(request)?, names));
                }
            }
            let mut parts = Vec::new();
            if let Some(tasks) = here {
                parts.push(self.here(request, tasks, store, cost, read.clone()).await?);
            }
            while let Some(answer) = asked.join_next().await {
                match answer.map_err(ApiError::internal)? {
                    Ok(part) => parts.push(part),
                    Err(Refused::Away(why)) => tracing::debug!(why, "a view is looked for elsewhere"),
                    Err(Refused::Told(error)) => return Err(error),
                }
            }
            for part in parts {
                left.retain(|(task, _)| !part.tasks.contains(&self.application.task_name(*task)));
                gathered.staleness_ms = gathered.staleness_ms.max(part.staleness_ms);
                gathered.found.extend(part.found);
            }
        }
        gathered.found.sort_by_key(|(partition, _)| *partition);
        Ok(Answered::Client(gathered))
    }

    /// What this process has of these tasks.
    async fn here<T, R>(
        &self,
        request: &Request,
        tasks: Vec<TaskPlace>,
        store: Option<&str>,
        cost: Cost,
        read: R,
    ) -> Result<Part<T>, ApiError>
    where
        T: Send + 'static,
        R: Fn(TaskPlace) -> Result<Seen<Vec<T>>, QueryError> + Send + 'static,
    {
        if let Some(store) = store {
            let partitions: Vec<Partition> = tasks.iter().map(|(_, partition)| Partition(*partition)).collect();
            request.at_least_in(&self.application, store, &partitions).await?;
        }
        let application = self.application.clone();
        let read = move || {
            let mut seen = Vec::new();
            for task in tasks {
                let staleness_ms = application.staleness_ms(task);
                match read(task) {
                    Ok(found) => seen.push((task, staleness_ms, found)),
                    // It has gone since it was placed here.
                    Err(QueryError::Elsewhere { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(seen)
        };
        let seen = match cost {
            Cost::Little => read()?,
            Cost::Much => blocking(read).await??,
        };
        let mut part = Part { tasks: Vec::new(), staleness_ms: None, found: Vec::new() };
        for (task, staleness_ms, found) in seen {
            part.tasks.push(self.application.task_name(task));
            part.staleness_ms = part.staleness_ms.max(staleness_ms);
            part.found.extend(found.durable().await?.into_iter().map(|one| (task.1, one)));
        }
        Ok(part)
    }
}

impl<T> Gathered<T> {
    /// What is wrong, if a part is missing.
    pub(super) fn complete(&self) -> Result<(), ApiError> {
        let Some((_, partition)) = self.missing.first() else { return Ok(()) };
        let message = format!("partition {partition} of the store is on its way from one process to another");
        Err(ApiError::unavailable("NOT_READY", message))
    }

    /// The response with how far behind it may be, where that is not told by its being there.
    pub(super) fn mark(&self, response: Response) -> Response {
        match self.staleness_ms {
            None => response,
            Some(ms) => response.header(STALENESS, ms.to_string()),
        }
    }
}

/// Tasks as they are asked for, by their names with commas: in as many requests as it takes for none to have too long a head.
pub(super) fn requests<T>(tasks: Vec<T>, name: impl Fn(&T) -> String) -> Vec<(Vec<T>, String)> {
    let mut requests: Vec<(Vec<T>, String)> = Vec::new();
    for task in tasks {
        let name = name(&task);
        match requests.last_mut() {
            Some((tasks, names)) if names.len() + name.len() < MOST_NAMES => {
                tasks.push(task);
                *names += ",";
                *names += &name;
            }
            _ => requests.push((vec![task], name)),
        }
    }
    requests
}

/// The tasks that another process asks for, and which position it knows of each; `None` if a client asks.
pub(super) fn asked_for(
    application: &Handle,
    request: &Request,
    tasks: &[TaskPlace],
) -> Result<Option<Vec<(TaskPlace, Offset)>>, ApiError> {
    if !request.headers().contains_key(TASKS) {
        return Ok(None);
    }
    let named: HashMap<String, TaskPlace> = tasks.iter().map(|task| (application.task_name(*task), *task)).collect();
    let read = |text: &str| {
        let (name, known) = text.split_once('@').unwrap_or((text, "0"));
        Some((*named.get(name)?, Offset(known.parse().ok()?)))
    };
    let asked = request.header(TASKS.as_str()).and_then(|text| text.split(',').map(read).collect());
    asked.map(Some).ok_or_else(|| ApiError::invalid_field(TASKS.as_str(), "does not name tasks of this store"))
}

/// A request as it goes to another process.
#[derive(Clone)]
pub(super) struct Forwarded {
    path: String,
    authorization: Option<HeaderValue>,
    wait: Duration,
}

impl Forwarded {
    pub(super) fn of(request: &Request) -> Result<Forwarded, ApiError> {
        Ok(Forwarded {
            path: request.path_and_query().to_owned(),
            authorization: request.headers().get(AUTHORIZATION).cloned(),
            wait: request.wait()?,
        })
    }

    /// How long the process has for its answer.
    pub(super) fn deadline(&self) -> Duration {
        self.wait + ANSWER
    }

    /// The request for these tasks, as `asked_for` reads them.
    pub(super) fn build(&self, tasks: &str) -> hyper::http::request::Builder {
        let request = hyper::Request::get(&self.path).header(TASKS, tasks);
        match &self.authorization {
            Some(authorization) => request.header(AUTHORIZATION, authorization),
            None => request,
        }
    }
}

async fn ask<T: DeserializeOwned>(
    peers: Arc<Peers>,
    endpoint: String,
    forwarded: Forwarded,
    tasks: String,
) -> Result<Part<T>, Refused> {
    let answer = peers.ask(&endpoint, || forwarded.build(&tasks), forwarded.deadline()).await.map_err(Refused::Away)?;
    let told = |status, code, message| Err(Refused::Told(ApiError::new(status, code, message)));
    match answer.status() {
        StatusCode::OK => match serde_json::from_slice(answer.body()) {
            Ok(part) => Ok(part),
            Err(error) => told(StatusCode::BAD_GATEWAY, "PEER_FAILED", format!("{endpoint} answers something else: {error}")),
        },
        StatusCode::SERVICE_UNAVAILABLE => Err(Refused::Away(format!("{endpoint} is not ready"))),
        // What is asked for is right by what is known here, so that one is of a version that does not know it.
        StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND => {
            Err(Refused::Away(format!("{endpoint} does not know what is asked for")))
        }
        status @ StatusCode::GATEWAY_TIMEOUT => {
            told(status, "VIEW_BEHIND", format!("the view at {endpoint} has not come so far in time"))
        }
        // Whom the header names as a process could be anybody, so what is asked here counts there, too.
        StatusCode::TOO_MANY_REQUESTS => {
            let wait = retry_after(answer.headers()).map_or(1, |wait| wait.as_secs());
            let message = format!("too many requests from this caller at {endpoint}, which has a part of the answer");
            Err(Refused::Told(ApiError::rate_limited(message, wait)))
        }
        // With the tasks' names it is longer than what came here.
        status @ StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => {
            told(status, "HEADERS_TOO_LARGE", format!("the request's headers are too large for {endpoint}"))
        }
        status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
            let message =
                format!("the process at {endpoint} answers {status} to who may ask here: its secret or its clock differs");
            told(StatusCode::BAD_GATEWAY, "PEER_FAILED", message)
        }
        status => told(StatusCode::BAD_GATEWAY, "PEER_FAILED", format!("the process at {endpoint} answers {status}")),
    }
}
