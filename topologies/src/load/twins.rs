//! Requests that are sent twice with one idempotency key: what the second answer may be.

use std::collections::HashMap;

use tokio::time::Instant;

/// The first answer to each request that is sent twice, until the second comes. Requests have numbers.
#[derive(Default)]
pub struct Twins(HashMap<u64, First>);

/// An answer, as far as it has to be the same when the request is repeated.
#[derive(Clone, Copy)]
pub struct Answered {
    /// Whether the request was accepted.
    pub accepted: bool,
    /// Of all that has to be the same.
    pub hash: u64,
    /// When the request was sent.
    pub sent: Instant,
    /// When the answer was read.
    pub read: Instant,
}

struct First {
    hash: u64,
    accepted: bool,
    read: Instant,
}

impl Twins {
    /// Takes the answer to one of two and says whether to count it. An accepted one is counted once, and has to be repeated as it was; a
    /// refusal frees the key, so it may be followed by anything.
    ///
    /// # Errors
    /// What the repetition was answered, where it had to be answered as the first.
    pub fn take(&mut self, number: u64, answer: Answered) -> Result<bool, &'static str> {
        let Answered { accepted, hash, sent, read } = answer;
        match self.0.remove(&number) {
            None => {
                self.0.insert(number, First { hash, accepted, read });
                Ok(true)
            }
            Some(first) if first.accepted && accepted && first.hash == hash => Ok(false),
            // It was answered first, and read last.
            Some(first) if first.accepted && !accepted && sent < first.read => Ok(false),
            Some(first) if first.accepted && accepted => Err("another answer"),
            Some(first) if first.accepted => Err("a refusal"),
            Some(_) => Ok(accepted),
        }
    }
}
