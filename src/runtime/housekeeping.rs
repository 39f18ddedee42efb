//! What is done now and then beside the work: changelogs are trimmed behind the flushed state, and records of internal topics that
//! everybody has processed are dropped.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use millstream_state::{Position, StoreId, TaskId};

use super::Shared;
use crate::log;
use crate::record::{Offset, Partition};
use crate::topology::{TopicIndex, TopicRole};

/// Positions of the state that a flush has made durable.
pub(super) type Flushed = Vec<(TaskId, StoreId, Position)>;

const PURGE_EVERY: Duration = Duration::from_secs(5);

/// Runs until the application stops. `flushed` tells which positions of the state have become durable; anything wakes it.
pub(super) fn run(shared: &Arc<Shared>, flushed: &Receiver<Flushed>) {
    let (mut purged, mut purged_to) = (Instant::now(), BTreeMap::new());
    while !shared.stopping.load(Ordering::Acquire) {
        match flushed.recv_timeout(PURGE_EVERY.saturating_sub(purged.elapsed())) {
            // Changelogs that others restore from, too, are compacted and not trimmed.
            Ok(_) if shared.embedded.is_none() => {}
            Ok(positions) => {
                let mut least: BTreeMap<TaskId, u64> = BTreeMap::new();
                for (task, _, position) in positions {
                    let offset = least.entry(task).or_insert(position.offset);
                    *offset = position.offset.min(*offset);
                }
                // Behind the tasks stand the global tables, whose topics are the only copy that there is.
                for (task, offset) in least.into_iter().filter(|(task, _)| (task.sub_topology as usize) < shared.tasks.len()) {
                    let changelog = shared.changelog(task.sub_topology as usize);
                    report(shared.log.trim(changelog.id, Partition(task.partition), Offset(offset)));
                }
            }
            Err(RecvTimeoutError::Timeout) => {
                purge(shared, &mut purged_to);
                purged = Instant::now();
            }
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// Drops what has been processed of the topics that nobody else reads, where that is more than was dropped before.
fn purge(shared: &Shared, purged_to: &mut BTreeMap<(TopicIndex, Partition), Offset>) {
    for source in &shared.topology.sources {
        let role = &shared.topology.topics[source.topic.0].role;
        if matches!(role, TopicRole::Repartition { .. } | TopicRole::Replay) {
            let topic = &shared.topics[source.topic.0];
            for partition in (0..topic.partitions).map(Partition) {
                let (before, processed) =
                    (purged_to.entry((source.topic, partition)).or_default(), shared.progress.committed(source.topic, partition));
                if processed > *before && report(shared.log.trim(topic.id, partition, processed)) {
                    *before = processed;
                }
            }
        }
    }
}

/// Whether it succeeded.
fn report(result: Result<(), log::Error>) -> bool {
    result.inspect_err(|error| tracing::warn!(%error, "a topic could not be trimmed; it is tried again later")).is_ok()
}
