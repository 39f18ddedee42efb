//! The events of one partition on their way out: which may be tried now, and how far all of them are done.
//!
//! What must hold: of a key at most one event is out, and the next only after it was delivered or parked; and [`Lanes::done_before`] never
//! passes an event that is neither. A lane is a key that has events here; it is at one place: ready, resting until a time, or out.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::Instant;

use millstream::{Headers, Offset, Partition, Timestamp};

/// What events of different keys are told apart by: the order.
pub type Key = u64;

/// How many topics are read: events, and replays of parked ones.
pub const INPUTS: usize = 2;

/// A record as it was read, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Where it was read first, also if it is replayed.
    pub partition: Partition,
    /// Where it was read first, also if it is replayed.
    pub offset: Offset,
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// Its value.
    pub value: Option<Vec<u8>>,
    /// Its time.
    pub timestamp: Timestamp,
    /// Its headers.
    pub headers: Headers,
}

/// Why a record is parked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// `Undecodable`, `Refused` or `Failed`.
    pub kind: &'static str,
    /// In words.
    pub cause: String,
}

/// A record that could not be delivered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Letter {
    /// The record.
    pub origin: Origin,
    /// Why.
    pub reason: Reason,
}

/// An event that is to be delivered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Which of the inputs it came from, and where it lies there.
    pub place: (usize, Offset),
    /// Its lane.
    pub key: Key,
    /// What tells it from every other event, and is the same whenever it is delivered.
    pub idempotency_key: String,
    /// The record.
    pub origin: Origin,
    /// How often it was tried for nothing while the circuit was closed.
    pub tries: u32,
}

/// The events of a partition.
#[derive(Debug)]
pub struct Lanes {
    lanes: HashMap<Key, VecDeque<Event>>,
    ready: VecDeque<Key>,
    resting: BTreeSet<(Instant, Key)>,
    inputs: [Input; INPUTS],
}

/// How far an input is.
#[derive(Debug)]
struct Input {
    /// Where to read on.
    next: Offset,
    /// What was read and is neither delivered nor parked.
    open: BTreeSet<Offset>,
    /// What is parked and not in the log yet.
    letters: BTreeMap<Offset, Letter>,
    /// As the log has it.
    committed: Offset,
}

impl Lanes {
    /// No events; the inputs are read from these offsets on.
    #[must_use]
    pub fn new(starts: [Offset; INPUTS]) -> Lanes {
        let input = |next| Input { next, open: BTreeSet::new(), letters: BTreeMap::new(), committed: next };
        Lanes { lanes: HashMap::new(), ready: VecDeque::new(), resting: BTreeSet::new(), inputs: starts.map(input) }
    }

    /// Where to read an input on.
    #[must_use]
    pub fn next_offset(&self, input: usize) -> Offset {
        self.inputs[input].next
    }

    /// How many events are here.
    #[must_use]
    pub fn len(&self) -> usize {
        self.inputs.iter().map(|input| input.open.len() + input.letters.len()).sum()
    }

    /// Everything of an input before `next` was read.
    pub fn read_to(&mut self, input: usize, next: Offset) {
        self.inputs[input].next = next;
    }

    /// An event was read.
    pub fn push(&mut self, event: Event) {
        let (input, offset) = event.place;
        self.inputs[input].open.insert(offset);
        let lane = self.lanes.entry(event.key).or_insert_with(|| {
            self.ready.push_back(event.key);
            VecDeque::new()
        });
        lane.push_back(event);
    }

    /// A record was read that is no event.
    pub fn push_letter(&mut self, (input, offset): (usize, Offset), letter: Letter) {
        self.inputs[input].letters.insert(offset, letter);
    }

    /// Takes the next event that may be tried; it is out until one of the next three is told of it.
    pub fn take(&mut self, now: Instant) -> Option<Event> {
        while let Some((_, key)) = self.resting.first().copied().filter(|(until, _)| *until <= now) {
            self.resting.pop_first();
            self.ready.push_back(key);
        }
        let key = self.ready.pop_front()?;
        self.lanes.get_mut(&key).and_then(VecDeque::pop_front)
    }

    /// It was delivered.
    pub fn delivered(&mut self, event: &Event) {
        let (input, offset) = event.place;
        self.inputs[input].open.remove(&offset);
        if self.lanes.get(&event.key).is_some_and(VecDeque::is_empty) {
            self.lanes.remove(&event.key);
        } else {
            self.ready.push_back(event.key);
        }
    }

    /// It is given up.
    pub fn park(&mut self, event: Event, reason: Reason) {
        self.delivered(&event);
        self.push_letter(event.place, Letter { origin: event.origin, reason });
    }

    /// It is to be tried again, not before this time.
    pub fn again(&mut self, event: Event, not_before: Instant) {
        let key = event.key;
        self.lanes.entry(key).or_default().push_front(event);
        self.resting.insert((not_before, key));
    }

    /// When there will be something to try; `None` if there is now, or nothing is known.
    #[must_use]
    pub fn rests_until(&self) -> Option<Instant> {
        self.resting.first().map(|(until, _)| *until).filter(|_| self.ready.is_empty())
    }

    /// The offset of an input before which everything is delivered or parked.
    #[must_use]
    pub fn done_before(&self, input: usize) -> Offset {
        let input = &self.inputs[input];
        input.open.first().copied().unwrap_or(input.next)
    }

    /// Whether the log does not know yet how far this is, and of how many records.
    #[must_use]
    pub fn uncommitted(&self) -> u64 {
        (0..INPUTS).map(|input| self.done_before(input).0 - self.inputs[input].committed.0).sum()
    }

    /// What must be in the log with the offsets of now.
    pub fn letters(&self) -> impl Iterator<Item = &Letter> {
        (0..INPUTS).flat_map(|input| self.inputs[input].letters.range(..self.done_before(input)).map(|(_, letter)| letter))
    }

    /// The offsets of now are in the log, with their letters.
    pub fn committed(&mut self) {
        for number in 0..INPUTS {
            let done = self.done_before(number);
            let input = &mut self.inputs[number];
            input.committed = done;
            input.letters = input.letters.split_off(&done);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    fn event(input: usize, offset: u64, key: Key) -> Event {
        let origin = Origin {
            partition: Partition(0),
            offset: Offset(offset),
            key: None,
            value: None,
            timestamp: Timestamp(0),
            headers: Headers::EMPTY,
        };
        Event { place: (input, Offset(offset)), key, idempotency_key: format!("{key}-{offset}"), origin, tries: 0 }
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Read { input: usize, key: Key, gap: u64 },
        Broken { input: usize },
        Take,
        Deliver(usize),
        Park(usize),
        Again(usize, u64),
        Pass(u64),
        Commit,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..2usize, 0..4u64, 0..3u64).prop_map(|(input, key, gap)| Step::Read { input, key, gap }),
            1 => (0..2usize).prop_map(|input| Step::Broken { input }),
            6 => Just(Step::Take),
            3 => any::<usize>().prop_map(Step::Deliver),
            1 => any::<usize>().prop_map(Step::Park),
            2 => (any::<usize>(), 0..5u64).prop_map(|(which, rest)| Step::Again(which, rest)),
            2 => (0..5u64).prop_map(Step::Pass),
            2 => Just(Step::Commit),
        ]
    }

    proptest! {
        /// Whatever happens in whatever order: one of a key is out, in the order they were read, and nothing is passed that is not done.
        #[test]
        fn order_and_offsets_hold(steps in proptest::collection::vec(step(), 1..200)) {
            let (mut lanes, mut now) = (Lanes::new([Offset(0); INPUTS]), Instant::now());
            let mut next = [0; INPUTS];
            let mut out: Vec<(Event, usize)> = Vec::new();
            let reason = || Reason { kind: "Failed", cause: "test".into() };
            // Of each key what was read and is not done, in order; of each input what is not done, and what is parked and not committed.
            let mut waiting: HashMap<Key, VecDeque<(usize, Offset)>> = HashMap::new();
            let mut open: [BTreeSet<u64>; INPUTS] = Default::default();
            let mut parked: [BTreeSet<u64>; INPUTS] = Default::default();
            let mut resting: HashMap<Key, Instant> = HashMap::new();
            for step in steps {
                match step {
                    Step::Read { input, key, gap } => {
                        let offset = next[input] + gap;
                        lanes.push(event(input, offset, key));
                        waiting.entry(key).or_default().push_back((input, Offset(offset)));
                        open[input].insert(offset);
                        next[input] = offset + 1;
                        lanes.read_to(input, Offset(next[input]));
                    }
                    Step::Broken { input } => {
                        let origin = event(input, next[input], 0).origin;
                        lanes.push_letter((input, Offset(next[input])), Letter { origin, reason: reason() });
                        parked[input].insert(next[input]);
                        next[input] += 1;
                        lanes.read_to(input, Offset(next[input]));
                    }
                    Step::Take => match lanes.take(now) {
                        Some(event) => {
                            prop_assert_eq!(waiting[&event.key].front(), Some(&event.place), "the first of its key");
                            prop_assert!(out.iter().all(|(other, _)| other.key != event.key), "two of one key");
                            prop_assert!(resting.remove(&event.key).is_none_or(|until| until <= now), "it rests");
                            out.push((event, 0));
                        }
                        None => {
                            let rests = |key: &Key| resting.get(key).is_some_and(|until| *until > now);
                            let busy = |key: &Key| rests(key) || out.iter().any(|(event, _)| event.key == *key);
                            prop_assert!(waiting.keys().all(busy), "something could be tried");
                        }
                    },
                    Step::Deliver(which) | Step::Park(which) | Step::Again(which, _) if !out.is_empty() => {
                        let (event, _) = out.swap_remove(which % out.len());
                        if let Step::Again(_, rest) = step {
                            let until = now + Duration::from_secs(rest);
                            resting.insert(event.key, until);
                            lanes.again(event, until);
                            continue;
                        }
                        let (input, offset) = event.place;
                        let lane = waiting.get_mut(&event.key).expect("it was read");
                        lane.pop_front();
                        if lane.is_empty() {
                            waiting.remove(&event.key);
                        }
                        open[input].remove(&offset.0);
                        if let Step::Park(_) = step {
                            parked[input].insert(offset.0);
                            lanes.park(event, reason());
                        } else {
                            lanes.delivered(&event);
                        }
                    }
                    Step::Deliver(_) | Step::Park(_) | Step::Again(..) => {}
                    Step::Pass(seconds) => now += Duration::from_secs(seconds),
                    Step::Commit => {
                        let letters: Vec<u64> = lanes.letters().map(|letter| letter.origin.offset.0).collect();
                        let mut expected = Vec::new();
                        for (input, parked) in parked.iter_mut().enumerate() {
                            let kept = parked.split_off(&lanes.done_before(input).0);
                            expected.extend(std::mem::replace(parked, kept));
                        }
                        prop_assert_eq!(letters, expected);
                        lanes.committed();
                        prop_assert_eq!(lanes.uncommitted(), 0);
                    }
                }
                for input in 0..INPUTS {
                    let expected = open[input].first().copied().unwrap_or(next[input]);
                    prop_assert_eq!(lanes.done_before(input), Offset(expected));
                }
                let held: usize = open.iter().chain(&parked).map(BTreeSet::len).sum();
                prop_assert_eq!(lanes.len(), held);
            }
        }
    }
}
