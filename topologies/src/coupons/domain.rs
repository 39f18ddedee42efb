//! What a coupon is, and who gets one. Nothing here knows where coupons are kept or who asks: the topology asks for good, and the API
//! asks to tell a caller early what the topology will say.

use millstream::Timestamp;
use serde::{Deserialize, Serialize};

use crate::time::Iso;

/// What a coupon is created with. The first terms hold for good.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Terms {
    /// The coupon.
    pub coupon_id: u64,
    /// For people.
    pub name: String,
    /// How many users can have it.
    pub limit: u64,
    /// Claims before this are refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub opens_at: Option<Iso>,
    /// Claims from this on are refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closes_at: Option<Iso>,
}

/// A coupon and how many of it are issued.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Coupon {
    /// The coupon.
    pub coupon_id: u64,
    /// For people.
    pub name: String,
    /// How many users can have it.
    pub limit: u64,
    /// How many have it, at most `limit`.
    pub issued: u64,
    /// Claims before this are refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub opens_at: Option<Iso>,
    /// Claims from this on are refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closes_at: Option<Iso>,
}

impl Coupon {
    /// A coupon that nobody has yet.
    #[must_use]
    pub fn new(terms: Terms) -> Coupon {
        let Terms { coupon_id, name, limit, opens_at, closes_at } = terms;
        Coupon { coupon_id, name, limit, issued: 0, opens_at, closes_at }
    }

    /// Whether it was created with these terms.
    #[must_use]
    pub fn has_terms(&self, terms: &Terms) -> bool {
        let Terms { coupon_id, name, limit, opens_at, closes_at } = terms;
        (self.coupon_id, &self.name, self.limit, self.opens_at, self.closes_at)
            == (*coupon_id, name, *limit, *opens_at, *closes_at)
    }

    /// How many are left.
    #[must_use]
    pub fn remaining(&self) -> u64 {
        self.limit - self.issued
    }

    fn is_open(&self, at: Timestamp) -> bool {
        self.opens_at.is_none_or(|opens| opens.0 <= at) && self.closes_at.is_none_or(|closes| at < closes.0)
    }
}

/// Why a claim is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    /// There is no such coupon.
    #[serde(rename = "COUPON_NOT_FOUND")]
    NotFound,
    /// The user has it.
    #[serde(rename = "COUPON_ALREADY_ISSUED")]
    AlreadyIssued,
    /// As many users have it as can.
    #[serde(rename = "COUPON_SOLD_OUT")]
    SoldOut,
    /// It is claimed too early or too late.
    #[serde(rename = "COUPON_NOT_OPEN")]
    NotOpen,
}

/// What becomes of a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The user gets the coupon, which is then this.
    Issue(Coupon),
    /// The user does not.
    Refuse(Refusal),
}

/// Decides a claim made at this time. `coupon` is the claimed one, if it exists; `has_it` says whether the user has it already.
///
/// A refusal of a known coupon at one time is for good: coupons are never given back, and terms never change.
#[must_use]
pub fn decide(coupon: Option<Coupon>, has_it: bool, at: Timestamp) -> Decision {
    match coupon {
        None => Decision::Refuse(Refusal::NotFound),
        Some(_) if has_it => Decision::Refuse(Refusal::AlreadyIssued),
        Some(coupon) if coupon.remaining() == 0 => Decision::Refuse(Refusal::SoldOut),
        Some(coupon) if !coupon.is_open(at) => Decision::Refuse(Refusal::NotOpen),
        Some(coupon) => Decision::Issue(Coupon { issued: coupon.issued + 1, ..coupon }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn coupon(issued: u64, opens_at: Option<i64>, closes_at: Option<i64>) -> Coupon {
        let [opens_at, closes_at] = [opens_at, closes_at].map(|at| at.map(|ms| Iso(Timestamp(ms))));
        Coupon { issued, ..Coupon::new(Terms { coupon_id: 7, name: "x".into(), limit: 2, opens_at, closes_at }) }
    }

    #[test]
    fn claims_are_decided_by_coupon_user_and_time() {
        use Refusal::{AlreadyIssued, NotFound, NotOpen, SoldOut};
        let cases = [
            (None, false, 0, Err(NotFound)),
            (None, true, 0, Err(NotFound)),
            (Some(coupon(0, None, None)), false, 0, Ok(())),
            (Some(coupon(1, None, None)), false, 0, Ok(())),
            (Some(coupon(1, None, None)), true, 0, Err(AlreadyIssued)),
            (Some(coupon(2, None, None)), false, 0, Err(SoldOut)),
            (Some(coupon(2, None, None)), true, 0, Err(AlreadyIssued)),
            (Some(coupon(0, Some(10), None)), false, 9, Err(NotOpen)),
            (Some(coupon(0, Some(10), None)), false, 10, Ok(())),
            (Some(coupon(0, None, Some(20))), false, 19, Ok(())),
            (Some(coupon(0, None, Some(20))), false, 20, Err(NotOpen)),
            (Some(coupon(0, Some(10), Some(20))), false, 15, Ok(())),
            (Some(coupon(2, Some(10), None)), false, 9, Err(SoldOut)),
            (Some(coupon(1, None, Some(20))), true, 20, Err(AlreadyIssued)),
        ];
        for (coupon, has_it, at, expected) in cases {
            let issued = coupon.clone().map(|coupon| Coupon { issued: coupon.issued + 1, ..coupon });
            let expected = match (expected, issued) {
                (Err(refusal), _) => Decision::Refuse(refusal),
                (Ok(()), issued) => Decision::Issue(issued.expect("only what exists is issued")),
            };
            assert_eq!(decide(coupon.clone(), has_it, Timestamp(at)), expected, "{coupon:?} {has_it} {at}");
        }
    }

    #[test]
    fn other_terms_are_told_apart() {
        let terms = Terms { coupon_id: 7, name: "x".into(), limit: 2, opens_at: Some(Iso(Timestamp(1))), closes_at: None };
        let coupon = Coupon { issued: 1, ..Coupon::new(terms.clone()) };
        assert!(coupon.has_terms(&terms));
        for others in [
            Terms { name: "y".into(), ..terms.clone() },
            Terms { limit: 3, ..terms.clone() },
            Terms { opens_at: None, ..terms.clone() },
            Terms { closes_at: Some(Iso(Timestamp(9))), ..terms.clone() },
        ] {
            assert!(!coupon.has_terms(&others), "{others:?}");
        }
    }
}
