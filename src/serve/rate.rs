//! How often a caller may ask: a token bucket each, kept as the one time at which it would be full again (the generic cell rate
//! algorithm). A full bucket is forgotten, so that the memory is bounded by who asked lately.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::config::RateLimit;

/// From so many buckets on, full ones are looked for and forgotten.
const SWEEP_AT: usize = 16_384;

/// Whose bucket it is.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) enum Who {
    Caller(String),
    Address(IpAddr),
}

pub(super) struct Buckets {
    /// The time a token takes to come back.
    per_token: Duration,
    /// The time an empty bucket takes to be full.
    to_full: Duration,
    state: Mutex<State>,
}

struct State {
    full_at: HashMap<Who, Instant>,
    sweep_at: usize,
}

impl Buckets {
    pub(super) fn new(limit: RateLimit) -> Buckets {
        let per_token = Duration::from_secs(1) / limit.per_second.max(1);
        let state = State { full_at: HashMap::new(), sweep_at: SWEEP_AT };
        Buckets { per_token, to_full: per_token * limit.burst.max(1), state: Mutex::new(state) }
    }

    /// Takes a token, or answers how long it takes until there is one.
    pub(super) fn take(&self, who: Who, now: Instant) -> Result<(), Duration> {
        let mut state = self.state.lock();
        if state.full_at.len() >= state.sweep_at {
            state.full_at.retain(|_, full_at| *full_at > now);
            state.sweep_at = (state.full_at.len() * 2).max(SWEEP_AT);
        }
        let full_at = state.full_at.entry(who).or_insert(now);
        let after = (*full_at).max(now) + self.per_token;
        let limit = now + self.to_full;
        if after > limit {
            return Err(after - limit);
        }
        *full_at = after;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_empties_fills_and_is_forgotten() {
        let buckets = Buckets::new(RateLimit { per_second: 10, burst: 3 });
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let take = |name: &str, ms: u64| buckets.take(Who::Caller(name.into()), at(ms)).map_err(|wait| wait.as_millis());

        assert_eq!([take("a", 0), take("a", 0), take("a", 0)], [Ok(()); 3]);
        assert_eq!(take("a", 0), Err(100));
        assert_eq!(take("a", 40), Err(60), "a refusal takes no token");
        assert_eq!(take("b", 40), Ok(()), "another's bucket is another's");
        assert_eq!(take("a", 100), Ok(()));
        assert_eq!(take("a", 100), Err(100));
        assert_eq!([take("a", 9_000), take("a", 9_000), take("a", 9_000)], [Ok(()); 3], "never fuller than full");
        assert_eq!(take("a", 9_000), Err(100));

        for i in 0..4 * SWEEP_AT {
            take(&i.to_string(), 20_000 + i as u64).expect("a full bucket");
        }
        assert!(buckets.state.lock().full_at.len() <= SWEEP_AT, "full buckets are forgotten");
    }
}
