//! New ids: they grow with time, fit into a JSON number, and are never given twice, whatever the clock does.
//!
//! An id is the milliseconds since 2025 and, below them, a number of 12 bits: 4,096 ids a millisecond, until 2094. Within a process the last one is
//! remembered; over restarts the greatest that exists is asked for first, in case the clock went back meanwhile.

use std::sync::atomic::{AtomicU64, Ordering};

use millstream::Timestamp;
use millstream::codec::Data;
use millstream::serve::ApiError;
use tokio::sync::OnceCell;

use super::known::Known;

/// 2025-01-01T00:00:00Z
const EPOCH_MS: i64 = 1_735_689_600_000;
const SEQUENCE_BITS: u32 = 12;

/// Gives ids for one kind of thing.
#[derive(Default)]
pub struct Ids {
    last: OnceCell<AtomicU64>,
}

impl Ids {
    /// An id that none of `known` has. The first waits for the view, so that it is beyond all that were given before.
    ///
    /// # Errors
    /// 503 if the view is too far behind.
    pub async fn next<V: Data>(&self, known: &Known<V>, now: Timestamp) -> Result<u64, ApiError> {
        let first = || async {
            known.catch_up().await?;
            Ok::<_, ApiError>(AtomicU64::new(known.greatest()?.unwrap_or(0)))
        };
        Ok(after(self.last.get_or_try_init(first).await?, now))
    }
}

fn after(last: &AtomicU64, now: Timestamp) -> u64 {
    let by_time = (now.0 - EPOCH_MS).max(0).cast_unsigned() << SEQUENCE_BITS;
    let next = |last: u64| by_time.max(last + 1);
    next(last.update(Ordering::Relaxed, Ordering::Relaxed, next))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_grow_whatever_the_clock_does() {
        let last = AtomicU64::new(7);
        let ids = [0, 0, 1, 1, 0, 5].map(|ms| after(&last, Timestamp(EPOCH_MS + ms)));
        assert_eq!(ids, [8, 9, 4096, 4097, 4098, 5 << 12]);
        let year_2094 = after(&last, Timestamp(3_934_000_000_000));
        assert!(year_2094 < 1 << 53, "{year_2094}");
    }
}
