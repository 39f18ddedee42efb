//! Requests that are carried out once, by an idempotency key: the key's row and what the request appends are one transaction.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::Behind;
use super::handle::{AppendError, Events, Handle};
use super::token::Token;
use crate::log::{self, Request};
use crate::record::{Offset, Partition, Record, Timestamp};
use crate::requests::{self, Command, REQUESTS};

/// How long a second request of a key waits for the first.
const WAIT: Duration = Duration::from_secs(10);

/// The requests that run now. Each has a semaphore without permits, which is closed when it is done.
#[derive(Default)]
pub(crate) struct Requests {
    running: Mutex<HashMap<Vec<u8>, Arc<Semaphore>>>,
}

/// A request's name and what it asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestKey {
    /// The caller's key, made unique among callers.
    pub key: Vec<u8>,
    /// A hash of what is asked for: a key is for one request.
    pub fingerprint: [u8; 32],
    /// How long the answer is kept, in milliseconds.
    pub keep_ms: i64,
}

/// What to append, and the answer to give, now and to every repetition.
pub struct Accepted {
    /// What happened, by the request.
    pub events: Events,
    /// The answer, kept as it is.
    pub answer: Vec<u8>,
}

/// The answer to a request that was carried out, now or before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// As it was given first.
    pub answer: Vec<u8>,
    /// What the request appended.
    pub position: Token,
}

/// Why there is no answer.
#[derive(Debug)]
pub enum RequestError<E> {
    /// The request was refused; nothing was appended, and its key is free. Unless it was asked before and nobody was told what came of it: see
    /// [`Handle::asked_before`].
    Refused(E),
    /// The key was used for another request.
    Reused,
    /// The first request of this key still runs.
    StillRunning,
    /// The log could not take it.
    Append(AppendError),
}

/// Removes a running request when it ends, however it ends.
struct Running<'a> {
    requests: &'a Requests,
    key: &'a [u8],
    done: Arc<Semaphore>,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.requests.running.lock().remove(self.key);
        self.done.close();
    }
}

impl Handle {
    /// Carries a request out, unless it was already: then its answer is given again. `decide` says what to append and answer, or refuses.
    ///
    /// # Errors
    /// See [`RequestError`].
    pub async fn once<E, F>(&self, request: &RequestKey, decide: impl FnOnce() -> F) -> Result<Answer, RequestError<E>>
    where
        F: Future<Output = Result<Accepted, E>>,
    {
        let requests = &self.shared.requests;
        let deadline = tokio::time::Instant::now() + WAIT;
        let running = loop {
            let first = {
                let mut running = requests.running.lock();
                match running.get(&request.key) {
                    Some(first) => Arc::clone(first),
                    None => {
                        let done = Arc::new(Semaphore::new(0));
                        running.insert(request.key.clone(), Arc::clone(&done));
                        break Running { requests, key: &request.key, done };
                    }
                }
            };
            if tokio::time::timeout_at(deadline, first.acquire()).await.is_err() {
                return Err(RequestError::StillRunning);
            }
        };
        let result = self.carry_out(request, decide).await;
        drop(running);
        result
    }

    /// The answer that the request was given, if it was carried out, as the log knows by now: for one that is to be refused. Where processes share a
    /// log, whoever asked first may have been told that the outcome is not known, and the request may be carried out after the refusal was
    /// thought of: a refusal of what was done would be two answers to one request.
    ///
    /// # Errors
    /// [`RequestError::Refused`] if the task of the key does not come so far within `deadline`; else see [`RequestError`].
    pub async fn asked_before(&self, request: &RequestKey, deadline: Duration) -> Result<Option<Answer>, RequestError<Behind>> {
        if self.shared.embedded.is_none() {
            let topic = requests::topic(&self.shared.topology.application);
            let partition = self.partition(&topic, &request.key).map_err(RequestError::Append)?;
            let (_, sub) = self.shared.topology.store(REQUESTS.name()).ok_or(RequestError::Append(AppendError::NoRequests))?;
            self.shared.caught_up_in(sub, partition, deadline).await.map_err(RequestError::Refused)?;
        }
        self.answered(request).await
    }

    async fn carry_out<E, F>(&self, request: &RequestKey, decide: impl FnOnce() -> F) -> Result<Answer, RequestError<E>>
    where
        F: Future<Output = Result<Accepted, E>>,
    {
        if let Some(answer) = self.answered(request).await? {
            return Ok(answer);
        }
        let Accepted { events, answer } = match decide().await {
            Ok(accepted) => accepted,
            Err(refusal) => {
                self.settled().await.map_err(RequestError::Append)?;
                return Err(RequestError::Refused(refusal));
            }
        };
        if self.shared.embedded.is_none() {
            return self.command(request, events, answer).await;
        }
        let row = Request {
            key: request.key.clone(),
            fingerprint: request.fingerprint,
            answer: answer.clone(),
            expires_at: self.keep_until(request),
        };
        match self.append_with(events, Some(row)).await {
            Ok(position) => Ok(Answer { answer, position }),
            // Whoever asked first left while the log was at it, so nobody was running any more.
            Err(error @ AppendError::Log(log::Error::RequestExists)) => {
                self.answered(request).await?.ok_or(RequestError::Append(error))
            }
            Err(error) => Err(RequestError::Append(error)),
        }
    }

    fn keep_until(&self, request: &RequestKey) -> Timestamp {
        self.now().plus_ms(request.keep_ms)
    }

    /// Asks the task of the key, and waits for what it decided: another process may have asked the same before.
    async fn command<E>(&self, request: &RequestKey, events: Events, answer: Vec<u8>) -> Result<Answer, RequestError<E>> {
        let id = uuid::Uuid::new_v4().as_u128();
        let (fingerprint, keep_until_ms) = (request.fingerprint, self.keep_until(request).0);
        let events = events.into_command().map_err(RequestError::Append)?;
        let command = Command { id, fingerprint, answer, keep_until_ms, events };
        let topic = requests::topic(&self.shared.topology.application);
        let asked = Record::new(request.key.clone(), command, self.now());
        let position = self.append(Events::new().with(&topic, &asked)).await.map_err(RequestError::Append)?;
        let unknown = |cause: &str| RequestError::Append(AppendError::Log(log::Error::OutcomeUnknown { cause: cause.into() }));
        if self.at_least(&position, REQUESTS.name(), WAIT).await.is_err() {
            return Err(unknown("the request was not decided in time"));
        }
        match self.answered(request).await? {
            Some(answer) => Ok(answer),
            None => Err(unknown("the request was parked: see the dead letters of its topic")),
        }
    }

    /// The answer that was given to the request, if it was carried out and its answer is still kept.
    async fn answered<E>(&self, request: &RequestKey) -> Result<Option<Answer>, RequestError<E>> {
        let Some((fingerprint, answer, position)) = self.kept(&request.key).map_err(RequestError::Append)? else {
            return Ok(None);
        };
        // It may be so new that whoever asked first was not told yet.
        self.settled().await.map_err(RequestError::Append)?;
        if fingerprint == request.fingerprint { Ok(Some(Answer { answer, position })) } else { Err(RequestError::Reused) }
    }

    /// What is kept of the request of this key: by the log itself, or by the task that decides.
    fn kept(&self, key: &[u8]) -> Result<Option<([u8; 32], Vec<u8>, Token)>, AppendError> {
        if let Some(log) = &self.shared.embedded {
            let stored = log.request(key)?.filter(|stored| stored.expires_at > self.now());
            return Ok(stored.map(|stored| {
                let ends = stored.positions.iter().map(|(topic, partition, offset)| (*topic, *partition, offset.next()));
                (stored.fingerprint, stored.answer, self.token(ends))
            }));
        }
        let view = self.view(REQUESTS.name()).ok_or(AppendError::NoRequests)?;
        let kept = view.typed(&REQUESTS).get(&key.to_vec()).map_err(AppendError::Requests)?.ahead();
        let topic = requests::topic(&self.shared.topology.application);
        let topic = self.shared.topics.iter().find(|known| *known.name == *topic.name()).ok_or(AppendError::NoRequests)?;
        Ok(kept.filter(|kept| kept.keep_until_ms > self.now().0).map(|kept| {
            let end = (topic.id, Partition(kept.partition), Offset(kept.offset).next());
            (kept.fingerprint, kept.answer, self.token([end].into_iter()))
        }))
    }
}

impl From<log::Error> for AppendError {
    fn from(error: log::Error) -> AppendError {
        AppendError::Log(error)
    }
}
