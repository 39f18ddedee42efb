//! Times as people and other programs write them: ISO-8601 in UTC with milliseconds. Inside they are milliseconds.

use std::fmt;

use millstream::Timestamp;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A time that is written as `2026-01-31T12:00:00.000Z`, and read in any offset and precision; what is finer than a millisecond is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Iso(pub Timestamp);

impl Iso {
    /// Reads a time that is written so, or in milliseconds since 1970.
    #[must_use]
    pub fn parse(text: &str) -> Option<Iso> {
        let iso = || text.parse::<jiff::Timestamp>().ok().map(jiff::Timestamp::as_millisecond);
        text.parse().ok().or_else(iso).map(|ms| Iso(Timestamp(ms)))
    }
}

/// Reads a stretch of time such as `5m`, `1h` or `7d`, in minutes; more than a year is none.
#[must_use]
pub fn minutes(text: &str) -> Option<i64> {
    const UNITS: [(char, i64); 3] = [('m', 1), ('h', 60), ('d', 24 * 60)];
    let (unit, minutes) = UNITS.into_iter().find(|(unit, _)| text.ends_with(*unit))?;
    let digits = text.strip_suffix(unit)?;
    let number: i64 = digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())??;
    number.checked_mul(minutes).filter(|minutes| (1..=366 * 24 * 60).contains(minutes))
}

impl fmt::Display for Iso {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Beyond the years that can be written stands the last of them.
        let time = jiff::Timestamp::from_millisecond(self.0.0).unwrap_or(if self.0.0 < 0 {
            jiff::Timestamp::MIN
        } else {
            jiff::Timestamp::MAX
        });
        write!(f, "{time:.3}")
    }
}

impl Serialize for Iso {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Iso {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Iso, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        let time: jiff::Timestamp = text.parse().map_err(|_| D::Error::custom("a time is written as 2026-01-31T12:00:00Z"))?;
        Ok(Iso(Timestamp(time.as_millisecond())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_and_written() {
        let check = |text: &str, written: Option<&str>| {
            let read = serde_json::from_value::<Iso>(text.into()).ok();
            assert_eq!(read.map(|time| time.to_string()).as_deref(), written, "{text}");
        };
        check("2026-01-31T12:00:00Z", Some("2026-01-31T12:00:00.000Z"));
        check("2026-01-31T12:00:00.1239+09:00", Some("2026-01-31T03:00:00.123Z"));
        check("1969-12-31T23:59:59.5Z", Some("1969-12-31T23:59:59.500Z"));
        for malformed in ["", "yesterday", "2026-01-31", "2026-01-31T12:00:00", "1"] {
            check(malformed, None);
        }
        assert!(Iso(Timestamp(i64::MAX)).to_string().starts_with("9999-"));
        for (text, read) in
            [("1500", Some(1500)), ("1970-01-01T00:00:01.5Z", Some(1500)), ("-1", Some(-1)), ("", None), ("now", None)]
        {
            assert_eq!(Iso::parse(text).map(|Iso(at)| at.0), read, "{text}");
        }
    }

    #[test]
    fn stretches_of_time_are_whole_minutes() {
        for (text, read) in [("1m", Some(1)), ("90m", Some(90)), ("2h", Some(120)), ("7d", Some(7 * 1440))] {
            assert_eq!(minutes(text), read, "{text}");
        }
        for malformed in ["", "m", "0m", "1", "1s", "-1m", "+1m", "1.5h", "1 m", "1M", "367d", "99999999999999999999m"] {
            assert_eq!(minutes(malformed), None, "{malformed}");
        }
    }
}
