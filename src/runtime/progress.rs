//! How far the tasks have committed, and waiting for it: the ground of read-your-writes. Of tasks that run here or are followed here this
//! process knows by itself; of others the group's offsets tell, so nobody waits for a task by asking the process that runs it.

use std::collections::{BTreeSet, VecDeque};
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::Shared;
use super::ends::TopicEnds;
use super::roles::Role;
use super::token::{Place, Token, TopicTag, UnreadableToken};
use crate::log::{self, AtomicMoment, Moment};
use crate::record::{Offset, Partition};
use crate::topology::TopicIndex;

/// How soon the group is asked again how far others have come, and how often it is looked whether tasks have moved to others.
const AGAIN: Duration = Duration::from_millis(5);
const LOOK: Duration = Duration::from_millis(100);

/// The committed offset of every partition that is read, and a signal that one has moved; and when the last commit of each task is durable.
pub(crate) struct Progress {
    committed: Vec<Vec<AtomicU64>>,
    /// Where the topics of global tables and feeds began when they were first read.
    begins: Vec<Vec<AtomicU64>>,
    /// By sub-topology and partition. Whoever reads a task's rows waits for that before telling anybody.
    commits: Vec<Vec<AtomicMoment>>,
    moved: watch::Sender<u64>,
}

/// Why a wait for a position ended without it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Behind {
    /// The view was not there in time.
    #[error("the view has not come so far in time")]
    TimedOut,
    /// The token names a topic that this log does not have.
    #[error(transparent)]
    Unreadable(#[from] UnreadableToken),
}

/// Who waits for longer says for what.
const LONG: Duration = Duration::from_secs(1);

/// How long to wait before it is asked again whether a commit is durable, where the log has failed.
const PAUSE: Duration = Duration::from_millis(50);

/// What must be committed: for each topic, the offsets to reach.
type Targets = TopicEnds;

fn extend(targets: &mut Targets, ends: TopicEnds) {
    for (topic, ends) in ends {
        targets.entry(topic).or_default().extend(ends);
    }
}

impl Progress {
    pub(crate) fn new(partitions: impl Iterator<Item = u32>, tasks: &[u32]) -> Progress {
        let zeros = |count: u32| (0..count).map(|_| AtomicU64::new(0)).collect();
        let (committed, begins) = partitions.map(|count| (zeros(count), zeros(count))).unzip();
        let commits = tasks.iter().map(|count| (0..*count).map(|_| AtomicMoment::default()).collect()).collect();
        Progress { committed, begins, commits, moved: watch::Sender::new(0) }
    }

    /// When all that can be read of a task is durable. Global tables take in nothing before.
    pub(crate) fn committed_at(&self, sub: usize, partition: Partition) -> Moment {
        self.commits.get(sub).map_or(Moment::DURABLE, |tasks| tasks[partition.0 as usize].load())
    }

    /// Notes when a commit is durable, before anything of it can be read.
    pub(crate) fn note_commit(&self, sub: usize, partition: Partition, at: Moment) {
        self.commits[sub][partition.0 as usize].store(at);
    }

    pub(crate) fn committed(&self, topic: TopicIndex, partition: Partition) -> Offset {
        Offset(self.committed[topic.0][partition.0 as usize].load(Ordering::Acquire))
    }

    pub(crate) fn set(&self, topic: TopicIndex, partition: Partition, offset: Offset) {
        self.committed[topic.0][partition.0 as usize].store(offset.0, Ordering::Release);
    }

    pub(super) fn note_begin(&self, topic: TopicIndex, partition: Partition, begin: Offset) {
        self.begins[topic.0][partition.0 as usize].store(begin.0, Ordering::Release);
    }

    pub(super) fn begin(&self, topic: TopicIndex, partition: Partition) -> Offset {
        Offset(self.begins[topic.0][partition.0 as usize].load(Ordering::Acquire))
    }

    /// Lets those who wait look again.
    pub(crate) fn signal(&self) {
        self.moved.send_modify(|version| *version += 1);
    }

    fn reached(&self, topic: TopicIndex, targets: &[(Partition, Offset)]) -> bool {
        let count = self.committed[topic.0].len();
        targets.iter().all(|(partition, offset)| (partition.0 as usize) < count && self.committed(topic, *partition) >= *offset)
    }
}

/// The sub-topologies that have not yet processed what the log held at the start, and what came of it; upstream first.
#[derive(Default)]
pub(super) struct Starting {
    subs: VecDeque<usize>,
    targets: Targets,
}

impl Shared {
    /// Takes the ends of all inputs as what must be processed before the views are ready.
    ///
    /// # Errors
    /// If the log cannot be asked.
    pub(super) fn note_starting(&self) -> Result<(), log::Error> {
        let mut starting = self.starting.lock();
        for sub in (0..self.topology.subs.len()).flat_map(|sub| self.upstream_of(sub)) {
            if !starting.subs.contains(&sub) {
                starting.subs.push_back(sub);
            }
        }
        // Last, for what they take in is what the others have made of it.
        starting.subs.extend(self.globals());
        let inputs = starting.subs.iter().flat_map(|sub| self.inputs_of(*sub)).collect();
        starting.targets = self.ends_at_once(&inputs)?;
        Ok(())
    }

    /// Whether the views hold what the log held at the start, through all sub-topologies.
    pub(super) fn has_started(&self) -> bool {
        let mut starting = self.starting.lock();
        let Starting { subs, targets } = &mut *starting;
        while let Some(sub) = subs.front() {
            if !self.inputs_of(*sub).all(|topic| self.progress.reached(topic, &self.mine(*sub, &targets[&topic]))) {
                return false;
            }
            // What the sub-topology has written by now is what those that read it must come to.
            let Ok(ends) = self.ends_at_once(&self.topology.outputs(*sub).iter().copied().collect()) else { return false };
            extend(targets, ends);
            subs.pop_front();
        }
        true
    }

    /// Those of the partitions that this process reads by itself.
    fn mine(&self, sub: usize, targets: &[(Partition, Offset)]) -> Vec<(Partition, Offset)> {
        let is_mine = |partition| self.has_global(sub) || self.roles.get(sub, partition).is_mine();
        targets.iter().copied().filter(|(partition, _)| is_mine(*partition)).collect()
    }

    fn resolve(&self, offsets: &[(TopicTag, Partition, Offset)]) -> Result<Targets, UnreadableToken> {
        let mut targets = Targets::new();
        for (tag, partition, offset) in offsets {
            let topic = self.topics.iter().position(|topic| topic.uuid.starts_with(tag)).ok_or(UnreadableToken)?;
            if partition.0 >= self.topics[topic].partitions {
                return Err(UnreadableToken);
            }
            targets.entry(TopicIndex(topic)).or_default().push((*partition, *offset));
        }
        Ok(targets)
    }

    /// Waits until the sub-topology's state includes everything up to the token, hop by hop along the topics: a sub-topology on the way
    /// has committed past its targets, then the ends of what it writes are the next ones' targets. Each counts once, so a cycle is
    /// followed once round. In the end all of it is durable.
    /// A place in what feeds the log is waited for there, and goes on from the ends that the topics have then.
    pub(crate) async fn at_least(&self, token: &Token, sub: usize, deadline: Duration) -> Result<(), Behind> {
        self.within(deadline, self.reach_token(token, sub, &|_| true)).await
    }

    /// The same for these partitions of the sub-topology alone.
    pub(crate) async fn at_least_in(
        &self,
        token: &Token,
        sub: usize,
        partitions: &[Partition],
        deadline: Duration,
    ) -> Result<(), Behind> {
        self.within(deadline, self.reach_token(token, sub, &|partition| partitions.contains(&partition))).await
    }

    async fn within(&self, deadline: Duration, reach: impl Future<Output = Result<(), Behind>>) -> Result<(), Behind> {
        tokio::time::timeout(deadline, reach).await.unwrap_or(Err(Behind::TimedOut))
    }

    async fn reach_token(&self, token: &Token, sub: usize, wanted: &(dyn Fn(Partition) -> bool + Sync)) -> Result<(), Behind> {
        match &token.0 {
            Place::Log(offsets) => self.reach(self.resolve(offsets)?, sub, wanted).await,
            Place::Upstream(place) => {
                let upstream = self.upstream.lock().clone().ok_or(UnreadableToken)?;
                upstream.passed(place).await?;
                self.reach_ends(sub, wanted).await;
            }
        }
        Ok(())
    }

    /// Waits until the sub-topology's state includes everything that the log holds now, and what feeds it.
    pub(crate) async fn caught_up(&self, sub: usize, deadline: Duration) -> Result<(), Behind> {
        let caught_up = async {
            let upstream = self.upstream.lock().clone();
            if let Some(upstream) = upstream {
                upstream.drained().await;
            }
            self.reach_ends(sub, &|_| true).await;
            Ok(())
        };
        self.within(deadline, caught_up).await
    }

    /// Waits until a partition of the sub-topology includes everything that the log holds for it now; not for what is still on its way into the log.
    pub(crate) async fn caught_up_in(&self, sub: usize, partition: Partition, deadline: Duration) -> Result<(), Behind> {
        let caught_up = async {
            self.reach_ends(sub, &|at| at == partition).await;
            Ok(())
        };
        self.within(deadline, caught_up).await
    }

    /// Waits until a partition of a global table or feed has what its topic holds now, where that need not be asked of anybody: on the log of this
    /// process.
    #[cfg(feature = "http")]
    pub(crate) async fn taken_in(&self, sub: usize, partition: Partition, deadline: Duration) -> Result<(), Behind> {
        let topic = self.inputs_of(sub).next().filter(|_| self.embedded.is_some());
        let place = topic.and_then(|topic| Some((topic, self.log.bounds(self.topics[topic.0].id, partition).ok()?)));
        let Some((topic, bounds)) = place else { return Ok(()) };
        let taken_in = async {
            self.pass(sub, vec![(topic, partition, bounds.end)]).await;
            Ok(())
        };
        self.within(deadline, taken_in).await
    }

    async fn reach_ends(&self, sub: usize, wanted: &(dyn Fn(Partition) -> bool + Sync)) {
        let inputs = self.upstream_of(sub).into_iter().flat_map(|upstream| self.inputs_of(upstream));
        self.reach(self.ends(inputs).await, sub, wanted).await;
    }

    fn inputs_of(&self, sub: usize) -> impl Iterator<Item = TopicIndex> {
        self.topology.inputs(sub)
    }

    /// The sub-topologies whose output can reach `sub`, itself included, each after those before it (as far as there are no cycles).
    fn upstream_of(&self, sub: usize) -> Vec<usize> {
        fn visit(shared: &Shared, sub: usize, seen: &mut Vec<bool>, order: &mut Vec<usize>) {
            if std::mem::replace(&mut seen[sub], true) {
                return;
            }
            let inputs: Vec<TopicIndex> = shared.inputs_of(sub).collect();
            for (other, writer) in shared.topology.subs.iter().enumerate() {
                if writer.writes.iter().any(|topic| inputs.contains(topic)) {
                    visit(shared, other, seen, order);
                }
            }
            order.push(sub);
        }
        let mut order = Vec::new();
        visit(self, sub, &mut vec![false; self.topology.subs.len() + self.topology.globals.len()], &mut order);
        order
    }

    /// `wanted` are the partitions of `sub` that count.
    async fn reach(&self, mut targets: Targets, sub: usize, wanted: &(dyn Fn(Partition) -> bool + Sync)) {
        let hops = self.upstream_of(sub);
        for &hop in &hops {
            let inputs = self.inputs_of(hop).filter_map(|topic| Some((topic, targets.get(&topic)?)));
            let left = inputs.flat_map(|(topic, ends)| ends.iter().map(move |(partition, end)| (topic, *partition, *end)));
            let left: Vec<_> = left.filter(|(_, partition, _)| hop != sub || wanted(*partition)).collect();
            if left.is_empty() {
                continue;
            }
            self.pass(hop, left).await;
            if hop != sub {
                // What the sub-topology has written by now is what those that read it must come to.
                extend(&mut targets, self.ends(self.topology.outputs(hop).iter().copied()).await);
            }
        }
        // What came of it on the way, such as a dead letter, can be looked for elsewhere than in the view.
        let tasks = |hop: usize| (0..self.tasks.get(hop).copied().unwrap_or(0)).map(move |partition| (hop, Partition(partition)));
        let commits = hops.into_iter().flat_map(tasks).map(|(hop, partition)| self.progress.committed_at(hop, partition));
        let at = commits.max().unwrap_or_default();
        // While the log repairs itself, the deadline is what ends this.
        while self.log.durable(at).await.is_err() {
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Waits until the tasks of a sub-topology have committed past all of these.
    async fn pass(&self, sub: usize, mut left: Vec<(TopicIndex, Partition, Offset)>) {
        let mut moved = self.progress.moved.subscribe();
        let mut say_at = Some(Instant::now() + LONG);
        if self.embedded.is_none() {
            // Who follows tasks tells how far they have come only while somebody waits.
            self.log.wake();
        }
        loop {
            moved.borrow_and_update();
            left.retain(|(topic, partition, end)| self.progress.committed(*topic, *partition) < *end);
            let elsewhere = left.iter().filter(|(_, partition, _)| !self.is_told_here(sub, *partition));
            let elsewhere: BTreeSet<TopicIndex> = elsewhere.map(|(topic, ..)| *topic).collect();
            let pause = if elsewhere.is_empty() { LOOK } else { AGAIN };
            if !elsewhere.is_empty() {
                let read = self.read_anywhere(elsewhere).await;
                let is_read = |topic, partition, end| {
                    read.get(&topic).is_some_and(|read| read.iter().any(|(of, next)| *of == partition && *next >= end))
                };
                left.retain(|(topic, partition, end)| self.is_told_here(sub, *partition) || !is_read(*topic, *partition, *end));
            }
            if left.is_empty() {
                return;
            }
            if say_at.take_if(|at| *at <= Instant::now()).is_some() {
                tracing::debug!("waits for {}", self.told(sub, &left));
            }
            // Whichever comes first: somebody has moved, or it is time to ask or look again.
            drop(tokio::time::timeout(pause, moved.changed()).await);
        }
    }

    /// For people: how far the tasks of a sub-topology are, as far as that is known, and where they are to be.
    fn told(&self, sub: usize, left: &[(TopicIndex, Partition, Offset)]) -> String {
        let told = left.iter().map(|(topic, partition, end)| {
            let (name, committed) = (&self.topics[topic.0].name, self.progress.committed(*topic, *partition));
            format!("task {sub}_{partition} at {committed} of {end} in {name} ({:?})", self.roles.get(sub, *partition))
        });
        told.collect::<Vec<_>>().join(", ")
    }

    /// Whether this process knows by itself how far a task has come.
    fn is_told_here(&self, sub: usize, partition: Partition) -> bool {
        self.embedded.is_some() || self.has_global(sub) || self.roles.get(sub, partition) != Role::Away
    }
}
