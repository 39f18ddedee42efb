//! The functions that the scenarios' parameters name. `int` parses a decimal integer; `show` writes null as `null`.

use super::Text;

pub fn int(value: &str) -> i64 {
    value.parse().expect("values are integers where a function parses them")
}

pub fn show(value: &Text) -> String {
    value.clone().unwrap_or_else(|| "null".to_owned())
}

pub fn predicate(name: &str) -> fn(&Text, &Text) -> bool {
    match name {
        "even" => |_, value| value.as_deref().is_some_and(|v| int(v) % 2 == 0),
        "key-a" => |key, _| key.as_deref() == Some("a"),
        "value-present" => |_, value| value.is_some(),
        "all" => |_, _| true,
        "none" => |_, _| false,
        _ => panic!("no predicate {name:?}"),
    }
}

pub fn map(name: &str) -> fn(Text, Text) -> (Text, Text) {
    match name {
        "swap" => |key, value| (value, key),
        "append" => |key, value| (key.map(|k| k + "!"), value.map(|v| v + "?")),
        "drop-key" => |_, value| (None, value),
        "drop-value" => |key, _| (key, None),
        _ => panic!("no mapper {name:?}"),
    }
}

pub fn map_values(name: &str) -> fn(&Text, Text) -> Text {
    match name {
        "append" => |_, value| value.map(|v| v + "!"),
        "key-value" => |key, value| Some(format!("{}:{}", show(key), show(&value))),
        "null-odd" => |_, value| value.filter(|v| int(v) % 2 == 0),
        "negate" => |_, value| value.map(|v| (-int(&v)).to_string()),
        _ => panic!("no mapper of values {name:?}"),
    }
}

pub fn selector(name: &str) -> fn(&Text, &Text) -> Text {
    match name {
        "key" => |key, _| key.clone(),
        "value" => |_, value| value.clone(),
        "mod3" => |_, value| value.as_deref().map(|v| format!("m{}", int(v).rem_euclid(3))),
        "prefix" => |_, value| value.as_deref().and_then(|v| v.split_once(':')).map(|(first, _)| first.to_owned()),
        "constant" => |_, _| Some("x".to_owned()),
        _ => panic!("no selector {name:?}"),
    }
}

fn times(value: &Text) -> i64 {
    value.as_deref().map_or(0, |v| int(v).abs() % 4)
}

pub fn flat_map(key: Text, value: Text) -> Vec<(Text, Text)> {
    let one = |i| (Some(format!("{}{i}", show(&key))), Some(format!("{}/{i}", show(&value))));
    (0..times(&value)).map(one).collect()
}

pub fn flat_map_values(value: Text) -> Vec<Text> {
    (0..times(&value)).map(|i| Some(format!("{}/{i}", show(&value)))).collect()
}
