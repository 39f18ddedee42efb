//! The commit protocol, in this order and nowhere else: gather the effects of the thread's tasks; append them to the log as one
//! transaction; then, and only if that succeeded, let the tasks' writes become their committed state; then tell readers and watchers.
//!
//! Invariant: what a reader, a watcher or another task sees is in the log; it may not be durable yet, and what leaves the process waits for
//! that where it is read ([`Seen`](super::seen::Seen), [`Watch`](super::Watch)). Invariant: if the log did not take the transaction, or nobody
//! knows, nothing of it remains in memory: the tasks are taken anew, from their committed state and what the changelogs hold beyond it.

use std::sync::Arc;

use bytes::Bytes;
use millstream_state::{Position, fault};

use super::watch::{Change, HeldWatchers};
use super::{Shared, StartError};
use crate::error::ProcessError;
use crate::log::{self, Append, GroupOffsets, Member, Moment, Transaction};
use crate::record::Offset;
use crate::task::Task;
use crate::topology::{StoreIndex, TopicIndex};

/// Why a commit did not happen.
#[derive(Debug, thiserror::Error)]
pub(super) enum CommitError {
    #[error("{0}")]
    Log(#[from] log::Error),
    #[error("{0}")]
    Process(#[from] ProcessError),
    /// A task could not be taken.
    #[error("{0}")]
    Take(#[from] StartError),
}

impl CommitError {
    /// Whether the same would fail again: no transaction is given to the log that it refuses, so nothing could be left out to help.
    pub(super) fn is_fatal(&self) -> bool {
        match self {
            CommitError::Log(error) => is_fatal(error),
            CommitError::Process(error) => !error.is_passing(),
            CommitError::Take(error) => error.is_fatal(),
        }
    }
}

/// Whether a failure of the log does not pass by itself.
pub(super) fn is_fatal(error: &log::Error) -> bool {
    error.is_fatal() || !(error.is_retriable() || error.is_outcome_unknown())
}

/// What one task adds to the transaction.
struct Part {
    task: usize,
    /// What it appends to its changelog: the append's index, and how many records.
    changelog: Option<(usize, u64)>,
    offsets: Vec<(TopicIndex, Offset)>,
}

/// Commits what the tasks have done since the last commit. Answers whether there was anything.
pub(super) fn commit(shared: &Shared, member: &mut dyn Member, tasks: &mut [Task]) -> Result<bool, CommitError> {
    let now = shared.config.clock.now();
    let (mut appends, mut sent) = (Vec::new(), Vec::new());
    let mut offsets = Vec::new();
    let mut parts = Vec::new();
    for (index, task) in tasks.iter_mut().enumerate() {
        let Some(effects) = task.effects(now)? else { continue };
        let partition = task.partition();
        for outgoing in effects.outputs {
            sent.push((outgoing.topic, outgoing.batch.len() as u64));
            appends.push(Append {
                topic: shared.topics[outgoing.topic.0].id,
                partition: outgoing.partition,
                batch: outgoing.batch,
            });
        }
        let batch = effects.changelog;
        let changelog = (!batch.is_empty()).then_some((appends.len(), batch.len() as u64));
        if changelog.is_some() {
            appends.push(Append { topic: shared.changelog(task.sub_index()).id, partition, batch });
        }
        offsets.extend(effects.offsets.iter().map(|(topic, next)| (shared.topics[topic.0].id, partition, *next)));
        parts.push(Part { task: index, changelog, offsets: effects.offsets });
    }
    if parts.is_empty() {
        return Ok(false);
    }
    let group = Arc::clone(&shared.group);
    let _committing = shared.embedded.as_ref().map(|_| shared.committing.begin());
    fault::crash_point("commit:before-log");
    let transaction = Transaction { appends, offsets: Some(GroupOffsets { group, offsets }), request: None };
    let committed = member.commit(transaction)?;
    fault::crash_point("commit:after-log");
    sent.into_iter().for_each(|(topic, records)| shared.metrics.sent(topic, records));
    for part in parts {
        let task = &mut tasks[part.task];
        let partition = task.partition();
        let position = part.changelog.map(|(append, records)| {
            let offset = committed.base_offsets[append].0 + records;
            Position { topic_id: shared.changelog(task.sub_index()).uuid, offset, wall_ms: now.0 }
        });
        // Who begins to watch from here on waits until the changes are visible and published: else it could read the row before, and miss
        // the change.
        let watchers = shared.watchers.hold();
        let changes = watched_changes(&watchers, task, position, committed.at);
        shared.progress.note_commit(task.sub_index(), partition, committed.at);
        task.committed(position);
        fault::crash_point("commit:after-state");
        for (topic, next) in part.offsets {
            shared.progress.set(topic, partition, next);
        }
        for (store, change) in changes {
            watchers.publish(store, &change);
        }
    }
    shared.progress.signal();
    Ok(true)
}

/// The changes of this transaction that somebody watches. Taken before the overlay is dissolved, published after.
fn watched_changes(
    watchers: &HeldWatchers<'_>,
    task: &Task,
    position: Option<Position>,
    at: Moment,
) -> Vec<(StoreIndex, Arc<Change>)> {
    let mut changes = Vec::new();
    if watchers.is_empty() {
        return changes;
    }
    for row in task.state().dirty() {
        let store = StoreIndex::of(row.store);
        if watchers.wants(store, row.key()) {
            let (partition, end) = (task.partition(), position.map_or(0, |position| position.offset));
            let (key, value) = (Bytes::copy_from_slice(row.key()), row.value().map(Bytes::copy_from_slice));
            changes.push((store, Arc::new(Change { key, value, partition, position: Offset(end), at })));
        }
    }
    changes
}
