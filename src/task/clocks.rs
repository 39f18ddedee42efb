//! Times that operators of a task keep: the greatest timestamp that an operator has seen, by which it tells what is late (its own stream
//! time, as in Kafka Streams, not the task's); and lower bounds of when something that waits is due, so that most records need no look
//! into a store. Named ones are kept with the task's own state across restarts; the others begin anew, at the beginning of time.

use crate::record::Timestamp;
use crate::topology::ClockIndex;

#[derive(Default)]
pub(super) struct Clocks {
    now: Vec<Timestamp>,
    committed: Vec<Timestamp>,
    /// What to go back to when a record fails.
    undo: Vec<(ClockIndex, Timestamp)>,
}

impl Clocks {
    /// Clocks that stand at these times.
    pub(super) fn new(times: Vec<Timestamp>) -> Clocks {
        Clocks { now: times.clone(), committed: times, undo: Vec::new() }
    }

    pub(super) fn get(&self, clock: ClockIndex) -> Timestamp {
        self.now[clock.0]
    }

    pub(super) fn set(&mut self, clock: ClockIndex, time: Timestamp) {
        let now = &mut self.now[clock.0];
        if *now != time {
            self.undo.push((clock, std::mem::replace(now, time)));
        }
    }

    pub(super) fn mark(&mut self) {
        self.undo.clear();
    }

    pub(super) fn undo(&mut self) {
        while let Some((clock, time)) = self.undo.pop() {
            self.now[clock.0] = time;
        }
    }

    /// Those that have changed since the last commit.
    pub(super) fn changed(&self) -> impl Iterator<Item = (ClockIndex, Timestamp)> {
        let both = self.now.iter().zip(&self.committed).enumerate();
        both.filter(|(_, (now, committed))| now != committed).map(|(i, (now, _))| (ClockIndex(i), *now))
    }

    pub(super) fn committed(&mut self) {
        self.committed.copy_from_slice(&self.now);
    }
}
