//! Counting a coupon anew, and settling who has waited long enough: where Redis and the views are brought together.
//!
//! Counting closes the gate first, so that nobody is let in meanwhile, by whatever process. The count is then how many have the coupon, by a
//! view that has reached the end of the log as it was after that, and who waits: whoever Redis knows of, and whoever this process has let in
//! within the lease, unless the view has them already. That must be read as of one moment: if more have the coupon afterwards than
//! before, it is read again. Several processes may count at once, by the same closing; the first opens the gate, and the others find
//! another generation then, see whether their own are counted, and if not, count once more. So whoever was let in is counted once: among
//! those who have the coupon, or among those who wait.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use uuid::Uuid;

use super::scripts::{Trouble, Waiting};
use super::{Blind, Book, Gate, LEASE};

/// How often it is tried to read view and Redis as of one moment.
const TRIES: usize = 50;
const REST: Duration = Duration::from_millis(2);
const LEASE_US: u64 = LEASE.as_micros() as u64;

/// What becomes of who waits, when the gate is counted.
#[derive(Debug, Default, PartialEq, Eq)]
struct Sorted {
    /// They have the coupon, or have waited for longer than the lease.
    gone: Vec<u64>,
    /// They wait, and Redis does not know it.
    added: Vec<(u64, u64)>,
}

/// Sorts who waits. `own` is whom this process has let in within the lease, by Redis at a time, or without it.
fn sorted<E>(
    waiting: &Waiting,
    own: &HashMap<u64, Option<u64>>,
    mut has_it: impl FnMut(u64) -> Result<bool, E>,
) -> Result<Sorted, E> {
    let mut sorted = Sorted::default();
    for (user, since) in &waiting.users {
        // What this process still has on its way is not gone, however late it is by Redis' clock.
        let is_late = waiting.now.saturating_sub(*since) > LEASE_US && !own.contains_key(user);
        if is_late || has_it(*user)? {
            sorted.gone.push(*user);
        }
    }
    let known: HashSet<u64> = waiting.users.iter().map(|(user, _)| *user).collect();
    for (user, since) in own.iter().filter(|(user, _)| !known.contains(user)) {
        if !has_it(*user)? {
            sorted.added.push((*user, since.unwrap_or(waiting.now)));
        }
    }
    Ok(sorted)
}

impl Gate {
    /// Finds a gate of another generation than is known: it is taken as it is if it counts all that this process has let in.
    pub(super) async fn learn(&self, book: &Book, coupon: u64, known: &str, found: &str, session: u64) -> Result<(), Blind> {
        if found.is_empty() || found.starts_with('-') {
            return self.recount(book, coupon, known, session).await;
        }
        let mut own = Vec::new();
        for user in book.users().into_keys() {
            if !self.has_it(coupon, user)? {
                own.push(user);
            }
        }
        if own.is_empty() || self.redis.has_all(coupon, found, &own).await? {
            book.set_generation(session, found);
            return Ok(());
        }
        self.recount(book, coupon, known, session).await
    }

    /// Counts the coupon anew, unless another has since the gate was of the `known` generation.
    pub(super) async fn recount(&self, book: &Book, coupon: u64, known: &str, session: u64) -> Result<(), Blind> {
        let _alone = book.counting.lock().await;
        if book.generation(session).unwrap_or_default() != known {
            return Ok(());
        }
        for _ in 0..TRIES {
            let closed = self.redis.close(coupon, &format!("-{}", Uuid::new_v4().simple())).await?;
            self.coupons.catch_up().await?;
            let issued = self.issued(coupon)?;
            let Some(waiting) = self.redis.waiting(coupon, &closed, 0).await? else { continue };
            let Sorted { gone, added } = sorted(&waiting, &book.users(), |user| self.has_it(coupon, user))?;
            if self.issued(coupon)? != issued {
                tokio::time::sleep(REST).await;
                continue;
            }
            let generation = Uuid::new_v4().simple().to_string();
            if self.redis.open(coupon, [&closed, &generation], issued, &gone, &added).await? {
                book.set_generation(session, &generation);
                self.counts.rebuilt();
                tracing::info!(
                    coupon,
                    issued,
                    waiting = waiting.all,
                    added = added.len(),
                    "the gate of a coupon was counted anew"
                );
                return Ok(());
            }
        }
        Err(Blind::Redis)
    }

    /// Settles who has waited for longer than the lease, and counts anew where the views do not agree with Redis.
    pub(super) async fn look_after(&self, book: &Book, coupon: u64, session: u64) -> Result<(), Blind> {
        let known = book.generation(session).unwrap_or_default();
        let waiting = match self.redis.waiting(coupon, &known, LEASE_US).await {
            Ok(waiting) => waiting,
            Err(Trouble::Damaged) => return self.recount(book, coupon, &known, session).await,
            Err(Trouble::Away) => return Err(Blind::Redis),
        };
        let Some(Waiting { count, all, users, .. }) = waiting else {
            let found = self.redis.generation(coupon).await?;
            return self.learn(book, coupon, &known, &found, session).await;
        };
        if !users.is_empty() {
            self.coupons.catch_up().await?;
            let mut settled = Vec::with_capacity(users.len());
            for (user, since) in users {
                let leaves = !self.has_it(coupon, user)?;
                settled.push((user, since, leaves));
            }
            return match self.redis.settle(coupon, &known, &settled).await {
                Ok(is_settled) => {
                    let released = settled.iter().filter(|(_, _, leaves)| *leaves).count() as u64;
                    self.counts.released(if is_settled { released } else { 0 });
                    Ok(())
                }
                Err(Trouble::Damaged) => self.recount(book, coupon, &known, session).await,
                Err(Trouble::Away) => Err(Blind::Redis),
            };
        }
        let right = book.inner.lock().right;
        if all > 0 || (right.is_some() && count == right) {
            return Ok(());
        }
        self.coupons.catch_up().await?;
        if count == Some(self.issued(coupon)?) {
            book.inner.lock().right = count;
            return Ok(());
        }
        self.recount(book, coupon, &known, session).await
    }

    fn issued(&self, coupon: u64) -> Result<u64, Blind> {
        Ok(self.coupons.now(coupon)?.ahead().map_or(0, |coupon| coupon.issued))
    }

    fn has_it(&self, coupon: u64, user: u64) -> Result<bool, Blind> {
        let partition = self.coupons.partition(coupon)?;
        let claim = self.claims.get_in(partition, &(coupon, user));
        Ok(claim.map_err(millstream::serve::ApiError::from)?.ahead().is_some())
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    #[test]
    fn who_was_let_in_is_counted_once() {
        let now = 100_000_000;
        let has_it = |user: u64| Ok::<_, Infallible>(user.is_multiple_of(2));
        let check = |users: &[(u64, u64)], own: &[(u64, Option<u64>)], gone: &[u64], added: &[(u64, u64)]| {
            let waiting = Waiting { now, count: None, all: users.len() as u64, users: users.to_vec() };
            let Ok(mut found) = sorted(&waiting, &own.iter().copied().collect(), has_it);
            found.added.sort_unstable();
            assert_eq!(found, Sorted { gone: gone.to_vec(), added: added.to_vec() }, "{users:?} {own:?}");
        };
        let old = now - LEASE_US - 1;
        check(&[(1, now)], &[], &[], &[]); // on its way
        check(&[(2, now)], &[], &[2], &[]); // has it, so the view counts it
        check(&[(1, old)], &[], &[1], &[]); // came to nothing
        check(&[], &[(1, Some(7)), (2, Some(8)), (3, None)], &[], &[(1, 7), (3, now)]); // after a flush
        check(&[(1, old)], &[(1, Some(9))], &[], &[]); // a slow one of ours
    }
}
