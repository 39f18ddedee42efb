//! `shop receive`: an endpoint to try `shop sink` with. It takes each event once by its idempotency key, tells how many came, and can be told to
//! fail. What it knows is in memory, and gone with it: nothing is built on it.

use std::collections::{HashMap, hash_map::Entry};
use std::sync::{Arc, Mutex, PoisonError};

use millstream::serve::{ApiError, Request, Response, Routes, StatusCode};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::cli::Receive;
use crate::serving::{self, Error, Front};

/// The longest body, in bytes: an event is the value of a record, and no topic of the shop takes a larger one.
const MAX_BODY_BYTES: usize = 2 << 20;

/// What came.
#[derive(Default)]
struct Received {
    fail_percent: u32,
    counts: Counts,
    /// The body that each key came with, as its hash.
    bodies: HashMap<String, [u8; 32]>,
}

#[derive(Clone, Copy, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Counts {
    /// Requests.
    requests: u64,
    /// Of them, those that were made to fail.
    failed: u64,
    /// Events that were taken.
    taken: u64,
    /// Requests for an event that was taken before.
    repeated: u64,
    /// Requests for an event that was taken before with another body, which must not be.
    differing: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Failing {
    fail_percent: u32,
}

type Shared = Arc<Mutex<Received>>;

/// Serves until a signal comes.
///
/// # Errors
/// See [`Error`].
pub fn run(receive: &Receive) -> Result<(), Error> {
    serving::run(&receive.logging, async {
        let front = Front::open_for_bodies(&receive.interface, MAX_BODY_BYTES).await?;
        let received = Shared::default();
        let routes = Routes::new(received).post("/events", take).get("/events", show).post("/failing", fail).get("/readyz", show);
        front.serve_alone(routes).await;
        Ok(())
    })
}

async fn take(received: Shared, mut request: Request) -> Result<Response, ApiError> {
    let body = request.body().await?;
    let key = request.header("x-idempotency-key").map(str::to_owned);
    let key =
        key.ok_or_else(|| ApiError::new(StatusCode::BAD_REQUEST, "BAD_REQUEST", "the header X-Idempotency-Key is missing"))?;
    let mut received = received.lock().unwrap_or_else(PoisonError::into_inner);
    let Received { fail_percent, counts, bodies } = &mut *received;
    counts.requests += 1;
    // As many of each hundred, evenly.
    let percent = u64::from(*fail_percent);
    if counts.requests * percent / 100 != (counts.requests - 1) * percent / 100 {
        counts.failed += 1;
        return Err(ApiError::unavailable("FAILED", "it was told to fail"));
    }
    let hash: [u8; 32] = Sha256::digest(&body).into();
    match bodies.entry(key) {
        Entry::Vacant(new) => {
            new.insert(hash);
            counts.taken += 1;
        }
        Entry::Occupied(known) if *known.get() == hash => counts.repeated += 1,
        Entry::Occupied(_) => counts.differing += 1,
    }
    Response::json(StatusCode::OK, counts)
}

async fn show(received: Shared, _: Request) -> Result<Response, ApiError> {
    Response::json(StatusCode::OK, &received.lock().unwrap_or_else(PoisonError::into_inner).counts)
}

async fn fail(received: Shared, mut request: Request) -> Result<Response, ApiError> {
    let Failing { fail_percent } = request.json().await?;
    if fail_percent > 100 {
        return Err(ApiError::invalid_field("failPercent", "must be 0 to 100"));
    }
    let mut received = received.lock().unwrap_or_else(PoisonError::into_inner);
    received.fail_percent = fail_percent;
    tracing::info!(fail_percent, "so many of a hundred requests fail from now on");
    Response::json(StatusCode::OK, &received.counts)
}
