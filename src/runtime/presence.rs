//! Who is there: each process that runs an application on a shared log tells on the compacted topic `<application>-workers` what it has, and
//! reads what the others tell. By that standbys are placed, requests find whom to ask, and what a dead process left open is ended.
//!
//! Nothing here gives a task to anybody: that is the group's. What is read here may be a few seconds old.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::{Shared, StartError};
use crate::log::{self, Append, Cleanup, RecordBatch, TopicInfo, TopicSpec, Transaction};
use crate::record::{Headers, Offset, Partition};
use crate::topology::DELETE_RETENTION_MS;

/// How often a process tells that it is there, at least: so many times in the time after which it is not counted on.
const TELLS: u32 = 3;
const LOOK_EVERY: Duration = Duration::from_millis(100);
const FETCH_BYTES: usize = 1 << 20;

/// What a process tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Process {
    /// Where its HTTP interface is reached, if it has one.
    pub endpoint: Option<String>,
    /// The numbers of its worker threads are below this.
    pub workers: usize,
    /// The tasks that it owns: partitions by the sub-topology's name, for processes of two versions may number sub-topologies differently.
    pub tasks: BTreeMap<String, Vec<u32>>,
    /// Wall-clock time, in milliseconds since 1970; so that each telling differs.
    pub at: i64,
}

impl Process {
    pub(super) fn has(&self, sub: &str, partition: Partition) -> bool {
        self.tasks.get(sub).is_some_and(|partitions| partitions.contains(&partition.0))
    }
}

/// What is known of a process.
struct Known {
    told: Process,
    seen: Instant,
    /// What it told last has been acted upon by ending what it left open.
    fenced: bool,
}

/// All processes of the application, by their instance.
pub(crate) struct Presence {
    known: Mutex<BTreeMap<String, Known>>,
    /// Who has told nothing for so long is not counted on: as long as the group waits before it gives tasks to others.
    silent: Duration,
}

impl Presence {
    pub(super) fn new(silent: Duration) -> Presence {
        Presence { known: Mutex::default(), silent }
    }

    fn is_there(&self, known: &Known) -> bool {
        known.seen.elapsed() < self.silent
    }

    /// The endpoint of the process that has a task, as far as is known.
    pub(crate) fn endpoint_of(&self, sub: &str, partition: Partition) -> Option<String> {
        let known = self.known.lock();
        let owners = known.values().filter(|known| self.is_there(known) && known.told.has(sub, partition));
        owners.max_by_key(|known| known.seen).and_then(|known| known.told.endpoint.clone())
    }

    /// Whether `instance` is one of the `count` processes that should follow a task as standbys: by rendezvous hashing over those that have
    /// workers and do not own the task.
    fn places(&self, instance: &str, count: usize, sub: &str, partition: Partition) -> bool {
        let known = self.known.lock();
        let there = known.iter().filter(|(_, known)| self.is_there(known) && known.told.workers > 0);
        let mut candidates: Vec<(u64, &str)> = there
            .filter(|(_, known)| !known.told.has(sub, partition))
            .map(|(other, _)| (weight(other, sub, partition), other.as_str()))
            .collect();
        candidates.sort_unstable();
        candidates.iter().rev().take(count).any(|(_, other)| *other == instance)
    }

    /// Ends what processes left open that had this task and have been silent since: a transaction of theirs holds back who reads behind it.
    pub(crate) fn fence_silent(&self, shared: &Shared, sub: usize, partition: Partition) -> Result<(), log::Error> {
        let sub = shared.sub_name(sub);
        let silent = |known: &Known| !known.fenced && !self.is_there(known) && known.told.has(sub, partition);
        let dead: Vec<(String, usize)> = {
            let known = self.known.lock();
            let mine = shared.log.instance();
            let dead = known.iter().filter(|(instance, known)| instance.as_str() != mine && silent(known));
            dead.map(|(instance, known)| (instance.clone(), known.told.workers)).collect()
        };
        for (instance, workers) in dead {
            tracing::info!(instance, "a silent process's open transactions are ended");
            shared.log.fence(&shared.group, &instance, workers)?;
            if let Some(known) = self.known.lock().get_mut(&instance) {
                known.fenced = true;
            }
        }
        Ok(())
    }
}

/// FNV-1a, 64 bits: the same in every process.
fn weight(instance: &str, sub: &str, partition: Partition) -> u64 {
    let bytes = instance.bytes().chain(sub.bytes()).chain(partition.0.to_be_bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

impl Shared {
    /// Whether a task is to be followed here: it is not this process's own, and is placed here.
    pub(super) fn follows(&self, sub: usize, partition: Partition) -> bool {
        use super::config::Standbys;
        !self.roles.get(sub, partition).is_mine()
            && match self.config.standbys {
                Standbys::Each(0) => false,
                Standbys::Each(count) => self.presence.places(self.log.instance(), count, self.sub_name(sub), partition),
                Standbys::All => true,
            }
    }

    pub(super) fn sub_name(&self, sub: usize) -> &str {
        &self.topology.subs[sub].name
    }

    fn told_now(&self) -> Process {
        let mut tasks = BTreeMap::new();
        for (sub, count) in self.tasks.iter().enumerate() {
            let mine: Vec<u32> = (0..*count).filter(|p| self.roles.get(sub, Partition(*p)).is_mine()).collect();
            if !mine.is_empty() {
                tasks.insert(self.sub_name(sub).to_owned(), mine);
            }
        }
        Process { endpoint: self.config.advertise.clone(), workers: self.threads.numbers(), tasks, at: self.config.clock.now().0 }
    }
}

/// Where processes tell of themselves.
pub(super) fn topic(shared_log: &dyn log::Log, application: &str) -> Result<TopicInfo, StartError> {
    let cleanup = Cleanup::Compact { delete_retention_ms: DELETE_RETENTION_MS };
    Ok(shared_log.create_topic(&TopicSpec { name: topic_name(application), partitions: 1, cleanup })?)
}

/// What that topic is called.
pub(super) fn topic_name(application: &str) -> String {
    format!("{application}-workers")
}

/// What each process of an application told last that has not taken leave.
pub(super) fn told(shared_log: &dyn log::Log, application: &str) -> Result<BTreeMap<String, Process>, log::Error> {
    let mut processes = BTreeMap::new();
    let Some(topic) = shared_log.topic(&topic_name(application))? else { return Ok(processes) };
    let bounds = shared_log.bounds(topic.id, Partition(0))?;
    let mut next = bounds.start;
    while next < bounds.end {
        let fetched = shared_log.fetch(topic.id, Partition(0), next, FETCH_BYTES)?;
        for record in fetched.batches.iter().flat_map(|batch| batch.records_from(next)) {
            let instance = String::from_utf8_lossy(record.key.unwrap_or_default()).into_owned();
            match record.value.map(serde_json::from_slice) {
                Some(Ok(process)) => drop(processes.insert(instance, process)),
                Some(Err(_)) | None => drop(processes.remove(&instance)),
            }
        }
        next = fetched.next;
    }
    Ok(processes)
}

/// The processes of an application that live. Who has not taken leave is given the time to tell again.
pub(super) fn living(shared_log: &dyn log::Log, application: &str) -> Result<Vec<String>, StartError> {
    let Some(topic) = shared_log.topic(&topic_name(application))? else { return Ok(Vec::new()) };
    let mut next = shared_log.bounds(topic.id, Partition(0))?.start;
    let mut there = BTreeSet::new();
    let mut hear = |there: &mut BTreeSet<String>| -> Result<(), log::Error> {
        loop {
            let fetched = shared_log.fetch(topic.id, Partition(0), next, FETCH_BYTES)?;
            for record in fetched.batches.iter().flat_map(|batch| batch.records_from(next)) {
                let instance = String::from_utf8_lossy(record.key.unwrap_or_default()).into_owned();
                if record.value.is_some() {
                    there.insert(instance)
                } else {
                    there.remove(&instance)
                };
            }
            if std::mem::replace(&mut next, fetched.next) == fetched.next {
                return Ok(());
            }
        }
    };
    hear(&mut there)?;
    let before = std::mem::take(&mut there);
    let until = Instant::now() + shared_log.session_timeout() / 2;
    // All of them have told again, or none does any more.
    while there != before && Instant::now() < until {
        let seen = shared_log.version();
        hear(&mut there)?;
        shared_log.wait(seen, LOOK_EVERY);
    }
    Ok(there.into_iter().collect())
}

/// Tells and reads until the application stops, and then takes leave.
pub(super) fn run(shared: &Arc<Shared>, topic: &TopicInfo) {
    let (mut next, mut told) = (Offset(0), None::<(Process, Instant)>);
    while !shared.stopping.load(Ordering::Acquire) {
        let now = Process { at: 0, ..shared.told_now() };
        let due = told.as_ref().is_none_or(|(process, at)| *process != now || at.elapsed() >= shared.presence.silent / TELLS);
        let outcome = read(shared, topic, &mut next)
            .and_then(|()| if due { tell(shared, topic, Some(&shared.told_now())) } else { Ok(()) });
        match outcome {
            Ok(()) if due => told = Some((now, Instant::now())),
            Ok(()) => {}
            Err(error) => tracing::warn!(%error, "other processes cannot be told or heard of for now"),
        }
        std::thread::park_timeout(LOOK_EVERY);
    }
    if let Err(error) = tell(shared, topic, None) {
        tracing::warn!(%error, "other processes were not told that this one has stopped");
    }
}

fn tell(shared: &Shared, topic: &TopicInfo, process: Option<&Process>) -> Result<(), log::Error> {
    let value = process.map(|process| serde_json::to_vec(process).expect("a process has JSON"));
    let mut batch = RecordBatch::new();
    let key = shared.log.instance().as_bytes();
    batch.push(shared.config.clock.now(), Some(key), value.as_deref(), &Headers::EMPTY);
    let append = Append { topic: topic.id, partition: Partition(0), batch };
    shared.log.commit(Transaction { appends: vec![append], offsets: None, request: None }).wait().map(drop)
}

fn read(shared: &Shared, topic: &TopicInfo, next: &mut Offset) -> Result<(), log::Error> {
    loop {
        let fetched = shared.log.fetch(topic.id, Partition(0), *next, FETCH_BYTES)?;
        if fetched.next == *next {
            return Ok(());
        }
        let mut known = shared.presence.known.lock();
        for record in fetched.batches.iter().flat_map(|batch| batch.records_from(*next)) {
            let Some(Ok(instance)) = record.key.map(std::str::from_utf8) else { continue };
            match record.value.map(serde_json::from_slice) {
                Some(Ok(told)) => drop(known.insert(instance.to_owned(), Known { told, seen: Instant::now(), fenced: false })),
                Some(Err(error)) => tracing::warn!(instance, %error, "a process tells what is not understood here"),
                None => drop(known.remove(instance)),
            }
        }
        *next = fetched.next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(tasks: Vec<u32>) -> Known {
        let told = Process { endpoint: None, workers: 1, tasks: BTreeMap::from([("sub".to_owned(), tasks)]), at: 0 };
        Known { told, seen: Instant::now(), fenced: false }
    }

    #[test]
    fn standbys_are_placed_alike_by_all_and_never_with_the_owner() {
        let presence = Presence::new(Duration::from_secs(6));
        for (i, instance) in ["a", "b", "c"].into_iter().enumerate() {
            let tasks = (0..12).filter(|p| p % 3 == i as u32).collect();
            presence.known.lock().insert(instance.to_owned(), process(tasks));
        }
        for count in 0..=3 {
            for p in 0..12 {
                let owner = ["a", "b", "c"][p % 3];
                let chosen = ["a", "b", "c"].map(|instance| presence.places(instance, count, "sub", Partition(p as u32)));
                assert_eq!(chosen.iter().filter(|chosen| **chosen).count(), count.min(2), "of task {p}");
                assert!(!presence.places(owner, count, "sub", Partition(p as u32)));
            }
        }
    }

    #[test]
    fn who_is_silent_for_as_long_as_the_group_waits_is_not_counted_on() {
        for (silent, expected) in [(Duration::from_secs(1), false), (Duration::from_secs(60), true)] {
            let presence = Presence::new(silent);
            let heard = Instant::now().checked_sub(Duration::from_secs(5)).expect("the machine is up for longer");
            presence.known.lock().insert("a".to_owned(), Known { seen: heard, ..process(vec![0]) });
            assert_eq!(presence.places("a", 1, "sub", Partition(1)), expected, "{silent:?}");
        }
    }
}
