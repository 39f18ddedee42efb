//! Views from any process of the shop on a real Kafka: each worker answers for what the others have, and while tasks move an answer is right,
//! says how old it may be, or asks to come again; it is never wrong and never empty. A watch goes on wherever its tasks go.

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::auth::{LATER, SECRET, token};
use crate::http::{Response, Stream};
use crate::kafka::broker::Broker;
use crate::kafka::{directory, start};
use crate::shop::{Shop, eventually, fresh_id};

/// How many milliseconds the answer may be behind, if it is from a process that follows its task.
fn staleness(answer: &Response) -> Option<u64> {
    answer.header("x-view-staleness-ms").map(|ms| ms.parse().expect("a number"))
}

/// A key of an answer as it stands in a path.
fn path_of(key: &Value) -> String {
    match key {
        Value::Array(parts) => parts.iter().map(path_of).collect::<Vec<_>>().join(","),
        Value::String(text) => text.clone(),
        Value::Object(window) => format!("{},{},{}", path_of(&window["key"]), window["start"], window["end"]),
        number => number.to_string(),
    }
}

/// How many rows each store has, as `GET /views` tells.
fn counted(shop: &Shop) -> BTreeMap<String, u64> {
    let listed = shop.get("/views").ok(200);
    let stores = listed["stores"].as_array().expect("a list").iter();
    stores
        .map(|store| (store["name"].as_str().expect("a name").to_owned(), store["entries"].as_u64().expect("a count")))
        .collect()
}

/// All rows of a store, by pages.
fn rows(shop: &Shop, store: &str) -> Result<Vec<Value>, Response> {
    pages(shop, store, 7)
}

/// The same by pages of this many rows.
pub fn pages(shop: &Shop, store: &str, limit: usize) -> Result<Vec<Value>, Response> {
    let (mut rows, mut after) = (Vec::new(), String::new());
    loop {
        let answer = shop.get(&format!("/views/{store}?limit={limit}{after}"));
        if answer.status == 503 {
            return Err(answer);
        }
        let page = answer.ok(200);
        rows.extend(page["entries"].as_array().expect("a list").iter().cloned());
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => return Ok(rows),
        }
    }
}

/// What a key stands for that several partitions have, each with a value of its own: counters are like that.
fn first<'a>(rows: &'a [Value], row: &Value) -> &'a Value {
    rows.iter().find(|other| other["key"] == row["key"]).expect("it is one of them")
}

/// Some of everything that the shop knows.
fn fill(api: &Shop) {
    let (product, coupon) = (api.product(1_000, 100), api.coupon(100));
    for user in (0..8).map(|_| fresh_id()) {
        api.post(&format!("/api/users/{user}/points"), &json!({"add": 100})).ok(202);
        api.claim_and_wait(coupon, user);
        api.confirmed(user, product);
    }
    for _ in 0..8 {
        api.coupon(5);
        api.product(10, 10);
    }
}

/// Waits until nothing is on its way any more, and gives all rows of all stores.
fn settled(api: &Shop) -> BTreeMap<String, Vec<Value>> {
    let read = || -> BTreeMap<String, Vec<Value>> {
        counted(api).into_keys().map(|store| (store.clone(), rows(api, &store).expect("it follows everything"))).collect()
    };
    let (mut last, mut alike) = (read(), 0);
    eventually(|| {
        thread::park_timeout(Duration::from_millis(100));
        let now = read();
        alike = if now == last { alike + 1 } else { 0 };
        last = now;
        (alike == 5).then(|| last.clone())
    })
}

#[test]
fn every_key_is_read_from_every_worker_also_while_tasks_move() {
    for standbys in ["0", "1"] {
        let broker = Broker::start();
        let worker = || start(&broker, "worker", directory(), &["--threads", "1", "--standbys", standbys]);
        let (stays, dies) = (worker(), worker());
        let api = start(&broker, "api", directory(), &[]);
        fill(&api);
        let expected = settled(&api);
        assert!(expected.values().filter(|rows| rows.len() > 1).count() > 8, "{expected:?}");
        println!("{} stores, {} rows", expected.len(), expected.values().map(Vec::len).sum::<usize>());

        // Wherever it is asked for.
        for worker in [&stays, &dies] {
            eventually(|| (counted(worker) == counted(&api)).then_some(()));
            for (store, rows) in &expected {
                assert_eq!(&self::rows(worker, store).expect("everybody is there"), rows, "{store}");
                for row in rows {
                    let path = format!("/views/{store}/{}", path_of(&row["key"]));
                    let answer = worker.get(&path);
                    assert_eq!(&answer.ok(200), first(rows, row), "{path}");
                    assert_eq!(staleness(&answer), None, "its owner is there: {path}");
                }
                worker.get(&format!("/views/{store}/nonsense/x")).refused(404, "NOT_FOUND");
            }
            // Rows of one key that are in several partitions are all there, wherever a page ends.
            let counts = &expected["order-counts"];
            assert!(counts.windows(2).any(|two| two[0]["key"] == two[1]["key"]), "{counts:?}");
            for limit in [1, 2, 500] {
                assert_eq!(&pages(worker, "order-counts", limit).expect("everybody is there"), counts, "pages of {limit}");
            }
            worker.get(&format!("/views/coupons/{}", fresh_id())).refused(404, "KEY_NOT_FOUND");
            worker.get("/views/coupons?at_least=nonsense").refused(400, "INVALID_FIELD");
        }

        // What one process has written is seen in the others by who asks for it.
        let coupon = api.coupon(50);
        for n in 1..=20 {
            let token = api.claim(coupon, fresh_id()).position();
            for worker in [&stays, &dies] {
                let seen = worker.get(&format!("/views/coupons/{coupon}?at_least={token}&wait_ms=10000")).ok(200);
                assert_eq!(seen["value"]["issued"], n);
            }
        }
        let (expected, counts) = (settled(&api), counted(&api));
        // It follows every task, so it would answer for those of the dead.
        api.signal("TERM");
        assert!(api.wait(Duration::from_secs(10)).success());

        // A task whose owner has died is nowhere, or where it was followed, and then where it goes.
        dies.signal("KILL");
        drop(dies);
        let (mut refused, mut followed) = (0, 0);
        eventually(|| {
            let (mut missing, mut stale) = (0, 0);
            for (store, rows) in &expected {
                for row in rows {
                    let path = format!("/views/{store}/{}", path_of(&row["key"]));
                    let answer = stays.get(&path);
                    if answer.status == 503 {
                        answer.refused(503, "NOT_READY");
                        assert!(answer.header("retry-after").is_some(), "{answer:?}");
                        missing += 1;
                        continue;
                    }
                    // Where the first of several partitions that have the key is missing, another answers.
                    assert!(answer.ok(200)["key"] == row["key"] && rows.contains(&answer.json()), "{path}: {answer:?}");
                    stale += u32::from(staleness(&answer).is_some());
                }
                match self::rows(&stays, store) {
                    Ok(found) => assert_eq!(&found, rows, "{store}"),
                    Err(answer) => drop(answer.refused(503, "NOT_READY")),
                }
            }
            (refused, followed) = (refused + missing, followed + stale);
            (missing + stale == 0).then_some(())
        });
        println!("with {standbys} standbys: {refused} answers were 503, {followed} from who follows, then all were right");
        // Who follows a task does not answer while it takes it over.
        match standbys {
            "0" => assert!(refused > 0 && followed == 0, "nobody else has the tasks of the dead"),
            _ => assert!(followed > 0, "who follows a task answers for it"),
        }
        assert_eq!(counted(&stays), counts, "nothing is missing in the list");
    }
}

/// How many of a coupon are issued, by the events of a watch from here on: waits until there are so many. A value of it is never followed by
/// an older one.
#[track_caller]
fn await_issued(watch: &mut Stream, coupon: u64, wanted: u64) {
    let mut last = None;
    while last != Some(wanted) {
        let event = watch.next();
        if event.name == "change" && event.json()["key"] == coupon {
            let issued = event.json()["value"]["issued"].as_u64();
            assert!(issued >= last, "{issued:?} after {last:?}");
            last = issued;
        }
    }
}

#[test]
fn a_watch_at_any_worker_goes_on_wherever_its_task_goes() {
    for standbys in ["0", "1"] {
        let broker = Broker::start();
        let worker = |state| start(&broker, "worker", state, &["--threads", "1", "--standbys", standbys]);
        let (stays, dies) = (worker(directory()), worker(directory()));
        let api = start(&broker, "api", directory(), &[]);
        let coupons: Vec<u64> = (0..8).map(|_| api.coupon(100)).collect();
        let claim_all = || coupons.iter().for_each(|coupon| drop(api.claim(*coupon, fresh_id()).ok(202)));

        // At each worker, whoever has the coupon; and of a key that nobody has.
        let watch = |shop: &Shop, path: &str| Stream::open(shop.address, path, &[]);
        let one = |shop: &Shop, coupon: &u64| watch(shop, &format!("/views/coupons/{coupon}"));
        let mut at_both: Vec<(u64, Stream)> =
            [&stays, &dies].iter().flat_map(|shop| coupons.iter().map(|coupon| (*coupon, one(shop, coupon)))).collect();
        let nobody = fresh_id();
        let first = watch(&stays, &format!("/views/coupons/{nobody}")).next();
        assert_eq!((&first.json()["key"], &first.json()["value"]), (&json!(nobody), &Value::Null));
        for issued in 0..3 {
            at_both.iter_mut().for_each(|(coupon, watch)| await_issued(watch, *coupon, issued));
            claim_all();
        }
        at_both.iter_mut().for_each(|(coupon, watch)| await_issued(watch, *coupon, 3));
        drop(at_both.split_off(coupons.len()));
        let mut watches = at_both;
        let mut all = watch(&stays, "/views/coupons");

        // The owner of some is killed.
        let state = std::sync::Arc::clone(&dies.data);
        drop(dies);
        let moved = coupons.iter().filter(|coupon| {
            let answer = stays.get(&format!("/views/coupons/{coupon}"));
            answer.status == 503 || staleness(&answer).is_some()
        });
        assert!(moved.count() > 0, "the one that was killed had none of {coupons:?}");
        claim_all();
        let mut goes_on = |issued: u64| {
            watches.iter_mut().for_each(|(coupon, watch)| await_issued(watch, *coupon, issued));
            let mut missing: BTreeMap<u64, bool> = coupons.iter().map(|coupon| (*coupon, true)).collect();
            while missing.values().any(|missing| *missing) {
                let event = all.next();
                match event.name.as_str() {
                    "reset" => assert!(event.json()["partitions"].as_array().is_some_and(|some| !some.is_empty()), "{event:?}"),
                    "change" => {
                        let shown = event.json();
                        let coupon = shown["key"].as_u64().expect("an id");
                        let now = shown["value"]["issued"].as_u64().expect("a number");
                        assert!(now <= issued, "{event:?}");
                        missing.insert(coupon, now < issued);
                    }
                    _ => panic!("{event:?}"),
                }
            }
        };
        goes_on(4);

        // It comes back, and the group gives it some.
        let comes = worker(state);
        claim_all();
        goes_on(5);

        // It stands still, with its connections open.
        comes.signal("STOP");
        claim_all();
        goes_on(6);
        comes.signal("CONT");
        claim_all();
        goes_on(7);
    }
}

#[test]
fn a_worker_asks_others_with_the_authority_of_who_asks_it() {
    let (broker, secret) = (Broker::start(), directory());
    let file = secret.path().join("secret");
    std::fs::write(&file, SECRET).expect("a file");
    let flags = ["--auth-secret-file", file.to_str().expect("UTF-8")];
    let worker = || start(&broker, "worker", directory(), &[&["--threads", "1"], &flags[..]].concat());
    let workers = [worker(), worker()];
    let api = start(&broker, "api", directory(), &flags);
    let [admin, user] = ["admin", "user"].map(|role| token("7", role, LATER));
    let coupons: Vec<u64> = (0..12).map(|_| fresh_id()).collect();
    for coupon in &coupons {
        let body = json!({"couponId": coupon, "name": "x", "limit": 1}).to_string();
        let made = api.request("POST", "/api/coupons", &[("authorization", &admin)], body.as_bytes());
        assert_eq!(made.status, 201, "{made:?}");
    }
    for worker in &workers {
        let get = |path: &str, token: &str| worker.request("GET", path, &[("authorization", token)], b"");
        for coupon in &coupons {
            let path = format!("/views/coupons/{coupon}");
            eventually(|| (get(&path, &admin).status == 200).then_some(()));
            get(&path, &user).refused(403, "FORBIDDEN");
            worker.get(&path).refused(401, "UNAUTHORIZED");
        }
        let asked = get("/views/coupons?limit=100", &admin).ok(200);
        assert_eq!(asked["entries"].as_array().map(Vec::len), Some(coupons.len()), "{asked}");
    }
}
