//! When the rows of a store with time-to-live are looked at, to delete those that have outlived it: all of them, a part with each commit,
//! several times while a row lives. That they are gone is decided by every read; this gives their space back.

use millstream_state::TaskState;

use crate::error::ProcessError;
use crate::record::Timestamp;
use crate::topology::StoreIndex;

/// How many expired rows of a store one commit deletes at most.
const EXPIRE_ROWS: usize = 1_000;
/// How often rows are looked at while they live.
const SWEEPS_PER_LIFE: u64 = 16;

/// The sweeping of one store.
pub(super) struct Sweep {
    store: StoreIndex,
    every_ms: i64,
    /// The store's time at which the next round begins.
    next: Timestamp,
}

impl Sweep {
    pub(super) fn new(store: StoreIndex, ttl_ms: u64) -> Sweep {
        let every_ms = (ttl_ms / SWEEPS_PER_LIFE).clamp(1, i64::MAX as u64) as i64;
        Sweep { store, every_ms, next: Timestamp(0) }
    }

    /// Does the part of this commit, if a round is due.
    ///
    /// # Errors
    /// If the state cannot be read.
    pub(super) fn go_on(&mut self, state: &mut TaskState) -> Result<(), ProcessError> {
        let time = Timestamp(state.time_ms(self.store.id()));
        if self.next <= time && state.expire(self.store.id(), EXPIRE_ROWS)?.finished {
            self.next = time.plus_ms(self.every_ms);
        }
        Ok(())
    }
}
