//! Timers of keys and punctuators: on both clocks, once, undone with their record, and kept across a restart.

use millstream::testing::TestDriver;
use millstream::{Process, ProcessError, Record, Scope, Store, StreamBuilder, TimeDomain, Timestamp, Topic};

const IN: Topic<String, i64> = Topic::new("in").partitions(2);
const OUT: Topic<String, String> = Topic::new("out");
const OPEN: Store<String, i64> = Store::keyed("open");

/// Sets a timer `value` ms after each record, and says when it fires. A value of 0 takes the key's timer back, -1 fails.
fn timers(domain: TimeDomain) -> TestDriver {
    let mut builder = StreamBuilder::new("app");
    let process = Process::new("timer", move |ctx: &mut Scope<'_, String, String>, record: Record<String, i64>| {
        let now = if domain == TimeDomain::Stream { record.timestamp } else { ctx.wall_clock() };
        let at = now.plus_ms(record.value);
        match record.value {
            0 => {
                let at = ctx.store(&OPEN).take(&record.key)?.unwrap_or(0);
                ctx.unschedule(domain, Timestamp(at), &record.key)
            }
            -1 => {
                ctx.schedule(domain, now, &record.key)?;
                Err(ProcessError::failed("after the timer was set"))
            }
            _ => {
                ctx.store(&OPEN).put(&record.key, &at.0)?;
                ctx.schedule(domain, at, &record.key)
            }
        }
    });
    let process = process.store(&OPEN).on_timer(|ctx, key: String, at| ctx.forward(Record::new(key, format!("fired {at}"), at)));
    builder.stream(&IN).process(process).to(&OUT);
    TestDriver::new(builder.build().expect("the topology is valid"))
}

fn set(driver: &mut TestDriver, key: &str, delay_ms: i64, at: i64) {
    driver.pipe(&IN, &Record::new(key.to_owned(), delay_ms, Timestamp(at)));
}

fn fired(driver: &mut TestDriver) -> Vec<(String, String)> {
    driver.read(&OUT).into_iter().map(|record| (record.key, record.value)).collect()
}

fn pair(key: &str, at: i64) -> (String, String) {
    (key.to_owned(), format!("fired {at}"))
}

#[test]
fn wall_clock_timers_fire_once_in_order_and_survive_a_restart() {
    let mut driver = timers(TimeDomain::WallClock);
    set(&mut driver, "a", 100, 0);
    set(&mut driver, "a", 50, 0);
    set(&mut driver, "a", 500, 0);
    driver.advance_wall_clock(49);
    assert_eq!(fired(&mut driver), []);
    driver.restart();
    driver.advance_wall_clock(60);
    assert_eq!(fired(&mut driver), [pair("a", 50), pair("a", 100)]);
    driver.restart();
    driver.advance_wall_clock(390);
    assert_eq!(fired(&mut driver), []);
    driver.advance_wall_clock(10_000);
    assert_eq!(fired(&mut driver), [pair("a", 500)]);
}

#[test]
fn stream_time_timers_follow_the_records_of_their_partition() {
    let mut driver = timers(TimeDomain::Stream);
    set(&mut driver, "a", 100, 1_000);
    set(&mut driver, "a", 5_000, 1_050);
    driver.advance_wall_clock(1_000_000);
    assert_eq!(fired(&mut driver), []);
    set(&mut driver, "a", 9_000, 1_100);
    assert_eq!(fired(&mut driver), [pair("a", 1_100)]);
}

#[test]
fn a_timer_can_be_taken_back_and_goes_with_a_failed_record() {
    let mut driver = timers(TimeDomain::WallClock);
    set(&mut driver, "a", 100, 0);
    set(&mut driver, "a", 0, 0);
    set(&mut driver, "b", -1, 0);
    driver.advance_wall_clock(1_000);
    assert_eq!(fired(&mut driver), []);
}

#[test]
fn punctuators_keep_their_grid_across_a_restart() {
    let mut builder = StreamBuilder::new("app");
    let process = Process::new("tick", |_: &mut Scope<'_, String, String>, _: Record<String, i64>| Ok(()));
    let process = process.punctuate("every", TimeDomain::WallClock, 100, |ctx, now| {
        let tick = if ctx.partition().0 == 0 { "tick" } else { "other" };
        ctx.forward(Record::new(tick.to_owned(), now.to_string(), now))
    });
    builder.stream(&IN).process(process).to(&OUT);
    let mut driver = TestDriver::new(builder.build().expect("the topology is valid"));
    let mut ticks = |delta_ms: i64| {
        driver.advance_wall_clock(delta_ms);
        let ticks =
            driver.read(&OUT).into_iter().filter(|record| record.key == "tick").map(|record| record.value).collect::<Vec<_>>();
        driver.restart();
        ticks
    };
    assert_eq!(ticks(120), ["120"]);
    assert_eq!(ticks(70), Vec::<String>::new());
    assert_eq!(ticks(10), ["200"]);
    assert_eq!(ticks(1_000), ["1200"], "once, however many were missed");
    assert_eq!(ticks(100), ["1300"]);
}

#[test]
fn the_first_call_of_a_punctuator_is_not_put_off_by_restarts() {
    let mut builder = StreamBuilder::new("app");
    let process = Process::new("tick", |_: &mut Scope<'_, String, String>, _: Record<String, i64>| Ok(()));
    let process = process.punctuate("every", TimeDomain::WallClock, 100, |ctx, now| {
        ctx.forward(Record::new("tick".to_owned(), now.to_string(), now))
    });
    builder.stream(&IN).process(process).to(&OUT);
    let mut driver = TestDriver::new(builder.build().expect("the topology is valid"));
    for n in 0..10 {
        set(&mut driver, &format!("key-{n}"), 1, 0);
    }
    for _ in 0..3 {
        driver.advance_wall_clock(40);
        driver.restart();
    }
    driver.advance_wall_clock(0);
    assert_eq!(fired(&mut driver), [("tick".to_owned(), "120".to_owned()), ("tick".to_owned(), "120".to_owned())]);
}

#[test]
fn an_anchor_in_the_past_is_a_grid_and_no_call() {
    let mut builder = StreamBuilder::new("app");
    let process = Process::new("tick", |_: &mut Scope<'_, String, String>, _: Record<String, i64>| Ok(()));
    let process = process.punctuate_from("every", TimeDomain::WallClock, 100, Some(Timestamp(-30)), |ctx, now| {
        ctx.forward(Record::new("tick".to_owned(), now.to_string(), now))
    });
    builder.stream(&IN).process(process).to(&OUT);
    let mut driver = TestDriver::new(builder.build().expect("the topology is valid"));
    for n in 0..10 {
        set(&mut driver, &format!("key-{n}"), 1, 0);
    }
    driver.advance_wall_clock(69);
    assert_eq!(fired(&mut driver), []);
    driver.restart();
    driver.pass(11);
    driver.restart();
    driver.advance_wall_clock(0);
    assert_eq!(fired(&mut driver), [("tick".to_owned(), "80".to_owned()), ("tick".to_owned(), "80".to_owned())]);
    driver.advance_wall_clock(90);
    assert_eq!(fired(&mut driver), [("tick".to_owned(), "170".to_owned()), ("tick".to_owned(), "170".to_owned())]);
}

#[test]
fn a_record_that_fails_is_parked_although_a_punctuator_fails_all_the_time() {
    let mut builder = StreamBuilder::new("app");
    let process = Process::new("broken", |_: &mut Scope<'_, String, String>, record: Record<String, i64>| match record.value {
        0 => Ok(()),
        _ => Err(ProcessError::failed("a record")),
    });
    let process = process.punctuate("often", TimeDomain::WallClock, 10, |_, _| Err(ProcessError::failed("a punctuator")));
    builder.stream(&IN).process(process).to(&OUT);
    let mut driver = TestDriver::new(builder.build().expect("the topology is valid"));
    set(&mut driver, "a", 1, 5);
    let parked: Topic<Option<Vec<u8>>, Option<Vec<u8>>> = Topic::new("in.dlq");
    let letters = driver.read(&parked);
    assert_eq!(letters.iter().filter(|letter| letter.value.is_some()).count(), 1, "{letters:?}");
}

#[test]
fn a_record_from_the_end_of_time_stops_nothing() {
    let mut builder = StreamBuilder::new("app");
    let process = Process::new("tick", |ctx: &mut Scope<'_, String, String>, record: Record<String, i64>| {
        ctx.forward(Record::new(record.key, record.value.to_string(), Timestamp(0)))
    });
    let process = process.punctuate("every", TimeDomain::Stream, 100, |ctx, now| {
        ctx.forward(Record::new("tick".to_owned(), now.to_string(), Timestamp(0)))
    });
    builder.stream(&IN).process(process).to(&OUT);
    let mut driver = TestDriver::new(builder.build().expect("the topology is valid"));
    set(&mut driver, "a", 1, i64::MAX);
    set(&mut driver, "a", 2, 7);
    let values: Vec<String> = fired(&mut driver).into_iter().map(|(_, value)| value).collect();
    assert_eq!(values, ["1".to_owned(), (i64::MAX - 1).to_string(), "2".to_owned()]);
}

/// What two topics bring together, in the order in which it was taken.
fn merged(left: &Topic<String, i64>, right: &Topic<String, i64>) -> TestDriver {
    let mut builder = StreamBuilder::new("app");
    let (left, right) = (builder.stream(left), builder.stream(right));
    left.merge(&right).map_values(|value: i64| value.to_string()).to(&OUT);
    TestDriver::new(builder.build().expect("the topology is valid"))
}

#[test]
fn records_wait_for_an_empty_topic_as_long_as_they_are_told() {
    const LEFT: Topic<String, i64> = Topic::new("left");
    const RIGHT: Topic<String, i64> = Topic::new("right");
    let send = |driver: &mut TestDriver, topic: &Topic<String, i64>, at: i64| {
        driver.pipe(topic, &Record::new("a".to_owned(), at, Timestamp(at)));
    };
    let taken = |driver: &mut TestDriver| driver.read(&OUT).into_iter().map(|record| record.value).collect::<Vec<_>>();
    let mut driver = merged(&LEFT, &RIGHT);
    send(&mut driver, &LEFT, 20);
    assert_eq!(taken(&mut driver), ["20"], "nothing is waited for by default");

    let mut driver = merged(&LEFT, &RIGHT);
    driver.set_max_task_idle_ms(100);
    send(&mut driver, &LEFT, 20);
    send(&mut driver, &LEFT, 40);
    driver.advance_wall_clock(99);
    assert_eq!(taken(&mut driver), [""; 0]);
    send(&mut driver, &RIGHT, 30);
    assert_eq!(taken(&mut driver), ["20", "30"], "in the order of time, and then the right one is empty again");
    send(&mut driver, &RIGHT, 10);
    assert_eq!(taken(&mut driver), ["10"]);
    driver.advance_wall_clock(100);
    assert_eq!(taken(&mut driver), ["40"], "not for longer");
    send(&mut driver, &LEFT, 50);
    assert_eq!(taken(&mut driver), ["50"], "nor again for what is still empty");
    send(&mut driver, &RIGHT, 60);
    assert_eq!(taken(&mut driver), [""; 0], "but for the other, which has become empty only now");
    driver.advance_wall_clock(100);
    assert_eq!(taken(&mut driver), ["60"]);
    driver.restart();
    send(&mut driver, &LEFT, 70);
    driver.advance_wall_clock(99);
    assert_eq!(taken(&mut driver), [""; 0], "after a restart it is waited for anew");
    driver.advance_wall_clock(1);
    assert_eq!(taken(&mut driver), ["70"]);
}

#[test]
fn a_record_too_far_ahead_is_parked_and_moves_no_time() {
    const BOUNDED: Topic<String, i64> = Topic::new("left").max_ahead_ms(1_000);
    const FREE: Topic<String, i64> = Topic::new("right");
    let mut driver = merged(&BOUNDED, &FREE);
    driver.advance_wall_clock(5_000);
    let send = |driver: &mut TestDriver, topic: &Topic<String, i64>, at: i64| {
        driver.pipe(topic, &Record::new("a".to_owned(), at, Timestamp(at)));
    };
    for at in [6_000, 6_001, i64::MAX] {
        send(&mut driver, &BOUNDED, at);
    }
    send(&mut driver, &FREE, 9_000);
    let taken: Vec<_> = driver.read(&OUT).into_iter().map(|record| record.value).collect();
    assert_eq!(taken, ["6000", "9000"]);
    let letters: Topic<String, i64> = Topic::new("left.dlq");
    let letters = driver.read(&letters);
    let cause =
        |record: &Record<String, i64>| String::from_utf8(record.headers.get("__streams.errors.message").unwrap().to_vec());
    assert_eq!(letters.iter().map(|record| record.value).collect::<Vec<_>>(), [6_001, i64::MAX]);
    assert_eq!(cause(&letters[0]).unwrap(), "its timestamp is 1001 ms ahead of the clock, and may be 1000");
}
