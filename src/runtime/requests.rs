//! Requests that are carried out once, by an idempotency key: the key's row and what the request appends are one transaction.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::handle::{AppendError, Events, Handle};
use super::token::Token;
use crate::log::{self, Request};
use crate::record::Timestamp;

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
    /// The request was refused; nothing was appended, and its key is free.
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

    async fn carry_out<E, F>(&self, request: &RequestKey, decide: impl FnOnce() -> F) -> Result<Answer, RequestError<E>>
    where
        F: Future<Output = Result<Accepted, E>>,
    {
        if let Some(answer) = self.answered(request)? {
            return Ok(answer);
        }
        let Accepted { events, answer } = decide().await.map_err(RequestError::Refused)?;
        let row = Request {
            key: request.key.clone(),
            fingerprint: request.fingerprint,
            answer: answer.clone(),
            expires_at: Timestamp(self.shared.config.clock.now().0 + request.keep_ms),
        };
        match self.append_with(events, Some(row)).await {
            Ok(position) => Ok(Answer { answer, position }),
            // Whoever asked first left while the log was at it, so nobody was running any more.
            Err(error @ AppendError::Log(log::Error::RequestExists)) => {
                self.answered(request)?.ok_or(RequestError::Append(error))
            }
            Err(error) => Err(RequestError::Append(error)),
        }
    }

    /// The answer that was given to the request, if it was carried out and its answer is still kept.
    fn answered<E>(&self, request: &RequestKey) -> Result<Option<Answer>, RequestError<E>> {
        let log = self.shared.embedded.as_ref().ok_or(RequestError::Append(AppendError::Log(log::Error::Closed)))?;
        let stored = log.request(&request.key).map_err(|e| RequestError::Append(AppendError::Log(e)))?;
        let Some(stored) = stored.filter(|stored| stored.expires_at > self.shared.config.clock.now()) else { return Ok(None) };
        if stored.fingerprint != request.fingerprint {
            return Err(RequestError::Reused);
        }
        let ends = stored.positions.iter().map(|(topic, partition, offset)| (*topic, *partition, offset.next()));
        Ok(Some(Answer { answer: stored.answer, position: self.token(ends) }))
    }
}

impl From<log::Error> for AppendError {
    fn from(error: log::Error) -> AppendError {
        AppendError::Log(error)
    }
}
