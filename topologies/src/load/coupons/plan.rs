//! What the rush sends next, decided by a seed alone: which user claims which coupon, who claims twice, which request is sent
//! twice, which is a bad one. Nothing is sent here, and answers change nothing.

use std::collections::{BTreeMap, VecDeque};

use crate::load::random::Random;

/// Coupons that are claimed at the same time, so that every partition of the claims' topic has work.
pub const OPEN: usize = 12;
/// Of a thousand requests: bad ones, claims of a user who has claimed that coupon before, and requests sent twice.
const BAD: u64 = 10;
const AGAIN: u64 = 40;
const TWICE: u64 = 40;
/// A request that is sent twice is sent again at once or up to so many requests later: minutes, and so across a restart.
const TWIN_DELAY: u64 = 200_000;

/// A claim; users and coupons by their number within the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Number of the request; the same for both of two twins, for it makes the idempotency key.
    pub seq: u64,
    /// The coupon.
    pub coupon: u32,
    /// The user.
    pub user: u32,
    /// Whether the request is sent twice, with the same key.
    pub twice: bool,
}

/// A request the shop has to refuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bad {
    /// The body is not JSON.
    NotJson,
    /// The claim names no user.
    NoUser,
    /// The user is a negative number.
    NegativeUser,
    /// There is no such coupon.
    UnknownCoupon,
    /// The body is said to be text.
    NotJsonType,
    /// The route takes no PUT.
    WrongMethod,
}

impl Bad {
    const ALL: [Bad; 6] = [Bad::NotJson, Bad::NoUser, Bad::NegativeUser, Bad::UnknownCoupon, Bad::NotJsonType, Bad::WrongMethod];
}

/// One request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Job {
    /// A good one.
    Claim(Claim),
    /// One to be refused.
    Bad(Bad),
}

/// The rest of the rush.
pub struct Plan {
    random: Random,
    users: u32,
    open: Vec<Open>,
    ready: VecDeque<u32>,
    seq: u64,
    twins: BTreeMap<(u64, u64), Claim>,
}

/// A coupon that is being claimed: by every user once, in an order of its own.
struct Open {
    coupon: u32,
    claimed: u64,
    first: u64,
    stride: u64,
}

impl Plan {
    /// A rush of `users`, which has no coupons yet.
    #[must_use]
    pub fn new(seed: u32, users: u32) -> Plan {
        Plan { random: Random(seed.into()), users, open: Vec::new(), ready: VecDeque::new(), seq: 0, twins: BTreeMap::new() }
    }

    /// Adds a coupon that can be claimed from now on.
    pub fn add_coupon(&mut self, coupon: u32) {
        self.ready.push_back(coupon);
    }

    /// How many coupons wait for being claimed.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.ready.len()
    }

    /// The next request; `None` while there is no coupon to claim.
    pub fn next(&mut self) -> Option<Job> {
        while self.open.len() < OPEN
            && let Some(coupon) = self.ready.pop_front()
        {
            self.open_coupon(coupon);
        }
        if let Some(twin) = self.twins.first_entry().filter(|twin| twin.key().0 <= self.seq) {
            return Some(Job::Claim(twin.remove()));
        }
        let kind = self.random.below(1000);
        if kind < BAD {
            return Some(Job::Bad(Bad::ALL[self.random.below(Bad::ALL.len() as u64) as usize]));
        }
        let again = kind < BAD + AGAIN;
        let at = if self.open.is_empty() { return None } else { self.random.below(self.open.len() as u64) as usize };
        let open = &mut self.open[at];
        let turn = if again && open.claimed > 0 {
            self.random.below(open.claimed)
        } else {
            open.claimed += 1;
            open.claimed - 1
        };
        let users = u64::from(self.users);
        let claim = Claim {
            seq: self.seq,
            coupon: open.coupon,
            user: ((open.first + turn * open.stride) % users) as u32,
            twice: self.random.below(1000) < TWICE,
        };
        if open.claimed == users {
            self.open.swap_remove(at);
        }
        self.seq += 1;
        if claim.twice {
            let delay = if self.random.below(2) == 0 { 0 } else { self.random.below(TWIN_DELAY) };
            self.twins.insert((self.seq + delay, claim.seq), claim);
        }
        Some(Job::Claim(claim))
    }

    /// A request that still has to be sent a second time; for the end of the rush.
    pub fn next_twin(&mut self) -> Option<Claim> {
        self.twins.pop_first().map(|(_, claim)| claim)
    }

    fn open_coupon(&mut self, coupon: u32) {
        let users = u64::from(self.users);
        let first = self.random.below(users);
        let mut stride = 1 + self.random.below(users);
        while common_divisor(stride, users) != 1 {
            stride += 1;
        }
        self.open.push(Open { coupon, claimed: 0, first, stride });
    }
}

fn common_divisor(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { common_divisor(b, a % b) }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn every_user_claims_every_coupon_and_some_twice() {
        for users in [1, 2, 97, 1000] {
            let mut plan = Plan::new(7, users);
            let coupons = 30;
            (0..coupons).for_each(|coupon| plan.add_coupon(coupon));
            let (mut claims, mut twins, mut bad) = (HashMap::<(u32, u32), u32>::new(), HashMap::<u64, Vec<Claim>>::new(), 0);
            while let Some(job) = plan.next() {
                match job {
                    Job::Claim(claim) if claim.twice => twins.entry(claim.seq).or_default().push(claim),
                    Job::Claim(claim) => *claims.entry((claim.coupon, claim.user)).or_default() += 1,
                    Job::Bad(_) => bad += 1,
                }
            }
            while let Some(claim) = plan.next_twin() {
                twins.entry(claim.seq).or_default().push(claim);
            }
            for pair in twins.values() {
                assert_eq!(pair.len(), 2, "{pair:?}");
                assert_eq!(pair[0], pair[1]);
                *claims.entry((pair[0].coupon, pair[0].user)).or_default() += 1;
            }
            assert_eq!(claims.len(), (users * coupons) as usize, "{users} users");
            if users == 1000 {
                assert!(claims.values().filter(|n| **n > 1).count() > 500 && twins.len() > 500 && bad > 100);
            }
        }
    }

    #[test]
    fn the_seed_decides() {
        let jobs = |seed| {
            let mut plan = Plan::new(seed, 100);
            (0..3).for_each(|coupon| plan.add_coupon(coupon));
            std::iter::from_fn(|| plan.next()).collect::<Vec<_>>()
        };
        assert_eq!(jobs(1), jobs(1));
        assert_ne!(jobs(1), jobs(2));
    }
}
