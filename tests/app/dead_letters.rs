//! Dead letters of a running application: listed with their cause, and replayed to the sub-topology that failed, to no other.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use millstream::{
    Handle, Headers, Offset, Partition, Process, ProcessError, Record, Replayed, Scope, Seen, Selection, Store, StreamBuilder,
    TimeDomain, Timestamp, Topic,
};

use super::support::{IN, OUT, SUMS, append, catch_up, eventually, read, record, start, sum, values, wait};

const SEEN: Store<String, i64> = Store::keyed("seen");

/// Two sub-topologies: one sums up and fails for negative values while it is broken, and the one after it counts what it hears.
fn fragile(broken: &Arc<AtomicBool>) -> StreamBuilder {
    let broken = Arc::clone(broken);
    let mut builder = StreamBuilder::new("app");
    let process = Process::new("sum", move |ctx: &mut Scope<'_, String, i64>, record: Record<String, i64>| {
        let sum = ctx.store(&SUMS).get(&record.key)?.unwrap_or(0) + record.value;
        ctx.store(&SUMS).put(&record.key, &sum)?;
        ctx.forward(record.clone().with_value(sum))?;
        if record.value < 0 && broken.load(Ordering::Relaxed) {
            return Err(ProcessError::failed("negative"));
        }
        Ok(())
    });
    let sums = builder.stream(&IN).process(process.store(&SUMS));
    sums.to(&OUT);
    sums.group_by("again", |key, _| key.clone()).count("heard");
    builder
}

fn replay(handle: &Handle, selection: &Selection, dry_run: bool) -> Replayed {
    wait(handle.dead_letters().replay("in.dlq", selection, dry_run)).expect("the log takes it").expect("the topic is known")
}

fn parked(handle: &Handle) -> Vec<millstream::ParkedRecord> {
    handle.dead_letters().read("in.dlq", None, 100).expect("the log answers").expect("the topic is known")
}

#[test]
fn a_parked_record_is_listed_and_when_replayed_processed_once_where_it_failed() {
    let dir = tempfile::tempdir().expect("a directory");
    let broken = Arc::new(AtomicBool::new(true));
    let app = start(fragile(&broken), dir.path());
    let handle = app.handle();
    append(&handle, "a", 10);
    let negative = Record { headers: Headers::EMPTY.with("origin", "test"), ..record("a", -3) };
    handle.append_blocking(millstream::Events::new().with(&IN, &negative)).expect("the log takes it");
    append(&handle, "a", 100);
    catch_up(&handle, "heard");
    assert_eq!(sum(&handle, "a"), Some(110));
    assert!(handle.dead_letters().topics().expect("the log answers").contains(&("in.dlq".to_owned(), 1)));
    let letters = parked(&handle);
    let failure = letters[0].failure.clone().expect("an engine parked it");
    assert_eq!((failure.cause.as_str(), failure.node.as_str(), failure.offset), ("Failed: negative", "sum", Offset(1)));
    assert_eq!(letters[0].headers, negative.headers);

    // Still broken: it is parked again, under the place where it was read first.
    assert_eq!(replay(&handle, &Selection::default(), true), Replayed { matched: 1, replayed: 0 });
    assert_eq!(replay(&handle, &Selection::default(), false), Replayed { matched: 1, replayed: 1 });
    eventually("it is parked again", || parked(&handle).len() == 2);
    let again = parked(&handle).pop().expect("there are two");
    let again_failure = again.failure.expect("an engine parked it");
    assert_eq!((again_failure.offset, &again_failure.topic), (failure.offset, &failure.topic));
    assert_eq!(again.headers, negative.headers);

    broken.store(false, Ordering::Relaxed);
    let other_key = Selection { key: Some(b"b".to_vec()), ..Selection::default() };
    assert_eq!(replay(&handle, &other_key, false), Replayed::default());
    let later = Selection { from: Some(handle.now().plus_ms(60_000)), ..Selection::default() };
    assert_eq!(replay(&handle, &later, false), Replayed::default());
    let lately = Selection { from: Some(handle.now().plus_ms(-60_000)), key: Some(b"a".to_vec()), ..Selection::default() };
    assert_eq!(replay(&handle, &lately, false), Replayed { matched: 2, replayed: 2 });
    catch_up(&handle, "heard");
    assert_eq!(sum(&handle, "a"), Some(104), "each of the two letters was processed once");
    let key = handle.view("heard").expect("a store").key_from_text("a").expect("a key");
    let heard =
        handle.view("heard").expect("a store").get(&key).and_then(Seen::wait).expect("the view answers").expect("it was heard");
    assert_eq!(heard[..], 4u64.to_be_bytes());
    drop(handle);
    app.stop();
    assert_eq!(values(dir.path(), &OUT, "a"), [10, 110, 107, 104]);
    let outputs = read(dir.path(), &OUT);
    let with_headers: Vec<_> = outputs.iter().filter(|record| !record.headers.is_empty()).collect();
    assert!(with_headers.iter().all(|record| record.headers == negative.headers), "a replay is not seen in what it emits");
    assert_eq!(read(dir.path(), &IN).len(), 3, "the source topic has nothing twice");
}

#[test]
fn a_record_of_the_largest_size_can_be_parked() {
    let dir = tempfile::tempdir().expect("a directory");
    let texts: Topic<String, String> = Topic::new("texts");
    let mut builder = StreamBuilder::new("app");
    let process =
        Process::new("fussy", |ctx: &mut Scope<'_, String, i64>, record: Record<String, String>| match record.value.len() {
            0..100 => ctx.store(&SEEN).put(&record.key, &1),
            _ => Err(ProcessError::Unwritable("long".repeat(10_000))),
        });
    builder.stream(&texts).process(process.store(&SEEN));
    let app = start(builder, dir.path());
    let handle = app.handle();
    let text = |key: &str, len: usize| {
        let record = Record::new(key.to_owned(), "x".repeat(len), handle.now());
        handle.append_blocking(millstream::Events::new().with(&texts, &record)).map(drop)
    };
    let largest = (1 << 20) - 3;
    text("big", largest).expect("the log takes it");
    assert!(text("big", largest + 1).is_err(), "that was the largest");
    text("small", 1).expect("the log takes it");
    catch_up(&handle, "seen");
    let seen = handle.view("seen").expect("a store").typed(&SEEN);
    assert_eq!(seen.get(&"small".to_owned()).and_then(Seen::wait).expect("the view answers"), Some(1));
    let letters = handle.dead_letters().read("texts.dlq", None, 10).expect("the log answers").expect("the topic is known");
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].value.as_ref().map(|value| value.len()), Some(largest), "all of it is kept");
    assert_eq!(letters[0].failure.as_ref().expect("an engine parked it").offset, Offset(0));
}

#[test]
fn a_row_that_the_changelog_would_refuse_is_the_records_failure() {
    let dir = tempfile::tempdir().expect("a directory");
    let rows: Store<String, String> = Store::keyed("rows");
    let mut builder = StreamBuilder::new("app");
    let process = Process::new("grow", |ctx: &mut Scope<'_, String, i64>, record: Record<String, i64>| {
        let rows: Store<String, String> = Store::keyed("rows");
        ctx.store(&rows).put(&record.key, &"x".repeat(record.value as usize))
    });
    builder.stream(&IN).process(process.store(&rows));
    let app = start(builder, dir.path());
    let handle = app.handle();
    append(&handle, "a", 3);
    append(&handle, "a", 2 << 20);
    append(&handle, "b", 4);
    catch_up(&handle, "rows");
    let view = handle.view("rows").expect("a store").typed(&rows);
    assert_eq!(view.get(&"a".to_owned()).and_then(Seen::wait).expect("the view answers").map(|row| row.len()), Some(3));
    assert_eq!(view.get(&"b".to_owned()).and_then(Seen::wait).expect("the view answers").map(|row| row.len()), Some(4));
    assert_eq!(parked(&handle).len(), 1);
}

#[test]
fn a_parked_timer_fires_again_when_it_is_replayed() {
    let dir = tempfile::tempdir().expect("a directory");
    let broken = Arc::new(AtomicBool::new(true));
    // Merged from topics of different size: a failing timer's task may have no partition in the smaller one.
    let small: Topic<String, i64> = Topic::new("small").keep_forever();
    let topology = || {
        let broken = Arc::clone(&broken);
        let mut builder = StreamBuilder::new("app");
        let process = Process::new("timer", |ctx: &mut Scope<'_, String, i64>, record: Record<String, i64>| {
            ctx.schedule(TimeDomain::WallClock, Timestamp(record.value), &record.key)
        });
        let process = process.store(&SUMS).on_timer(|ctx, key: String, at| {
            let fired = ctx.store(&SUMS).get(&key)?.unwrap_or(0);
            ctx.store(&SUMS).put(&key, &(fired + 1))?;
            ctx.forward(Record::new(key, at.0, at))
        });
        // What fails is downstream of the node whose timer it is.
        let checked = Process::new("checked", move |ctx: &mut Scope<'_, String, i64>, record: Record<String, i64>| match broken
            .load(Ordering::Relaxed)
        {
            true => Err(ProcessError::Unwritable(format!("no time for {}", record.key))),
            false => ctx.forward(record),
        });
        let (first, second) = (builder.stream(&small), builder.stream(&IN));
        first.merge(&second).process(process).process(checked).to(&OUT);
        builder
    };
    let app = start(topology(), dir.path());
    let handle = app.handle();
    let keys: Vec<String> = (0..12).map(|n| format!("key-{n}")).collect();
    for (key, n) in keys.iter().zip(0..) {
        append(&handle, key, 1_000 + n);
    }
    // Timers are parked beside the first topic that their task reads.
    let parked_in = |topic| handle.dead_letters().read(topic, None, 100).expect("the log answers").expect("the topic is known");
    let all_parked = || [parked_in("small.dlq"), parked_in("in.dlq")].concat();
    let replay = |selection: &Selection, dry_run| {
        let in_topic = |topic| {
            wait(handle.dead_letters().replay(topic, selection, dry_run)).expect("the log takes it").expect("it is known")
        };
        let [a, b] = ["small.dlq", "in.dlq"].map(in_topic);
        Replayed { matched: a.matched + b.matched, replayed: a.replayed + b.replayed }
    };
    eventually("all timers are parked", || all_parked().len() == 12);
    let letters = all_parked();
    assert!(letters.iter().any(|letter| letter.partition != Partition(0)), "the timers of other tasks, too");
    let failure = letters[0].failure.clone().expect("an engine parked it");
    assert_eq!((failure.node.as_str(), &letters[0].value), ("checked", &None));
    assert_eq!(sum(&handle, &keys[0]), None, "what it had written is undone");

    // Still broken: parked again, and not lost.
    assert_eq!(replay(&Selection::default(), true), Replayed { matched: 12, replayed: 0 });
    let one = Selection { key: letters[0].key.as_ref().map(|key| key.to_vec()), ..Selection::default() };
    // Where it lies, for it may be parked again beside the other topic before that is looked through.
    let of_first = if parked_in("small.dlq").is_empty() { "in.dlq" } else { "small.dlq" };
    let replayed = wait(handle.dead_letters().replay(of_first, &one, false)).expect("the log takes it").expect("it is known");
    assert_eq!(replayed, Replayed { matched: 1, replayed: 1 });
    eventually("it is parked again", || all_parked().len() == 13);
    broken.store(false, Ordering::Relaxed);
    let lately = Selection { from: Some(handle.now().plus_ms(-60_000)), ..Selection::default() };
    assert_eq!(replay(&lately, false), Replayed { matched: 13, replayed: 13 });
    let twice = String::from_utf8(letters[0].key.as_ref().expect("its key").to_vec()).expect("text");
    let times = |key: &String| if *key == twice { 2 } else { 1 };
    eventually("they have fired", || keys.iter().all(|key| sum(&handle, key) == Some(times(key))));
    drop(handle);
    app.stop();
    // A restart fires nothing again.
    let app = start(topology(), dir.path());
    let handle = app.handle();
    append(&handle, "last", 1);
    eventually("the last has fired", || sum(&handle, "last") == Some(1));
    assert!(keys.iter().all(|key| sum(&handle, key) == Some(times(key))));
    drop(handle);
    app.stop();
    for (key, n) in keys.iter().zip(0..) {
        assert_eq!(values(dir.path(), &OUT, key), vec![1_000 + n; times(key) as usize], "at its time, each letter once");
    }
}

#[test]
fn a_parked_punctuation_is_listed_and_runs_again_at_its_next_time() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut builder = StreamBuilder::new("app");
    let process = Process::new("each", |ctx: &mut Scope<'_, String, i64>, record: Record<String, i64>| {
        ctx.store(&SUMS).put(&record.key, &record.value)
    });
    // By stream time, every ten seconds, over the rows of its partition.
    let process = process.store(&SUMS).punctuate("ten", TimeDomain::Stream, 10_000, |ctx, at| {
        let Some(value) = ctx.store(&SUMS).get(&"a".to_owned())? else { return Ok(()) };
        ctx.store(&SUMS).put(&"a".to_owned(), &(value + 1))?;
        match at.0 {
            20_000 => Err(ProcessError::Unwritable("not at twenty".into())),
            _ => ctx.forward(Record::new("a".to_owned(), at.0, at)),
        }
    });
    builder.stream(&IN).process(process).to(&OUT);
    let app = start(builder, dir.path());
    let handle = app.handle();
    let send = |at: i64| {
        let record = Record::new("a".to_owned(), 0, Timestamp(at));
        handle.append_blocking(millstream::Events::new().with(&IN, &record)).expect("the log takes it");
    };
    for at in [5_000, 10_000, 20_000] {
        send(at);
    }
    eventually("it is parked", || parked(&handle).len() == 1);
    let letter = parked(&handle).remove(0);
    assert_eq!(letter.key, None);
    assert_eq!(letter.failure.expect("an engine parked it").cause, "Unwritable: not at twenty");
    eventually("what it had written is undone", || sum(&handle, "a") == Some(0));
    assert_eq!(replay(&handle, &Selection::default(), false), Replayed { matched: 1, replayed: 0 });
    send(30_000);
    eventually("it has run again", || sum(&handle, "a") == Some(1));
    drop(handle);
    app.stop();
    assert_eq!(values(dir.path(), &OUT, "a"), [5_000, 10_000, 30_000]);
}
