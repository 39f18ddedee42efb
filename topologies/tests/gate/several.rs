//! Several `shop api` processes on one Kafka and one Redis: whoever is asked, and whatever befalls Redis or one of the processes, no more are
//! issued than there are, and whoever can have a coupon gets it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;

use tempfile::TempDir;

use super::redis_server::RedisServer;
use super::rush::{Blow, setting, strike};
use super::{claim_until_answered, decided, directory, issued};
use crate::kafka::broker::Broker;
use crate::kafka::start;
use crate::shop::{Shop, eventually, fresh_id};

const APIS: usize = 3;
const CLIENTS: usize = 6;

struct Shops {
    broker: Broker,
    redis: RedisServer,
    worker: Option<(Shop, Arc<TempDir>)>,
    apis: Vec<Shop>,
}

impl Shops {
    fn start() -> Shops {
        let (broker, redis, state) = (Broker::start(), RedisServer::start(&[]), directory());
        let worker = start(&broker, "worker", Arc::clone(&state), &["--threads", "2"]);
        let url = redis.url();
        let apis = (0..APIS).map(|_| start(&broker, "api", directory(), &["--redis", &url])).collect();
        Shops { broker, redis, worker: Some((worker, state)), apis }
    }

    /// The one that judges is killed, and comes back.
    fn restart_worker(&mut self) {
        let (worker, state) = self.worker.take().expect("it runs");
        drop(worker); // by kill -9
        self.worker = Some((start(&self.broker, "worker", Arc::clone(&state), &["--threads", "2"]), state));
    }
}

/// Makes a coupon that all processes know.
fn coupon(apis: &[Shop], limit: u64) -> u64 {
    let coupon = apis[0].coupon(limit);
    for api in apis {
        eventually(|| (api.get(&format!("/api/coupons/{coupon}")).status == 200).then_some(()));
    }
    coupon
}

/// All users claim one coupon, each at some process until it has an answer, and meanwhile something happens. Gives whom they have accepted.
fn rush(apis: &[Shop], coupon: u64, users: &[u64], mut meanwhile: impl FnMut(&AtomicU64)) -> BTreeSet<u64> {
    let (next, done) = (AtomicU64::new(0), AtomicU64::new(0));
    let accepted = Mutex::new(BTreeSet::new());
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                loop {
                    let nth = next.fetch_add(1, Relaxed) as usize;
                    let Some(user) = users.get(nth) else { return };
                    let answer = claim_until_answered(&apis[nth % apis.len()], coupon, *user);
                    if answer.status == 202 {
                        accepted.lock().expect("no panic").insert(*user);
                    } else {
                        answer.refused(409, "COUPON_SOLD_OUT");
                    }
                    done.fetch_add(1, Relaxed);
                }
            });
        }
        meanwhile(&done);
    });
    accepted.into_inner().expect("no panic")
}

#[test]
fn several_processes_share_a_gate_whatever_befalls_redis() {
    let seed = setting("GATE_SEED", u64::from(std::process::id()));
    let claims = setting("GATE_CLAIMS", 240);
    println!("GATE_SEED={seed} GATE_CLAIMS={claims}");
    let mut shops = Shops::start();
    let all = [Blow::Flush, Blow::Kill, Blow::OldCopy];
    // More than can have it, and fewer.
    for (round, limit) in [claims / 3, 2 * claims].into_iter().enumerate() {
        let blows: Vec<Blow> = (0..4).map(|nth| all[(seed as usize + round + nth) % all.len()]).collect();
        println!("limit {limit}, {blows:?}");
        let coupon = coupon(&shops.apis, limit);
        let users: Vec<u64> = (0..claims).map(|_| fresh_id()).collect();
        let Shops { redis, apis, .. } = &mut shops;
        let accepted = rush(apis, coupon, &users, |done| {
            for (part, blow) in (1..).zip(&blows) {
                eventually(|| (done.load(Relaxed) >= part * claims / 10).then_some(()));
                strike(redis, *blow);
            }
        });
        let due = limit.min(claims);
        assert!(accepted.len() as u64 >= due, "{} accepted of {due}", accepted.len());
        for api in apis.iter() {
            eventually(|| (issued(api, coupon) == due).then_some(()));
        }
        // Lists of users are another topology's, and come a moment later.
        let owners = || users.iter().copied().filter(|user| apis[1].coupons_of(*user) == [coupon]).collect::<BTreeSet<u64>>();
        let owners = eventually(|| Some(owners()).filter(|owners| owners.len() as u64 >= due));
        assert_eq!(owners.len() as u64, due, "one each");
        assert!(owners.is_subset(&accepted), "who was refused has none");
        // Nobody claims any more, and all of them find out together what is right.
        if limit > claims {
            let _: String = redis.ask("FLUSHALL");
            eventually(|| (redis.count(coupon) == Some(due)).then_some(()));
        }
    }
    assert!(shops.apis.iter().all(|api| decided(api, "admitted") > 0), "each has let somebody in");
}

#[test]
fn what_a_killed_process_had_let_in_is_free_again() {
    const LIMIT: u64 = 40;
    let mut shops = Shops::start();
    let coupon = coupon(&shops.apis, LIMIT);
    let users: Vec<u64> = (0..LIMIT / 2).map(|_| fresh_id()).collect();
    assert_eq!(rush(&shops.apis, coupon, &users, |_| {}).len(), users.len());
    // As a process leaves it that dies between the gate and its write: users who are let in and never written.
    let [seconds, micros]: [u64; 2] = shops.redis.ask::<Vec<u64>>("TIME").try_into().expect("a time");
    for nobody in 0..LIMIT / 4 {
        let at = seconds * 1_000_000 + micros;
        let _: u64 = shops.redis.ask(&format!("ZADD coupon:{coupon}:admitted {at} {}", 77 + nobody));
        let _: u64 = shops.redis.ask(&format!("INCR coupon:{coupon}:count"));
    }
    drop(shops.apis.remove(0)); // by kill -9
    shops.restart_worker();
    let late: Vec<u64> = (0..LIMIT).map(|_| fresh_id()).collect();
    let accepted = rush(&shops.apis, coupon, &late, |_| {});
    assert!(accepted.len() as u64 >= LIMIT / 2, "{accepted:?}");
    for api in &shops.apis {
        eventually(|| (issued(api, coupon) == LIMIT).then_some(()));
        api.claim(coupon, fresh_id()).refused(409, "COUPON_SOLD_OUT");
    }
}
