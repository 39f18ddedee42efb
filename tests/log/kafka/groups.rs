//! Members of a group: who gets which task, and that nothing is lost or done twice while they come and go.

use super::{config, open, prefix};
use crate::log::support::{SOON, batch, put, read, read_from, topic};
use millstream::log::kafka::GroupProtocol;
use millstream::log::{
    Append, Bounds, Change, Committed, Error, GroupOffsets, Inputs, KafkaLog, Log, Member, Membership, TopicId, TopicInfo,
    Transaction,
};
use millstream::{Offset, Partition};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

pub const PROTOCOLS: [GroupProtocol; 2] = [GroupProtocol::Classic, GroupProtocol::Consumer];

/// A worker as small as can be: copies each input record to the output partition of its number, exactly once.
pub struct Copier<'a> {
    log: &'a dyn Log,
    pub member: Box<dyn Member>,
    group: Arc<str>,
    inputs: [TopicInfo; 2],
    output: TopicInfo,
    /// Where tasks stand, as records of the transactions that moved them: the group's offsets may be held back for ever where a broker dies.
    positions: TopicInfo,
    /// Where each task reads next, as far as it has begun.
    pub tasks: BTreeMap<u32, BTreeMap<TopicId, Offset>>,
}

impl<'a> Copier<'a> {
    pub fn join(log: &'a KafkaLog, group: &str, worker: usize, inputs: &[TopicInfo; 2], output: &TopicInfo) -> Copier<'a> {
        let group: Arc<str> = group.into();
        let topics = inputs.iter().map(|topic| topic.id).collect();
        let subs = vec![Inputs { topics, tasks: inputs[0].partitions }];
        let member = log.join(Membership { group: Arc::clone(&group), worker, subs }).expect("the group is joined");
        let positions = topic(log, &format!("{group}.positions"), 1);
        Copier { log, member, group, inputs: inputs.clone(), output: output.clone(), positions, tasks: BTreeMap::new() }
    }

    /// Takes what the group gives; a new task begins where its last transaction ended.
    fn follow(&mut self) -> Result<(), Error> {
        for change in self.member.changes()? {
            match change {
                Change::Assigned { partition, .. } => drop(self.tasks.insert(partition.0, BTreeMap::new())),
                Change::Revoked { partition, .. } => drop(self.tasks.remove(&partition.0)),
            }
        }
        // One that cannot begin now is tried again: what the group gave is told once.
        let new: Vec<u32> = self.tasks.iter().filter(|(_, next)| next.is_empty()).map(|(task, _)| *task).collect();
        new.into_iter().try_for_each(|task| self.take(task))
    }

    fn take(&mut self, task: u32) -> Result<(), Error> {
        let (id, partition) = (self.positions.id, Partition(0));
        let decided = self.log.open_ends(&[(id, partition)])?[0];
        let Bounds { start, end } = self.log.bounds(id, partition)?;
        if end < decided {
            return Err(Error::Unavailable { cause: "a transaction is not over yet".into() });
        }
        let positions = read_from(self.log, &self.positions, 0, start.0, 1 << 20)?;
        let at = |number: usize, topic: &TopicInfo| {
            let of = format!("{task}/{number}=");
            let last = positions.iter().rev().find_map(|record| record.split_once(' ')?.1.strip_prefix(&of));
            (topic.id, Offset(last.map_or(0, |offset| offset.parse().expect("an offset"))))
        };
        let inputs = self.inputs.iter().enumerate().filter(|(_, topic)| task < topic.partitions);
        let next: BTreeMap<_, _> = inputs.map(|(number, topic)| at(number, topic)).collect();
        let begin: Vec<_> = next.iter().map(|(topic, offset)| (*topic, *offset)).collect();
        self.member.begin(0, Partition(task), &begin)?;
        self.tasks.insert(task, next);
        Ok(())
    }

    /// Copies what there is, as one transaction. How many records.
    fn turn(&mut self) -> Result<usize, Error> {
        self.turn_with(|_| {})
    }

    /// The same, with something done between reading and committing.
    pub fn turn_with(&mut self, between: impl FnOnce(usize)) -> Result<usize, Error> {
        self.follow()?;
        let (mut appends, mut offsets, mut stands, mut records) = (Vec::new(), Vec::new(), Vec::new(), 0);
        let mut after = self.tasks.clone();
        for (task, next) in &mut after {
            for (topic, next) in next {
                let fetched = self.member.fetch(*topic, Partition(*task), *next, 64 << 10)?;
                for read in &fetched.batches {
                    let found: Vec<_> = read.records_from(*next).collect();
                    records += found.len();
                    let text = |bytes: Option<&[u8]>| String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned();
                    let copies: Vec<_> = found.iter().map(|r| (text(r.key), text(r.value))).collect();
                    let copies: Vec<_> = copies.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
                    appends.push(Append { topic: self.output.id, partition: Partition(*task), batch: batch(&copies) });
                }
                *next = fetched.next;
                offsets.push((*topic, Partition(*task), fetched.next));
                let number = self.inputs.iter().position(|input| input.id == *topic).expect("an input");
                stands.push((format!("{task}/{number}"), fetched.next.to_string()));
            }
        }
        if records > 0 {
            between(records);
            let stands: Vec<_> = stands.iter().map(|(task, offset)| (task.as_str(), offset.as_str())).collect();
            appends.push(Append { topic: self.positions.id, partition: Partition(0), batch: batch(&stands) });
            let offsets = Some(GroupOffsets { group: Arc::clone(&self.group), offsets });
            let committed: Result<Committed, Error> = self.member.commit(Transaction { appends, offsets, request: None });
            committed?;
        }
        self.tasks = after;
        Ok(records)
    }

    /// A turn; one that fails is done over, from what was committed.
    pub fn turn_over(&mut self) -> usize {
        match self.turn() {
            Ok(records) => records,
            Err(error) => {
                assert!(error.is_retriable() || error.is_outcome_unknown(), "{error}");
                while let Err(error) = self.take_anew() {
                    assert!(error.is_retriable(), "{error}");
                    self.member.wait(Duration::from_millis(20));
                }
                0
            }
        }
    }

    fn take_anew(&mut self) -> Result<(), Error> {
        self.follow()?;
        let tasks: Vec<u32> = self.tasks.keys().copied().collect();
        tasks.into_iter().try_for_each(|task| self.take(task))
    }
}

pub fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !done() {
        assert!(Instant::now() < deadline, "{what}: not after {SOON:?}");
    }
}

#[test]
fn tasks_have_all_their_inputs_and_one_owner() {
    for protocol in PROTOCOLS {
        let log = KafkaLog::open(config().group_protocol(protocol)).expect("the broker answers");
        let name = prefix();
        let inputs = [topic(&log, &format!("{name}a"), 4), topic(&log, &format!("{name}b"), 2)];
        let output = topic(&log, &format!("{name}out"), 4);
        let group = format!("{name}group");
        for partition in 0..4 {
            put(&log, &inputs[0], partition, &[("a", "1")]);
        }
        for partition in 0..2 {
            put(&log, &inputs[1], partition, &[("b", "2")]);
        }

        let mut first = Copier::join(&log, &group, 0, &inputs, &output);
        let mut copied = 0;
        until("all is copied", || {
            copied += first.turn_over();
            first.member.wait(Duration::from_millis(20));
            copied == 6
        });
        assert_eq!(first.tasks.len(), 4);

        let mut second = Copier::join(&log, &group, 1, &inputs, &output);
        until("tasks are shared out", || {
            first.turn_over();
            second.turn_over();
            second.member.wait(Duration::from_millis(20));
            first.tasks.len() == 2 && second.tasks.len() == 2
        });
        let owned = |copier: &Copier<'_>| copier.tasks.keys().copied().collect::<BTreeSet<_>>();
        assert_eq!(&owned(&first) | &owned(&second), BTreeSet::from([0, 1, 2, 3]), "{protocol:?}");

        // Whoever stops leaves at once: far sooner than the session would time out.
        drop(first);
        let begun = Instant::now();
        until("the other has all", || {
            second.turn_over();
            second.member.wait(Duration::from_millis(20));
            second.tasks.len() == 4
        });
        println!("{protocol:?}: a planned hand-over took {:?}", begun.elapsed());
        for partition in 0..2 {
            assert_eq!(read(&log, &output, partition).len(), 2, "{protocol:?}");
        }
    }
}

#[test]
fn nothing_is_lost_or_done_twice_while_members_come_and_go() {
    std::thread::scope(|scope| {
        for protocol in PROTOCOLS {
            scope.spawn(move || churn(protocol));
        }
    });
}

fn churn(protocol: GroupProtocol) {
    const RECORDS: usize = 3_000;
    let log = KafkaLog::open(config().group_protocol(protocol)).expect("the broker answers");
    let name = prefix();
    let inputs = [topic(&log, &format!("{name}a"), 4), topic(&log, &format!("{name}b"), 4)];
    let output = topic(&log, &format!("{name}out"), 4);
    let group = format!("{name}group");
    let (written, copied) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let (log, inputs, output, group) = (&log, &inputs, &output, &group);
        let (written, copied) = (&written, &copied);
        scope.spawn(move || {
            let writer = open();
            let own = inputs.each_ref().map(|topic| writer.topic(&topic.name).unwrap().expect("it exists"));
            for i in 0..RECORDS / 10 {
                let records: Vec<_> = (0..10).map(|j| (format!("{}", i * 10 + j), "v")).collect();
                let records: Vec<_> = records.iter().map(|(key, value)| (key.as_str(), *value)).collect();
                put(&writer, &own[i % 2], (i / 2 % 4) as u32, &records);
            }
            written.store(true, SeqCst);
        });
        for worker in 0..3 {
            scope.spawn(move || {
                let deadline = Instant::now() + 3 * SOON;
                let mut copier = Copier::join(log, group, worker, inputs, output);
                let mut turns = 0;
                while !(written.load(SeqCst) && copied.load(SeqCst) == RECORDS) {
                    assert!(Instant::now() < deadline, "{} of {RECORDS} copied", copied.load(SeqCst));
                    let records = copier.turn_over();
                    copied.fetch_add(records, SeqCst);
                    copier.member.wait(Duration::from_millis(20));
                    turns += 1;
                    // The first stays, the others leave and come back.
                    if worker > 0 && turns % (10 * worker + 5) == 0 && !written.load(SeqCst) {
                        drop(copier);
                        copier = Copier::join(log, group, worker, inputs, output);
                    }
                }
            });
        }
    });
    let mut found: Vec<usize> = (0..4).flat_map(|partition| read(&log, &output, partition)).map(|record| key(&record)).collect();
    found.sort_unstable();
    assert_eq!(found, (0..RECORDS).collect::<Vec<_>>(), "{protocol:?}");
}

/// The number that is the key of a record.
pub fn key(record: &str) -> usize {
    let content = record.split_once(' ').and_then(|(_, content)| content.split_once('='));
    content.and_then(|(key, _)| key.parse().ok()).expect("a numbered record")
}
