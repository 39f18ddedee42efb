//! What all processes of an application on a shared log hold to, in the compacted topic `<application>-control`: its internal topics with
//! their partitions and ids, the formats of its stores and who reads what, and which of its lives it is in. What is noted is never changed by a
//! start, which only adds to it; a reset begins a new life.
//!
//! By that, a process of another version is refused while the others go on, unless all that differs is more: stores, topics and
//! sub-topologies may be added one process after the other. The anchor of a sub-topology, by which the group shares its tasks out, must be the
//! same for all, or a task would have two owners.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::StartError;
use crate::log::{self, Cleanup, Log, RecordBatch, TopicInfo, TopicSpec};
use crate::record::{Headers, Offset, Partition, Timestamp};
use crate::topology::{DELETE_RETENTION_MS, Topology};

const FETCH_BYTES: usize = 1 << 20;
/// Keys that name a topic, an entry of the fingerprint, and a process which has started.
const TOPIC: &str = "topic:";
const FORMAT: &str = "format:";
const START: &str = "start:";
/// The life that the application is in.
const INCARNATION: &str = "incarnation";
/// There while a reset is under way.
const RESETTING: &str = "resetting";

/// What is noted of an internal topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Noted {
    partitions: u32,
    id: u128,
}

impl Noted {
    pub(super) fn of(topic: &TopicInfo) -> Noted {
        Noted { partitions: topic.partitions, id: u128::from_be_bytes(topic.uuid) }
    }
}

/// All that is noted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Notes {
    topics: BTreeMap<String, Noted>,
    formats: BTreeMap<String, String>,
    /// The name of the life; empty in the first.
    pub incarnation: String,
    /// Up to where it was read.
    pub end: Offset,
    resetting: bool,
}

/// The control topic, made if it is not there.
pub(super) fn topic(log: &dyn Log, application: &str) -> Result<TopicInfo, log::Error> {
    log.create_topic(&spec(application))
}

fn spec(application: &str) -> TopicSpec {
    let cleanup = Cleanup::Compact { delete_retention_ms: DELETE_RETENTION_MS };
    TopicSpec { name: format!("{application}-control"), partitions: 1, cleanup }
}

/// Makes notes, to be appended to the control topic.
pub(super) struct Writer {
    pub batch: RecordBatch,
    now: Timestamp,
}

impl Writer {
    pub(super) fn new(now: Timestamp) -> Writer {
        Writer { batch: RecordBatch::new(), now }
    }

    fn note(&mut self, key: &str, value: Option<&[u8]>) {
        self.batch.push(self.now, Some(key.as_bytes()), value, &Headers::EMPTY);
    }

    pub(super) fn topic(&mut self, name: &str, noted: &Noted) {
        let note = serde_json::to_vec(noted).expect("a note has JSON");
        self.note(&format!("{TOPIC}{name}"), Some(&note));
    }

    pub(super) fn format(&mut self, entry: &str, value: &str) {
        self.note(&format!("{FORMAT}{entry}"), Some(value.as_bytes()));
    }

    /// A process starts. The place of the note is a number that no other start has.
    pub(super) fn start(&mut self, instance: &str) {
        self.note(&format!("{START}{instance}"), Some(b"{}"));
    }

    /// A reset is under way, until its end is noted.
    pub(super) fn reset_begins(&mut self) {
        self.note(RESETTING, Some(b"{}"));
    }

    /// A reset has come to its end: nothing of what was noted holds any more, and a new life begins.
    pub(super) fn reset_ends(&mut self, old: &Notes, incarnation: &str) {
        let topics = old.topics.keys().map(|name| format!("{TOPIC}{name}"));
        let formats = old.formats.keys().map(|entry| format!("{FORMAT}{entry}"));
        for key in topics.chain(formats).collect::<Vec<_>>() {
            self.note(&key, None);
        }
        self.note(INCARNATION, Some(incarnation.as_bytes()));
        self.note(RESETTING, None);
    }
}

impl Notes {
    /// What is noted of an application; nothing if it has never run.
    pub(super) fn of(log: &dyn Log, application: &str) -> Result<Notes, StartError> {
        match log.topic(&spec(application).name)? {
            Some(control) => Notes::read(log, &control),
            None => Ok(Notes::default()),
        }
    }

    pub(super) fn read(log: &dyn Log, control: &TopicInfo) -> Result<Notes, StartError> {
        let mut notes = Notes::default();
        let bounds = log.bounds(control.id, Partition(0))?;
        let mut next = bounds.start;
        while next < bounds.end {
            let seen = log.version();
            let fetched = log.fetch(control.id, Partition(0), next, FETCH_BYTES)?;
            for record in fetched.batches.iter().flat_map(|batch| batch.records_from(next)) {
                if let Some(Ok(key)) = record.key.map(std::str::from_utf8) {
                    notes.take(key, record.value);
                }
            }
            if fetched.next == next {
                log.wait(seen, std::time::Duration::from_millis(20));
            }
            next = fetched.next;
        }
        notes.end = next;
        Ok(notes)
    }

    fn take(&mut self, key: &str, value: Option<&[u8]>) {
        let text = || value.map(|value| String::from_utf8_lossy(value).into_owned());
        if let Some(name) = key.strip_prefix(TOPIC) {
            match value.map(serde_json::from_slice) {
                Some(Ok(noted)) => drop(self.topics.insert(name.to_owned(), noted)),
                Some(Err(error)) => tracing::warn!(key, %error, "a note is not understood here"),
                None => drop(self.topics.remove(name)),
            }
        } else if let Some(entry) = key.strip_prefix(FORMAT) {
            match text() {
                Some(value) => drop(self.formats.insert(entry.to_owned(), value)),
                None => drop(self.formats.remove(entry)),
            }
        } else if key == INCARNATION {
            self.incarnation = text().unwrap_or_default();
        } else if key == RESETTING {
            self.resetting = value.is_some();
        }
    }

    /// Whether a process of this topology may start: what is noted of what it has is as it has it.
    ///
    /// # Errors
    /// [`StartError::Incompatible`] with what differs, [`StartError::Resetting`].
    pub(super) fn check(&self, application: &str, fingerprint: &BTreeMap<String, String>) -> Result<(), StartError> {
        if self.resetting {
            return Err(StartError::Resetting { application: application.to_owned() });
        }
        for (entry, given) in fingerprint {
            if let Some(noted) = self.formats.get(entry).filter(|noted| *noted != given) {
                let (application, entry) = (application.to_owned(), entry.clone());
                return Err(StartError::Incompatible { application, entry, noted: noted.clone(), given: given.clone() });
            }
        }
        Ok(())
    }

    /// Says what another version has that this one has not: processes of the version before are welcome as long as they are there.
    /// `fingerprint` is all of it.
    pub(super) fn tell_more(&self, fingerprint: &BTreeMap<String, String>) {
        let missing: Vec<&str> =
            self.formats.keys().filter(|entry| !fingerprint.contains_key(*entry)).map(String::as_str).collect();
        if !missing.is_empty() {
            tracing::warn!("another version of the application has run that has more: {}", missing.join(", "));
        }
    }

    /// What is noted of a topic.
    pub(super) fn topic(&self, name: &str) -> Option<&Noted> {
        self.topics.get(name)
    }

    pub(super) fn has_format(&self, entry: &str) -> bool {
        self.formats.contains_key(entry)
    }
}

/// Whether the application was reset, or is being reset, by what was noted from `next` on: who has started before that is of a life that is over.
pub(super) fn was_reset(log: &dyn Log, control: &TopicInfo, next: &mut Offset) -> Result<bool, log::Error> {
    let ends_a_life = |key: Option<&[u8]>, value: Option<&[u8]>| {
        key == Some(INCARNATION.as_bytes()) || (key == Some(RESETTING.as_bytes()) && value.is_some())
    };
    let mut found = false;
    loop {
        let fetched = log.follow(control.id, Partition(0), *next, FETCH_BYTES)?;
        if fetched.next == *next {
            return Ok(found);
        }
        let mut records = fetched.batches.iter().flat_map(|batch| batch.records_from(*next));
        found |= records.any(|record| ends_a_life(record.key, record.value));
        *next = fetched.next;
    }
}

impl Noted {
    /// What is wrong with a topic as it was found; nothing if it is what was noted.
    pub(super) fn misses(&self, found: Option<Noted>) -> Option<String> {
        match found {
            Some(found) if found == *self => None,
            None => Some("is missing".to_owned()),
            Some(found) if found.id != self.id => Some("is not the one that the application made".to_owned()),
            Some(found) => Some(format!("has {} partitions in place of {}", found.partitions, self.partitions)),
        }
    }
}

impl Topology {
    /// What all processes must have alike: the fingerprint of the state, and what the group shares tasks out by. `counts` are the topics' partitions.
    pub(super) fn shared_fingerprint(&self, counts: &[u32]) -> BTreeMap<String, String> {
        let mut fingerprint = self.fingerprint();
        for (index, sub) in self.subs.iter().enumerate() {
            let tasks = self.tasks(index, counts);
            // As a member chooses it: the first input that has as many partitions as there are tasks.
            let anchor = self.inputs(index).find(|topic| counts[topic.0] == tasks);
            if let Some(anchor) = anchor {
                let entry = format!("what shares out the tasks of {}", sub.name);
                fingerprint.insert(entry, format!("{} with {tasks} partitions", self.topics[anchor.0].name));
            }
        }
        fingerprint
    }
}
