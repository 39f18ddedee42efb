//! New ids: they grow with time, fit into a JSON number, and are never given twice, whatever the clock does.
//!
//! An id is the milliseconds since 2025 and, below them, a number of 12 bits: 4,096 ids a millisecond, until 2094. Within a process the last one is
//! remembered; over restarts the greatest that exists is asked for first, in case the clock went back meanwhile. Where several processes give
//! ids, the upper 8 of those 12 bits say which: 16 ids a millisecond each. They come from the number of the process's start, so two that run
//! at the same time have the same only if one of them was there before the last 128 starts.

use std::sync::atomic::{AtomicU64, Ordering};

use millstream::Timestamp;
use millstream::codec::Data;
use millstream::serve::ApiError;
use tokio::sync::OnceCell;

use super::known::Known;

/// 2025-01-01T00:00:00Z
const EPOCH_MS: i64 = 1_735_689_600_000;
const SEQUENCE_BITS: u32 = 12;
/// Of these, how many count within a process where several give ids.
const SHARED_SEQUENCE_BITS: u32 = 4;

/// Gives ids for one kind of thing.
pub struct Ids {
    last: OnceCell<AtomicU64>,
    /// Which of several processes this is.
    node: Option<u8>,
}

impl Ids {
    /// Ids of one of several processes, by the number of its start (which are even or odd, and grow by two at least); of the only one
    /// if that is 0.
    #[must_use]
    pub fn of_process(start_number: u64) -> Ids {
        let node = (start_number != 0).then_some((start_number / 2) as u8);
        Ids { last: OnceCell::new(), node }
    }

    /// An id that none of `known` has. The first waits for the view, so that it is beyond all that were given before.
    ///
    /// # Errors
    /// 503 if the view is too far behind.
    pub async fn next<V: Data>(&self, known: &Known<V>, now: Timestamp) -> Result<u64, ApiError> {
        let first = || async {
            known.catch_up().await?;
            Ok::<_, ApiError>(AtomicU64::new(known.greatest()?.unwrap_or(0)))
        };
        Ok(after(self.last.get_or_try_init(first).await?, now, self.node))
    }
}

fn after(last: &AtomicU64, now: Timestamp, node: Option<u8>) -> u64 {
    let ms = (now.0 - EPOCH_MS).max(0).cast_unsigned();
    let next = |last: u64| match node {
        None => (ms << SEQUENCE_BITS).max(last + 1),
        Some(node) => {
            // Without the node, the ids of this process are one number that grows.
            let own = |ms: u64, count: u64| ms << SHARED_SEQUENCE_BITS | count;
            let mask = (1 << SHARED_SEQUENCE_BITS) - 1;
            let last = own(last >> SEQUENCE_BITS, last & mask);
            let next = own(ms, 0).max(last + 1);
            next >> SHARED_SEQUENCE_BITS << SEQUENCE_BITS | u64::from(node) << SHARED_SEQUENCE_BITS | next & mask
        }
    };
    next(last.update(Ordering::Relaxed, Ordering::Relaxed, next))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_grow_whatever_the_clock_does() {
        let last = AtomicU64::new(7);
        let ids = [0, 0, 1, 1, 0, 5].map(|ms| after(&last, Timestamp(EPOCH_MS + ms), None));
        assert_eq!(ids, [8, 9, 4096, 4097, 4098, 5 << 12]);
        let year_2094 = after(&last, Timestamp(3_934_000_000_000), None);
        assert!(year_2094 < 1 << 53, "{year_2094}");
    }

    #[test]
    fn processes_never_give_the_same_id() {
        let mut seen = std::collections::BTreeSet::new();
        for node in [0, 1, 255] {
            let last = AtomicU64::new(0);
            let ids: Vec<u64> = (0..100).map(|i| after(&last, Timestamp(EPOCH_MS + i / 40), Some(node))).collect();
            assert!(ids.is_sorted_by(|a, b| a < b), "{ids:?}");
            assert!(ids.iter().all(|id| (id >> SHARED_SEQUENCE_BITS) as u8 == node && seen.insert(*id)), "{ids:?}");
        }
    }
}
