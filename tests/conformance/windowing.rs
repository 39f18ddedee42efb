//! The windowed topologies of the recorded cases.

use millstream::codec::Data;
use millstream::testing::TestDriver;
use millstream::{StreamBuilder, TimeWindows, Timestamp, Topic, Windowed, WindowedStream, WindowedTable};
use serde_json::{Value, json};

use super::functions::{int, show};
use super::operators::{Read, Rows, text};
use super::{Text, topic};

type Out = Topic<Windowed<Text>, Text>;

fn windowed(key: Windowed<Text>) -> Value {
    json!({"key": key.key, "start": key.start.0, "end": key.end.0})
}

fn read(driver: &mut TestDriver, name: &str) -> Vec<Value> {
    let out: Out = Topic::new(name.to_owned().leak());
    let records = driver.read(&out).into_iter();
    records.map(|record| json!({"key": windowed(record.key), "value": record.value, "ts": record.timestamp.0})).collect()
}

fn rows<V: Data>(driver: &TestDriver, store: &str, show: impl Fn(V) -> Value) -> Vec<Value> {
    let rows = driver.table::<Windowed<Text>, V>(store).into_iter();
    rows.map(|(key, value, ts)| json!({"key": windowed(key), "value": show(value), "ts": ts.0})).collect()
}

fn ms(params: &Value, name: &str) -> i64 {
    params[name].as_i64().unwrap_or_else(|| panic!("parameter {name:?} is a number"))
}

/// Whether the operator is one of these; if so, it is declared.
pub fn declare(builder: &mut StreamBuilder, operator: &str, params: &Value) -> Option<(Read, Rows)> {
    let (windows, emit) = match operator {
        "unlimited-windows" => (TimeWindows::unlimited_from(Timestamp(ms(params, "startMs"))), "update"),
        _ => {
            let (kind, emit) = operator.split_once('-')?;
            let windows = match kind {
                "tumbling" => TimeWindows::tumbling_ms(ms(params, "sizeMs")),
                "hopping" => TimeWindows::hopping_ms(ms(params, "sizeMs"), ms(params, "advanceMs")),
                _ => return None,
            };
            (windows.grace_ms(ms(params, "graceMs")), emit)
        }
    };
    let mut stream = builder.stream(&topic("in")).group_by_key().windowed_by(windows);
    if emit == "final" {
        stream = stream.emit_on_close();
    }
    if let Some(retention_ms) = params["retentionMs"].as_i64() {
        stream = stream.retention_ms(retention_ms);
    }
    Some((read, fold(&stream, emit, params)))
}

fn fold(stream: &WindowedStream<Text, Text, TimeWindows>, emit: &str, params: &Value) -> Rows {
    let text_rows: Rows = |driver, store| rows::<Text>(driver, store, |value| json!(value));
    let sum = |value: &Text, sum: &Text| (sum.as_deref().map_or(0, int) + value.as_deref().map_or(0, int)).to_string();
    match text(params, "agg") {
        "count" => {
            out(&stream.count("store"), emit, params, |n| Some(n.to_string()));
            return |driver, store| rows::<u64>(driver, store, |n| json!(n.to_string()));
        }
        "reduce" => {
            let reduced = stream.reduce("store", |so_far, value| Some(format!("{},{}", show(&so_far), show(&value))));
            out(&reduced, emit, params, |value| value);
        }
        "sum" => {
            out(&stream.aggregate("store", || None, move |_, value, so_far| Some(sum(&value, &so_far))), emit, params, |value| {
                value
            });
        }
        "sum-null-at-zero" => {
            let aggregate = move |_: &Text, value: Text, so_far: Text| Some(sum(&value, &so_far)).filter(|sum| sum != "0");
            out(&stream.aggregate("store", || None, aggregate), emit, params, |value| value);
        }
        agg => panic!("no aggregate {agg:?}"),
    }
    text_rows
}

fn out<V: Data>(table: &WindowedTable<Text, V>, emit: &str, params: &Value, show: impl Fn(V) -> Text + Send + Sync + 'static) {
    let to: Out = Topic::new("out");
    match emit {
        "suppress-close" => table.suppress_until_close("suppress").map_values(show).to(&to),
        "suppress-limit" => {
            let held = table.suppress_for_ms("suppress", ms(params, "timeLimitMs"), params["maxRecords"].as_u64());
            held.map_values(move |value| value.and_then(&show)).to(&to);
        }
        "update" | "final" => table.to_stream().map_values(move |value| value.and_then(&show)).to(&to),
        _ => panic!("no way to emit {emit:?}"),
    }
}
