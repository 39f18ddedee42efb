//! Windows: parts of time by which the records of a key are put together. Here is which windows a time belongs to and when they close;
//! nothing here knows records, stores or tasks.
//!
//! Times are milliseconds. A window is closed for an operator once the greatest timestamp that this operator has seen is at or past the
//! window's end plus the grace; what comes later for it is dropped. No window begins before 1970.

use crate::record::Timestamp;

/// A key and a window of time: what windowed stores and tables are keyed by.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Windowed<K> {
    /// The key of the records.
    pub key: K,
    /// The first time that belongs to the window.
    pub start: Timestamp,
    /// Where the window ends: the first time after it for tumbling and hopping windows, the last time in it for sliding and session
    /// windows, and the greatest of all times for an unlimited one.
    pub end: Timestamp,
}

/// A window without a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Window {
    pub(crate) start: Timestamp,
    pub(crate) end: Timestamp,
}

/// Windows of one size that begin at fixed times: tumbling ones, which follow each other, hopping ones, which overlap, and the one
/// that never ends.
///
/// ```
/// use millstream::TimeWindows;
///
/// const PER_MINUTE: TimeWindows = TimeWindows::tumbling_ms(60_000).grace_ms(10_000);
/// const LAST_HOUR_EVERY_MINUTE: TimeWindows = TimeWindows::hopping_ms(3_600_000, 60_000);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TimeWindows {
    kind: TimeWindowKind,
    grace_ms: i64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum TimeWindowKind {
    Sized { size_ms: i64, advance_ms: i64 },
    From(Timestamp),
}

impl TimeWindows {
    /// Windows `[0, size)`, `[size, 2 size)` and so on: each time belongs to one.
    #[must_use]
    pub const fn tumbling_ms(size_ms: i64) -> TimeWindows {
        TimeWindows::hopping_ms(size_ms, size_ms)
    }

    /// A window begins at each multiple of `advance_ms`, so a time belongs to `size / advance` of them.
    #[must_use]
    pub const fn hopping_ms(size_ms: i64, advance_ms: i64) -> TimeWindows {
        TimeWindows { kind: TimeWindowKind::Sized { size_ms, advance_ms }, grace_ms: 0 }
    }

    /// One window that begins at `start` and never ends; earlier times belong to none.
    #[must_use]
    pub const fn unlimited_from(start: Timestamp) -> TimeWindows {
        TimeWindows { kind: TimeWindowKind::From(start), grace_ms: 0 }
    }

    /// How long after its end a window still takes records that come late. 0 unless it is set.
    #[must_use]
    pub const fn grace_ms(self, grace_ms: i64) -> TimeWindows {
        TimeWindows { grace_ms, ..self }
    }

    pub(crate) fn grace(&self) -> i64 {
        self.grace_ms
    }

    /// How long after its start a window may still change: what a store must keep it for at least.
    pub(crate) fn lifetime_ms(&self) -> i64 {
        match self.kind {
            TimeWindowKind::Sized { size_ms, .. } => size_ms.saturating_add(self.grace_ms),
            TimeWindowKind::From(_) => i64::MAX,
        }
    }

    /// What is wrong with these numbers, in the words of a sentence about them.
    pub(crate) fn mistake(&self) -> Option<String> {
        match self.kind {
            TimeWindowKind::Sized { size_ms, .. } if size_ms <= 0 => Some(format!("windows of {size_ms} ms")),
            TimeWindowKind::Sized { size_ms, advance_ms } if advance_ms <= 0 || advance_ms > size_ms => {
                Some(format!("windows of {size_ms} ms that advance by {advance_ms} ms, which is to be from 1 to the size"))
            }
            _ if self.grace_ms < 0 => Some(format!("windows with a grace of {} ms", self.grace_ms)),
            _ => None,
        }
    }

    /// The windows that a time belongs to, the earliest first.
    pub(crate) fn of(&self, time: Timestamp) -> impl Iterator<Item = Window> + use<> {
        let (first, advance_ms, size_ms) = match self.kind {
            TimeWindowKind::Sized { size_ms, advance_ms } => {
                // The first multiple of the advance after `time - size`, and not before 0.
                let after = time.0.saturating_sub(size_ms).saturating_add(advance_ms).max(0);
                (after / advance_ms * advance_ms, Some(advance_ms), size_ms)
            }
            TimeWindowKind::From(start) => (start.0, None, i64::MAX),
        };
        let starts = std::iter::successors(Some(first), move |start| start.checked_add(advance_ms?));
        starts.take_while(move |start| *start <= time.0).map(move |start| {
            let start = Timestamp(start);
            Window { start, end: start.plus_ms(size_ms) }
        })
    }
}

/// Windows of one size for every set of records of a key that lie so close together (KIP-450): one ends with each record, and one begins right
/// after each that others follow. Both ends belong to a window.
///
/// ```
/// use millstream::testing::TestDriver;
/// use millstream::{Record, SlidingWindows, StreamBuilder, Timestamp, Topic, Windowed};
///
/// const LOGINS: Topic<String, String> = Topic::new("logins");
/// const ALARMS: Topic<Windowed<String>, u64> = Topic::new("alarms");
/// const WITHIN_A_MINUTE: SlidingWindows = SlidingWindows::of_ms(60_000).grace_ms(5_000);
///
/// let mut builder = StreamBuilder::new("example");
/// let failed = builder.stream(&LOGINS).filter(|_, outcome| outcome == "refused");
/// let tries = failed.group_by_key().windowed_by(WITHIN_A_MINUTE).count("tries");
/// tries.to_stream().flat_map_values(|tries| tries.filter(|tries| *tries == 3)).to(&ALARMS);
///
/// let mut driver = TestDriver::new(builder.build()?);
/// for at in [100_000, 155_000, 170_000, 210_000] {
///     driver.pipe(&LOGINS, &Record::new("ann".to_owned(), "refused".to_owned(), Timestamp(at)));
/// }
/// // Three within a minute, though no minute of the clock has them.
/// let window = Windowed { key: "ann".to_owned(), start: Timestamp(150_000), end: Timestamp(210_000) };
/// assert_eq!(driver.read(&ALARMS), [Record::new(window, 3, Timestamp(210_000))]);
/// # Ok::<(), millstream::TopologyError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SlidingWindows {
    difference_ms: i64,
    grace_ms: i64,
}

impl SlidingWindows {
    /// Records at most so far apart share a window.
    #[must_use]
    pub const fn of_ms(difference_ms: i64) -> SlidingWindows {
        SlidingWindows { difference_ms, grace_ms: 0 }
    }

    /// How long after its end a window still takes records that come late. 0 unless it is set.
    #[must_use]
    pub const fn grace_ms(self, grace_ms: i64) -> SlidingWindows {
        SlidingWindows { grace_ms, ..self }
    }

    pub(crate) fn grace(&self) -> i64 {
        self.grace_ms
    }

    /// From a window's start to its end.
    pub(crate) fn difference(&self) -> i64 {
        self.difference_ms
    }

    /// The window that begins at a time.
    pub(crate) fn from(&self, start: Timestamp) -> Window {
        Window { start, end: start.plus_ms(self.difference_ms) }
    }

    /// How long after its start a window may still change, or be what a new one begins with: what a store must keep it for at least.
    pub(crate) fn lifetime_ms(&self) -> i64 {
        self.difference_ms.saturating_mul(2).saturating_add(self.grace_ms)
    }

    pub(crate) fn mistake(&self) -> Option<String> {
        let SlidingWindows { difference_ms, grace_ms } = self;
        if *difference_ms <= 0 {
            return Some(format!("sliding windows of {difference_ms} ms"));
        }
        (*grace_ms < 0).then(|| format!("sliding windows with a grace of {grace_ms} ms"))
    }
}

/// Windows that are as long as the records of a key follow each other: a session ends once nothing has come for longer than the gap.
///
/// ```
/// use millstream::SessionWindows;
///
/// const VISITS: SessionWindows = SessionWindows::gap_ms(30 * 60_000).grace_ms(60_000);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SessionWindows {
    gap_ms: i64,
    grace_ms: i64,
}

impl SessionWindows {
    /// Records at most so far apart belong to one session.
    #[must_use]
    pub const fn gap_ms(gap_ms: i64) -> SessionWindows {
        SessionWindows { gap_ms, grace_ms: 0 }
    }

    /// How long after its gap a session still takes records that come late. 0 unless it is set.
    #[must_use]
    pub const fn grace_ms(self, grace_ms: i64) -> SessionWindows {
        SessionWindows { grace_ms, ..self }
    }

    /// The longest pause within a session.
    pub(crate) fn gap(&self) -> i64 {
        self.gap_ms
    }

    /// How long after its last record a session may still change: what a store must keep it for at least.
    pub(crate) fn lifetime_ms(&self) -> i64 {
        self.gap_ms.saturating_add(self.grace_ms)
    }

    pub(crate) fn mistake(&self) -> Option<String> {
        let SessionWindows { gap_ms, grace_ms } = self;
        let part = if *gap_ms < 0 { Some(("gap", gap_ms)) } else { (*grace_ms < 0).then_some(("grace", grace_ms)) };
        part.map(|(part, ms)| format!("sessions with a {part} of {ms} ms"))
    }
}

/// How far apart records of two streams may lie to be joined.
///
/// ```
/// use millstream::JoinWindows;
///
/// const WITHIN_A_QUARTER: JoinWindows = JoinWindows::of_ms(15 * 60_000);
/// // A left record with those of the right that come up to a minute after it.
/// const AFTER: JoinWindows = JoinWindows::between_ms(0, 60_000).grace_ms(5_000);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct JoinWindows {
    before_ms: i64,
    after_ms: i64,
    grace_ms: i64,
}

impl JoinWindows {
    /// At most so far apart, whichever is first.
    #[must_use]
    pub const fn of_ms(difference_ms: i64) -> JoinWindows {
        JoinWindows::between_ms(difference_ms, difference_ms)
    }

    /// A left record at `t` is joined with right ones from `t - before_ms` to `t + after_ms`, both included. One of the two may be negative:
    /// `between_ms(-5, 10)` is 5 to 10 ms after the left record.
    #[must_use]
    pub const fn between_ms(before_ms: i64, after_ms: i64) -> JoinWindows {
        JoinWindows { before_ms, after_ms, grace_ms: 0 }
    }

    /// How much longer records are kept for ones of the other side that come late, and unmatched ones are held back. 0 unless it is set.
    #[must_use]
    pub const fn grace_ms(self, grace_ms: i64) -> JoinWindows {
        JoinWindows { grace_ms, ..self }
    }

    /// Before, after and grace.
    pub(crate) fn parts(&self) -> (i64, i64, i64) {
        (self.before_ms, self.after_ms, self.grace_ms)
    }

    /// How long a side's store keeps a record.
    pub(crate) fn retention_ms(&self) -> u64 {
        let size_ms = self.before_ms.saturating_add(self.after_ms);
        size_ms.saturating_add(self.grace_ms).max(0).unsigned_abs()
    }

    pub(crate) fn mistake(&self) -> Option<String> {
        let JoinWindows { before_ms, after_ms, grace_ms } = self;
        if before_ms.saturating_add(*after_ms) < 0 {
            return Some(format!("from {before_ms} ms before to {after_ms} ms after, which ends before it begins"));
        }
        (*grace_ms < 0).then(|| format!("with a grace of {grace_ms} ms"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_belongs_to_the_windows_that_contain_it() {
        let check = |windows: TimeWindows, time: i64, expected: &[(i64, i64)]| {
            let found: Vec<_> = windows.of(Timestamp(time)).map(|w| (w.start.0, w.end.0)).collect();
            assert_eq!(found, expected, "{windows:?} at {time}");
        };
        let tumbling = TimeWindows::tumbling_ms(10);
        check(tumbling, 0, &[(0, 10)]);
        check(tumbling, 9, &[(0, 10)]);
        check(tumbling, 10, &[(10, 20)]);
        check(tumbling, -1, &[]);
        check(tumbling, i64::MAX, &[(i64::MAX / 10 * 10, i64::MAX)]);
        let hopping = TimeWindows::hopping_ms(10, 4);
        check(hopping, 3, &[(0, 10)]);
        check(hopping, 9, &[(0, 10), (4, 14), (8, 18)]);
        check(hopping, 10, &[(4, 14), (8, 18)]);
        check(TimeWindows::hopping_ms(10, 3), 20, &[(12, 22), (15, 25), (18, 28)]);
        let unlimited = TimeWindows::unlimited_from(Timestamp(5));
        check(unlimited, 4, &[]);
        check(unlimited, 5, &[(5, i64::MAX)]);
    }
}
