//! Views from any process of the shop on a real Kafka: each worker answers for what the others have, and while tasks move an answer is right,
//! says how old it may be, or asks to come again; it is never wrong and never empty. A watch goes on wherever its tasks go.

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::auth::{LATER, SECRET, token};
use crate::http::{Response, Stream};
use crate::kafka::broker::Broker;
use crate::kafka::{directory, printed, start};
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
        let (mut expected, mut counts) = (settled(&api), counted(&api));
        // What users hear is followed where they listen, and by nobody else.
        assert!(expected.remove("notifications").is_some_and(|rows| !rows.is_empty()));
        counts.remove("notifications");
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
        let mut counted = counted(&stays);
        counted.remove("notifications");
        assert_eq!(counted, counts, "nothing is missing in the list");
    }
}

/// Something that the shop counts, by one topology or another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Counted {
    Coupon(u64),
    Points(u64),
    Product(u64),
}

impl Counted {
    fn store(self) -> &'static str {
        match self {
            Counted::Coupon(_) => "coupons",
            Counted::Points(_) => "points",
            Counted::Product(_) => "products",
        }
    }

    fn id(self) -> u64 {
        let (Counted::Coupon(id) | Counted::Points(id) | Counted::Product(id)) = self;
        id
    }

    fn path(self) -> String {
        format!("/views/{}/{}", self.store(), self.id())
    }

    /// One more.
    fn count(self, api: &Shop) {
        match self {
            Counted::Coupon(coupon) => api.claim(coupon, fresh_id()).ok(202),
            Counted::Points(user) => api.post(&format!("/api/users/{user}/points"), &json!({"add": 1})).ok(202),
            Counted::Product(product) => api.post(&format!("/api/products/{product}/stock"), &json!({"add": 1})).ok(202),
        };
    }

    /// How many there are by a value of the store.
    fn counted(self, value: &Value) -> u64 {
        let field = match self {
            Counted::Coupon(_) => "issued",
            Counted::Points(_) => "balance",
            Counted::Product(_) => "available",
        };
        value[field].as_u64().unwrap_or(0)
    }

    /// Waits until a watch of it shows so many, never fewer after more.
    #[track_caller]
    fn await_count(self, watch: &mut Stream, wanted: u64) {
        let mut last = 0;
        loop {
            let event = watch.next();
            assert_eq!(event.name, "change");
            let now = self.counted(&event.json()["value"]);
            assert!(last <= now && now <= wanted, "{now} after {last}: {event:?}");
            last = now;
            if now == wanted {
                return;
            }
        }
    }
}

/// Waits until a watch of the whole store shows as many of each of these.
#[track_caller]
fn await_counts(watch: &mut Stream, counted: &[Counted], wanted: u64) {
    let mut left: BTreeMap<u64, Counted> = counted.iter().map(|one| (one.id(), *one)).collect();
    while !left.is_empty() {
        let event = watch.next();
        let shown = event.json();
        match event.name.as_str() {
            "reset" => assert!(shown["partitions"].as_array().is_some_and(|some| !some.is_empty()), "{event:?}"),
            "change" => {
                let id = shown["key"].as_u64().expect("an id");
                if left.get(&id).is_some_and(|one| one.counted(&shown["value"]) == wanted) {
                    left.remove(&id);
                }
            }
            _ => panic!("{event:?}"),
        }
    }
}

#[test]
fn a_watch_at_any_worker_goes_on_wherever_its_task_goes() {
    for standbys in ["0", "1"] {
        let broker = Broker::start();
        let flags = ["--threads", "1", "--topologies", "coupons,points,inventory", "--standbys", standbys];
        let worker = |state| start(&broker, "worker", state, &flags);
        let (stays, dies) = (worker(directory()), worker(directory()));
        let never = start(&broker, "worker", directory(), &["--threads", "1", "--topologies", "deliveries"]);
        let api = start(&broker, "api", directory(), &[]);
        let await_task = |of: &Shop| {
            let owned = format!("(owner: {},", of.address);
            let tasks = |name: &&str| printed(&["topology", name, "--brokers", &broker.address()]);
            let has_some = || ["coupons", "points", "inventory"].iter().any(|name| tasks(name).contains(&owned));
            eventually(|| has_some().then_some(()));
        };
        await_task(&stays);
        await_task(&dies);
        let coupons = (0..4).map(|_| Counted::Coupon(api.coupon(100)));
        let products = (0..4).map(|_| Counted::Product(api.product(10, 0)));
        let all: Vec<Counted> = coupons.chain(products).chain((0..4).map(|_| Counted::Points(fresh_id()))).collect();
        let count_all = || all.iter().for_each(|one| one.count(&api));

        // At each worker, whoever has the task, also at one that never has any of them; and of a key that nobody has.
        let watch = |shop: &Shop, path: &str| Stream::open(shop.address, path, &[]);
        let nothing = watch(&stays, &format!("/views/coupons/{}", fresh_id())).next();
        assert_eq!((nothing.name.as_str(), &nothing.json()["value"]), ("change", &Value::Null));
        let at = |shop: &Shop| -> Vec<(Counted, Stream)> { all.iter().map(|one| (*one, watch(shop, &one.path()))).collect() };
        let (mut here, mut there) = ([at(&stays), at(&never)].into_iter().flatten().collect::<Vec<_>>(), at(&dies));
        let stores = |shop: &Shop| -> Vec<(Vec<Counted>, Stream)> {
            let store = |some: &[Counted]| (some.to_vec(), watch(shop, &format!("/views/{}", some[0].store())));
            all.chunk_by(|a, b| a.store() == b.store()).map(store).collect()
        };
        let mut stores: Vec<(Vec<Counted>, Stream)> = [&stays, &never].into_iter().flat_map(stores).collect();
        for n in 1..=3 {
            count_all();
            here.iter_mut().chain(&mut there).for_each(|(one, watch)| one.await_count(watch, n));
        }
        drop(there);
        let mut goes_on = |n: u64| {
            here.iter_mut().for_each(|(one, watch)| one.await_count(watch, n));
            stores.iter_mut().for_each(|(some, watch)| await_counts(watch, some, n));
        };

        // The owner of some is killed.
        let state = std::sync::Arc::clone(&dies.data);
        drop(dies);
        let has_gone = |one: &&Counted| {
            let answer = stays.get(&one.path());
            answer.status == 503 || staleness(&answer).is_some()
        };
        assert!(all.iter().filter(has_gone).count() > 0, "the one that was killed had none of {all:?}");
        count_all();
        goes_on(4);

        // It comes back, and the group gives it some.
        let comes = worker(state);
        await_task(&comes);
        count_all();
        goes_on(5);

        // It stands still, with its connections open, and then goes on in vain.
        comes.signal("STOP");
        count_all();
        goes_on(6);
        comes.signal("CONT");
        count_all();
        goes_on(7);
    }
}

/// Whoever follows a task reads the mark of its last transaction as well and stands behind it, and the owner before it. A watch that was told so far
/// goes on at the owner.
#[test]
fn an_owner_tells_of_what_others_have_read_up_to_a_mark() {
    let broker = Broker::start();
    let worker = start(&broker, "worker", directory(), &["--threads", "1", "--topologies", "points"]);
    let api = start(&broker, "api", directory(), &[]);
    let user = fresh_id();
    let added = api.post(&format!("/api/users/{user}/points"), &json!({"add": 5})).position();
    api.get(&format!("/api/users/{user}/points?at_least={added}&wait_ms=10000")).ok(200);
    let stands = |shop: &Shop| -> BTreeMap<u64, u64> {
        let listed = shop.get("/views").ok(200);
        let store = listed["stores"].as_array().expect("a list").iter().find(|store| store["name"] == "points");
        let positions = store.expect("it is listed")["positions"].as_array().expect("a list").clone();
        let number = |position: &Value, of: &str| position[of].as_u64().expect("a number");
        positions.iter().map(|position| (number(position, "partition"), number(position, "offset"))).collect()
    };
    let (partition, mark) = eventually(|| {
        let owner = stands(&worker);
        stands(&api).into_iter().find(|(partition, at)| *at > owner[partition])
    });
    let tasks = format!("shop.points.{partition}@{mark}");
    let mut part = Stream::open(worker.address, "/views/points", &[("x-view-tasks", &tasks)]);
    let begins = part.next().json();
    assert_eq!(begins["Begins"][0][0], partition, "{begins}");
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

#[test]
fn who_asks_too_often_where_a_part_of_the_answer_is_is_told_when_to_come_again() {
    let broker = Broker::start();
    let worker = |flags: &[&str]| start(&broker, "worker", directory(), &[&["--threads", "1"], flags].concat());
    let (asked, _limited) = (worker(&[]), worker(&["--rate-limit", "2"]));
    let refused = eventually(|| {
        let answer = asked.get("/views");
        assert!(matches!(answer.status, 200 | 429 | 503), "{answer:?}");
        (answer.status == 429).then_some(answer)
    });
    refused.refused(429, "RATE_LIMITED");
    let wait = refused.header("retry-after").expect("how long").parse().expect("seconds");
    assert_eq!(wait, 1);
    thread::park_timeout(Duration::from_secs(wait));
    asked.get("/views").ok(200);
}
