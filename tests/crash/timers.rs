//! Timers and punctuations on stream time, over kills: while they are pending, while they fire, at each step of commit, flush and restore, and
//! at random moments. Stream time moves with the records alone, so everything must come out in the order in which the test driver, which
//! never crashes, has it.

use millstream::testing::TestDriver;
use millstream::{
    App, Direction, Events, Process, Range, Record, Scope, Seen, Store, StreamBuilder, TimeDomain, Timestamp, Topic, Topology,
};

use super::{Life, POINTS, config, live};
use crate::app::support::read;

const INPUT: Topic<u64, u64> = Topic::new("reminders").partitions(2).keep_forever();
/// Without keys, so that each record stays with its task.
const SAID: Topic<Option<u64>, String> = Topic::new("said").partitions(2).keep_forever();
/// By number: for when its timer is set.
const PENDING: Store<u64, u64> = Store::keyed("pending");
/// By key: the number that came last.
const LAST: Store<u64, u64> = Store::keyed("last");
const KEYS: u64 = 20;

type Task<'a> = Scope<'a, Option<u64>, String>;

fn topology() -> Topology {
    let mut builder = StreamBuilder::new("crash-timers");
    let remind = Process::new("remind", |ctx: &mut Task<'_>, record: Record<u64, u64>| {
        let n = record.value;
        // Some are due at once, most after further records, and a few after the next leap.
        let at = record.timestamp.plus_ms((n * 31 % 400) as i64 - 20);
        ctx.schedule(TimeDomain::Stream, at, &n)?;
        ctx.store(&PENDING).put(&n, &(at.0.cast_unsigned()))?;
        let before = ctx.store(&LAST).get(&record.key)?;
        ctx.store(&LAST).put(&record.key, &n)?;
        // Every third takes back the timer of the one before it, if that has not fired.
        match before {
            Some(before) if n.is_multiple_of(3) => match ctx.store(&PENDING).take(&before)? {
                Some(at) => ctx.unschedule(TimeDomain::Stream, Timestamp(at.cast_signed()), &before),
                None => Ok(()),
            },
            _ => Ok(()),
        }
    });
    let remind = remind.store(&PENDING).store(&LAST).on_timer(|ctx, n: u64, at| {
        let set = ctx.store(&PENDING).take(&n)?.map(u64::cast_signed);
        if n.is_multiple_of(4) && set.is_some() {
            // It fires for a second time, and then has nothing pending.
            ctx.schedule(TimeDomain::Stream, at.plus_ms(100), &n)?;
        }
        let said = format!("{n} set for {set:?} fired for {} at {}", at.0, ctx.stream_time().0);
        ctx.forward(Record::new(None, said, at))
    });
    let remind = remind.punctuate("every-250", TimeDomain::Stream, 250, |ctx, now| {
        let pending = ctx.store(&PENDING).all(Direction::Forward).count();
        ctx.forward(Record::new(None, format!("{pending} pending at {}", now.0), now))
    });
    builder.stream(&INPUT).process(remind).to(&SAID);
    builder.build().expect("the topology is valid")
}

/// Times that grow with the numbers, one in four out of order, now and then with a leap.
fn input(n: u64) -> Record<u64, u64> {
    let mixed = n.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40;
    let back = if mixed.is_multiple_of(4) { mixed % 130 } else { 0 };
    let at = (n * 3 + n / 150 * 700).saturating_sub(back);
    Record::new(mixed % KEYS, n, Timestamp(at as i64))
}

#[test]
#[ignore = "run by the other tests of this file, in a process that they kill"]
fn child() {
    live(topology(), "pending", async |_| {}, |_, n| Events::new().with(&INPUT, &input(n)), async |_| {});
}

fn check(mut life: Life, total: u64) {
    life.finish(total);
    let (inputs, said) = (read(life.dir.path(), &INPUT), read(life.dir.path(), &SAID));
    let mut numbers: Vec<u64> = inputs.iter().map(|record| record.value).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (0..total).collect::<Vec<_>>(), "each request is in the input once");

    let mut driver = TestDriver::new(topology());
    inputs.iter().for_each(|record| driver.pipe(&INPUT, record));
    let texts = |records: Vec<Record<Option<u64>, String>>| records.into_iter().map(|record| record.value).collect::<Vec<_>>();
    let (said, expected) = (texts(said), texts(driver.read(&SAID)));
    let first = (0..said.len().max(expected.len())).find(|at| said.get(*at) != expected.get(*at));
    assert!(
        first.is_none(),
        "of {} and {}, at {first:?}: {:?}",
        said.len(),
        expected.len(),
        first.map(|at| (said.get(at), expected.get(at)))
    );
    assert!(said.len() as u64 > total / 2 && said.iter().any(|text| text.contains("set for None")), "timers fired, some twice");

    let app = App::start(topology(), config(life.dir.path())).expect("the application starts");
    let view = app.handle().view("pending").expect("a store of the topology").typed(&PENDING);
    let (mut pending, mut expected) = (
        view.page(&Range::all(), Direction::Forward, 1_000).and_then(Seen::wait).expect("the view answers"),
        driver.rows(&PENDING),
    );
    pending.sort_unstable();
    expected.sort_unstable();
    assert!(!pending.is_empty());
    assert_eq!(pending, expected, "what is still pending");
}

#[test]
fn a_crash_at_each_step_loses_and_repeats_no_timer_of_stream_time() {
    let mut life = Life::new("crash::timers::child");
    let total = life.die_at_each(POINTS, 300);
    check(life, total);
}

#[test]
fn a_kill_at_any_moment_loses_and_repeats_no_timer_of_stream_time() {
    let mut life = Life::new("crash::timers::child");
    let total = life.die_at_random(300);
    check(life, total);
}
