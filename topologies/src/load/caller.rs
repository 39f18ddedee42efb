//! One caller of the shop: a kept-alive connection that outlives the shop's crashes. What was not answered is sent again, with
//! the same bytes and so the same idempotency key, until it is.

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{Error, PATIENCE};
use crate::client::{Connection, Target};

const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// What went wrong on the way and was mended by trying again.
#[derive(Default)]
pub struct Faults {
    /// Connections that broke or could not be made.
    pub broken: AtomicU64,
    /// Answers 429, 503 and 504.
    pub postponed: AtomicU64,
}

/// A connection that is made again when it breaks.
pub struct Caller {
    target: Target,
    faults: Arc<Faults>,
    patience: Duration,
    connection: Option<Connection>,
}

impl Caller {
    /// Does not connect yet.
    #[must_use]
    pub fn new(target: Target, faults: Arc<Faults>) -> Caller {
        Caller { target, faults, patience: PATIENCE, connection: None }
    }

    /// The same caller, which gives up when the shop is away for longer than this.
    #[must_use]
    pub fn patient_for(self, patience: Duration) -> Caller {
        Caller { patience, ..self }
    }

    /// Sends a request until it is answered with something other than 429, 503 or 504; gives the answer.
    pub async fn call(&mut self, request: &[u8]) -> Result<Answer<'_>, Error> {
        let mut retry = None;
        let status = loop {
            match self.send(request).await {
                Ok(status @ (429 | 503 | 504)) => {
                    self.faults.postponed.fetch_add(1, Relaxed);
                    let connection = self.connection.as_ref().expect("send leaves the connection that answered");
                    let after = connection.header("retry-after").and_then(|after| after.parse().ok());
                    let line = String::from_utf8_lossy(request.split(|&byte| byte == b'\r').next().unwrap_or_default());
                    let cause = Answer { status, connection }.unexpected(&line).to_string();
                    let retry = retry.get_or_insert_with(|| Retry::new(&self.target, self.patience));
                    retry.pause(&cause, Duration::from_secs(after.unwrap_or(0))).await?;
                }
                Ok(status) => break status,
                Err(error) => {
                    self.connection = None;
                    self.faults.broken.fetch_add(1, Relaxed);
                    let retry = retry.get_or_insert_with(|| Retry::new(&self.target, self.patience));
                    retry.pause(&error.to_string(), Duration::ZERO).await?;
                }
            }
        };
        let connection = self.connection.as_ref().expect("send leaves the connection that answered");
        Ok(Answer { status, connection })
    }

    async fn send(&mut self, request: &[u8]) -> io::Result<u16> {
        if self.connection.as_ref().is_none_or(Connection::closes) {
            self.connection = Some(Connection::open(&self.target).await?);
        }
        self.connection.as_mut().expect("it was just made").send(request).await
    }

    /// `GET`s a path and gives the status and the body.
    pub async fn get(&mut self, path: &str) -> Result<Answer<'_>, Error> {
        let mut request = Vec::new();
        self.target.write_request(&mut request, "GET", path, "", b"");
        self.call(&request).await
    }

    /// `GET`s JSON.
    pub async fn json<T: serde::de::DeserializeOwned>(&mut self, path: &str) -> Result<T, Error> {
        let answer = self.get(path).await?;
        match (answer.status, serde_json::from_slice(answer.body())) {
            (200, Ok(value)) => Ok(value),
            _ => Err(answer.unexpected(&format!("GET {path}"))),
        }
    }

    /// `GET`s JSON; `None` if it is answered with 404 and the code `missing`.
    pub async fn json_if_any<T: serde::de::DeserializeOwned>(&mut self, path: &str, missing: &str) -> Result<Option<T>, Error> {
        let answer = self.get(path).await?;
        match (answer.status, serde_json::from_slice(answer.body())) {
            (200, Ok(value)) => Ok(Some(value)),
            (404, _) if answer.code() == missing => Ok(None),
            _ => Err(answer.unexpected(&format!("GET {path}"))),
        }
    }
}

/// An answer, until the next call.
pub struct Answer<'a> {
    /// The status code.
    pub status: u16,
    connection: &'a Connection,
}

impl Answer<'_> {
    /// The body.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        self.connection.body()
    }

    /// A header; `name` in lower case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.connection.header(name)
    }

    /// A hash of all that has to be the same when the request is repeated.
    #[must_use]
    pub fn hash(&self) -> u64 {
        let position = self.header("x-stream-position");
        BuildHasherDefault::<DefaultHasher>::default().hash_one((self.status, position, self.body()))
    }

    /// The `code` of an error answer; empty where there is none.
    #[must_use]
    pub fn code(&self) -> String {
        let body: Option<serde_json::Value> = serde_json::from_slice(self.body()).ok();
        body.and_then(|b| Some(b.get("error")?.get("code")?.as_str()?.to_owned())).unwrap_or_default()
    }

    /// The failure that this is the answer to `request`.
    #[must_use]
    pub fn unexpected(&self, request: &str) -> Error {
        let body = String::from_utf8_lossy(self.body()).chars().take(300).collect();
        Error::Unexpected { request: request.to_owned(), status: self.status, body }
    }
}

/// Pauses between attempts that grow, up to a bound on all of them.
pub struct Retry {
    target: String,
    until: Instant,
    patience: Duration,
    pause: Duration,
}

impl Retry {
    /// The first attempt is made now.
    #[must_use]
    pub fn new(target: &Target, patience: Duration) -> Retry {
        Retry { target: target.to_string(), until: Instant::now() + patience, patience, pause: FIRST_PAUSE }
    }

    /// Waits before the next attempt, `least` or longer. An error once patience is at its end.
    pub async fn pause(&mut self, cause: &str, least: Duration) -> Result<(), Error> {
        let pause = self.pause.max(least);
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        if Instant::now() + pause > self.until {
            return Err(Error::Unreachable {
                target: self.target.clone(),
                seconds: self.patience.as_secs(),
                cause: cause.to_owned(),
            });
        }
        sleep(pause).await;
        Ok(())
    }
}
