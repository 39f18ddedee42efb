//! The one thread that appends. It takes all transactions that wait, makes them one write, syncs it, and only then lets anybody
//! see it: group commit, whose groups grow by themselves with what arrives during a sync.
//!
//! ```text
//!             write failed, or somebody else's did
//! committing ------------------------------------> closed, reopened and read back with growing pauses
//!      ^                                                |
//!      +------------------------------------------------+
//!                       read back
//! ```
//! After a failed write or sync nobody knows what is on the disk: not the kernel after a failed sync, and not RocksDB. So those
//! who waited hear just that, the database is opened anew, and what is found there is what happened.

use super::group::{self, Group};
use super::options::Durability;
use super::partition::TailBudget;
use super::queue::{Job, Work};
use super::shared::Shared;
use crate::log::Error;
use millstream_state::fault;
use rocksdb::WriteBatch;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// A group ends when it has this many bytes, so that a batch in the log stays a size to be read at once.
const MAX_GROUP_BYTES: usize = 4 << 20;

const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Runs until the log is closed.
pub(super) fn run(shared: &Shared) {
    let mut tails = TailBudget::new(shared.options.tail_cache_bytes);
    loop {
        match shared.queue.next(MAX_GROUP_BYTES) {
            Work::Group(jobs) => {
                if let Err(cause) = commit(shared, jobs, &mut tails) {
                    repair(shared, cause, &mut tails);
                }
            }
            Work::Repair(cause) => repair(shared, cause, &mut tails),
            Work::Stop => return,
        }
    }
}

/// Commits a group; an error is the database's, and everybody in the group was answered.
fn commit(shared: &Shared, jobs: Vec<Job>, tails: &mut TailBudget) -> Result<(), Arc<str>> {
    let now = (shared.options.clock)();
    let topics = shared.topics.read();
    let store = shared.store().expect("only the writer closes the database");
    let mut group = Group::default();
    let mut write = WriteBatch::with_capacity_bytes(jobs.iter().map(|job| job.bytes + 256).sum());
    for job in jobs {
        group.add(job, &topics, &store, now, &mut write);
    }
    let publication = group.finish(&topics, &store, now, &mut write);
    shared.counters.transactions.fetch_add(group.len() as u64, Relaxed);
    if !write.is_empty() {
        let synced = shared.options.durability == Durability::Synced;
        let written = fault::point("log:commit:before-write")
            .map_err(|e| e.to_string())
            .and_then(|()| store.write(write, synced).map_err(|e| e.to_string()))
            .and_then(|()| fault::point("log:commit:after-write").map_err(|e| e.to_string()));
        if let Err(cause) = written.map_err(Arc::<str>::from) {
            // First of all: whoever hears of the failure finds the log refusing, or repaired.
            refuse(shared, &cause);
            group.answer(Some(&Error::OutcomeUnknown { cause: Arc::clone(&cause) }));
            return Err(cause);
        }
        shared.counters.writes.fetch_add(1, Relaxed);
        shared.counters.records.fetch_add(publication.iter().map(|(.., batch)| batch.len() as u64).sum(), Relaxed);
        shared.counters.bytes.fetch_add(publication.iter().map(|(.., batch)| batch.stored_bytes() as u64).sum(), Relaxed);
        group::publish(publication, &topics, tails);
        shared.progress.advance();
        fault::crash_point("log:commit:after-publish");
    }
    drop((topics, store));
    let unread = group.unread.take();
    group.answer(None);
    unread.map_or(Ok(()), Err)
}

/// Closes the database and opens it again, as often as it takes.
fn repair(shared: &Shared, mut cause: Arc<str>, tails: &mut TailBudget) {
    tracing::error!(dir = %shared.dir.display(), %cause, "the log failed and is read back");
    refuse(shared, &cause);
    if let Ok(store) = shared.store() {
        store.stop_background_work();
    }
    *shared.store.write() = None;
    tails.clear(&shared.topics.read());
    let mut pause = FIRST_PAUSE;
    while !shared.queue.wait_for_close(pause) {
        match shared.reopen() {
            Ok(()) => {
                tracing::info!(dir = %shared.dir.display(), "the log was read back and goes on");
                shared.queue.accept();
                shared.progress.advance();
                return;
            }
            Err(error) => {
                tracing::warn!(%error, "the log can't be read back yet");
                cause = error.to_string().into();
                refuse(shared, &cause);
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}

/// Accepts nothing from now on, and tells those who wait that nothing of theirs was tried.
fn refuse(shared: &Shared, cause: &Arc<str>) {
    for job in shared.queue.stop_accepting(cause) {
        let _ = job.answer.send(Err(Error::Unavailable { cause: Arc::clone(cause) }));
    }
}
