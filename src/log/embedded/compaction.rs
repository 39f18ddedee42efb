//! Compaction of a topic that is a table: of each key only the last record stays, with its offset.
//!
//! A pass first reads what was appended since the last pass and notes the last offset of each key in it, then goes over the
//! partition from its start and rewrites the batches that hold something older. It is done in slices and may stop anywhere: each
//! rewritten run of batches is one write, and a record goes only while a later one of its key is there. Tombstones go in the
//! same order, so nothing older that they hide is left when they do.

use super::layout::{self, Place};
use super::maintenance::Maintenance;
use super::partition::{Topic, places};
use super::shared::Shared;
use super::store::Store;
use crate::Offset;
use crate::log::{Cleanup, Error, RecordBatch, StoredBatch};
use rocksdb::WriteBatch;
use std::collections::HashMap;

/// How much a slice reads, in bytes.
const SLICE_BYTES: usize = 4 << 20;

/// Batches are put together up to about this size, in bytes.
const RUN_BYTES: usize = 256 << 10;

/// A run of this many batches is put together even if nothing in it is old.
const MANY_BATCHES: usize = 16;

/// The memory that a pass may take for the keys it notes, in bytes; what doesn't fit is left for the next pass.
const MAX_KEYS_BYTES: usize = 32 << 20;

/// What an entry of the map takes besides the key, about, in bytes.
const ENTRY_BYTES: usize = 48;

/// A pass over one partition.
#[derive(Debug)]
pub(super) struct Pass {
    place: Place,
    delete_retention_ms: u64,
    /// The last offset of each key that was appended since the last pass.
    latest: HashMap<Box<[u8]>, u64>,
    latest_bytes: usize,
    /// How far the current phase has come.
    at: Offset,
    /// Where this pass ends.
    until: Offset,
    /// The size of what was read to fill `latest`.
    read_bytes: u64,
    /// How much had been appended up to `until`, unless that was cut short.
    appended: Option<u64>,
    phase: Phase,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Noting,
    Rewriting,
}

impl Shared {
    /// Goes on with the pass under way, or begins one where it is due. Returns whether there may be more to do.
    pub(super) fn compact_slice(&self, maintenance: &mut Maintenance, topics: &[Topic]) -> Result<bool, Error> {
        let Some(mut pass) = maintenance.pass.take().or_else(|| due(topics, self.options.compact_bytes)) else {
            return Ok(false);
        };
        let topic = self.find(pass.place)?;
        let start = topic.partitions[pass.place.1.0 as usize].lock().bounds().start;
        pass.at = pass.at.max(start);
        let done = match pass.phase {
            Phase::Noting => self.note(&mut pass, &topic).map(|()| false)?,
            Phase::Rewriting => self.rewrite(&mut pass, &topic)?,
        };
        if !done {
            maintenance.pass = Some(pass);
        }
        Ok(true)
    }

    /// Notes the keys of one slice.
    fn note(&self, pass: &mut Pass, topic: &Topic) -> Result<(), Error> {
        let mut slice = 0;
        self.store()?.batches(pass.place, topic.info.cleanup, pass.at, pass.until, |batch| {
            for record in batch.records() {
                let Some(key) = record.key else { continue };
                if let Some(latest) = pass.latest.get_mut(key) {
                    *latest = record.offset.0;
                } else {
                    pass.latest.insert(key.into(), record.offset.0);
                    pass.latest_bytes += key.len() + ENTRY_BYTES;
                }
            }
            pass.at = batch.next_offset();
            pass.read_bytes += batch.stored_bytes() as u64;
            slice += batch.stored_bytes();
            slice < SLICE_BYTES && pass.latest_bytes < MAX_KEYS_BYTES
        })?;
        if pass.latest_bytes >= MAX_KEYS_BYTES {
            (pass.until, pass.appended) = (pass.at, None);
        }
        // A slice that ended for want of batches has seen everything.
        if slice < SLICE_BYTES || pass.at >= pass.until {
            pass.phase = Phase::Rewriting;
            pass.at = Offset(0);
        }
        Ok(())
    }

    /// Rewrites one slice; returns whether the pass is done.
    fn rewrite(&self, pass: &mut Pass, topic: &Topic) -> Result<bool, Error> {
        let tombstones_before = (self.options.clock)().0.saturating_sub_unsigned(pass.delete_retention_ms);
        let store = self.store()?;
        let mut write = WriteBatch::default();
        let (mut slice, mut freed) = (0, 0);
        let mut run: Vec<StoredBatch> = Vec::new();
        let (mut run_bytes, mut at) = (0, pass.at);
        store.batches(pass.place, topic.info.cleanup, pass.at, pass.until, |batch| {
            let span = |first: &StoredBatch| batch.next_offset().0 - first.base_offset().0;
            let fits =
                run_bytes + batch.stored_bytes() <= RUN_BYTES && run.first().is_none_or(|f| u32::try_from(span(f)).is_ok());
            if !fits && !run.is_empty() {
                freed += pass.rewrite_run(&run, topic, tombstones_before, &store, &mut write);
                run.clear();
                run_bytes = 0;
            }
            at = batch.next_offset();
            slice += batch.stored_bytes();
            run_bytes += batch.stored_bytes();
            run.push(batch);
            slice < SLICE_BYTES
        })?;
        if !run.is_empty() {
            freed += pass.rewrite_run(&run, topic, tombstones_before, &store, &mut write);
        }
        pass.at = at;
        let done = slice < SLICE_BYTES || at >= pass.until;
        let state = &topic.partitions[pass.place.1.0 as usize];
        let mut kept = state.lock().kept;
        kept.dropped += freed;
        if done {
            kept.cleaned = pass.until.0;
            kept.cleaned_bytes = pass.appended.unwrap_or(kept.cleaned_bytes + pass.read_bytes);
        }
        write.put(layout::place_key(layout::KEPT, pass.place), kept.encode());
        store.write(write, false).map_err(|e| self.failed(&e))?;
        let mut state = state.lock();
        state.set_kept(kept);
        state.unreclaimed += freed;
        Ok(done)
    }
}

impl Pass {
    /// Puts a run of batches into `write` as one batch without what is old, if that is worth it. Returns how many bytes it saves.
    fn rewrite_run(
        &self,
        run: &[StoredBatch],
        topic: &Topic,
        tombstones_before: i64,
        store: &Store,
        write: &mut WriteBatch,
    ) -> u64 {
        let (Some(first), Some(last)) = (run.first(), run.last()) else { return 0 };
        let mut records = RecordBatch::new();
        let mut next = first.base_offset();
        let mut read = 0;
        for batch in run {
            let tombstones_go = batch.appended_at().0 < tombstones_before;
            for record in batch.records() {
                read += 1;
                let latest = record.key.and_then(|key| self.latest.get(key));
                let is_old = latest.is_some_and(|latest| *latest > record.offset.0);
                let goes = record.value.is_none() && tombstones_go;
                if !is_old && !goes {
                    records.push_read(record.offset.0 - next.0, &record);
                    next = record.offset.next();
                }
            }
        }
        if records.len() == read && run.len() < MANY_BATCHES {
            return 0;
        }
        let family = store.family(layout::batches_of(topic.info.cleanup));
        for batch in run {
            write.delete_cf(family, layout::batch_key(self.place, batch.base_offset()));
        }
        let before: usize = run.iter().map(StoredBatch::stored_bytes).sum();
        if records.is_empty() {
            return before as u64;
        }
        let span = (last.next_offset().0 - first.base_offset().0) as u32;
        let appended_at = run.iter().map(StoredBatch::appended_at).max().unwrap_or_default();
        let batch = StoredBatch::concat(first.base_offset(), span, appended_at, &[records]);
        write.put_cf(family, layout::batch_key(self.place, first.base_offset()), batch.value());
        (before - batch.stored_bytes().min(before)) as u64
    }
}

/// A pass over the first partition that has enough to gain: this much new, and half of what there is.
fn due(topics: &[Topic], min_bytes: u64) -> Option<Pass> {
    topics.iter().find_map(|topic| {
        let Cleanup::Compact { delete_retention_ms } = topic.info.cleanup else { return None };
        places(topic).find_map(|(partition, state)| {
            let state = state.lock();
            let live = state.live_bytes();
            let new = live.min(state.end.appended - state.kept.cleaned_bytes);
            let is_due = new >= min_bytes.max(1) && 2 * new >= live;
            is_due.then(|| Pass {
                place: (topic.info.id, partition),
                delete_retention_ms,
                latest: HashMap::new(),
                latest_bytes: 0,
                at: Offset(state.kept.cleaned),
                until: state.bounds().end,
                read_bytes: 0,
                appended: Some(state.end.appended),
                phase: Phase::Noting,
            })
        })
    })
}
