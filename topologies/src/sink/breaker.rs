//! The circuit breaker: whether the endpoint is tried at all. It knows what tries came to and what time it is, nothing else.
//!
//! ```text
//!            more than half of the window failed                 the wait is over
//!   CLOSED ─────────────────────────────────────▶ OPEN ─────────────────────────────▶ HALF-OPEN
//!     ▲                                             ▲      a probe failed                │   │
//!     │                                             └────────────────────────────────────┘   │
//!     └──────────────────────────────────────────────────────────────────────────────────────┘
//!                                        every probe succeeded
//! ```
//! What must hold: a try that began in one state says nothing in a later one, so slow failures of before do not open what was just closed.
//!
//! Of crates, `tower-resilience-circuitbreaker` 0.14 came nearest. Its window by count never slides (it counts since the last change of state,
//! so a long good past outweighs any failure), late answers count as probes, and it can be asked only by making the call, while here
//! nothing may be taken from its queue before.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How many tries are looked back at.
const WINDOW: usize = 20;
/// With fewer tries than this in the window nothing is said.
const MIN_TRIES: usize = 10;
/// How many probes must succeed in a row.
const PROBES: u32 = 3;

/// In which state the breaker is, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Circuit {
    /// Everything is tried.
    Closed,
    /// Nothing is tried.
    Open,
    /// A few probes are tried.
    HalfOpen,
}

impl Circuit {
    /// All of them.
    pub const ALL: [Circuit; 3] = [Circuit::Closed, Circuit::Open, Circuit::HalfOpen];

    /// As metrics and alerts have it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Circuit::Closed => "closed",
            Circuit::Open => "open",
            Circuit::HalfOpen => "half-open",
        }
    }
}

#[derive(Debug)]
enum State {
    Closed { failed: VecDeque<bool> },
    Open { until: Instant },
    HalfOpen { begun: u32, succeeded: u32 },
}

/// A circuit breaker.
#[derive(Debug)]
pub struct Breaker {
    state: State,
    /// Grows with every change of state: tells tries of before from those of now.
    era: u64,
    open_for: Duration,
}

/// Leave to try once.
#[derive(Clone, Copy, Debug)]
#[must_use = "what the try came to must be told"]
pub struct Permit {
    era: u64,
}

/// Whether to try.
#[derive(Clone, Copy, Debug)]
pub enum Admission {
    /// Yes.
    Permitted(Permit),
    /// Not before this time.
    NotBefore(Instant),
    /// Not before the probes that are out have come back.
    AfterProbes,
}

impl Breaker {
    /// A closed one that stays open so long when it opens.
    #[must_use]
    pub fn new(open_for: Duration) -> Breaker {
        Breaker { state: State::Closed { failed: VecDeque::with_capacity(WINDOW) }, era: 0, open_for }
    }

    /// Its state.
    #[must_use]
    pub fn circuit(&self) -> Circuit {
        match self.state {
            State::Closed { .. } => Circuit::Closed,
            State::Open { .. } => Circuit::Open,
            State::HalfOpen { .. } => Circuit::HalfOpen,
        }
    }

    /// Asks for leave to try.
    pub fn admit(&mut self, now: Instant) -> Admission {
        let permit = |era| Admission::Permitted(Permit { era });
        match &mut self.state {
            State::Closed { .. } => permit(self.era),
            State::Open { until } if now < *until => Admission::NotBefore(*until),
            State::Open { .. } => permit(self.turn(State::HalfOpen { begun: 1, succeeded: 0 })),
            State::HalfOpen { begun, .. } if *begun < PROBES => {
                *begun += 1;
                permit(self.era)
            }
            State::HalfOpen { .. } => Admission::AfterProbes,
        }
    }

    /// Says what a try came to. Whether the state has changed by that.
    pub fn record(&mut self, permit: Permit, succeeded: bool, now: Instant) -> bool {
        if permit.era != self.era {
            return false;
        }
        let opened = State::Open { until: now + self.open_for };
        let next = match &mut self.state {
            State::Closed { failed } => {
                if failed.len() == WINDOW {
                    failed.pop_front();
                }
                failed.push_back(!succeeded);
                let failures = failed.iter().filter(|failed| **failed).count();
                (failed.len() >= MIN_TRIES && failures * 2 > failed.len()).then_some(opened)
            }
            State::HalfOpen { .. } if !succeeded => Some(opened),
            State::HalfOpen { succeeded, .. } => {
                *succeeded += 1;
                (*succeeded == PROBES).then(|| State::Closed { failed: VecDeque::with_capacity(WINDOW) })
            }
            State::Open { .. } => None,
        };
        next.map(|next| self.turn(next)).is_some()
    }

    fn turn(&mut self, next: State) -> u64 {
        self.state = next;
        self.era += 1;
        self.era
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAIT: Duration = Duration::from_secs(10);

    fn permit(breaker: &mut Breaker, now: Instant) -> Permit {
        match breaker.admit(now) {
            Admission::Permitted(permit) => permit,
            refused => panic!("{refused:?}"),
        }
    }

    /// Tries as the letters say, one after the other: `+` succeeds, `-` fails. The state after each.
    fn states(breaker: &mut Breaker, tries: &str, now: Instant) -> Vec<Circuit> {
        let each = tries.chars().map(|outcome| {
            let permit = permit(breaker, now);
            breaker.record(permit, outcome == '+', now);
            breaker.circuit()
        });
        each.collect()
    }

    #[test]
    fn it_opens_when_more_than_half_of_enough_tries_failed() {
        for (tries, last) in [
            ("---------", Circuit::Closed), // nine say nothing
            ("----------", Circuit::Open),
            ("+-+-+-+-+-+-+-", Circuit::Closed), // a half is not more than a half
            ("+-+-+-+-+--", Circuit::Open),
            ("++++++++++++++++++++++++++++++----------", Circuit::Closed),
            ("++++++++++++++++++++++++++++++-----------", Circuit::Open), // what lies far back is forgotten
        ] {
            let (mut breaker, now) = (Breaker::new(WAIT), Instant::now());
            let states = states(&mut breaker, tries, now);
            assert_eq!(states.last(), Some(&last), "{tries}");
            assert!(states[..states.len() - 1].iter().all(|state| *state == Circuit::Closed), "{tries}: too early");
        }
    }

    #[test]
    fn while_open_nothing_is_tried_and_probes_decide() {
        let (mut breaker, now) = (Breaker::new(WAIT), Instant::now());
        states(&mut breaker, "----------", now);
        assert!(matches!(breaker.admit(now + WAIT / 2), Admission::NotBefore(until) if until == now + WAIT));
        // One probe of three fails: it is open again, and the others say nothing any more.
        let later = now + WAIT;
        let probes = [(); 3].map(|()| permit(&mut breaker, later));
        assert!(matches!(breaker.admit(later), Admission::AfterProbes));
        assert!(!breaker.record(probes[0], true, later));
        assert!(breaker.record(probes[1], false, later));
        assert!(!breaker.record(probes[2], true, later));
        assert!(matches!(breaker.admit(later), Admission::NotBefore(until) if until == later + WAIT));
        // All three succeed: closed, with a new window.
        let last = later + WAIT;
        assert_eq!(states(&mut breaker, "+++", last), [Circuit::HalfOpen, Circuit::HalfOpen, Circuit::Closed]);
        assert_eq!(states(&mut breaker, "---------", last).last(), Some(&Circuit::Closed));
    }

    #[test]
    fn tries_of_before_say_nothing() {
        let (mut breaker, now) = (Breaker::new(WAIT), Instant::now());
        let slow = [(); 20].map(|()| permit(&mut breaker, now));
        states(&mut breaker, "----------", now);
        states(&mut breaker, "+++", now + WAIT);
        for permit in slow {
            assert!(!breaker.record(permit, false, now + WAIT));
        }
        assert_eq!(breaker.circuit(), Circuit::Closed);
    }
}
