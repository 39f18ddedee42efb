//! The thread that follows what others commit: global tables, feeds and standbys. It never processes a record and never writes to the log.
//!
//! Who hears of an event from a feed may look at once at what it was told of. So what feeds have got is taken in after the stores that were
//! written with it: those of standbys, whose changelogs come by the same fetch, and those of this process's own tasks, of which a commit is
//! not seen half. Between processes that is no promise, for brokers show the parts of a transaction one after the other.
//!
//! What cannot be followed holds up nothing else.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::global::Followed;
use super::standby::StandbyTasks;
use super::{Shared, StartError};

/// The longest sleep between two looks.
const WAIT: Duration = Duration::from_millis(100);
/// How long what cannot be followed is left alone.
const PAUSE: Duration = Duration::from_millis(500);
/// What this thread's trouble is known by, beside the workers' numbers.
const TROUBLE: usize = usize::MAX;

/// Follows until the application stops.
pub(super) fn run(shared: &Arc<Shared>, mut globals: Vec<Followed>) {
    let mut standbys = StandbyTasks::default();
    while !shared.stopping.load(Ordering::Acquire) {
        let seen = shared.log.version();
        match follow(shared, &mut globals, &mut standbys) {
            Ok(moved) => {
                shared.trouble.lock().remove(&TROUBLE);
                if !moved {
                    shared.log.wait(seen, WAIT);
                }
            }
            Err(error) if error.is_fatal() => return shared.fail(error.to_string()),
            Err(error) => {
                let trouble = format!("a global table, feed or standby cannot follow: {error}");
                if shared.trouble.lock().insert(TROUBLE, trouble.clone()).is_none_or(|before| before != trouble) {
                    tracing::warn!("{trouble}");
                }
                shared.log.wait(shared.log.version(), PAUSE);
            }
        }
    }
}

/// Takes in what there is, each as far as it can. Whether there was anything.
fn follow(shared: &Shared, globals: &mut [Followed], standbys: &mut StandbyTasks) -> Result<bool, StartError> {
    let fetched: Vec<_> = globals.iter_mut().map(|followed| followed.fetch(shared)).collect();
    let mut moved = standbys.follow(shared);
    if fetched.iter().any(|fetched| matches!(fetched, Ok(Some(_)))) {
        shared.committing.wait_for_all();
    }
    for (followed, fetched) in globals.iter_mut().zip(fetched) {
        let taken = fetched.and_then(|fetched| match fetched {
            Some(fetched) => followed.take_in(shared, &fetched).map(|()| true),
            None => Ok(false),
        });
        moved = both(moved, taken);
    }
    moved
}

/// Whether either has moved, or the error, of two the one that does not pass.
fn both(one: Result<bool, StartError>, other: Result<bool, StartError>) -> Result<bool, StartError> {
    match (one, other) {
        (Ok(one), Ok(other)) => Ok(one || other),
        (Err(one), Err(other)) if other.is_fatal() && !one.is_fatal() => Err(other),
        (Err(error), _) | (_, Err(error)) => Err(error),
    }
}
