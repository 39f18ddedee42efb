//! The topology `points`: how many points each user has, and what orders use of them.
//!
//! ```text
//! shop.points ──▶ points ── points, points-of-orders
//!                   └──▶ shop.saga ──▶ orders
//! ```
//! A step of the saga is done once for an order, however often it is asked for: what was done stands in `points-of-orders`, beside the balance and
//! in the same transaction.

use millstream::codec::{Codec, Data, Decimal, Json};
use millstream::{Process, ProcessError, Record, Scope, Store, StreamBuilder, Topic};
use serde::{Deserialize, Serialize};

use crate::events::undecodable;
use crate::orders::domain::{Answer, Step, reason};
use crate::orders::events::END;
use crate::orders::topology::{SAGA, SagaMessage};

/// What is to be done with a user's points, by user.
pub const POINTS_COMMANDS: Topic<u64, PointsCommand> = Topic::with_codecs("shop.points", &Decimal, &Json).partitions(3);

/// Every user's points.
pub const POINTS: Store<u64, Balance> = Store::keyed("points");

/// What orders use, by (user, order).
pub const POINTS_OF_ORDERS: Store<(u64, u64), Taken> = Store::keyed("points-of-orders");

/// A user's points.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Balance {
    /// How many.
    pub balance: u64,
}

impl Balance {
    /// Whether the user can have so many more.
    #[must_use]
    pub fn takes(self, add: u64) -> bool {
        self.balance.checked_add(add).is_some_and(|sum| sum < END)
    }
}

/// What became of an order's points.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Taken {
    /// The order has so many.
    Held(u64),
    /// They are back.
    Returned,
    /// There were not enough.
    Refused,
}

/// What is to be done with a user's points.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum PointsCommand {
    /// The user gets more.
    Add {
        /// How many, 1 or more.
        add: u64,
    },
    /// A step of an order.
    ForOrder {
        /// The order.
        order_id: u64,
        /// The step.
        step: PointsStep,
    },
}

/// What an order does with its user's points.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PointsStep {
    /// It uses so many.
    Take(u64),
    /// It gives back what it took.
    Return,
}

impl Data for PointsCommand {
    const CODEC: &'static dyn Codec<PointsCommand> = &Json;
}

impl Data for Balance {
    const CODEC: &'static dyn Codec<Balance> = &Json;
}

impl Data for Taken {
    const CODEC: &'static dyn Codec<Taken> = &Json;
}

/// Adds the topology.
pub fn declare(builder: &mut StreamBuilder) {
    let points = Process::new("points", take).store(&POINTS).store(&POINTS_OF_ORDERS).sink(&SAGA);
    builder.stream(&POINTS_COMMANDS).process(points);
}

fn take(ctx: &mut Scope<'_, u64, ()>, record: Record<u64, PointsCommand>) -> Result<(), ProcessError> {
    let (user_id, at) = (record.key, record.timestamp);
    let before = ctx.store(&POINTS).get(&user_id)?.unwrap_or_default();
    let balance = before.balance;
    let (order_id, step) = match record.value {
        PointsCommand::Add { add } if before.takes(add) => {
            return ctx.store(&POINTS).put(&user_id, &Balance { balance: balance + add });
        }
        PointsCommand::Add { .. } => return Err(undecodable("points", "a user has fewer than 2^53")),
        PointsCommand::ForOrder { order_id, step } => (order_id, step),
    };
    let before = ctx.store(&POINTS_OF_ORDERS).get(&(user_id, order_id))?;
    let (balance, taken) = decide(balance, before, step);
    if before != Some(taken) {
        ctx.store(&POINTS).put(&user_id, &Balance { balance })?;
        ctx.store(&POINTS_OF_ORDERS).put(&(user_id, order_id), &taken)?;
    }
    let (step, answer) = match (step, taken) {
        (PointsStep::Take(_), Taken::Refused) => (Step::TakePoints, Answer::Refused(reason::INSUFFICIENT_POINTS.into())),
        (PointsStep::Take(_), Taken::Held(_) | Taken::Returned) => (Step::TakePoints, Answer::Done),
        (PointsStep::Return, _) => (Step::ReturnPoints, Answer::Done),
    };
    ctx.send(&SAGA, Record::new(order_id, SagaMessage::Answered { step, answer }, at))
}

/// The balance, and what the order has of it, after a step; `before` is what it had. A step that was done is not done again.
fn decide(balance: u64, before: Option<Taken>, step: PointsStep) -> (u64, Taken) {
    match (before, step) {
        (None, PointsStep::Take(amount)) if amount <= balance => (balance - amount, Taken::Held(amount)),
        (None, PointsStep::Take(_)) => (balance, Taken::Refused),
        (Some(Taken::Held(amount)), PointsStep::Return) => (balance + amount, Taken::Returned),
        // Nothing was taken, and nothing can be taken any more.
        (None, PointsStep::Return) => (balance, Taken::Returned),
        (Some(before), PointsStep::Take(_)) | (Some(before @ (Taken::Returned | Taken::Refused)), PointsStep::Return) => {
            (balance, before)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_taken_and_returned_once() {
        use PointsStep::{Return, Take};
        use Taken::{Held as Took, Refused, Returned};
        for (balance, before, step, expected) in [
            (10, None, Take(4), (6, Took(4))),
            (10, None, Take(10), (0, Took(10))),
            (10, None, Take(11), (10, Refused)),
            (10, None, Return, (10, Returned)),
            (6, Some(Took(4)), Take(4), (6, Took(4))),
            (6, Some(Took(4)), Return, (10, Returned)),
            (10, Some(Returned), Take(4), (10, Returned)),
            (10, Some(Returned), Return, (10, Returned)),
            (10, Some(Refused), Take(4), (10, Refused)),
            (10, Some(Refused), Return, (10, Refused)),
        ] {
            assert_eq!(decide(balance, before, step), expected, "{balance} {before:?} {step:?}");
        }
    }
}
