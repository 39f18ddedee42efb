//! The one thread that appends. It takes all transactions that wait, makes them one write, and lets the workers of this process go on from
//! it at once; everybody else sees it once it is synced, which happens beside ([`horizon`](super::horizon)). So a chain of hops through
//! the tasks takes as many writes, and one or two syncs for all of them.
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
use super::horizon::{Unsynced, answer};
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
            Work::Stop => return shared.horizon.close(),
        }
    }
}

/// Commits a group; an error is the database's, and everybody in the group was answered.
fn commit(shared: &Shared, jobs: Vec<Job>, tails: &mut TailBudget) -> Result<(), Arc<str>> {
    // Else a disk that is slow for long would let the memory fill with those who wait for it.
    shared.horizon.wait_for_room(shared.options.max_queued_bytes);
    let now = (shared.options.clock)();
    let topics = shared.topics.read();
    let store = shared.store().expect("only the writer closes the database");
    let at = shared.horizon.begin();
    let mut group = Group::new(at);
    let bytes = jobs.iter().map(|job| job.bytes + 256).sum();
    let mut write = WriteBatch::with_capacity_bytes(bytes);
    for job in jobs {
        group.add(job, &topics, &store, now, &mut write);
    }
    let publication = group.finish(&topics, &store, now, &mut write);
    shared.counters.transactions.fetch_add(group.len() as u64, Relaxed);
    let written = fault::point("log:commit:before-write")
        .map_err(|e| e.to_string())
        .and_then(|()| store.write(write, false).map_err(|e| e.to_string()))
        .and_then(|()| fault::point("log:commit:after-write").map_err(|e| e.to_string()));
    if let Err(cause) = written.map_err(Arc::<str>::from) {
        // First of all: whoever hears of the failure finds the log refusing, or repaired.
        refuse(shared, &unavailable(&cause));
        let unknown = Error::OutcomeUnknown { cause: Arc::clone(&cause) };
        group.into_answers().into_iter().for_each(|all| answer(all, Some(&unknown)));
        return Err(cause);
    }
    shared.counters.writes.fetch_add(1, Relaxed);
    shared.counters.records.fetch_add(publication.iter().map(|(.., batch)| batch.len() as u64).sum(), Relaxed);
    shared.counters.bytes.fetch_add(publication.iter().map(|(.., batch)| batch.stored_bytes() as u64).sum(), Relaxed);
    let ends = group::publish(publication, &topics, tails);
    fault::crash_point("log:commit:after-publish");
    drop((topics, store));
    let unread = group.unread.take();
    let [of_written, of_durable] = group.into_answers();
    shared.horizon.written(Unsynced { at, bytes, ends, answers: of_durable });
    if shared.options.durability == Durability::Buffered {
        shared.horizon.advance(shared, at);
    }
    answer(of_written, None);
    shared.written.advance();
    unread.map_or(Ok(()), Err)
}

/// Closes the database and opens it again, as often as it takes.
fn repair(shared: &Shared, cause: Arc<str>, tails: &mut TailBudget) {
    tracing::error!(dir = %shared.dir.display(), %cause, "the log failed and is read back");
    refuse(shared, &unavailable(&cause));
    if let Ok(store) = shared.store() {
        store.stop_background_work();
    }
    *shared.store.write() = None;
    tails.clear(&shared.topics.read());
    let mut pause = FIRST_PAUSE;
    while !shared.queue.wait_for_close(pause) {
        fault::crash_point("log:repair");
        match shared.reopen() {
            Ok(()) => {
                tracing::info!(dir = %shared.dir.display(), "the log was read back and goes on");
                shared.horizon.recovered(shared);
                shared.queue.accept();
                shared.wake();
                return;
            }
            Err(error @ Error::Lost { .. }) => {
                tracing::error!(%error, "the log can't go on");
                refuse(shared, &error);
                return shared.horizon.abandon(&error);
            }
            Err(error) => {
                tracing::warn!(%error, "the log can't be read back yet");
                let error = unavailable(&error.to_string().into());
                refuse(shared, &error);
                shared.horizon.abandon(&error);
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}

fn unavailable(cause: &Arc<str>) -> Error {
    Error::Unavailable { cause: Arc::clone(cause) }
}

/// Accepts nothing from now on, and tells those who wait to be written that nothing of theirs was tried. Those whose transaction is written
/// wait for what is found when the log is read back.
fn refuse(shared: &Shared, error: &Error) {
    for job in shared.queue.stop_accepting(error) {
        let _ = job.answer.send(Err(error.clone()));
    }
    shared.horizon.fail();
}
