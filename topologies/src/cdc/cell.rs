//! What stands in a row at a column, in plain kinds, whether it comes from the binlog or from a query; and as the text that Debezium's router
//! makes of it with string converters.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use mysql_async::Value;
use mysql_async::binlog::value::BinlogValue;
use serde_json::Value as Json;

use super::json;
use super::table::Kind;

/// What stands in a row at a column.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell {
    /// Nothing.
    Null,
    /// Text.
    Text(String),
    /// Bytes, or what was to be text and is not UTF-8.
    Bytes(Vec<u8>),
    /// A whole number.
    Integer(i128),
    /// Microseconds since 1970.
    Time {
        /// The time.
        micros: i64,
        /// Digits after the second.
        digits: u8,
        /// Whether it has a zone.
        is_moment: bool,
    },
    /// A time that there is not, such as 0000-00-00.
    NoTime,
}

impl Cell {
    /// The value of a column as a row of the binlog has it.
    #[must_use]
    pub fn of_binlog(kind: &Kind, value: BinlogValue<'_>) -> Cell {
        match (kind, value) {
            (_, BinlogValue::Jsonb(value)) => {
                json::to_text(&value).map_or_else(|error| Cell::Text(error.to_string()), Cell::Text)
            }
            (_, BinlogValue::JsonDiff(_)) => Cell::Null, // only updates have these
            (Kind::Timestamp { digits }, BinlogValue::Value(Value::Bytes(text))) => unix_time(&text, *digits),
            (Kind::Timestamp { digits }, BinlogValue::Value(Value::Int(seconds))) => {
                Cell::Time { micros: seconds.saturating_mul(1_000_000), digits: *digits, is_moment: true }
            }
            // 0 is what an ENUM holds that was given none of its texts.
            (Kind::Enum(choices), BinlogValue::Value(Value::Int(number))) => {
                let place = usize::try_from(number).ok().and_then(|number| number.checked_sub(1));
                Cell::Text(place.and_then(|place| choices.get(place)).cloned().unwrap_or_default())
            }
            (Kind::Set(choices), BinlogValue::Value(Value::Bytes(bits))) => {
                let is_in = |place: &usize| bits.get(place / 8).is_some_and(|byte| byte >> (place % 8) & 1 == 1);
                let texts: Vec<&str> = (0..choices.len()).filter(is_in).map(|place| choices[place].as_str()).collect();
                Cell::Text(texts.join(","))
            }
            (kind, BinlogValue::Value(value)) => Cell::of_query(kind, value),
        }
    }

    /// The value of a column as a query gives it, in a session whose time zone is UTC.
    #[must_use]
    pub fn of_query(kind: &Kind, value: Value) -> Cell {
        match (kind, value) {
            (_, Value::NULL) => Cell::Null,
            (Kind::Bytes { fixed }, Value::Bytes(mut bytes)) => {
                bytes.resize(bytes.len().max(*fixed), 0);
                Cell::Bytes(bytes)
            }
            (Kind::OtherText(_), Value::Bytes(bytes)) => Cell::Bytes(bytes),
            (Kind::Bit(1), Value::Bytes(bytes)) => Cell::Text(bytes.iter().any(|byte| *byte != 0).to_string()),
            (Kind::Bit(_), Value::Bytes(mut bytes)) => {
                bytes.reverse();
                Cell::Bytes(bytes)
            }
            (Kind::Real, Value::Float(number)) => Cell::Text(real(&format!("{number:e}"))),
            (Kind::Real, Value::Double(number)) => Cell::Text(real(&format!("{number:e}"))),
            (Kind::Date, Value::Date(year, month, day, ..)) => match civil_time((year, month, day), (0, 0, 0, 0), 0, false) {
                Cell::Time { micros, .. } => Cell::Integer(i128::from(micros.div_euclid(86_400_000_000))),
                none => none,
            },
            (Kind::Time, Value::Time(is_negative, days, hours, minutes, seconds, micros)) => {
                let hours = i128::from(days) * 24 + i128::from(hours);
                let seconds = (hours * 60 + i128::from(minutes)) * 60 + i128::from(seconds);
                let micros = seconds * 1_000_000 + i128::from(micros);
                Cell::Integer(if is_negative { -micros } else { micros })
            }
            (_, Value::Bytes(bytes)) => String::from_utf8(bytes).map_or_else(|error| Cell::Bytes(error.into_bytes()), Cell::Text),
            (Kind::Integer { unsigned: true, bits }, Value::Int(number)) if number < 0 => {
                Cell::Integer(i128::from(number) + (1 << bits))
            }
            (_, Value::Int(number)) => Cell::Integer(i128::from(number)),
            (_, Value::UInt(number)) => Cell::Integer(i128::from(number)),
            (Kind::DateTime { digits }, Value::Date(year, month, day, hour, minute, second, micros)) => {
                civil_time((year, month, day), (hour, minute, second, micros), *digits, false)
            }
            (Kind::Timestamp { digits }, Value::Date(year, month, day, hour, minute, second, micros)) => {
                civil_time((year, month, day), (hour, minute, second, micros), *digits, true)
            }
            (_, other) => Cell::Text(other.as_sql(true).trim_matches('\'').to_owned()),
        }
    }

    /// The value of which a parked row has this; `None` if it is not one of the column's kind.
    #[must_use]
    pub fn of_json(kind: &Kind, value: Json) -> Option<Cell> {
        let time = |text: &str, digits, is_moment| match text.parse::<jiff::Timestamp>() {
            Ok(at) => Some(Cell::Time { micros: at.as_microsecond(), digits, is_moment }),
            Err(_) => (text == "0000-00-00").then_some(Cell::NoTime),
        };
        match (kind, value) {
            (_, Json::Null) => Some(Cell::Null),
            (_, Json::Object(object)) => BASE64.decode(object.get("$base64")?.as_str()?).ok().map(Cell::Bytes),
            (Kind::Integer { .. }, Json::String(text)) => text.parse().ok().map(Cell::Integer),
            (_, Json::Number(number)) => number.as_i64().map(|number| Cell::Integer(number.into())),
            (Kind::DateTime { digits }, Json::String(text)) => time(&text, *digits, false),
            (Kind::Timestamp { digits }, Json::String(text)) => time(&text, *digits, true),
            (_, Json::String(text)) => Some(Cell::Text(text)),
            (_, Json::Bool(_) | Json::Array(_)) => None,
        }
    }

    /// The value as text, as a header or a key carries it: as Debezium's router writes it with string converters.
    #[must_use]
    pub fn to_text(&self) -> Option<String> {
        Some(match self {
            Cell::Null | Cell::NoTime => return None,
            Cell::Text(text) => text.clone(),
            Cell::Bytes(bytes) => BASE64.encode(bytes),
            Cell::Integer(number) => number.to_string(),
            Cell::Time { micros, digits, is_moment: true } => iso(*micros, *digits),
            // io.debezium.time.Timestamp up to three digits, MicroTimestamp beyond.
            Cell::Time { micros, digits: 0..=3, .. } => micros.div_euclid(1_000).to_string(),
            Cell::Time { micros, .. } => micros.to_string(),
        })
    }
}

/// A number as Java writes it, of its shortest digits and its exponent: plain from a thousandth up to ten millions.
fn real(scientific: &str) -> String {
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((scientific, "0"));
    let (sign, mantissa) = mantissa.strip_prefix('-').map_or(("", mantissa), |rest| ("-", rest));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let digits: String = mantissa.chars().filter(char::is_ascii_digit).collect();
    let (whole, fraction) = match exponent {
        _ if digits == "0" => ("0".to_owned(), String::new()),
        0..7 => {
            let whole = exponent as usize + 1;
            let padded = format!("{digits:0<whole$}");
            (padded[..whole].to_owned(), padded[whole..].to_owned())
        }
        -3..0 => ("0".to_owned(), format!("{}{digits}", "0".repeat((-exponent - 1) as usize))),
        _ => (digits[..1].to_owned(), digits[1..].to_owned()),
    };
    let fraction = if fraction.is_empty() { "0" } else { &fraction };
    let power = if (-3..7).contains(&exponent) || digits == "0" { String::new() } else { format!("E{exponent}") };
    format!("{sign}{whole}.{fraction}{power}")
}

/// Seconds since 1970 as text, with a fraction or without.
fn unix_time(text: &[u8], digits: u8) -> Cell {
    let parsed = std::str::from_utf8(text).ok().and_then(|text| {
        let (seconds, fraction) = text.split_once('.').unwrap_or((text, "0"));
        let seconds: i64 = seconds.parse().ok()?;
        let micros: i64 = format!("{fraction:0<6}").get(..6)?.parse().ok()?;
        (seconds > 0 || micros > 0).then_some(seconds.checked_mul(1_000_000)? + micros)
    });
    parsed.map_or(Cell::NoTime, |micros| Cell::Time { micros, digits, is_moment: true })
}

fn civil_time(date: (u16, u8, u8), time: (u8, u8, u8, u32), digits: u8, is_moment: bool) -> Cell {
    let small = |number: u8| i8::try_from(number).ok();
    let micros = || {
        let day = jiff::civil::Date::new(i16::try_from(date.0).ok()?, small(date.1)?, small(date.2)?).ok()?;
        let days = i64::from(jiff::civil::Date::constant(1970, 1, 1).until(day).ok()?.get_days());
        let seconds = i64::from(time.0) * 3_600 + i64::from(time.1) * 60 + i64::from(time.2);
        Some((days * 86_400 + seconds) * 1_000_000 + i64::from(time.3))
    };
    micros().map_or(Cell::NoTime, |micros| Cell::Time { micros, digits, is_moment })
}

/// As `ZonedTimestamp` has it: as many digits as the column.
#[must_use]
pub fn iso(micros: i64, digits: u8) -> String {
    let digits = usize::from(digits);
    jiff::Timestamp::from_microsecond(micros).map_or_else(|_| micros.to_string(), |time| format!("{time:.digits$}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_java_writes_them() {
        for (number, text) in [
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (1.0, "1.0"),
            (-3.25, "-3.25"),
            (0.1, "0.1"),
            (0.001, "0.001"),
            (0.000_123, "1.23E-4"),
            (9_999_999.0, "9999999.0"),
            (10_000_000.0, "1.0E7"),
            (123_456_789.123_456_79, "1.2345678912345679E8"),
            (1.5e300, "1.5E300"),
        ] {
            assert_eq!(real(&format!("{number:e}")), text);
        }
    }

    #[test]
    fn cells_are_text_as_the_router_writes_it() {
        let date = |digits| Kind::DateTime { digits };
        let time = || Value::Date(2026, 1, 2, 3, 4, 5, 678_901);
        for (kind, value, text) in [
            (Kind::Text, Value::from("ö-3"), Some("ö-3")),
            (Kind::Integer { unsigned: true, bits: 64 }, Value::Int(-1), Some("18446744073709551615")),
            (Kind::Integer { unsigned: true, bits: 24 }, Value::Int(-1), Some("16777215")),
            (Kind::Integer { unsigned: false, bits: 8 }, Value::Int(-1), Some("-1")),
            (Kind::Bytes { fixed: 4 }, Value::Bytes(vec![1, 2]), Some("AQIAAA==")),
            (Kind::Bytes { fixed: 0 }, Value::Bytes(vec![255, 254, 253]), Some("//79")),
            (date(6), time(), Some("1767323045678901")),
            (date(3), time(), Some("1767323045678")),
            (date(6), Value::Date(9999, 12, 31, 23, 59, 59, 999_999), Some("253402300799999999")),
            (date(3), Value::Date(0, 0, 0, 0, 0, 0, 0), None),
            (Kind::Text, Value::NULL, None),
        ] {
            assert_eq!(Cell::of_query(&kind, value.clone()).to_text().as_deref(), text, "{kind:?} {value:?}");
        }
        let moment = Cell::of_binlog(&Kind::Timestamp { digits: 3 }, BinlogValue::Value(Value::from("1767323045.678000")));
        assert_eq!(moment.to_text().as_deref(), Some("2026-01-02T03:04:05.678Z"));
    }
}
