//! MySQL's binary JSON as text: compact, fields in the order MySQL keeps them (by length, then by bytes), numbers as Debezium writes them.
//! MariaDB's JSON is text already and never comes here.

use std::fmt::Write as _;
use std::io;

use mysql_async::binlog::jsonb::{JsonDom, JsonScalar, Value};

/// The text of a value.
///
/// # Errors
/// If the value is damaged.
pub fn to_text(value: &Value<'_>) -> io::Result<String> {
    let mut text = String::new();
    write(value, &mut text)?;
    Ok(text)
}

fn write(value: &Value<'_>, out: &mut String) -> io::Result<()> {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(value) => push(out, value),
        Value::I16(number) => push(out, number),
        Value::U16(number) => push(out, number),
        Value::I32(number) => push(out, number),
        Value::U32(number) => push(out, number),
        Value::I64(number) => push(out, number),
        Value::U64(number) => push(out, number),
        Value::F64(number) => out.push_str(&double(*number)),
        Value::String(text) => string(out, &text.str()),
        Value::SmallArray(array) => elements(array.iter(), out)?,
        Value::LargeArray(array) => elements(array.iter(), out)?,
        Value::SmallObject(object) => {
            fields(object.iter().map(|field| field.map(|(key, value)| (key.value().into_owned(), value))), out)?
        }
        Value::LargeObject(object) => {
            fields(object.iter().map(|field| field.map(|(key, value)| (key.value().into_owned(), value))), out)?
        }
        Value::Opaque(_) => opaque(value, out)?,
    }
    Ok(())
}

fn push(out: &mut String, value: impl std::fmt::Display) {
    // Writing to a string cannot fail.
    let _ = write!(out, "{value}");
}

fn elements<'a>(elements: impl Iterator<Item = io::Result<Value<'a>>>, out: &mut String) -> io::Result<()> {
    out.push('[');
    for (place, element) in elements.enumerate() {
        if place > 0 {
            out.push(',');
        }
        write(&element?, out)?;
    }
    out.push(']');
    Ok(())
}

fn fields<'a>(fields: impl Iterator<Item = io::Result<(String, Value<'a>)>>, out: &mut String) -> io::Result<()> {
    out.push('{');
    for (place, field) in fields.enumerate() {
        let (key, value) = field?;
        if place > 0 {
            out.push(',');
        }
        string(out, &key);
        out.push(':');
        write(&value, out)?;
    }
    out.push('}');
    Ok(())
}

/// Decimals, dates and times, which JSON has no kind for.
fn opaque(value: &Value<'_>, out: &mut String) -> io::Result<()> {
    match value.clone().parse()? {
        JsonDom::Scalar(JsonScalar::Number(number)) => match serde_json::Value::from(number) {
            serde_json::Value::String(decimal) => out.push_str(&decimal),
            number => push(out, number),
        },
        JsonDom::Scalar(JsonScalar::Opaque(opaque)) => {
            let text = opaque.to_string();
            string(out, text.rsplit(':').next().unwrap_or_default());
        }
        other => match serde_json::Value::from(other) {
            serde_json::Value::String(text) => string(out, text.trim_end_matches(".000000")),
            other => push(out, other),
        },
    }
    Ok(())
}

/// As `Double.toString` of Java has it, and in full where that would use an exponent.
fn double(number: f64) -> String {
    let magnitude = number.abs();
    if number == 0.0 || (1e-3..1e7).contains(&magnitude) {
        return format!("{number:?}");
    }
    let exact = format!("{number:.1074}");
    exact.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn string(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c < ' ' => push(out, format_args!("\\u{:04X}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_are_written_as_java_writes_them() {
        for (number, text) in [
            (0.0, "0.0"),
            (1e3, "1000.0"),
            (-2.5, "-2.5"),
            (0.1, "0.1"),
            (9_999_999.5, "9999999.5"),
            (1e7, "10000000"),
            (123_456_789.123_456_8, "123456789.1234568059444427490234375"),
            (1e23, "99999999999999991611392"),
            (0.000_5, "0.0005000000000000000104083408558608425664715468883514404296875"),
        ] {
            assert_eq!(double(number), text);
        }
    }

    #[test]
    fn strings_are_escaped() {
        let mut out = String::new();
        string(&mut out, "a\"\\\n\u{1}é😀/");
        assert_eq!(out, "\"a\\\"\\\\\\n\\u0001é😀/\"");
    }
}
