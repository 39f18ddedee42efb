//! A dead letter that is processed again: as the record it was, or as the timer.

use super::context::Context;
use super::dead_letter::{DeadLetter, Event};
use crate::error::ProcessError;
use crate::log::{RecordBatch, RecordRef};
use crate::record::{Offset, Timestamp};
use crate::topology::{SourceDef, SubTopology, Topology};

/// What a record of the replay topic brings back.
pub(super) struct Replayed<'a> {
    /// Where the record was read, or the one that moved time.
    pub(super) source: &'a SourceDef,
    pub(super) event: Event,
    offset: Offset,
    batch: RecordBatch,
}

impl<'a> Replayed<'a> {
    /// `None` if no source of the sub-topology has read it.
    pub(super) fn read(topology: &'a Topology, sub: usize, record: &RecordRef<'_>) -> Option<Replayed<'a>> {
        let letter = DeadLetter::from_record(record)?;
        let mut sources = topology.subs[sub].sources.iter().map(|source| &topology.sources[source.0]);
        let source = sources.find(|source| topology.topics[source.topic.0].name == letter.topic)?;
        let mut batch = RecordBatch::new();
        batch.push(record.timestamp, record.key, record.value, &letter.original);
        Some(Replayed { source, event: letter.event, offset: letter.offset, batch })
    }

    /// The record as it was, or the timer's key.
    pub(super) fn record(&self) -> RecordRef<'_> {
        self.batch.records(self.offset).next().expect("it was pushed")
    }
}

/// Calls the node that set a timer, as when it fires.
pub(super) fn call_timer(
    ctx: &mut Context,
    sub: &SubTopology,
    node: &str,
    key: &[u8],
    at: Timestamp,
) -> Result<(), ProcessError> {
    let timer = sub.timers.get(node).ok_or_else(|| ProcessError::Unwritable(format!("no node {node:?} takes this timer")))?;
    ctx.enter(timer.node);
    (timer.call)(ctx, key, at)
}
