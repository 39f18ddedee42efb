//! What a log forgets: batches past their retention or below a trim, requests past their expiry, and the space of all that.
//! A thread of its own does it in slices, so that nothing waits long for the maintenance lock; nothing here ever appends.

use super::compaction::Pass;
use super::layout::{self, Place};
use super::partition::{Topic, places};
use super::shared::Shared;
use crate::Offset;
use crate::log::{Cleanup, Error};
use rocksdb::WriteBatch;
use std::collections::BTreeSet;

/// How many requests one slice forgets.
const EXPIRE_AT_ONCE: usize = 2_000;

/// How many bytes one slice reads of a partition to find what its retention drops.
const RETENTION_SLICE_BYTES: usize = 8 << 20;

/// What maintenance remembers between slices.
#[derive(Debug, Default)]
pub(super) struct Maintenance {
    /// The compaction that is under way.
    pub pass: Option<Pass>,
    /// Requests that expired before this were forgotten since the log was opened: where to seek past their tombstones.
    expired_to: Vec<u8>,
}

/// Runs until the log is closed.
pub(super) fn run(shared: &Shared) {
    while !shared.queue.wait_for_close(shared.options.maintenance_interval) {
        while shared.queue.broken().is_none() && !shared.queue.is_closed() {
            match shared.maintain_slice() {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    tracing::warn!(dir = %shared.dir.display(), %error, "maintenance of the log stopped for now");
                    break;
                }
            }
        }
    }
}

impl Shared {
    /// Does a bounded part of what is due, and returns whether there may be more.
    pub(super) fn maintain_slice(&self) -> Result<bool, Error> {
        let mut maintenance = self.maintenance.lock();
        let mut more = self.forget_requests(&mut maintenance)?;
        let topics = self.topics.read().all().to_vec();
        for topic in &topics {
            if let Cleanup::Delete { retention_ms, retention_bytes } = topic.info.cleanup
                && (retention_ms.is_some() || retention_bytes.is_some())
            {
                for partition in places(topic).map(|(partition, _)| partition) {
                    more |= self.retain((topic.info.id, partition), topic, retention_ms, retention_bytes)?;
                }
            }
        }
        self.delete_trimmed(&topics)?;
        more |= self.compact_slice(&mut maintenance, &topics)?;
        drop(maintenance);
        self.reclaim(&topics)?;
        Ok(more)
    }

    /// Drops the oldest batches of a partition as long as they are too old or too many.
    fn retain(&self, place: Place, topic: &Topic, ms: Option<u64>, max_bytes: Option<u64>) -> Result<bool, Error> {
        let state = &topic.partitions[place.1.0 as usize];
        let (bounds, live) = {
            let state = state.lock();
            (state.bounds(), state.live_bytes())
        };
        let too_old = ms.map_or(i64::MIN, |ms| (self.options.clock)().0.saturating_sub_unsigned(ms));
        let too_many = max_bytes.map_or(0, |max| live.saturating_sub(max));
        let (mut start, mut dropped, mut more) = (bounds.start, 0, false);
        self.store()?.batches(place, topic.info.cleanup, bounds.start, bounds.end, |batch| {
            let bytes = batch.stored_bytes() as u64;
            if batch.appended_at().0 >= too_old && dropped + bytes > too_many {
                return false;
            }
            (start, dropped) = (batch.next_offset(), dropped + bytes);
            more = dropped >= RETENTION_SLICE_BYTES as u64;
            !more
        })?;
        self.trim(place, start, Some(dropped))?;
        Ok(more)
    }

    /// Deletes the batches below each start, once the start itself survives the machine.
    fn delete_trimmed(&self, topics: &[Topic]) -> Result<(), Error> {
        let mut due = Vec::new();
        for topic in topics {
            for (partition, state) in places(topic) {
                let state = state.lock();
                if state.deleted_to < state.kept.start {
                    due.push((topic, (topic.info.id, partition), state.deleted_to, state.bounds()));
                }
            }
        }
        let store = self.store()?;
        let (mut write, mut deleted) = (WriteBatch::default(), Vec::new());
        for (topic, place, from, bounds) in due {
            let mut to = bounds.start;
            // The batch that holds the start stays whole, until the start has passed it.
            store.batches(place, topic.info.cleanup, bounds.start, bounds.end, |batch| {
                to = to.min(batch.base_offset());
                false
            })?;
            if to > Offset(from) {
                let family = store.family(layout::batches_of(topic.info.cleanup));
                write.delete_range_cf(family, layout::batch_key(place, Offset(from)), layout::batch_key(place, to));
                deleted.push((topic, place, to));
            }
        }
        if deleted.is_empty() {
            return Ok(());
        }
        store.sync().map_err(|e| self.failed(&e))?;
        store.write(write, false).map_err(|e| self.failed(&e))?;
        for (topic, place, to) in deleted {
            topic.partitions[place.1.0 as usize].lock().deleted_to = to.0;
        }
        Ok(())
    }

    /// Gives back the space of what was deleted, where it is some write buffers.
    fn reclaim(&self, topics: &[Topic]) -> Result<(), Error> {
        let enough = 2 * self.options.write_buffer_bytes as u64;
        let mut families = BTreeSet::new();
        for topic in topics {
            for (partition, state) in places(topic) {
                let kept = {
                    let mut state = state.lock();
                    if state.unreclaimed < enough {
                        continue;
                    }
                    state.unreclaimed = 0;
                    state.kept
                };
                let (place, cleanup) = ((topic.info.id, partition), topic.info.cleanup);
                self.store()?.drop_deleted(place, cleanup, Offset(kept.start.max(kept.cleaned)));
                families.insert(layout::batches_of(cleanup));
            }
        }
        families.into_iter().try_for_each(|family| self.store()?.collect_garbage(family, enough))
    }

    fn forget_requests(&self, maintenance: &mut Maintenance) -> Result<bool, Error> {
        let store = self.store()?;
        let now = (self.options.clock)();
        let family = store.family(layout::REQUESTS);
        let mut write = WriteBatch::default();
        let (mut forgotten, mut last) = (0, None);
        let from = if maintenance.expired_to.is_empty() { &[layout::EXPIRY][..] } else { &maintenance.expired_to };
        let mut damaged = None;
        store.scan(layout::REQUESTS, &[layout::EXPIRY], from, |index, _| {
            let (expires_at, key) = layout::expiry_from_key(index)?;
            if expires_at > now || forgotten == EXPIRE_AT_ONCE {
                return Some(false);
            }
            let request = layout::request_key(key);
            match store.get(layout::REQUESTS, &request) {
                // The key may have been used again since: then the row is another's.
                Ok(Some(row)) if layout::request_expiry(&row)? == expires_at => write.delete_cf(family, request),
                Ok(_) => {}
                Err(error) => {
                    damaged = Some(error);
                    return Some(false);
                }
            }
            write.delete_cf(family, index);
            forgotten += 1;
            last = Some(index.to_vec());
            Some(true)
        })?;
        if let Some(error) = damaged {
            return Err(error);
        }
        if let Some(last) = last {
            store.write(write, false).map_err(|e| self.failed(&e))?;
            maintenance.expired_to = last;
        }
        Ok(forgotten == EXPIRE_AT_ONCE)
    }
}
