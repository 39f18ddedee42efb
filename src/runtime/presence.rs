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
use super::{Shared, StartError, control};
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
    /// The tasks that it follows and can answer for, likewise.
    #[serde(default)]
    pub standbys: BTreeMap<String, Vec<u32>>,
    /// Wall-clock time, in milliseconds since 1970; so that each telling differs.
    pub at: i64,
}

impl Process {
    pub(super) fn has(&self, sub: &str, partition: Partition) -> bool {
        self.tasks.get(sub).is_some_and(|partitions| partitions.contains(&partition.0))
    }

    /// Whether it tells the same at another time.
    fn is_like(&self, other: &Process) -> bool {
        (&self.endpoint, &self.tasks, &self.standbys) == (&other.endpoint, &other.tasks, &other.standbys)
    }

    fn follows(&self, sub: &str, partition: Partition) -> bool {
        self.standbys.get(sub).is_some_and(|partitions| partitions.contains(&partition.0))
    }
}

/// What is known of a process.
struct Known {
    told: Process,
    seen: Instant,
    /// Whether it was counted on when it was looked last.
    there: bool,
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

    /// Notes who is not counted on any more since this was asked last. Whether there is one.
    fn loses(&self) -> bool {
        let mut lost = false;
        for known in self.known.lock().values_mut() {
            let there = self.is_there(known);
            lost |= std::mem::replace(&mut known.there, there) && !there;
        }
        lost
    }

    /// Notes what a process tells. Whether that is news: it was not counted on before, or tells something else.
    fn hears(&self, instance: &str, told: Process) -> bool {
        let known = Known { told, seen: Instant::now(), there: true };
        let mut all = self.known.lock();
        let before = all.insert(instance.to_owned(), known);
        before.is_none_or(|before| !before.there || !before.told.is_like(&all[instance].told))
    }

    /// The endpoints of the other processes than `instance` that have a task, and then of those that follow it; who told last comes first.
    pub(crate) fn endpoints_of(&self, instance: &str, sub: &str, partition: Partition) -> [Vec<String>; 2] {
        let known = self.known.lock();
        let there = known.iter().filter(|(other, known)| other.as_str() != instance && self.is_there(known));
        let mut others: Vec<&Known> = there.map(|(_, known)| known).collect();
        others.sort_by_key(|known| std::cmp::Reverse(known.seen));
        let with = |has: fn(&Process, &str, Partition) -> bool| {
            let found = others.iter().filter(|known| has(&known.told, sub, partition));
            found.filter_map(|known| known.told.endpoint.clone()).collect()
        };
        [with(Process::has), with(Process::follows)]
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

    /// The processes that have been silent for too long, and how many workers they had, if it is up to this one to end what they left open:
    /// the first of those that are there does it for all.
    fn dead(&self, mine: &str) -> Vec<(String, usize)> {
        let known = self.known.lock();
        if known.iter().find(|(_, known)| self.is_there(known)).is_none_or(|(first, _)| first != mine) {
            return Vec::new();
        }
        let dead = known.iter().filter(|(_, known)| !self.is_there(known));
        dead.map(|(instance, known)| (instance.clone(), known.told.workers)).collect()
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

    /// What the owner of a store is called in every process: a sub-topology by its name, a global table or feed by its topic, which no other reads.
    pub(super) fn owner_name(&self, owner: usize) -> &str {
        match self.topology.global(owner) {
            Some(global) => &self.topology.topics[global.topic.0].name,
            None => self.sub_name(owner),
        }
    }

    fn told_now(&self) -> Process {
        let (mut tasks, mut standbys) = (BTreeMap::<String, Vec<u32>>::new(), BTreeMap::<String, Vec<u32>>::new());
        for (sub, count) in self.tasks.iter().enumerate() {
            for partition in 0..*count {
                let told = match self.roles.get(sub, Partition(partition)) {
                    Role::Taking | Role::Owner => &mut tasks,
                    Role::Standby => &mut standbys,
                    Role::Away => continue,
                };
                told.entry(self.sub_name(sub).to_owned()).or_default().push(partition);
            }
        }
        for owner in self.globals() {
            let partitions = self.topology.inputs(owner).map(|topic| self.topics[topic.0].partitions).sum();
            standbys.insert(self.owner_name(owner).to_owned(), (0..partitions).collect());
        }
        let (endpoint, at) = (self.config.advertise.clone(), self.config.clock.now().0);
        Process { endpoint, workers: self.threads.numbers(), tasks, standbys, at }
    }
}

/// Where processes tell of themselves.
pub(super) fn topic(shared_log: &dyn log::Log, application: &str) -> Result<TopicInfo, StartError> {
    Ok(shared_log.create_topic(&spec(application))?)
}

pub(super) fn spec(application: &str) -> TopicSpec {
    let cleanup = Cleanup::Compact { delete_retention_ms: DELETE_RETENTION_MS };
    TopicSpec { name: topic_name(application), partitions: 1, cleanup }
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

/// The processes of an application that live, by where they are reached, or by their instance. Who has not taken leave is given the time to
/// tell again.
pub(super) fn living(shared_log: &dyn log::Log, application: &str) -> Result<Vec<String>, StartError> {
    let Some(topic) = shared_log.topic(&topic_name(application))? else { return Ok(Vec::new()) };
    let mut next = shared_log.bounds(topic.id, Partition(0))?.start;
    let mut there = BTreeMap::new();
    let mut hear = |there: &mut BTreeMap<String, Option<String>>| -> Result<(), log::Error> {
        loop {
            let fetched = shared_log.fetch(topic.id, Partition(0), next, FETCH_BYTES)?;
            for record in fetched.batches.iter().flat_map(|batch| batch.records_from(next)) {
                let instance = String::from_utf8_lossy(record.key.unwrap_or_default()).into_owned();
                match record.value {
                    // One that tells what is not understood here is there, too.
                    Some(told) => {
                        let told = serde_json::from_slice::<Process>(told).ok();
                        drop(there.insert(instance, told.and_then(|process| process.endpoint)));
                    }
                    None => drop(there.remove(&instance)),
                }
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
    while !there.keys().eq(before.keys()) && Instant::now() < until {
        let seen = shared_log.version();
        hear(&mut there)?;
        shared_log.wait(seen, LOOK_EVERY);
    }
    Ok(there.into_iter().map(|(instance, endpoint)| endpoint.unwrap_or(instance)).collect())
}

/// Tells of this process as it is, worker threads that are about to begin included, to the others on a shared log. The answer must be there
/// before the first transaction of such a thread: who does not know of it cannot end what it leaves open.
pub(super) fn announce(shared: &Shared) -> Result<Option<log::Pending>, StartError> {
    if shared.embedded.is_some() {
        return Ok(None);
    }
    let topic = topic(&*shared.log, &shared.topology.application)?;
    Ok(Some(send(shared, &topic, shared.log.instance(), Some(&shared.told_now()))))
}

/// Tells and reads until the application stops, and then takes leave. It stops when it was reset: nothing that is known here is true any more.
pub(super) fn run(shared: &Arc<Shared>, topic: &TopicInfo, control: &TopicInfo) {
    let (mut next, mut told) = (Offset(0), None::<(Process, Instant)>);
    let (mut noted_to, mut trouble) = (shared.noted_to, None);
    // Who was cut off itself does not know who else is silent.
    let (mut hears_since, mut heard) = (Instant::now(), Instant::now());
    while !shared.stopping.load(Ordering::Acquire) {
        match control::was_reset(&*shared.log, control, &mut noted_to) {
            Ok(false) => {}
            Ok(true) => {
                let reason = format!("{:?} was reset while this process was there: start it again", shared.topology.application);
                tracing::error!(reason, "the application cannot go on");
                shared.fail(reason);
                break;
            }
            Err(error) => tracing::debug!(%error, "whether the application was reset is not known for now"),
        }
        let now = Process { at: 0, ..shared.told_now() };
        let due = told.as_ref().is_none_or(|(process, at)| *process != now || at.elapsed() >= shared.presence.silent / TELLS);
        let outcome = read(shared, topic, &mut next)
            .and_then(|()| if due { tell(shared, topic, shared.log.instance(), Some(&shared.told_now())) } else { Ok(()) })
            .and_then(|()| if hears_since.elapsed() >= shared.presence.silent { bury(shared, topic) } else { Ok(()) });
        if shared.presence.loses() {
            shared.roles.note_move();
        }
        if outcome.is_err() || heard.elapsed() >= shared.presence.silent / TELLS {
            hears_since = Instant::now();
        }
        heard = Instant::now();
        if due && outcome.is_ok() {
            told = Some((now, Instant::now()));
        }
        let before = std::mem::replace(&mut trouble, outcome.err());
        if let Some(error) = trouble.as_ref().filter(|error| before.as_ref() != Some(*error)) {
            tracing::warn!(%error, "other processes cannot be told or heard of for now");
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
        shared.presence.known.lock().remove(&instance);
    }
    Ok(())
}

fn tell(shared: &Shared, topic: &TopicInfo, instance: &str, process: Option<&Process>) -> Result<(), log::Error> {
    send(shared, topic, instance, process).wait().map(drop)
}

fn send(shared: &Shared, topic: &TopicInfo, instance: &str, process: Option<&Process>) -> log::Pending {
    let value = process.map(|process| serde_json::to_vec(process).expect("a process has JSON"));
    let mut batch = RecordBatch::new();
    batch.push(shared.config.clock.now(), Some(instance.as_bytes()), value.as_deref(), &Headers::EMPTY);
    let append = Append { topic: topic.id, partition: Partition(0), batch };
    shared.log.commit(Transaction { appends: vec![append], offsets: None, request: None })
}

fn read(shared: &Shared, topic: &TopicInfo, next: &mut Offset) -> Result<(), log::Error> {
    loop {
        let fetched = shared.log.follow(topic.id, Partition(0), *next, FETCH_BYTES)?;
        if fetched.next == *next {
            return Ok(());
        }
        let mut moved = false;
        for record in fetched.batches.iter().flat_map(|batch| batch.records_from(*next)) {
            let Some(Ok(instance)) = record.key.map(std::str::from_utf8) else { continue };
            match record.value.map(serde_json::from_slice) {
                Some(Ok(told)) => moved |= shared.presence.hears(instance, told),
                Some(Err(error)) => tracing::warn!(instance, %error, "a process tells what is not understood here"),
                None => moved |= shared.presence.known.lock().remove(instance).is_some(),
            }
        }
        if moved {
            shared.roles.note_move();
        }
        *next = fetched.next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(tasks: Vec<u32>) -> Known {
        let told = Process {
            endpoint: None,
            workers: 1,
            tasks: BTreeMap::from([("sub".to_owned(), tasks)]),
            standbys: BTreeMap::new(),
            at: 0,
        };
        Known { told, seen: Instant::now(), there: true }
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

    #[test]
    fn a_process_that_falls_silent_or_is_back_is_told_of_once() {
        let presence = Presence::new(Duration::from_secs(5));
        let silent = |presence: &Presence| {
            let seen = Instant::now().checked_sub(Duration::from_secs(6)).expect("the machine is up for longer");
            presence.known.lock().get_mut("a").expect("it was heard of").seen = seen;
        };
        let tells = || presence.hears("a", process(vec![0]).told);
        assert_eq!([tells(), tells()], [true, false], "it comes");
        assert!(!presence.loses());
        silent(&presence);
        assert_eq!([presence.loses(), presence.loses()], [true, false]);
        assert_eq!([tells(), tells()], [true, false], "it is back with the same");
        silent(&presence);
        assert!(presence.loses());
        assert!(presence.hears("a", process(vec![1]).told), "with something else");
        assert!(presence.hears("a", process(vec![2]).told));
    }
}
