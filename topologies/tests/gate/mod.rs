//! The gate before coupons, on a real Redis that is flushed, killed, frozen and lied to: never more are issued than there are, whoever can
//! have a coupon gets it, and in the end the gate has counted right.

mod redis_server;
mod rush;
mod several;

use std::sync::Arc;
use std::thread;

use tempfile::TempDir;

use self::redis_server::RedisServer;
use crate::cdc::metric;
use crate::http::Response;
use crate::shop::{FREE, Shop, command, dev, eventually, fresh_id, refusal, run_command};

/// A shop with a gate, and further arguments.
fn gated(redis: &RedisServer, args: &[&str]) -> Shop {
    let url = redis.url();
    Shop::start_on_with(directory(), FREE, &[&["--redis", &url], args].concat())
}

fn directory() -> Arc<TempDir> {
    Arc::new(TempDir::new().expect("a directory"))
}

/// How often the gate has decided so.
fn decided(shop: &Shop, decision: &str) -> u64 {
    metric(shop, &format!("shop_gate_decisions_total{{decision=\"{decision}\"}}")) as u64
}

fn issued(shop: &Shop, coupon: u64) -> u64 {
    shop.get(&format!("/api/coupons/{coupon}")).ok(200)["issued"].as_u64().expect("a count")
}

/// Claims until there is an answer that is no invitation to try again.
fn claim_until_answered(shop: &Shop, coupon: u64, user: u64) -> Response {
    eventually(|| {
        let answer = shop.claim(coupon, user);
        if answer.status == 503 {
            answer.refused(503, "NOT_READY");
            assert!(answer.header("retry-after").is_some(), "{answer:?}");
            return None;
        }
        Some(answer)
    })
}

#[test]
fn the_gate_counts_users_and_turns_away_who_comes_late() {
    const LIMIT: u64 = 20;
    let redis = RedisServer::start(&[]);
    let shop = gated(&redis, &[]);
    let coupon = shop.coupon(LIMIT);
    let users: Vec<u64> = (0..3 * LIMIT).map(|_| fresh_id()).collect();
    // All at once, each twice.
    let answers: Vec<Vec<u16>> = thread::scope(|scope| {
        let claims: Vec<_> = users
            .iter()
            .map(|user| scope.spawn(|| [(); 2].map(|()| claim_until_answered(&shop, coupon, *user).status).to_vec()))
            .collect();
        claims.into_iter().map(|claim| claim.join().expect("an answer")).collect()
    });
    let accepted = answers.iter().filter(|answers| answers.contains(&202)).count() as u64;
    assert_eq!(accepted, LIMIT, "{answers:?}");
    assert!(answers.iter().flatten().all(|status| [202, 409].contains(status)), "{answers:?}");
    eventually(|| (issued(&shop, coupon) == LIMIT).then_some(()));
    assert_eq!(redis.count(coupon), Some(LIMIT));
    assert_eq!((decided(&shop, "admitted"), decided(&shop, "down")), (LIMIT, 0));
    let late = fresh_id();
    shop.claim(coupon, late).refused(409, "COUPON_SOLD_OUT");
    let early = users.iter().find(|user| !shop.coupons_of(**user).is_empty()).expect("somebody has it");
    shop.claim(coupon, *early).refused(409, "COUPON_ALREADY_ISSUED");
}

#[test]
fn a_gate_whose_scripts_are_gone_loads_them_again() {
    let redis = RedisServer::start(&[]);
    let shop = gated(&redis, &[]);
    let coupon = shop.coupon(10);
    for user in 0..4 {
        let _: String = redis.ask("SCRIPT FLUSH");
        shop.claim_and_wait(coupon, 1 + user);
    }
    assert_eq!((decided(&shop, "admitted"), decided(&shop, "down"), redis.count(coupon)), (4, 0, Some(4)));
}

#[test]
fn without_redis_the_views_decide_or_nobody() {
    let mut redis = RedisServer::start(&[]);
    let (open, closed) = (gated(&redis, &[]), gated(&redis, &["--gate-down", "closed"]));
    let claim = |shop: &Shop, coupon| claim_until_answered(shop, coupon, fresh_id());
    let coupons = [&open, &closed].map(|shop| shop.coupon(3));
    claim(&open, coupons[0]).ok(202);
    claim(&closed, coupons[1]).ok(202);
    redis.kill();
    claim(&open, coupons[0]).ok(202);
    let refused = closed.claim(coupons[1], fresh_id());
    refused.refused(503, "NOT_READY");
    assert!(refused.header("retry-after").is_some(), "{refused:?}");
    assert_eq!(metric(&closed, "shop_gate_up"), 0.0);
    assert!(decided(&open, "down") > 0 && decided(&closed, "down") > 0);
    assert_eq!(closed.get("/readyz").status, 200, "all but claims goes on");

    redis.restart();
    for (shop, coupon) in [&open, &closed].into_iter().zip(coupons) {
        eventually(|| (metric(shop, "shop_gate_up") == 1.0).then_some(()));
        claim(shop, coupon).ok(202);
    }
    // What was taken without Redis is counted.
    assert_eq!(coupons.map(|coupon| redis.count(coupon)), [Some(3), Some(2)]);
    eventually(|| (issued(&open, coupons[0]) == 3).then_some(()));
    open.claim(coupons[0], fresh_id()).refused(409, "COUPON_SOLD_OUT");

    redis.kill();
    let (data, url) = (Arc::clone(&closed.data), redis.url());
    drop(closed);
    let restarted = Shop::start_on_with(data, FREE, &["--redis", &url, "--gate-down", "closed"]);
    restarted.claim(coupons[1], fresh_id()).refused(503, "NOT_READY");
}

#[test]
fn a_redis_that_hangs_holds_nobody_up_for_long() {
    let redis = RedisServer::start(&[]);
    let shop = gated(&redis, &[]);
    let coupon = shop.coupon(100);
    shop.claim_and_wait(coupon, fresh_id());
    let _: String = redis.ask("CLIENT PAUSE 60000");
    let began = std::time::Instant::now();
    for _ in 0..5 {
        claim_until_answered(&shop, coupon, fresh_id()).ok(202);
    }
    assert!(began.elapsed().as_millis() < 5_000, "{:?}", began.elapsed());
    eventually(|| (issued(&shop, coupon) == 6).then_some(()));
}

#[test]
fn a_gate_that_lies_neither_sells_too_much_nor_too_little() {
    const LIMIT: u64 = 6;
    let redis = RedisServer::start(&[]);
    let shop = gated(&redis, &[]);
    type Lie = fn(u64) -> String;
    let lies: [(&str, Lie); 6] = [
        ("too many", |coupon| format!("SET coupon:{coupon}:count 1000000")),
        ("too few", |coupon| format!("SET coupon:{coupon}:count 0")),
        ("less than none", |coupon| format!("SET coupon:{coupon}:count -50")),
        ("no number", |coupon| format!("SET coupon:{coupon}:count nonsense")),
        ("no set", |coupon| format!("SET coupon:{coupon}:admitted nonsense")),
        ("no generation", |coupon| format!("SET coupon:{coupon}:generation nonsense")),
    ];
    for (what, lie) in lies {
        let coupon = shop.coupon(LIMIT);
        let mut users: Vec<u64> = (0..LIMIT + 4).map(|_| fresh_id()).collect();
        let late = users.split_off(LIMIT as usize);
        for (nth, user) in users.iter().enumerate() {
            if nth % 2 == 1 {
                let _: String = redis.ask(&lie(coupon));
            }
            claim_until_answered(&shop, coupon, *user).ok(202);
        }
        eventually(|| (issued(&shop, coupon) == LIMIT).then_some(()));
        for user in late {
            let _: String = redis.ask(&lie(coupon));
            claim_until_answered(&shop, coupon, user).refused(409, "COUPON_SOLD_OUT");
        }
        assert!(users.iter().all(|user| shop.coupons_of(*user) == [coupon]), "{what}");
    }

    // A lie is found out without another claim, too.
    let coupon = shop.coupon(LIMIT);
    shop.claim_and_wait(coupon, fresh_id());
    for lie in [5, 0] {
        eventually(|| (redis.ask::<u64>(&format!("ZCARD coupon:{coupon}:admitted")) == 0).then_some(()));
        let _: String = redis.ask(&format!("SET coupon:{coupon}:count {lie}"));
        eventually(|| (redis.count(coupon) == Some(1)).then_some(()));
    }
}

#[test]
fn users_that_somebody_made_up_keep_nobody_out() {
    let redis = RedisServer::start(&[]);
    let shop = gated(&redis, &[]);
    let coupon = shop.coupon(2);
    shop.claim_and_wait(coupon, fresh_id());
    // As a process leaves it that dies between the gate and its write.
    let [seconds, micros]: [u64; 2] = redis.ask::<Vec<u64>>("TIME").try_into().expect("a time");
    let _: u64 = redis.ask(&format!("ZADD coupon:{coupon}:admitted {} 77", seconds * 1_000_000 + micros));
    let _: u64 = redis.ask(&format!("INCR coupon:{coupon}:count"));
    let user = fresh_id();
    shop.claim(coupon, user).refused(503, "NOT_READY");
    claim_until_answered(&shop, coupon, user).ok(202);
    eventually(|| (issued(&shop, coupon) == 2).then_some(()));
    eventually(|| (redis.count(coupon) == Some(2)).then_some(()));
    assert!(decided(&shop, "released") + decided(&shop, "rebuilt") > 0);
}

#[test]
fn a_place_is_given_back_when_its_write_has_failed_and_freed_when_nobody_knows() {
    const LIMIT: u64 = 60;
    let redis = RedisServer::start(&[]);
    let url = redis.url();
    let data = directory();
    // The log fails as a full disk does, some writes after the coupon was made.
    let mut failing = command(&dev(FREE, data.path()));
    failing.args(["--redis", &url]).env("MILLSTREAM_FAULT", "log:commit:before-write:40:fail");
    let shop = Shop::spawn(&mut failing, Arc::clone(&data));
    let coupon = shop.coupon(LIMIT);
    let mut accepted = 0;
    let (mut unknown, mut refused) = (0, 0);
    eventually(|| {
        let answer = shop.claim(coupon, fresh_id());
        match answer.status {
            202 => accepted += 1,
            504 => unknown += 1,
            503 => refused += 1,
            _ => panic!("{answer:?}"),
        }
        (refused >= 3).then_some(())
    });
    assert!(accepted < LIMIT, "the log has failed before all were gone");
    assert_eq!(decided(&shop, "given_back"), refused, "{accepted} accepted, {unknown} unknown");
    assert_eq!(redis.count(coupon), Some(accepted + unknown));
    let address = shop.address.to_string();
    drop(shop);

    let shop = Shop::start_on_with(data, &address, &["--redis", &url]);
    let before = issued(&shop, coupon);
    for _ in before..LIMIT {
        claim_until_answered(&shop, coupon, fresh_id()).ok(202);
    }
    eventually(|| (issued(&shop, coupon) == LIMIT).then_some(()));
    shop.claim(coupon, fresh_id()).refused(409, "COUPON_SOLD_OUT");
}

#[test]
fn a_wrong_redis_is_named() {
    let redis = RedisServer::start(&["--requirepass", "secret"]);
    let right = redis.url();
    let data = directory();
    for (url, word) in [("nonsense", "--redis"), ("http://127.0.0.1:1", "--redis"), (&right, "--redis")] {
        let said = refusal(&run_command(command(&dev(FREE, data.path())).args(["--redis", url])));
        assert!(said.contains(word) && !said.contains("secret"), "{said}");
    }
    let with_password = right.replace("redis://", "redis://:secret@");
    let shop = Shop::start_on_with(data, FREE, &["--redis", &with_password]);
    let coupon = shop.coupon(1);
    shop.claim_and_wait(coupon, fresh_id());
    assert_eq!(decided(&shop, "admitted"), 1);
}
