//! Resetting an application: what it knows is thrown away, and it begins anew, at its inputs' beginning, end, or a time. The inputs
//! themselves, its outputs and its dead letters stay.
//!
//! On a shared log it must not run meanwhile: a member that is thrown out of the group would join again, and what it has in memory is of no
//! use any more. The internal topics are deleted and made anew, and the first records of the tasks' own changelogs
//! say where they begin. That, the group's offsets and the name of the new life, by which state directories of the old one are known and
//! emptied, are one transaction. Until it is there, a mark keeps processes from starting; a reset that was cut off is repeated.
//!
//! In an embedded log the changelogs stay, and the state begins at their end; what lies before is trimmed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use millstream_state::{OpenError, Position, TaskId, fault};

use super::app::open_state;
use super::config::Config;
use super::control::{self, Notes, Writer};
use super::{StartError, presence, topics};
use crate::clock::Clock;
use crate::log::{self, Append, EmbeddedLog, GroupOffsets, Log, RecordBatch, TopicId, TopicInfo, Transaction};
use crate::record::{Headers, Offset, Partition, Timestamp};
use crate::requests;
use crate::task::{changelog, meta};
use crate::topology::{TopicIndex, TopicRole, Topology};

/// How often it is asked who is still there.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// How to reset an application.
#[derive(Clone, Debug, Default)]
pub struct Reset {
    /// Where its inputs are read from.
    pub to: ResetTo,
    /// The topics that are read from there. The other topics that it reads go on at their end. By default those that it does not write
    /// itself, but for its requests: what it has written to the others in its former life would come twice, and so would what it was asked for
    /// and has answered, in another order.
    pub inputs: Option<Vec<String>>,
    /// Only says what would be done.
    pub dry_run: bool,
    /// Waits for members and processes that stopped without a word until the group has given them up, twice the log's session timeout at
    /// most. Who is there then does run, and is named: nobody is thrown out.
    pub force: bool,
}

/// Where inputs are read from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ResetTo {
    /// The first record that there is.
    #[default]
    Earliest,
    /// What comes from now on.
    Latest,
    /// The first record with this timestamp or a later one.
    Time(Timestamp),
}

/// What a reset has done, or would do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResetReport {
    /// The topics that were deleted, or made empty.
    pub forgotten: Vec<String>,
    /// Where each partition of each external topic is read from.
    pub begins: Vec<ResetBegin>,
}

/// Where a partition is read from after a reset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResetBegin {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: Partition,
    /// The first offset that is read.
    pub offset: Offset,
    /// Whether it is an input; else it goes on at its end.
    pub is_input: bool,
}

/// Why an application was not reset.
#[derive(Debug, thiserror::Error)]
pub enum ResetError {
    /// It runs.
    #[error("{application:?} runs: stop {}", list(processes))]
    Running {
        /// The application.
        application: String,
        /// What is there of it, for people.
        processes: Vec<String>,
    },
    /// A topic was named that it does not read.
    #[error("{topic:?} is not read by the application, only {}", list(inputs))]
    NotAnInput {
        /// The topic.
        topic: String,
        /// What it reads.
        inputs: Vec<String>,
    },
    /// Log, state or topology are in the way. What was begun must be repeated.
    #[error(transparent)]
    Start(#[from] StartError),
}

impl From<log::Error> for ResetError {
    fn from(error: log::Error) -> ResetError {
        ResetError::Start(error.into())
    }
}

fn list(names: &[String]) -> String {
    names.join(", ")
}

impl Reset {
    /// Resets an application on a log that processes share.
    ///
    /// # Errors
    /// See [`ResetError`].
    pub fn run(&self, topology: &Topology, log: &dyn Log) -> Result<ResetReport, ResetError> {
        let now = Clock::System.now();
        let application = &topology.application;
        nobody_runs(application, log, if self.force { 2 * log.session_timeout() } else { Duration::ZERO })?;
        step("reset:alone")?;
        let begins = self.begins(topology, log)?;
        let internal = topology.topics.iter().filter(|topic| topics::is_internal(topic)).map(|topic| topic.name.clone());
        let mut forgotten: Vec<String> = internal.chain([presence::topic_name(application)]).collect();
        let existing: BTreeSet<String> = log.topics()?.into_iter().map(|topic| topic.name.to_string()).collect();
        forgotten.retain(|name| existing.contains(name));
        if self.dry_run {
            return Ok(ResetReport { forgotten, begins });
        }

        let control = control::topic(log, application)?;
        let mut begun = Writer::new(now);
        begun.reset_begins();
        let noting = |notes: Writer| Append { topic: control.id, partition: Partition(0), batch: notes.batch };
        log.commit(Transaction { appends: vec![noting(begun)], offsets: None, request: None }).wait()?;
        step("reset:marked")?;
        // Who came meanwhile hears of the mark and leaves, and writes nothing of the old life into the new one's topics.
        nobody_runs(application, log, 2 * log.session_timeout())?;
        let old = Notes::read(log, &control)?;
        log.delete_topics(&forgotten.iter().map(String::as_str).collect::<Vec<_>>())?;
        step("reset:deleted")?;
        let counts = topics::counts(topology, log)?;
        let made = topics::create(topology, log, &counts)?;
        step("reset:made")?;
        let mut notes = Writer::new(now);
        notes.reset_ends(&old, &uuid::Uuid::new_v4().simple().to_string());
        topics::note_new(topology, &made, &topology.shared_fingerprint(&counts), &Notes::default(), &mut notes);
        let mut appends = vec![noting(notes)];
        for (sub, partition, rows) in first_rows(topology, &counts, &begins) {
            let TopicIndex(changelog) = topology.subs[sub].changelog;
            let own = &topology.stores[topology.subs[sub].meta.0].name;
            let mut batch = RecordBatch::new();
            for (key, value) in rows {
                batch.push(now, Some(&changelog::key(own, &key)), Some(&value), &Headers::EMPTY);
            }
            appends.push(Append { topic: made[changelog].id, partition, batch });
        }
        let offsets = Some(group_offsets(topology, &made, &begins));
        log.commit(Transaction { appends, offsets, request: None }).wait()?;
        Ok(ResetReport { forgotten, begins })
    }

    /// Resets an application that has its log in the same directory. It must not run.
    ///
    /// # Errors
    /// See [`ResetError`].
    pub fn run_embedded(&self, topology: &Topology, config: &Config) -> Result<ResetReport, ResetError> {
        let log = Arc::new(super::app::open_log(config)?);
        let begins = self.begins(topology, &*log)?;
        let forgotten =
            topology.topics.iter().filter(|topic| topics::is_internal(topic)).map(|topic| topic.name.clone()).collect();
        if self.dry_run {
            return Ok(ResetReport { forgotten, begins });
        }
        let counts = topics::counts(topology, &*log)?;
        let made = topics::create(topology, &*log, &counts)?;
        // Nobody else has it open, for the log beside it is ours.
        let directory = config.data.join("state");
        match std::fs::remove_dir_all(&directory) {
            Err(cause) if cause.kind() != std::io::ErrorKind::NotFound => {
                return Err(StartError::from(OpenError::Io { directory, cause }).into());
            }
            _ => {}
        }
        begin_at_ends(topology, config, &log, &made, &first_rows(topology, &counts, &begins))?;
        let offsets = Some(group_offsets(topology, &made, &begins));
        log.commit(Transaction { appends: Vec::new(), offsets, request: None }).wait()?;
        Ok(ResetReport { forgotten, begins })
    }

    /// Where each partition of each external topic that the application reads begins.
    fn begins(&self, topology: &Topology, log: &dyn Log) -> Result<Vec<ResetBegin>, ResetError> {
        let written: BTreeSet<TopicIndex> = topology.subs.iter().flat_map(|sub| sub.writes.iter().copied()).collect();
        let read = topology.sources.iter().map(|source| source.topic);
        let read: Vec<TopicIndex> = read.filter(|topic| topology.topics[topic.0].role == TopicRole::External).collect();
        let name = |topic: &TopicIndex| topology.topics[topic.0].name.clone();
        if let Some(topic) = self.inputs.iter().flatten().find(|wanted| !read.iter().any(|topic| name(topic) == **wanted)) {
            return Err(ResetError::NotAnInput { topic: topic.clone(), inputs: read.iter().map(name).collect() });
        }
        let requests = requests::topic_name(&topology.application);
        let mut begins = Vec::new();
        for topic in read {
            let name = name(&topic);
            let is_foreign = !written.contains(&topic) && name != requests;
            let is_input = self.inputs.as_ref().map_or(is_foreign, |inputs| inputs.contains(&name));
            // One that is not there yet has nothing to begin at.
            let Some(info) = log.topic(&name)? else { continue };
            for partition in (0..info.partitions).map(Partition) {
                let bounds = log.bounds(info.id, partition)?;
                let offset = match self.to {
                    _ if !is_input => bounds.end,
                    ResetTo::Earliest => bounds.start,
                    ResetTo::Latest => bounds.end,
                    ResetTo::Time(at) => log.offset_at(info.id, partition, at)?,
                };
                begins.push(ResetBegin { topic: name.clone(), partition, offset, is_input });
            }
        }
        Ok(begins)
    }
}

/// Waits, at most for so long, until nobody is there.
fn nobody_runs(application: &str, log: &dyn Log, patience: Duration) -> Result<(), ResetError> {
    let until = Instant::now() + patience;
    loop {
        let seen = log.version();
        let members = log.members(application)?.into_iter().map(|member| format!("member {member}"));
        let living = presence::living(log, application)?.into_iter().map(|instance| format!("process {instance}"));
        let processes: Vec<String> = members.chain(living).collect();
        if processes.is_empty() {
            return Ok(());
        }
        if Instant::now() >= until {
            return Err(ResetError::Running { application: application.to_owned(), processes });
        }
        log.wait(seen, LOOK_EVERY);
    }
}

/// A step that a test may let fail.
fn step(name: &str) -> Result<(), log::Error> {
    fault::point(name).map_err(|error| log::Error::Unavailable { cause: error.to_string().into() })
}

type Rows = Vec<(Vec<u8>, Vec<u8>)>;

/// What each task's own store has at first: where the task begins to read.
fn first_rows(topology: &Topology, counts: &[u32], begins: &[ResetBegin]) -> Vec<(usize, Partition, Rows)> {
    let mut all = Vec::new();
    for sub in 0..topology.subs.len() {
        let inputs: Vec<&str> = topology.inputs(sub).map(|topic| topology.topics[topic.0].name.as_str()).collect();
        for partition in (0..topology.tasks(sub, counts)).map(Partition) {
            let own = begins.iter().filter(|begin| begin.partition == partition && inputs.contains(&begin.topic.as_str()));
            let rows: Rows = own.map(|begin| meta::offset_row(&begin.topic, begin.offset)).collect();
            all.push((sub, partition, rows));
        }
    }
    all.retain(|(.., rows)| !rows.is_empty());
    all
}

/// The same for the group, which lag is measured by.
fn group_offsets(topology: &Topology, made: &[TopicInfo], begins: &[ResetBegin]) -> GroupOffsets {
    let ids: BTreeMap<&str, TopicId> = made.iter().map(|topic| (&*topic.name, topic.id)).collect();
    let offset = |begin: &ResetBegin| Some((*ids.get(begin.topic.as_str())?, begin.partition, begin.offset));
    GroupOffsets { group: topology.application.as_str().into(), offsets: begins.iter().filter_map(offset).collect() }
}

/// Makes a state without rows that stands at the ends of its changelogs, and of the topics that only the application reads.
fn begin_at_ends(
    topology: &Topology,
    config: &Config,
    log: &Arc<EmbeddedLog>,
    made: &[TopicInfo],
    rows: &[(usize, Partition, Rows)],
) -> Result<(), StartError> {
    let (durable, _flushed) = mpsc::channel();
    let db = open_state(topology, config, Arc::clone(log) as Arc<dyn Log>, durable, String::new())?;
    let wall_ms = config.clock.now().0;
    let counts: Vec<u32> = made.iter().map(|topic| topic.partitions).collect();
    let mut behind = Vec::new();
    for (index, sub) in topology.subs.iter().enumerate() {
        let stores: Vec<_> = sub.stores.iter().map(|store| store.id()).collect();
        for partition in (0..topology.tasks(index, &counts)).map(Partition) {
            let mut state = db.task(TaskId { sub_topology: index as u32, partition: partition.0 }, &stores)?;
            let own = rows.iter().filter(|(sub, p, _)| (*sub, *p) == (index, partition)).flat_map(|(.., rows)| rows.clone());
            let mut own: Rows = own.collect();
            for topic in topology.inputs(index).filter(|topic| topics::is_internal(&topology.topics[topic.0])) {
                if partition.0 < made[topic.0].partitions {
                    own.push(meta::offset_row(&made[topic.0].name, log.bounds(made[topic.0].id, partition)?.end));
                }
            }
            for (key, value) in own {
                state.put(sub.meta.id(), &key, &value);
            }
            let changelog = &made[sub.changelog.0];
            let end = log.bounds(changelog.id, partition)?.end;
            let at = Position { topic_id: changelog.uuid, offset: end.0, wall_ms };
            state.commit(&sub.stores.iter().map(|store| (store.id(), at)).collect::<Vec<_>>());
            behind.push((changelog.id, partition, end));
        }
    }
    db.close()?;
    // What lies behind that is of no use any more.
    behind.into_iter().try_for_each(|(changelog, partition, end)| log.trim(changelog, partition, end))?;
    Ok(())
}
