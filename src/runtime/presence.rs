//! Who is there: each process that runs an application on a shared log tells on the compacted topic `<application>-workers` what it has, and
//! reads what the others tell. By that standbys are placed, requests find whom to ask, and what a dead process left open is ended.
//!
//! Nothing here gives a task to anybody: that is the group's. What is read here may be a few seconds old.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::roles::Role;
use super::{Shared, StartError};
use crate::log::{self, Append, Cleanup, RecordBatch, TopicInfo, TopicSpec, Transaction};
use crate::record::{Headers, Offset, Partition};
use crate::topology::DELETE_RETENTION_MS;

/// How often a process tells that it is there, at least.
const TELL_EVERY: Duration = Duration::from_secs(2);
/// Who has told nothing for so long is not counted on. Not less than what a group needs to notice.
const SILENT: Duration = Duration::from_secs(6);
const LOOK_EVERY: Duration = Duration::from_millis(100);
const FETCH_BYTES: usize = 1 << 20;

/// What a process tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Process {
    /// Where its HTTP interface is reached, if it has one.
    pub endpoint: Option<String>,
    /// How many worker threads it has.
    pub workers: usize,
    /// The tasks that it owns: sub-topology and partition.
    pub tasks: Vec<(usize, u32)>,
    /// The tasks that it follows and can answer for.
    #[serde(default)]
    pub standbys: Vec<(usize, u32)>,
    /// Wall-clock time, in milliseconds since 1970; so that each telling differs.
    pub at: i64,
}

/// What is known of a process.
struct Known {
    told: Process,
    seen: Instant,
}

/// All processes of the application, by their instance.
#[derive(Default)]
pub(crate) struct Presence(Mutex<BTreeMap<String, Known>>);

impl Presence {
    /// The endpoints of the other processes than `instance` that have a task, and then of those that follow it; who told last comes first.
    pub(crate) fn endpoints_of(&self, instance: &str, sub: usize, partition: Partition) -> [Vec<String>; 2] {
        let known = self.0.lock();
        let mut others: Vec<&Known> = known
            .iter()
            .filter(|(other, known)| other.as_str() != instance && known.is_there())
            .map(|(_, known)| known)
            .collect();
        others.sort_by_key(|known| std::cmp::Reverse(known.seen));
        let with = |tasks: fn(&Process) -> &Vec<(usize, u32)>| {
            let found = others.iter().filter(|known| tasks(&known.told).contains(&(sub, partition.0)));
            found.filter_map(|known| known.told.endpoint.clone()).collect()
        };
        [with(|process| &process.tasks), with(|process| &process.standbys)]
    }

    /// Whether `instance` is one of the `count` processes that should follow a task as standbys: by rendezvous hashing over those that have
    /// workers and do not own the task.
    fn places(&self, instance: &str, count: usize, sub: usize, partition: Partition) -> bool {
        let known = self.0.lock();
        let there = known.iter().filter(|(_, known)| known.is_there() && known.told.workers > 0);
        let mut candidates: Vec<(u64, &str)> = there
            .filter(|(_, known)| !known.told.tasks.contains(&(sub, partition.0)))
            .map(|(other, _)| (weight(other, sub, partition), other.as_str()))
            .collect();
        candidates.sort_unstable();
        candidates.iter().rev().take(count).any(|(_, other)| *other == instance)
    }

    /// The processes that have been silent for too long, and how many workers they had, if it is up to this one to end what they left open:
    /// the first of those that are there does it for all.
    fn dead(&self, mine: &str) -> Vec<(String, usize)> {
        let known = self.0.lock();
        if known.iter().find(|(_, known)| known.is_there()).is_none_or(|(first, _)| first != mine) {
            return Vec::new();
        }
        let dead = known.iter().filter(|(_, known)| !known.is_there());
        dead.map(|(instance, known)| (instance.clone(), known.told.workers)).collect()
    }
}

impl Known {
    fn is_there(&self) -> bool {
        self.seen.elapsed() < SILENT
    }
}

/// FNV-1a, 64 bits: the same in every process.
fn weight(instance: &str, sub: usize, partition: Partition) -> u64 {
    let task = [(sub as u32).to_be_bytes(), partition.0.to_be_bytes()].concat();
    let bytes = instance.bytes().chain(task);
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

impl Shared {
    /// Whether a task is to be followed here: it is not this process's own, and is placed here.
    pub(super) fn follows(&self, sub: usize, partition: Partition) -> bool {
        use super::config::Standbys;
        !self.roles.get(sub, partition).is_mine()
            && match self.config.standbys {
                Standbys::Each(0) => false,
                Standbys::Each(count) => self.presence.places(self.log.instance(), count, sub, partition),
                Standbys::All => true,
            }
    }

    fn told_now(&self) -> Process {
        let (mut tasks, mut standbys) = (Vec::new(), Vec::new());
        for (sub, count) in self.tasks.iter().enumerate() {
            for partition in 0..*count {
                match self.roles.get(sub, Partition(partition)) {
                    Role::Taking | Role::Owner => tasks.push((sub, partition)),
                    Role::Standby => standbys.push((sub, partition)),
                    Role::Away => {}
                }
            }
        }
        let (endpoint, at) = (self.config.advertise.clone(), self.config.clock.now().0);
        Process { endpoint, workers: self.config.threads, tasks, standbys, at }
    }
}

/// Where processes tell of themselves.
pub(super) fn topic(shared_log: &dyn log::Log, application: &str) -> Result<TopicInfo, StartError> {
    let cleanup = Cleanup::Compact { delete_retention_ms: DELETE_RETENTION_MS };
    Ok(shared_log.create_topic(&TopicSpec { name: format!("{application}-workers"), partitions: 1, cleanup })?)
}

/// Tells and reads until the application stops, and then takes leave.
pub(super) fn run(shared: &Arc<Shared>, topic: &TopicInfo) {
    let (mut next, mut told) = (Offset(0), None::<(Process, Instant)>);
    // Who was cut off itself does not know who else is silent.
    let (mut hears_since, mut heard) = (Instant::now(), Instant::now());
    while !shared.stopping.load(Ordering::Acquire) {
        let now = Process { at: 0, ..shared.told_now() };
        let due = told.as_ref().is_none_or(|(process, at)| *process != now || at.elapsed() >= TELL_EVERY);
        let outcome = read(shared, topic, &mut next)
            .and_then(|()| if due { tell(shared, topic, shared.log.instance(), Some(&shared.told_now())) } else { Ok(()) })
            .and_then(|()| if hears_since.elapsed() >= SILENT { bury(shared, topic) } else { Ok(()) });
        if outcome.is_err() || heard.elapsed() >= TELL_EVERY {
            hears_since = Instant::now();
        }
        heard = Instant::now();
        match outcome {
            Ok(()) if due => told = Some((now, Instant::now())),
            Ok(()) => {}
            Err(error) => tracing::warn!(%error, "other processes cannot be told or heard of for now"),
        }
        std::thread::park_timeout(LOOK_EVERY);
    }
    if let Err(error) = tell(shared, topic, shared.log.instance(), None) {
        tracing::warn!(%error, "other processes were not told that this one has stopped");
    }
}

/// Ends what silent processes left open, for a transaction of theirs holds back who reads behind it, and takes leave for them. One that
/// is alive after all has its transaction aborted, and tells of itself again.
fn bury(shared: &Shared, topic: &TopicInfo) -> Result<(), log::Error> {
    for (instance, workers) in shared.presence.dead(shared.log.instance()) {
        tracing::info!(instance, "a silent process's open transactions are ended");
        shared.log.fence(&shared.group, &instance, workers)?;
        tell(shared, topic, &instance, None)?;
        shared.presence.0.lock().remove(&instance);
    }
    Ok(())
}

fn tell(shared: &Shared, topic: &TopicInfo, instance: &str, process: Option<&Process>) -> Result<(), log::Error> {
    let value = process.map(|process| serde_json::to_vec(process).expect("a process has JSON"));
    let mut batch = RecordBatch::new();
    batch.push(shared.config.clock.now(), Some(instance.as_bytes()), value.as_deref(), &Headers::EMPTY);
    let append = Append { topic: topic.id, partition: Partition(0), batch };
    shared.log.commit(Transaction { appends: vec![append], offsets: None, request: None }).wait().map(drop)
}

fn read(shared: &Shared, topic: &TopicInfo, next: &mut Offset) -> Result<(), log::Error> {
    loop {
        let fetched = shared.log.follow(topic.id, Partition(0), *next, FETCH_BYTES)?;
        if fetched.next == *next {
            return Ok(());
        }
        let mut known = shared.presence.0.lock();
        for record in fetched.batches.iter().flat_map(|batch| batch.records_from(*next)) {
            let Some(Ok(instance)) = record.key.map(std::str::from_utf8) else { continue };
            match record.value.map(serde_json::from_slice) {
                Some(Ok(told)) => drop(known.insert(instance.to_owned(), Known { told, seen: Instant::now() })),
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

    fn process(tasks: &[(usize, u32)]) -> Known {
        let told = Process { endpoint: None, workers: 1, tasks: tasks.to_vec(), standbys: Vec::new(), at: 0 };
        Known { told, seen: Instant::now() }
    }

    #[test]
    fn standbys_are_placed_alike_by_all_and_never_with_the_owner() {
        let presence = Presence::default();
        for (i, instance) in ["a", "b", "c"].into_iter().enumerate() {
            let tasks: Vec<(usize, u32)> = (0..12).filter(|p| p % 3 == i).map(|p| (0, p as u32)).collect();
            presence.0.lock().insert(instance.to_owned(), process(&tasks));
        }
        for count in 0..=3 {
            for p in 0..12 {
                let owner = ["a", "b", "c"][p % 3];
                let chosen = ["a", "b", "c"].map(|instance| presence.places(instance, count, 0, Partition(p as u32)));
                assert_eq!(chosen.iter().filter(|chosen| **chosen).count(), count.min(2), "of task {p}");
                assert!(!presence.places(owner, count, 0, Partition(p as u32)));
            }
        }
    }
}
