//! The topics of an application: made where they are missing, and kept to what they were.
//!
//! On a log that others can change, an internal topic that has gone is never made new in silence: state would be lost, or records counted
//! twice. So it is [noted](super::control) when it is made, with its partitions and its id.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::StartError;
use super::control::{self, Noted, Notes, Writer};
use super::presence;
use crate::log::{Append, Log, TopicInfo, TopicSpec, Transaction};
use crate::record::{Partition, Timestamp};
use crate::task::ROOM;
use crate::topology::{TopicDef, TopicRole, Topology};

/// How many partitions each topic has, or will have, by index.
///
/// # Errors
/// If the log cannot be asked, or topics that are joined differ.
pub(super) fn counts(topology: &Topology, log: &dyn Log) -> Result<Vec<u32>, StartError> {
    let existing: BTreeMap<String, u32> =
        log.topics()?.into_iter().map(|topic| (topic.name.to_string(), topic.partitions)).collect();
    Ok(topology.partitions(|topic| existing.get(&topic.name).copied())?)
}

/// Makes the topics that are missing. The answer is all of them, by index.
pub(super) fn create(topology: &Topology, log: &dyn Log, counts: &[u32]) -> Result<Arc<[TopicInfo]>, StartError> {
    let mut made = log.create_topics(&specs(topology, counts))?;
    make_room(topology, log, &mut made);
    Ok(made.into())
}

fn specs(topology: &Topology, counts: &[u32]) -> Vec<TopicSpec> {
    let spec =
        |(topic, &partitions): (&TopicDef, &u32)| TopicSpec { name: topic.name.clone(), partitions, cleanup: topic.cleanup };
    topology.topics.iter().zip(counts).map(spec).collect()
}

/// Lets the topics of dead letters, and those that these are replayed through, take records as large as the inputs do, for other programs may
/// write what no topic of the application's own would take. Where that is not allowed, letters too large say where the record is.
fn make_room(topology: &Topology, log: &dyn Log, topics: &mut [TopicInfo]) {
    for sub in &topology.subs {
        let sources: Vec<_> = sub.sources.iter().map(|source| &topology.sources[source.0]).collect();
        let replays = sources.iter().find(|source| source.replays).map(|source| source.topic);
        for source in sources.iter().filter(|source| !source.replays) {
            let largest = topics[source.topic.0].max_record_bytes;
            for letters in [Some(source.dead_letters), replays].into_iter().flatten() {
                let topic = &mut topics[letters.0];
                if topic.max_record_bytes < largest {
                    *topic = widened(log, topic, largest);
                }
            }
        }
    }
}

/// A topic that takes dead letters of records of so many bytes, if the log allows that.
pub(super) fn widened(log: &dyn Log, topic: &TopicInfo, largest: usize) -> TopicInfo {
    log.widen(topic.id, largest + ROOM).unwrap_or_else(|error| {
        tracing::warn!(%error, "{} takes records of {} bytes, and not of {largest} as its input", topic.name, topic.max_record_bytes);
        topic.clone()
    })
}

/// The same on a log that others can change, too. Beside the topics, a number that tells this start of a process from every other.
///
/// # Errors
/// [`StartError::InternalTopic`] if one that was made before is gone, was made anew or has other partitions; [`StartError::Incompatible`].
pub(super) fn create_noted(topology: &Topology, log: &dyn Log, now: Timestamp) -> Result<(Arc<[TopicInfo]>, u64), StartError> {
    let control = control::topic(log, &topology.application)?;
    let noted = Notes::read(log, &control)?;
    for topic in topology.topics.iter().filter(|topic| is_internal(topic)) {
        let Some(known) = noted.topic(&topic.name) else { continue };
        if let Some(why) = known.misses(log.topic(&topic.name)?.as_ref().map(Noted::of)) {
            return Err(StartError::InternalTopic { topic: topic.name.clone(), why });
        }
    }
    let counts = counts(topology, log)?;
    let fingerprint = topology.shared_fingerprint(&counts);
    noted.check(&topology.application, &fingerprint)?;
    noted.tell_more(&fingerprint);
    // Where processes tell of themselves is made together with them: that is soon.
    let mut specs = specs(topology, &counts);
    specs.push(presence::spec(&topology.application));
    let mut topics = log.create_topics(&specs)?;
    topics.truncate(topology.topics.len());
    make_room(topology, log, &mut topics);
    let topics: Arc<[TopicInfo]> = topics.into();
    let mut notes = Writer::new(now);
    note_new(topology, &topics, &fingerprint, &noted, &mut notes);
    notes.start(log.instance());
    let append = Append { topic: control.id, partition: Partition(0), batch: notes.batch };
    let committed = log.commit(Transaction { appends: vec![append], offsets: None, request: None }).wait()?;
    Ok((topics, committed.base_offsets.first().map_or(0, |base| base.0)))
}

/// Notes what is not noted yet.
pub(super) fn note_new(
    topology: &Topology,
    topics: &[TopicInfo],
    fingerprint: &BTreeMap<String, String>,
    noted: &Notes,
    notes: &mut Writer,
) {
    for (topic, info) in topology.topics.iter().zip(topics).filter(|(topic, _)| is_internal(topic)) {
        if noted.topic(&topic.name).is_none() {
            notes.topic(&topic.name, &Noted::of(info));
        }
    }
    for (entry, value) in fingerprint.iter().filter(|(entry, _)| !noted.has_format(entry)) {
        notes.format(entry, value);
    }
}

/// Whether a topic is the application's own.
pub(super) fn is_internal(topic: &TopicDef) -> bool {
    matches!(topic.role, TopicRole::Repartition { .. } | TopicRole::Replay | TopicRole::Changelog)
}
