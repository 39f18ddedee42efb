//! The topologies of the recorded cases, by operator and parameters.

use millstream::testing::TestDriver;
use millstream::{
    Direction, JoinWindows, Process, Record, Scope, Store, Stream, StreamBuilder, Table, TimeDomain, Timestamp, Topology,
};
use serde_json::{Value, json};

use super::functions::{self, int, show};
use super::{Text, topic, windowing};

pub type Rows = fn(&TestDriver, &str) -> Vec<Value>;
pub type Read = fn(&mut TestDriver, &str) -> Vec<Value>;

pub struct Built {
    pub topology: Topology,
    /// The new records of a topic, as the cases record them.
    pub read: Read,
    /// The rows of a store, as the cases record them.
    pub rows: Rows,
}

pub fn text<'a>(params: &'a Value, name: &str) -> &'a str {
    params[name].as_str().unwrap_or_else(|| panic!("parameter {name:?} is text"))
}

pub fn build(operator: &str, params: &Value) -> Built {
    let mut builder = StreamBuilder::new("conformance");
    if let Some((read, rows)) = windowing::declare(&mut builder, operator, params) {
        return Built { topology: builder.build().expect("the topology is valid"), read, rows };
    }
    let rows: Rows = match operator {
        "table" | "to-table" | "stream-table-inner-join" | "stream-table-left-join" | "group-by-key-reduce" => text_rows,
        "group-by-key-count" => count_rows,
        "group-by" | "group-by-key-aggregate" if text(params, "agg") == "count" => count_rows,
        "dedup-stream-time" | "dedup-wall-clock" => seen_rows,
        _ => text_rows,
    };
    declare(&mut builder, operator, params);
    Built { topology: builder.build().expect("the topology is valid"), read: text_records, rows }
}

fn text_records(driver: &mut TestDriver, name: &str) -> Vec<Value> {
    let records = driver.read(&topic(name)).into_iter();
    records.map(|record| json!({"key": record.key, "value": record.value, "ts": record.timestamp.0})).collect()
}

fn text_rows(driver: &TestDriver, store: &str) -> Vec<Value> {
    let rows = driver.table::<Text, String>(store);
    rows.into_iter().map(|(key, value, ts)| json!({"key": key, "value": value, "ts": ts.0})).collect()
}

fn count_rows(driver: &TestDriver, store: &str) -> Vec<Value> {
    let rows = driver.table::<Text, u64>(store);
    rows.into_iter().map(|(key, value, ts)| json!({"key": key, "value": value.to_string(), "ts": ts.0})).collect()
}

fn seen_rows(driver: &TestDriver, _: &str) -> Vec<Value> {
    driver.rows(&SEEN).into_iter().map(|(key, value)| json!({"key": key, "value": value})).collect()
}

fn declare(builder: &mut StreamBuilder, operator: &str, params: &Value) {
    match operator {
        "filter" | "filter-not" | "map" | "map-values" | "flat-map" | "flat-map-values" | "select-key" => {
            let stream = builder.stream(&topic("in"));
            step(stream, operator, params).to(&topic("out"));
        }
        "chain" => {
            let steps = params["steps"].as_array().expect("steps are a list");
            let stream =
                steps.iter().enumerate().fold(builder.stream(&topic("in")), |stream, (i, params)| match text(params, "op") {
                    "repartition" => stream.repartition(&format!("chain-{i}")),
                    op => step(stream, op, params),
                });
            stream.to(&topic("out"));
        }
        "branch" => {
            let mut rest = builder.stream(&topic("in"));
            for (i, name) in params["predicates"].as_array().expect("predicates are a list").iter().enumerate() {
                let (matching, others) = rest.branch(functions::predicate(name.as_str().expect("a name")));
                matching.to(&topic(&format!("out-{i}")));
                rest = others;
            }
            if params["default"].as_bool() == Some(true) {
                rest.to(&topic("out-default"));
            }
        }
        "merge" => {
            let other = builder.stream(&topic("in-2"));
            builder.stream(&topic("in-1")).merge(&other).to(&topic("out"));
        }
        "repartition" => {
            let stream = builder.stream(&topic("in")).select_key(functions::selector(text(params, "selector")));
            stream.repartition("by-selector").to(&topic("out"));
        }
        "to-table" => {
            let stream = builder.stream(&topic("in"));
            let stream = match params["selector"].as_str() {
                Some(name) => stream.select_key(functions::selector(name)),
                None => stream,
            };
            updates(&stream.to_table("store"));
        }
        "table" => {
            let table = builder.table(&millstream::Topic::<Text, String>::new("in"), "source");
            updates(&table);
        }
        "table-suppress-time-limit" => {
            let table = builder.table(&millstream::Topic::<Text, String>::new("in"), "source");
            let limit_ms = params["timeLimitMs"].as_i64().expect("timeLimitMs is a number");
            table.suppress_for_ms("suppress", limit_ms, params["maxRecords"].as_u64()).to(&topic("out"));
        }
        "cogroup" => updates(&windowing::cogrouped(builder, params, true).aggregate("store", String::new)),
        "group-by-key-count" => {
            counts(&present(&builder.stream(&topic("in"))).group_by_key().count("store"));
        }
        "group-by-key-reduce" => updates(&reduced(&present(&builder.stream(&topic("in"))).group_by_key())),
        "group-by-key-aggregate" => aggregate(&present(&builder.stream(&topic("in"))).group_by_key(), text(params, "agg")),
        "group-by" => {
            let selector = functions::selector(text(params, "selector"));
            let stream = builder.stream(&topic("in"));
            let grouped = present(&stream).group_by("by-selector", move |key, value| selector(key, &Some(value.clone())));
            aggregate(&grouped, text(params, "agg"));
        }
        "stream-table-inner-join" | "stream-table-left-join" => {
            let table = builder.table(&millstream::Topic::<Text, String>::new("table"), "table-store");
            let stream = present(&builder.stream(&topic("stream")));
            let stream = match params["rekey"].as_bool() {
                Some(true) => stream.select_key(|key, value| functions::selector("prefix")(key, &Some(value.clone()))),
                _ => stream,
            };
            let joined = if operator == "stream-table-inner-join" {
                stream.join("join", &table, |left, right| Some(format!("{left}+{right}")))
            } else {
                stream.left_join("join", &table, |left, right| Some(format!("{left}+{}", show(&right))))
            };
            joined.to(&topic("out"));
        }
        "stream-global-table-inner-join" | "stream-global-table-left-join" => {
            let global = millstream::Topic::<Text, String>::new("global").keep_forever();
            let table = builder.global_table(&global, "global-store");
            let stream = present(&builder.stream(&topic("stream")));
            let selector = functions::selector(text(params, "selector"));
            let selector = move |key: &Text, value: &String| selector(key, &Some(value.clone()));
            let joined = if operator == "stream-global-table-inner-join" {
                stream.join_global("join", &table, selector, |left, right| Some(format!("{left}+{right}")))
            } else {
                stream.left_join_global("join", &table, selector, |left, right| Some(format!("{left}+{}", show(&right))))
            };
            joined.to(&topic("out"));
        }
        "stream-stream-inner-join" | "stream-stream-left-join" | "stream-stream-outer-join" | "stream-stream-self-join" => {
            join_streams(builder, operator, params).to(&topic("out"));
        }
        "dedup-stream-time" => dedup(builder, params, TimeDomain::Stream),
        "dedup-wall-clock" => dedup(builder, params, TimeDomain::WallClock),
        "process-clocks" => clocks(builder, params),
        _ => panic!("no topology for operator {operator:?}"),
    }
}

fn join_streams(builder: &mut StreamBuilder, operator: &str, params: &Value) -> Stream<Text, Text> {
    let ms = |name: &str| params[name].as_i64().unwrap_or_else(|| panic!("parameter {name:?} is a number"));
    let windows = JoinWindows::between_ms(ms("beforeMs"), ms("afterMs")).grace_ms(ms("graceMs"));
    let joined = |left: Text, right: Text| Some(format!("{}+{}", show(&left), show(&right)));
    if operator == "stream-stream-self-join" {
        let stream = builder.stream(&topic("in"));
        return stream.join_stream("join", &stream, windows, joined);
    }
    let (left, right) = (builder.stream(&topic("left")), builder.stream(&topic("right")));
    match operator {
        "stream-stream-inner-join" => left.join_stream("join", &right, windows, joined),
        "stream-stream-left-join" => {
            left.left_join_stream("join", &right, windows, move |left, right| joined(left, right.flatten()))
        }
        _ => left.outer_join_stream("join", &right, windows, move |left, right| joined(left.flatten(), right.flatten())),
    }
}

fn step(stream: Stream<Text, Text>, op: &str, params: &Value) -> Stream<Text, Text> {
    match op {
        "filter" => stream.filter(functions::predicate(text(params, "predicate"))),
        "filter-not" => stream.filter_not(functions::predicate(text(params, "predicate"))),
        "map" => stream.map(functions::map(text(params, "mapper"))),
        "map-values" => stream.map_values_with_key(functions::map_values(text(params, "mapper"))),
        "flat-map" => stream.flat_map(functions::flat_map),
        "flat-map-values" => stream.flat_map_values(functions::flat_map_values),
        "select-key" => stream.select_key(functions::selector(text(params, "selector"))),
        _ => panic!("no step {op:?}"),
    }
}

/// The records that have a value: Kafka Streams' aggregates and joins drop the others.
fn present(stream: &Stream<Text, Text>) -> Stream<Text, String> {
    stream.flat_map_values(|value| value)
}

fn updates(table: &Table<Text, impl OutText>) {
    table.to_stream().map_values(|value| value.and_then(OutText::text)).to(&topic("out"));
}

fn counts(table: &Table<Text, u64>) {
    table.to_stream().map_values(|count| count.map(|n| n.to_string())).to(&topic("out"));
}

trait OutText: millstream::codec::Data {
    fn text(self) -> Text;
}

impl OutText for String {
    fn text(self) -> Text {
        Some(self)
    }
}

impl OutText for Text {
    fn text(self) -> Text {
        self
    }
}

fn reduced(grouped: &millstream::Grouped<Text, String>) -> Table<Text, String> {
    grouped.reduce("store", |so_far, value| format!("{so_far},{value}"))
}

fn aggregate(grouped: &millstream::Grouped<Text, String>, agg: &str) {
    let sum = |_: &Text, value: String, sum: Text| Some((sum.as_deref().map_or(0, int) + int(&value)).to_string());
    match agg {
        "count" => counts(&grouped.count("store")),
        "reduce" => updates(&reduced(grouped)),
        "sum" => updates(&grouped.aggregate("store", || None, sum)),
        "sum-null-at-zero" => {
            updates(&grouped.aggregate(
                "store",
                || None,
                move |key, value, so_far| sum(key, value, so_far).filter(|sum| sum != "0"),
            ));
        }
        _ => panic!("no aggregate {agg:?}"),
    }
}

const SEEN: Store<Text, String> = Store::ordered("seen");

fn dedup(builder: &mut StreamBuilder, params: &Value, domain: TimeDomain) {
    let ttl_ms = params["ttlMs"].as_i64().expect("ttlMs is a number");
    let interval_ms = params["intervalMs"].as_i64().expect("intervalMs is a number");
    let process = Process::new("dedup", move |ctx: &mut Scope<'_, Text, Text>, record: Record<Text, Text>| {
        if record.key.is_none() || ctx.store(&SEEN).get(&record.key)?.is_some() {
            return Ok(());
        }
        let now = if domain == TimeDomain::Stream { record.timestamp } else { ctx.wall_clock() };
        ctx.store(&SEEN).put(&record.key, &now.to_string())?;
        ctx.forward(record)
    });
    let expire = move |ctx: &mut Scope<'_, Text, Text>, now: Timestamp| {
        let all = ctx.store(&SEEN).all(Direction::Forward).collect::<Result<Vec<_>, _>>()?;
        for (key, _) in all.into_iter().filter(|(_, at)| int(at) + ttl_ms <= now.0) {
            ctx.store(&SEEN).delete(&key)?;
            ctx.forward(Record::new(key, Some("expired".to_owned()), now))?;
        }
        Ok(())
    };
    let process = process.store(&SEEN).punctuate_from("expire", domain, interval_ms, anchor(params), expire);
    builder.stream(&topic("in")).process(process).to(&topic("out"));
}

fn anchor(params: &Value) -> Option<Timestamp> {
    params["anchorMs"].as_i64().map(Timestamp)
}

fn clocks(builder: &mut StreamBuilder, params: &Value) {
    fn both(ctx: &Scope<'_, Text, Text>) -> String {
        format!(" stream={} wall={}", ctx.stream_time().0, ctx.wall_clock().0)
    }
    let tick = |clock: &'static str| {
        move |ctx: &mut Scope<'_, Text, Text>, now: Timestamp| {
            let value = format!("{clock} tick {now}{}", both(ctx));
            ctx.forward(Record::new(None, Some(value), now))
        }
    };
    let mut process = Process::new("clocks", |ctx: &mut Scope<'_, Text, Text>, record: Record<Text, Text>| {
        let value = show(&record.value) + &both(ctx);
        ctx.forward(record.with_value(Some(value)))
    });
    if let Some(interval_ms) = params["streamTimeIntervalMs"].as_i64() {
        process = process.punctuate("stream", TimeDomain::Stream, interval_ms, tick("stream"));
    }
    if let Some(interval_ms) = params["wallClockIntervalMs"].as_i64() {
        process = process.punctuate_from("wall", TimeDomain::WallClock, interval_ms, anchor(params), tick("wall"));
    }
    builder.stream(&topic("in")).process(process).to(&topic("out"));
}
