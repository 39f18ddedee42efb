//! The windowed topologies of the recorded cases.

use millstream::codec::Data;
use millstream::testing::TestDriver;
use millstream::{
    Cogrouped, SessionWindows, SlidingWindows, StreamBuilder, TimeWindows, Timestamp, Topic, Windowed, WindowedStream,
    WindowedTable,
};
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

/// Folds a windowed stream of either kind; gives how its rows are read.
macro_rules! fold {
    ($stream:expr, $emit:expr, $params:expr) => {{
        let (stream, emit, params) = ($stream, $emit, $params);
        match text(params, "agg") {
            "count" => {
                out(&stream.count("store"), emit, params, |n| Some(n.to_string()));
                COUNT_ROWS
            }
            "reduce" => {
                out(&stream.reduce("store", reduce), emit, params, |value| value);
                TEXT_ROWS
            }
            agg => {
                let sum = sum(agg);
                let table = stream.aggregate("store", || None, move |_, value, so_far| sum(value, so_far));
                out(&table, emit, params, |value| value);
                TEXT_ROWS
            }
        }
    }};
}

/// Whether the operator is one of these; if so, it is declared.
pub fn declare(builder: &mut StreamBuilder, operator: &str, params: &Value) -> Option<(Read, Rows)> {
    let (kind, emit) = match operator {
        "unlimited-windows" => ("unlimited", "update"),
        _ => operator.split_once('-')?,
    };
    let grace = || ms(params, "graceMs");
    if operator == "cogroup-windowed" {
        return Some((read, cogroup(builder, params)));
    }
    let windows = match kind {
        "unlimited" => TimeWindows::unlimited_from(Timestamp(ms(params, "startMs"))),
        "tumbling" => TimeWindows::tumbling_ms(ms(params, "sizeMs")).grace_ms(grace()),
        "hopping" => TimeWindows::hopping_ms(ms(params, "sizeMs"), ms(params, "advanceMs")).grace_ms(grace()),
        "sliding" => {
            let sliding = SlidingWindows::of_ms(ms(params, "timeDifferenceMs")).grace_ms(grace());
            return Some((read, fold!(windowed_by(builder, sliding, (kind, emit), params), emit, params)));
        }
        "session" => {
            let sessions = SessionWindows::gap_ms(ms(params, "gapMs")).grace_ms(grace());
            return Some((read, fold_sessions(&windowed_by(builder, sessions, (kind, emit), params), emit, params)));
        }
        _ => return None,
    };
    Some((read, fold!(windowed_by(builder, windows, (kind, emit), params), emit, params)))
}

fn windowed_by<W>(
    builder: &mut StreamBuilder,
    windows: W,
    (kind, emit): (&str, &str),
    params: &Value,
) -> WindowedStream<Text, Text, W> {
    let records = builder.stream::<Text, Text>(&topic("in"));
    // Sliding windows drop null values.
    let records = if kind == "sliding" { records.filter(|_, value| value.is_some()) } else { records };
    let mut stream = records.group_by_key().windowed_by(windows);
    if emit == "final" {
        stream = stream.emit_on_close();
    }
    match params["retentionMs"].as_i64() {
        Some(retention_ms) => stream.retention_ms(retention_ms),
        None => stream,
    }
}

/// The streams `in-1` to `in-N`, each adding its number and its values to a text.
pub fn cogrouped(builder: &mut StreamBuilder, params: &Value, drops_nulls: bool) -> Cogrouped<Text, String> {
    let streams = params["streams"].as_u64().expect("streams is a number");
    let mut members = (1..=streams).map(|number| {
        let records = builder.stream::<Text, Text>(&topic(&format!("in-{number}")));
        let records = if drops_nulls { records.filter(|_, value| value.is_some()) } else { records };
        let add = move |_: &Text, value: Text, so_far: String| format!("{so_far}[{number}:{}]", show(&value));
        (records.group_by_key(), add)
    });
    let (first, add) = members.next().expect("a stream");
    let group = first.cogroup(add);
    members.fold(group, |group, (stream, add)| group.with(&stream, add))
}

fn cogroup(builder: &mut StreamBuilder, params: &Value) -> Rows {
    let (kind, grace, retention) = (text(params, "window"), ms(params, "graceMs"), ms(params, "retentionMs"));
    let group = cogrouped(builder, params, kind == "sliding");
    let timed = |windows: TimeWindows, group: Cogrouped<Text, String>| {
        group.windowed_by(windows.grace_ms(grace)).retention_ms(retention).aggregate("store", String::new)
    };
    let table = match kind {
        "tumbling" => timed(TimeWindows::tumbling_ms(ms(params, "sizeMs")), group),
        "hopping" => timed(TimeWindows::hopping_ms(ms(params, "sizeMs"), ms(params, "advanceMs")), group),
        "sliding" => {
            let windows = SlidingWindows::of_ms(ms(params, "timeDifferenceMs")).grace_ms(grace);
            group.windowed_by(windows).retention_ms(retention).aggregate("store", String::new)
        }
        "session" => {
            let windows = SessionWindows::gap_ms(ms(params, "gapMs")).grace_ms(grace);
            group.windowed_by(windows).retention_ms(retention).aggregate("store", String::new, |_, a, b| a + &b)
        }
        kind => panic!("no windows {kind:?}"),
    };
    out(&table, "update", params, Some);
    if kind == "session" {
        return |driver, store| untimed(rows::<String>(driver, store, |value| json!(value)));
    }
    |driver, store| rows::<String>(driver, store, |value| json!(value))
}

/// Session stores are recorded without timestamps.
fn untimed(rows: Vec<Value>) -> Vec<Value> {
    rows.into_iter().map(|row| json!({"key": row["key"], "value": row["value"]})).collect()
}

fn reduce(so_far: Text, value: Text) -> Text {
    Some(format!("{},{}", show(&so_far), show(&value)))
}

/// The sum of two, as text; a value that is not there counts 0.
fn sum(agg: &str) -> impl Fn(Text, Text) -> Text + Clone + Send + Sync + use<> {
    let null_at_zero = agg == "sum-null-at-zero";
    move |a, b| {
        let number = |text: &Text| text.as_deref().map_or(0, int);
        Some((number(&a) + number(&b)).to_string()).filter(|sum| !null_at_zero || sum != "0")
    }
}

const TEXT_ROWS: Rows = |driver, store| rows::<Text>(driver, store, |value| json!(value));
const COUNT_ROWS: Rows = |driver, store| rows::<u64>(driver, store, |n| json!(n.to_string()));

fn fold_sessions(stream: &WindowedStream<Text, Text, SessionWindows>, emit: &str, params: &Value) -> Rows {
    match text(params, "agg") {
        "count" => {
            out(&stream.count("store"), emit, params, |n| Some(n.to_string()));
            return |driver, store| untimed(COUNT_ROWS(driver, store));
        }
        "reduce" => out(&stream.reduce("store", reduce), emit, params, |value| value),
        agg => {
            let (sum, merge) = (sum(agg), sum(agg));
            let table =
                stream.aggregate("store", || None, move |_, value, so_far| sum(value, so_far), move |_, a, b| merge(a, b));
            out(&table, emit, params, |value| value);
        }
    }
    |driver, store| untimed(TEXT_ROWS(driver, store))
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
