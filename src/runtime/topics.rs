//! The topics of an application: made where they are missing, and kept to what they were.
//!
//! On a log that others can change, an internal topic that has gone is never made new in silence: state would be lost, or records counted
//! twice. So `<application>-control`, a compacted topic, notes each internal topic with its partitions and its id when it is made.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::StartError;
use crate::log::{Append, Cleanup, Log, RecordBatch, TopicInfo, TopicSpec, Transaction};
use crate::record::{Headers, Partition, Timestamp};
use crate::topology::{DELETE_RETENTION_MS, TopicDef, TopicRole, Topology};

const FETCH_BYTES: usize = 1 << 20;
/// Keys of the control topic that name a topic.
const TOPIC_KEY: &str = "topic:";

/// Keys of the control topic that name a process which has started.
const START_KEY: &str = "start:";

/// What is noted of an internal topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Noted {
    partitions: u32,
    id: u128,
}

impl Noted {
    fn of(topic: &TopicInfo) -> Noted {
        Noted { partitions: topic.partitions, id: u128::from_be_bytes(topic.uuid) }
    }
}

/// Makes the topics that are missing. The answer is all of them, by index.
pub(super) fn create(topology: &Topology, log: &dyn Log) -> Result<Arc<[TopicInfo]>, StartError> {
    let existing: BTreeMap<String, u32> =
        log.topics()?.into_iter().map(|topic| (topic.name.to_string(), topic.partitions)).collect();
    let counts = topology.partitions(|topic| existing.get(&topic.name).copied())?;
    let create = |(topic, partitions): (&TopicDef, u32)| {
        Ok(log.create_topic(&TopicSpec { name: topic.name.clone(), partitions, cleanup: topic.cleanup })?)
    };
    topology.topics.iter().zip(counts).map(create).collect()
}

/// The same on a log that others can change, too. Beside the topics, a number that tells this start of a process from every other.
///
/// # Errors
/// [`StartError::InternalTopic`] if one that was made before is gone, was made anew or has other partitions.
pub(super) fn create_noted(topology: &Topology, log: &dyn Log, now: Timestamp) -> Result<(Arc<[TopicInfo]>, u64), StartError> {
    let cleanup = Cleanup::Compact { delete_retention_ms: DELETE_RETENTION_MS };
    let control = TopicSpec { name: format!("{}-control", topology.application), partitions: 1, cleanup };
    let control = log.create_topic(&control)?;
    let noted = read_notes(log, &control)?;
    for topic in topology.topics.iter().filter(|topic| is_internal(topic)) {
        let (Some(noted), found) = (noted.get(&topic.name), log.topic(&topic.name)?.as_ref().map(Noted::of)) else { continue };
        let why = match found {
            Some(found) if found == *noted => continue,
            None => "is missing".to_owned(),
            Some(found) if found.id != noted.id => "is not the one that the application made".to_owned(),
            Some(found) => format!("has {} partitions in place of {}", found.partitions, noted.partitions),
        };
        return Err(StartError::InternalTopic { topic: topic.name.clone(), why });
    }
    let topics = create(topology, log)?;
    let mut notes = RecordBatch::new();
    for (topic, info) in topology.topics.iter().zip(&*topics).filter(|(topic, _)| is_internal(topic)) {
        if !noted.contains_key(&topic.name) {
            let note = serde_json::to_vec(&Noted::of(info)).expect("a note has JSON");
            notes.push(now, Some(format!("{TOPIC_KEY}{}", topic.name).as_bytes()), Some(&note), &Headers::EMPTY);
        }
    }
    // The place of this note is a number that no other start was given.
    notes.push(now, Some(format!("{START_KEY}{}", log.instance()).as_bytes()), Some(b"{}"), &Headers::EMPTY);
    let append = Append { topic: control.id, partition: Partition(0), batch: notes };
    let committed = log.commit(Transaction { appends: vec![append], offsets: None, request: None }).wait()?;
    Ok((topics, committed.base_offsets.first().map_or(0, |base| base.0)))
}

fn is_internal(topic: &TopicDef) -> bool {
    matches!(topic.role, TopicRole::Repartition { .. } | TopicRole::Replay | TopicRole::Changelog)
}

fn read_notes(log: &dyn Log, control: &TopicInfo) -> Result<BTreeMap<String, Noted>, StartError> {
    let mut notes = BTreeMap::new();
    let (mut next, end) = (log.bounds(control.id, Partition(0))?.start, log.bounds(control.id, Partition(0))?.end);
    while next < end {
        let seen = log.version();
        let fetched = log.fetch(control.id, Partition(0), next, FETCH_BYTES)?;
        for record in fetched.batches.iter().flat_map(|batch| batch.records_from(next)) {
            let name = record.key.and_then(|key| std::str::from_utf8(key).ok()).and_then(|key| key.strip_prefix(TOPIC_KEY));
            if let (Some(name), Some(Ok(note))) = (name, record.value.map(serde_json::from_slice)) {
                notes.insert(name.to_owned(), note);
            }
        }
        if fetched.next == next {
            log.wait(seen, std::time::Duration::from_millis(20));
        }
        next = fetched.next;
    }
    Ok(notes)
}
