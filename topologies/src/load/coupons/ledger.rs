//! What the shop has told: which claims it accepted or refused, how many coupons it says are issued, what users own and hear.
//! Each check says in one sentence what is wrong. Nothing is sent here.

use serde::Deserialize;

use super::plan::Claim;
use crate::load::Broken;
use crate::load::heard::Told;
use crate::load::twins::{Answered, Twins};

/// Everything the shop has answered to claims.
pub struct Ledger {
    /// Id of the user of number 0; likewise for coupons.
    base: u64,
    users: u32,
    coupons: Vec<Coupon>,
    twins: Twins,
}

struct Coupon {
    limit: u32,
    claims: Vec<Claims>,
    sold_out: bool,
}

/// One user's claims of one coupon.
#[derive(Clone, Copy, Default)]
struct Claims {
    accepted: u8,
    /// The shop has refused a claim because the user has the coupon.
    had: bool,
}

/// The counts of a coupon, as `GET /api/coupons/{couponId}` gives them.
#[derive(Deserialize, Clone, Copy, Debug)]
#[serde(rename_all = "camelCase")]
pub struct Counts {
    coupon_id: u64,
    limit: u64,
    /// How many users have it.
    pub issued: u64,
    remaining: u64,
}

impl Counts {
    /// What has to hold at any moment.
    pub fn check(&self) -> Result<(), Broken> {
        let Counts { coupon_id, limit, issued, remaining } = *self;
        if issued > limit {
            return Err(format!("coupon {coupon_id} with a limit of {limit} is issued {issued} times"));
        }
        if issued + remaining != limit {
            return Err(format!("coupon {coupon_id}: {issued} issued and {remaining} remaining are not its limit of {limit}"));
        }
        Ok(())
    }
}

/// A user's event: the end of one accepted claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The id of the event.
    pub id: u64,
    /// The coupon.
    pub coupon: u32,
    /// `coupon-issued`, or `coupon-rejected`.
    pub issued: bool,
}

impl Told for Decision {
    fn id(&self) -> u64 {
        self.id
    }
}

impl Ledger {
    /// For users and coupons whose ids begin at `base`.
    #[must_use]
    pub fn new(base: u64, users: u32) -> Ledger {
        Ledger { base, users, coupons: Vec::new(), twins: Twins::default() }
    }

    /// Adds the next coupon.
    pub fn add_coupon(&mut self, limit: u32) {
        self.coupons.push(Coupon { limit, claims: vec![Claims::default(); self.users as usize], sold_out: false });
    }

    /// How many coupons there are.
    #[must_use]
    pub fn coupons(&self) -> u32 {
        self.coupons.len() as u32
    }

    /// Whether this is the first that is heard of this user claiming this coupon.
    #[must_use]
    pub fn unheard(&self, claim: &Claim) -> bool {
        self.coupons[claim.coupon as usize].claims[claim.user as usize].accepted == 0
    }

    /// The number of a coupon of this run.
    pub fn coupon_number(&self, id: u64) -> Result<u32, Broken> {
        let number = id.checked_sub(self.base).filter(|n| *n < self.coupons.len() as u64);
        number.map(|n| n as u32).ok_or_else(|| format!("coupon {id} was never claimed, but a user has heard of it"))
    }

    /// Takes the answer to a claim, accepted or refused with a code, and says whether to count it.
    pub fn answered(&mut self, claim: &Claim, refusal: Option<&str>, answer: Answered) -> Result<bool, Broken> {
        if claim.twice {
            let counts = self.twins.take(claim.seq, answer).map_err(|what| {
                let (user, coupon) = (self.base + u64::from(claim.user), self.base + u64::from(claim.coupon));
                format!("the claim of coupon {coupon} by user {user} was accepted, and repeated with its key got {what}")
            })?;
            if !counts {
                return Ok(false);
            }
        }
        let coupon = &mut self.coupons[claim.coupon as usize];
        let claims = &mut coupon.claims[claim.user as usize];
        match refusal {
            None => claims.accepted += 1,
            Some("COUPON_ALREADY_ISSUED") => claims.had = true,
            Some("COUPON_SOLD_OUT") => coupon.sold_out = true,
            Some(code) => {
                return Err(format!("a good claim of coupon {} was refused with {code}", self.base + u64::from(claim.coupon)));
            }
        }
        Ok(true)
    }

    /// How many of a coupon have to be issued once all claims are decided.
    #[must_use]
    pub fn due(&self, coupon: u32) -> u64 {
        let coupon = &self.coupons[coupon as usize];
        let claimants = coupon.claims.iter().filter(|c| c.accepted > 0).count();
        u64::from(coupon.limit).min(claimants as u64)
    }

    /// Checks a coupon whose count does not change any more. `owners` is how many users list it.
    pub fn check_coupon(&self, coupon: u32, issued: u64, owners: u64) -> Result<(), Broken> {
        let (id, due, state) = (self.base + u64::from(coupon), self.due(coupon), &self.coupons[coupon as usize]);
        if issued != due {
            let limit = state.limit;
            return Err(format!(
                "coupon {id} with a limit of {limit} is issued {issued} times, and accepted claims make it {due}"
            ));
        }
        if owners != issued {
            return Err(format!("coupon {id} is issued {issued} times, but {owners} users have it"));
        }
        if state.sold_out && issued < u64::from(state.limit) {
            return Err(format!("coupon {id} was called sold out, but only {issued} of {} are issued", state.limit));
        }
        Ok(())
    }

    /// How many decisions a user is to hear.
    #[must_use]
    pub fn decisions_due(&self, user: u32) -> usize {
        self.coupons.iter().map(|c| usize::from(c.claims[user as usize].accepted)).sum()
    }

    /// Checks what a user owns, in the order it was listed in, and all that the user has heard.
    pub fn check_user(&self, user: u32, owned: &[u64], heard: &[Decision]) -> Result<(), Broken> {
        let id = self.base + u64::from(user);
        let mut seen = vec![(false, 0u32, 0u32); self.coupons.len()];
        for coupon in owned {
            let owns = &mut seen[self.coupon_number(*coupon)? as usize].0;
            if std::mem::replace(owns, true) {
                return Err(format!("user {id} has coupon {coupon} twice"));
            }
        }
        for decision in heard {
            let (_, issued, rejected) = &mut seen[decision.coupon as usize];
            *if decision.issued { issued } else { rejected } += 1;
        }
        for (number, (coupon, (owns, issued, rejected))) in self.coupons.iter().zip(seen).enumerate() {
            let (claims, coupon) = (coupon.claims[user as usize], self.base + number as u64);
            if u32::from(claims.accepted) != issued + rejected {
                return Err(format!(
                    "user {id} has {} accepted claims of coupon {coupon}, but heard {issued} times that it was issued and {rejected} times that not",
                    claims.accepted
                ));
            }
            if u32::from(owns) != issued {
                let has = if owns { "has" } else { "does not have" };
                return Err(format!("user {id} {has} coupon {coupon}, but heard {issued} times that it was issued"));
            }
            if claims.had && !owns {
                return Err(format!("user {id} was told to have coupon {coupon} already, but does not have it"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;
    use std::time::Duration;

    use tokio::time::Instant;

    use super::*;

    const BASE: u64 = 1000;

    /// An answer to a request that was sent at `sent` seconds and took one.
    fn answer(refusal: Option<&'static str>, hash: u64, sent: u64) -> (Option<&'static str>, Answered) {
        static START: LazyLock<Instant> = LazyLock::new(Instant::now);
        let at = |s| *START + Duration::from_secs(s);
        (refusal, Answered { accepted: refusal.is_none(), hash, sent: at(sent), read: at(sent + 1) })
    }

    fn take(ledger: &mut Ledger, claim: &Claim, (refusal, answer): (Option<&str>, Answered)) -> Result<bool, Broken> {
        ledger.answered(claim, refusal, answer)
    }

    /// Two coupons of limit 1; users 0 and 1 claim coupon 0, user 0 twice.
    fn ledger() -> Ledger {
        let mut ledger = Ledger::new(BASE, 3);
        ledger.add_coupon(1);
        ledger.add_coupon(1);
        for (seq, user) in [0, 1, 0].into_iter().enumerate() {
            let claim = Claim { seq: seq as u64, coupon: 0, user, twice: false };
            assert_eq!(take(&mut ledger, &claim, answer(None, 0, 0)), Ok(true));
        }
        ledger
    }

    fn issued(id: u64) -> Decision {
        Decision { id, coupon: 0, issued: true }
    }

    fn rejected(id: u64) -> Decision {
        Decision { id, coupon: 0, issued: false }
    }

    #[track_caller]
    fn broken(result: Result<(), Broken>, expected: &str) {
        let sentence = result.expect_err(expected);
        assert!(sentence.contains(expected), "{sentence}");
    }

    #[test]
    fn counts_have_to_add_up() {
        let check = |issued, remaining| Counts { coupon_id: 1, limit: 10, issued, remaining }.check();
        check(4, 6).expect("they do");
        broken(check(11, 0), "issued 11 times");
        broken(check(4, 5), "not its limit of 10");
    }

    #[test]
    fn a_coupon_is_issued_to_as_many_as_have_it() {
        let mut ledger = ledger();
        ledger.check_coupon(0, 1, 1).expect("the limit");
        ledger.check_coupon(1, 0, 0).expect("nobody claimed");
        broken(ledger.check_coupon(0, 0, 0), "accepted claims make it 1");
        broken(ledger.check_coupon(0, 1, 2), "2 users have it");
        broken(ledger.check_coupon(1, 1, 1), "accepted claims make it 0");
        let refused = Claim { seq: 9, coupon: 1, user: 2, twice: false };
        take(&mut ledger, &refused, answer(Some("COUPON_SOLD_OUT"), 0, 0)).expect("a refusal");
        broken(ledger.check_coupon(1, 0, 0), "called sold out");
        broken(take(&mut ledger, &refused, answer(Some("COUPON_NOT_FOUND"), 0, 0)).map(drop), "refused with COUPON_NOT_FOUND");
    }

    #[test]
    fn a_user_hears_each_claim_once_and_has_what_was_heard() {
        let mut ledger = ledger();
        ledger.check_user(0, &[BASE], &[issued(1), rejected(2)]).expect("issued, then a duplicate");
        ledger.check_user(1, &[], &[rejected(1)]).expect("too late");
        ledger.check_user(2, &[], &[]).expect("no claim");
        broken(ledger.check_user(0, &[BASE], &[issued(1)]), "2 accepted claims");
        broken(ledger.check_user(0, &[BASE], &[issued(1), rejected(2), rejected(3)]), "2 accepted claims");
        broken(ledger.check_user(0, &[BASE], &[issued(1), issued(2)]), "heard 2 times");
        broken(ledger.check_user(0, &[], &[issued(1), rejected(2)]), "does not have");
        broken(ledger.check_user(1, &[BASE], &[rejected(1)]), "heard 0 times");
        broken(ledger.check_user(0, &[BASE, BASE], &[issued(1), rejected(2)]), "twice");
        broken(ledger.check_user(0, &[7], &[]), "never claimed");
        let again = Claim { seq: 9, coupon: 0, user: 1, twice: false };
        take(&mut ledger, &again, answer(Some("COUPON_ALREADY_ISSUED"), 0, 0)).expect("a refusal");
        broken(ledger.check_user(1, &[], &[rejected(1)]), "told to have");
    }

    #[test]
    fn twins_get_one_answer_and_count_once() {
        let sold_out = Some("COUPON_SOLD_OUT");
        let check = |first, second, expected: Result<u32, &str>| {
            let (mut ledger, claim) = (ledger(), Claim { seq: 5, coupon: 1, user: 2, twice: true });
            assert_eq!(take(&mut ledger, &claim, first), Ok(true));
            let result = take(&mut ledger, &claim, second);
            match expected {
                Ok(accepted) => assert_eq!(result.map(|_| ledger.decisions_due(2)), Ok(accepted as usize)),
                Err(sentence) => broken(result.map(drop), sentence),
            }
        };
        check(answer(None, 7, 0), answer(None, 7, 0), Ok(1));
        check(answer(sold_out, 7, 0), answer(sold_out, 8, 0), Ok(0));
        check(answer(sold_out, 7, 0), answer(None, 8, 2), Ok(1));
        check(answer(None, 7, 0), answer(sold_out, 8, 0), Ok(1));
        check(answer(None, 7, 0), answer(sold_out, 8, 2), Err("a refusal"));
        check(answer(None, 7, 0), answer(None, 8, 0), Err("another answer"));
    }
}
