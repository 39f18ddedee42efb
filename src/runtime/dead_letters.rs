//! Looking at dead letters and replaying them: a replayed record goes to the sub-topology, or to the part of the program beside it, that could
//! not process it, and to no other.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::handle::{AppendError, Handle};
use super::topics;
use crate::log::{self, Append, Fetched, Log, RecordBatch, RecordRef, TopicInfo, Transaction};
use crate::record::{Headers, Offset, Partition, Timestamp};
use crate::task::{DeadLetter, Event};
use crate::topology::{SubTopology, TopicIndex, TopicRole, Topology};

const FETCH_BYTES: usize = 1 << 20;

/// A record of a dead-letter topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParkedRecord {
    /// Where it lies in the dead-letter topic.
    pub partition: Partition,
    /// Where it lies in the dead-letter topic.
    pub offset: Offset,
    /// When it was parked.
    pub timestamp: Timestamp,
    /// The key as it was.
    pub key: Option<Bytes>,
    /// The value as it was.
    pub value: Option<Bytes>,
    /// The record's own headers.
    pub headers: Headers,
    /// Why it is here, if an engine put it here.
    pub failure: Option<Failure>,
}

/// Why a record was parked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The kind of failure and the cause, in words.
    pub cause: String,
    /// The application that could not process it.
    pub application: String,
    /// The node that failed.
    pub node: String,
    /// Where the record was read.
    pub topic: String,
    /// Where the record was read.
    pub partition: Partition,
    /// Where the record was read.
    pub offset: Offset,
}

/// Which parked records to replay.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Parked at this time or later.
    pub from: Option<Timestamp>,
    /// Parked before this time.
    pub to: Option<Timestamp>,
    /// With this key.
    pub key: Option<Vec<u8>>,
}

/// What a replay did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Replayed {
    /// How many parked records were selected.
    pub matched: u64,
    /// How many of them were appended to be processed again.
    pub replayed: u64,
}

/// Whether a topic holds dead letters, by its name.
fn is_parked(name: &str) -> bool {
    name.ends_with(".dlq") || name.ends_with(".rejected")
}

impl Failure {
    /// The headers of a dead letter that a part of the program beside the topology appends, next to the record's own. `kind` names the kind
    /// of failure, and `node` the part, to whose [`Handle::replay_topic`] a replay goes.
    #[must_use]
    pub fn headers(&self, kind: &str, timestamp: Timestamp, original: Headers) -> Headers {
        self.letter(kind, timestamp, original).to_headers()
    }

    /// The same with the record's key and value, as this topic takes the letter: a record that is too large for it goes without its value and its
    /// own headers, and the cause says so.
    #[must_use]
    pub fn write<'a>(
        &self,
        kind: &str,
        timestamp: Timestamp,
        (key, value, original): (Option<&'a [u8]>, Option<&'a [u8]>, Headers),
        topic: &TopicInfo,
    ) -> (Option<&'a [u8]>, Option<&'a [u8]>, Headers) {
        self.letter(kind, timestamp, original).write(key, value, topic)
    }

    fn letter(&self, kind: &str, timestamp: Timestamp, original: Headers) -> DeadLetter {
        DeadLetter {
            exception: kind.to_owned(),
            message: self.cause.clone(),
            application: self.application.clone(),
            node: self.node.clone(),
            topic: self.topic.clone(),
            partition: self.partition,
            offset: self.offset,
            timestamp,
            original,
            event: Event::Part,
            omitted: None,
        }
    }

    /// Why this record of a dead-letter or replay topic was parked, and the headers that it had before. `None` if it is no dead letter.
    #[must_use]
    pub fn read(record: &RecordRef<'_>) -> Option<(Failure, Headers)> {
        DeadLetter::from_record(record).map(Failure::of)
    }

    fn of(letter: DeadLetter) -> (Failure, Headers) {
        let failure = Failure {
            cause: format!("{}: {}", letter.exception, letter.message),
            application: letter.application,
            node: letter.node,
            topic: letter.topic,
            partition: letter.partition,
            offset: letter.offset,
        };
        (failure, letter.original)
    }
}

impl ParkedRecord {
    fn read(partition: Partition, record: &RecordRef<'_>, timestamp: Timestamp) -> ParkedRecord {
        let (failure, headers) = match Failure::read(record) {
            Some((failure, original)) => (Some(failure), original),
            None => (None, record.headers.to_headers()),
        };
        let copy = Bytes::copy_from_slice;
        let (key, value) = (record.key.map(copy), record.value.map(copy));
        ParkedRecord { partition, offset: record.offset, timestamp, key, value, headers, failure }
    }
}

/// The dead letters in a log. For a running application: [`Handle::dead_letters`]; without one, a program that has the topology can look at them
/// and replay them, too.
#[derive(Clone)]
pub struct DeadLetters {
    topology: Arc<Topology>,
    log: Arc<dyn Log>,
}

impl Handle {
    /// The dead letters in the application's log.
    #[must_use]
    pub fn dead_letters(&self) -> DeadLetters {
        DeadLetters { topology: Arc::clone(&self.shared.topology), log: Arc::clone(&self.shared.log) }
    }

    /// The topic that replays of what this part of the program has parked go to, if there is one: the part makes it, and reads it.
    #[must_use]
    pub fn replay_topic(&self, part: &str) -> String {
        part_replay(&self.shared.topology, part)
    }

    /// A topic of dead letters, or of their replays, that takes what can be parked of `input`, if the log allows that.
    #[must_use]
    pub fn with_room_for_letters(&self, topic: &TopicInfo, input: &TopicInfo) -> TopicInfo {
        if topic.max_record_bytes < input.max_record_bytes {
            return topics::widened(&*self.shared.log, topic, input.max_record_bytes);
        }
        topic.clone()
    }
}

fn part_replay(topology: &Topology, part: &str) -> String {
    format!("{}-{part}-replay", topology.application)
}

impl DeadLetters {
    /// The dead letters in a log; replays go to an application of this topology, whichever processes run it.
    #[must_use]
    pub fn new(topology: Topology, log: Arc<dyn Log>) -> DeadLetters {
        DeadLetters { topology: Arc::new(topology), log }
    }

    /// The dead-letter topics of the log, and how many records each holds; `.rejected` topics, which applications fill themselves, are
    /// listed too. Where marks of transactions lie between records, they are read through to be counted.
    ///
    /// # Errors
    /// If the log cannot be asked.
    pub fn topics(&self) -> Result<Vec<(String, u64)>, log::Error> {
        let topics = self.log.topics()?.into_iter().filter(|topic| is_parked(&topic.name));
        let counted = topics.map(|topic| {
            let mut records = 0;
            for partition in (0..topic.partitions).map(Partition) {
                let bounds = self.log.bounds(topic.id, partition)?;
                if self.log.counts_by_offsets() {
                    records += bounds.end.0 - bounds.start.0;
                    continue;
                }
                let mut next = bounds.start;
                while next < bounds.end
                    && let Some(page) = self.parked(&topic, partition, next)?
                {
                    records += page.records().count() as u64;
                    next = page.fetched.next;
                }
            }
            Ok((topic.name.to_string(), records))
        });
        counted.collect()
    }

    fn parked_topic(&self, name: &str) -> Result<Option<TopicInfo>, log::Error> {
        if is_parked(name) { self.log.topic(name) } else { Ok(None) }
    }

    /// At most `limit` parked records of a topic, by partition and offset, from the place after `after` on. `None` if there is no such
    /// dead-letter topic.
    ///
    /// # Errors
    /// If the log cannot be read.
    pub fn read(
        &self,
        topic: &str,
        after: Option<(Partition, Offset)>,
        limit: usize,
    ) -> Result<Option<Vec<ParkedRecord>>, log::Error> {
        let Some(topic) = self.parked_topic(topic)? else { return Ok(None) };
        let mut records = Vec::new();
        let (first, mut from) = after.map_or((Partition(0), Offset(0)), |(partition, offset)| (partition, offset.next()));
        for partition in (first.0..topic.partitions).map(Partition) {
            while records.len() < limit
                && let Some(page) = self.parked(&topic, partition, from)?
            {
                let read = page.records().map(|(record, at)| ParkedRecord::read(partition, &record, at));
                records.extend(read.take(limit - records.len()));
                from = page.fetched.next;
            }
            from = Offset(0);
        }
        Ok(Some(records))
    }

    /// Appends the selected records to be processed again by the sub-topology that failed; with `dry_run`, only counts them. `None` if
    /// there is no such dead-letter topic. Replaying twice processes twice: the parked records stay where they are. A parked timer fires again,
    /// with its key and its time; a parked punctuation is matched and not replayed, for it runs again at its next time without that. Nor is a letter
    /// whose record was too large for the dead-letter topic: it lies where it was read.
    ///
    /// # Errors
    /// If the log cannot be read or written. It goes a megabyte at a time: what was appended before the error stays.
    pub async fn replay(&self, topic: &str, selection: &Selection, dry_run: bool) -> Result<Option<Replayed>, AppendError> {
        let Some(topic) = self.parked_topic(topic)? else { return Ok(None) };
        let existing: BTreeMap<Arc<str>, TopicInfo> =
            self.log.topics()?.into_iter().map(|topic| (Arc::clone(&topic.name), topic)).collect();
        let mut done = Replayed::default();
        // What is parked from now on, perhaps by this very replay, is for another one.
        let ends = (0..topic.partitions).map(Partition).map(|p| Ok((p, self.log.bounds(topic.id, p)?.end)));
        for (partition, end) in ends.collect::<Result<Vec<_>, log::Error>>()? {
            let mut next = Offset(0);
            while next < end
                && let Some(page) = self.parked(&topic, partition, next)?
            {
                next = page.fetched.next;
                let mut appends = Vec::new();
                for (record, _) in page.records().filter(|(record, at)| record.offset < end && selection.holds(record, *at)) {
                    done.matched += 1;
                    appends.extend(self.replay_of(&record, &existing));
                }
                if !dry_run && !appends.is_empty() {
                    done.replayed += appends.len() as u64;
                    self.log.commit(Transaction { appends, offsets: None, request: None }).await?;
                }
            }
        }
        Ok(Some(done))
    }

    /// The append that brings a parked record back to who could not process it: the dead letter as it is.
    fn replay_of(&self, record: &RecordRef<'_>, existing: &BTreeMap<Arc<str>, TopicInfo>) -> Option<Append> {
        let letter = DeadLetter::from_record(record).filter(|letter| letter.application == self.topology.application)?;
        let topic = match letter.event {
            // There is nothing to process again.
            Event::Punctuation => return None,
            _ if letter.omitted.is_some() => return None,
            Event::Part => existing.get(part_replay(&self.topology, &letter.node).as_str())?,
            Event::Record | Event::Timer { .. } => self.replay_of_topology(&letter, existing)?,
        };
        if letter.partition.0 >= topic.partitions {
            return None;
        }
        let mut batch = RecordBatch::new();
        batch.push(record.timestamp, record.key, record.value, &record.headers.to_headers());
        Some(Append { topic: topic.id, partition: letter.partition, batch })
    }

    /// The replay topic of the sub-topology that reads the letter's topic.
    fn replay_of_topology<'a>(&self, letter: &DeadLetter, existing: &'a BTreeMap<Arc<str>, TopicInfo>) -> Option<&'a TopicInfo> {
        let topology = &self.topology;
        let source = TopicIndex(topology.topics.iter().position(|topic| topic.name == letter.topic)?);
        let inputs = |sub: &SubTopology| sub.sources.iter().map(|source| topology.sources[source.0].topic).collect::<Vec<_>>();
        let inputs = topology.subs.iter().map(inputs).find(|inputs| inputs.contains(&source))?;
        let replay = inputs.into_iter().find(|topic| topology.topics[topic.0].role == TopicRole::Replay)?;
        let info = |topic: TopicIndex| existing.get(topology.topics[topic.0].name.as_str());
        // A timer's task may have a partition that the topic of the last record before it does not have.
        let read = if letter.event == Event::Record { source } else { replay };
        if letter.partition.0 < info(read)?.partitions { info(replay) } else { None }
    }

    /// The next parked records of a partition; `None` at its end.
    fn parked(&self, topic: &TopicInfo, partition: Partition, from: Offset) -> Result<Option<Page>, log::Error> {
        let from = from.max(self.log.bounds(topic.id, partition)?.start);
        let fetched = self.log.fetch(topic.id, partition, from, FETCH_BYTES)?;
        Ok((fetched.next > from).then_some(Page { from, fetched }))
    }
}

/// Records of a partition of a dead-letter topic.
struct Page {
    from: Offset,
    fetched: Fetched,
}

impl Page {
    /// The records, and when each was appended.
    fn records(&self) -> impl Iterator<Item = (RecordRef<'_>, Timestamp)> {
        let batches = self.fetched.batches.iter();
        batches.flat_map(|batch| batch.records_from(self.from).map(|record| (record, batch.appended_at())))
    }
}

impl Selection {
    fn holds(&self, record: &RecordRef<'_>, parked_at: Timestamp) -> bool {
        self.from.is_none_or(|from| parked_at >= from)
            && self.to.is_none_or(|to| parked_at < to)
            && self.key.as_deref().is_none_or(|key| record.key == Some(key))
    }
}
