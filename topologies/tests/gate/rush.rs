//! A rush for coupons while Redis is flushed, killed and started again, on nothing or on an old copy.
//!
//! `GATE_SEED` repeats its choices, `GATE_CLAIMS` makes it longer.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;

use super::redis_server::RedisServer;
use super::{claim_until_answered, gated, issued};
use crate::shop::{Shop, eventually, fresh_id};

const CLIENTS: usize = 8;

pub fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// What happens to Redis.
#[derive(Clone, Copy, Debug)]
pub enum Blow {
    Flush,
    Kill,
    /// It comes back as it was a while ago.
    OldCopy,
}

pub fn strike(redis: &mut RedisServer, blow: Blow) {
    match blow {
        Blow::Flush => {
            let _: String = redis.ask("FLUSHALL");
        }
        Blow::Kill => {
            redis.kill();
            redis.restart();
        }
        Blow::OldCopy => {
            let _: String = redis.ask("SAVE");
            thread::park_timeout(std::time::Duration::from_millis(30));
            redis.kill();
            redis.restart();
        }
    }
}

/// All users claim one coupon, from several clients; each until it has an answer. Gives whom the shop has accepted.
fn rush(shop: &Shop, redis: &mut RedisServer, coupon: u64, users: &[u64], blows: &[Blow]) -> BTreeSet<u64> {
    let (next, done) = (AtomicU64::new(0), AtomicU64::new(0));
    let accepted = Mutex::new(BTreeSet::new());
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                while let Some(user) = users.get(next.fetch_add(1, Relaxed) as usize) {
                    let answer = claim_until_answered(shop, coupon, *user);
                    match answer.status {
                        202 => {
                            accepted.lock().expect("no panic").insert(*user);
                        }
                        _ => {
                            answer.refused(409, "COUPON_SOLD_OUT");
                        }
                    }
                    done.fetch_add(1, Relaxed);
                }
            });
        }
        // Each blow comes after a further part of the claims, so that it meets all at work.
        let parts = blows.len() as u64 + 1;
        for (part, blow) in (1..).zip(blows) {
            eventually(|| (done.load(Relaxed) >= part * users.len() as u64 / parts / 2).then_some(()));
            strike(redis, *blow);
        }
    });
    accepted.into_inner().expect("no panic")
}

#[test]
fn whatever_befalls_redis_all_are_served_and_none_too_many() {
    let seed = setting("GATE_SEED", u64::from(std::process::id()));
    let claims = setting("GATE_CLAIMS", 400);
    println!("GATE_SEED={seed} GATE_CLAIMS={claims}");
    let mut redis = RedisServer::start(&[]);
    let shop = gated(&redis, &[]);
    let all = [Blow::Flush, Blow::Kill, Blow::OldCopy];
    // More than can have it, and fewer.
    for (round, limit) in [claims / 3, 2 * claims].into_iter().enumerate() {
        let mut blows: Vec<Blow> = (0..6).map(|nth| all[(seed as usize + round + nth) % all.len()]).collect();
        blows.rotate_left(seed as usize % 5);
        println!("limit {limit}, {blows:?}");
        let coupon = shop.coupon(limit);
        let users: Vec<u64> = (0..claims).map(|_| fresh_id()).collect();
        let accepted = rush(&shop, &mut redis, coupon, &users, &blows);
        let due = limit.min(claims);
        assert!(accepted.len() as u64 >= due, "{} accepted of {due}", accepted.len());
        eventually(|| (issued(&shop, coupon) == due).then_some(()));
        let owners: BTreeSet<u64> = users.iter().copied().filter(|user| shop.coupons_of(*user) == [coupon]).collect();
        assert_eq!(owners.len() as u64, due, "one each");
        assert!(owners.is_subset(&accepted), "who was refused has none");
        // Nobody claims any more, and the gate still finds out what is right.
        if limit > claims {
            let one_more = fresh_id();
            claim_until_answered(&shop, coupon, one_more).ok(202);
            eventually(|| (issued(&shop, coupon) == due + 1).then_some(()));
            eventually(|| (redis.count(coupon) == Some(due + 1)).then_some(()));
        }
    }
}
