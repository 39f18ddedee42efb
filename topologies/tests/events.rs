//! A user's stream of events: connected first, one growing sequence, and the same one whenever it is read again.

use std::thread;

use serde_json::json;

use crate::http::{Event, Stream};
use crate::shop::{Shop, fresh_id, shared};

#[track_caller]
fn id(event: &Event) -> u64 {
    event.id.parse().unwrap_or_else(|_| panic!("the id is not a number: {event:?}"))
}

#[track_caller]
fn timestamp(event: &Event) {
    let json = event.json();
    let text = json["timestamp"].as_str().unwrap_or_else(|| panic!("no timestamp: {event:?}"));
    assert!(
        text.len() == 24 && text.ends_with('Z') && text.parse::<jiff::Timestamp>().is_ok(),
        "not ISO-8601 with milliseconds: {text}"
    );
}

/// Makes a user own as many coupons.
fn give(shop: &Shop, user: u64, coupons: usize) -> Vec<u64> {
    (0..coupons)
        .map(|_| {
            let coupon = shop.coupon(1);
            shop.claim_and_wait(coupon, user);
            coupon
        })
        .collect()
}

#[test]
fn connected_comes_first_then_what_happens() {
    let shop = shared();
    let (user, other) = (fresh_id(), fresh_id());
    let coupon = shop.coupon(1);
    let mut stream = shop.subscribe(user, None);
    assert_eq!(stream.head.header("content-type"), Some("text/event-stream"));
    assert_eq!(stream.head.header("cache-control"), Some("no-store"));
    assert_eq!(stream.head.header("x-accel-buffering"), Some("no"));
    let connected = stream.next();
    assert_eq!((connected.name.as_str(), &connected.json()["userId"]), ("connected", &json!(user)));
    timestamp(&connected);
    assert!(stream.raw.starts_with("retry: 2000\n"), "{}", stream.raw);

    let mut others = shop.subscribe(other, None);
    assert_eq!(others.next().name, "connected");
    shop.claim(coupon, user).ok(202);
    let issued = stream.next();
    timestamp(&issued);
    let body = issued.json();
    assert_eq!(issued.name, "coupon-issued");
    assert_eq!((&body["couponId"], &body["couponName"]), (&json!(coupon), &json!(format!("Coupon {coupon}"))));
    assert_eq!(body["message"], "쿠폰이 발급되었습니다");
    assert!(id(&issued) > id(&connected));

    // The other hears only of its own claim, which comes too late.
    let scarce = shop.coupon(1);
    shop.claim(scarce, user).ok(202);
    let late = shop.claim(scarce, other);
    let second = stream.next();
    assert_eq!((second.name.as_str(), &second.json()["couponId"]), ("coupon-issued", &json!(scarce)));
    assert!(id(&second) > id(&issued));
    if late.status == 409 {
        late.refused(409, "COUPON_SOLD_OUT");
        return;
    }
    let rejected = others.next();
    assert_eq!((rejected.name.as_str(), &rejected.json()["couponId"]), ("coupon-rejected", &json!(scarce)));
    assert!(rejected.json()["reason"].as_str().is_some_and(|r| !r.is_empty()), "{rejected:?}");
    timestamp(&rejected);
}

#[test]
fn a_duplicate_claim_is_decided_once_and_rejected_once() {
    let shop = shared();
    let (coupon, user) = (shop.coupon(100), fresh_id());
    let mut stream = shop.subscribe(user, None);
    stream.next();
    let accepted = thread::scope(|scope| {
        let claims: Vec<_> = (0..8).map(|_| scope.spawn(|| shop.claim(coupon, user).status)).collect();
        claims.into_iter().map(|c| c.join().expect("a claim")).filter(|status| *status == 202).count()
    });
    let events: Vec<Event> = (0..accepted).map(|_| stream.next()).collect();
    assert_eq!(events.iter().filter(|e| e.name == "coupon-issued").count(), 1, "{events:?}");
    assert_eq!(events.iter().filter(|e| e.name == "coupon-rejected").count(), accepted - 1, "{events:?}");
    assert!(events.windows(2).all(|pair| id(&pair[0]) < id(&pair[1])), "{events:?}");
}

#[test]
fn a_client_that_returns_gets_what_it_missed_in_order_once() {
    let shop = shared();
    let user = fresh_id();
    give(shop, user, 5);
    let mut stream = shop.subscribe(user, Some("0"));
    let connected = stream.next();
    assert_eq!((connected.name.as_str(), connected.id.as_str()), ("connected", "0"));
    let all: Vec<Event> = (0..5).map(|_| stream.next()).collect();
    assert!(all.windows(2).all(|pair| id(&pair[0]) < id(&pair[1])), "{all:?}");

    for seen in 0..=5 {
        let last = if seen == 0 { "0".to_owned() } else { all[seen - 1].id.clone() };
        let by_header = shop.subscribe(user, Some(&last));
        let by_query = Stream::open(shop.address, &format!("/api/sse/subscribe/{user}?lastEventId={last}"), &[]);
        let path = format!("/api/sse/subscribe/{user}?lastEventId=0");
        let header_wins = Stream::open(shop.address, &path, &[("last-event-id", &last)]);
        for mut stream in [by_header, by_query, header_wins] {
            assert_eq!(stream.next().id, last, "connected carries the client's own id");
            all[seen..].iter().for_each(|event| assert_eq!(stream.next(), *event));
        }
    }
    // Without an id it goes on from the end, and live without a gap.
    let mut fresh = shop.subscribe(user, None);
    assert_eq!(fresh.next().id, all[4].id);
    let mut returned = shop.subscribe(user, Some(&all[3].id));
    let coupons = give(shop, user, 2);
    returned.next();
    assert_eq!(returned.next(), all[4]);
    for coupon in coupons {
        let event = fresh.next();
        assert_eq!(event.json()["couponId"], coupon);
        assert_eq!(returned.next(), event);
        assert_eq!(stream.next(), event);
    }
}

#[test]
fn an_id_that_is_not_one_resets_the_stream() {
    let shop = shared();
    let user = fresh_id();
    give(shop, user, 1);
    for last in ["nonsense", "-1", "99999999999999999999999", "1.5"] {
        let end = shop.subscribe(user, None).next().id;
        let mut stream = shop.subscribe(user, Some(last));
        assert_eq!(stream.next().name, "reset", "{last}");
        let connected = stream.next();
        assert_eq!((connected.name.as_str(), &connected.id), ("connected", &end), "{last}");
        let coupon = give(shop, user, 1)[0];
        assert_eq!(stream.next().json()["couponId"], coupon, "only what is new");
    }
}

#[test]
fn events_keep_their_ids_over_a_crash() {
    let shop = Shop::start();
    let user = fresh_id();
    give(&shop, user, 3);
    let read = |shop: &Shop| {
        let mut stream = shop.subscribe(user, Some("0"));
        stream.next();
        [stream.next(), stream.next(), stream.next()]
    };
    let before = read(&shop);
    let mut lost = shop.subscribe(user, None);
    lost.next();
    let shop = shop.kill_and_restart();
    assert_eq!(lost.maybe_next(), None);
    assert_eq!(read(&shop), before);
    let mut stream = shop.subscribe(user, Some(&before[2].id));
    assert_eq!(stream.next().id, before[2].id);
    give(&shop, user, 1);
    assert!(id(&stream.next()) > id(&before[2]));
}

#[test]
fn an_idle_stream_has_a_heartbeat() {
    shared().subscribe(fresh_id(), None).comment();
}

#[test]
fn messages_come_in_english_where_wanted() {
    let shop = Shop::start_with(&["--lang", "en"]);
    let user = fresh_id();
    let mut stream = shop.subscribe(user, None);
    stream.next();
    give(&shop, user, 1);
    let message = stream.next().json()["message"].as_str().expect("a text").to_owned();
    assert!(!message.is_empty() && message.is_ascii(), "{message}");
}
