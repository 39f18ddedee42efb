//! Conformance: the inputs, outputs and stores that Apache Kafka Streams 4.3.1's own test driver recorded (`cases/*.json`, one file an
//! operator, some hand-written and some random scenarios in each) must come out of the same topologies here; also where all that is in
//! memory is lost and restored after every record.
//!
//! Where a Rust type says what Kafka Streams finds out at run time, the topology says it too: a null value that Kafka Streams' joins and
//! aggregates drop is filtered out, for here an `Option` is a value like any other.

mod functions;
mod operators;
mod windowing;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use millstream::testing::TestDriver;
use millstream::{Record, Timestamp, Topic};
use serde::Deserialize;
use serde_json::Value;

/// Keys and values of the scenarios: text or null.
type Text = Option<String>;

fn topic(name: &str) -> Topic<Text, Text> {
    // Each scenario names a handful of topics; they live as long as the test.
    Topic::new(Box::leak(name.to_owned().into_boxed_str()))
}

#[derive(Deserialize)]
struct Case {
    operator: String,
    scenarios: Vec<Scenario>,
}

#[derive(Deserialize)]
struct Scenario {
    name: String,
    seed: Option<u64>,
    params: Value,
    inputs: Vec<Input>,
    outputs: BTreeMap<String, Vec<Value>>,
    stores: BTreeMap<String, Vec<Value>>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Input {
    #[serde(rename_all = "camelCase")]
    Clock {
        advance_wall_clock_ms: i64,
    },
    Record {
        topic: String,
        key: Text,
        value: Text,
        ts: i64,
    },
}

/// What one run gave, in the form of the recorded cases. With `restarts` all memory is lost before each input, from the first record on:
/// before that there is nothing that a commit could have kept the schedules of punctuators in.
fn run(operator: &str, scenario: &Scenario, restarts: bool) -> (BTreeMap<String, Vec<Value>>, BTreeMap<String, Vec<Value>>) {
    let built = operators::build(operator, &scenario.params);
    let mut driver = TestDriver::new(built.topology);
    let mut outputs: BTreeMap<String, Vec<Value>> = scenario.outputs.keys().map(|name| (name.clone(), Vec::new())).collect();
    for (at, input) in scenario.inputs.iter().enumerate() {
        if restarts && scenario.inputs[..at].iter().any(|input| matches!(input, Input::Record { .. })) {
            driver.restart();
        }
        match input {
            Input::Clock { advance_wall_clock_ms } => driver.advance_wall_clock(*advance_wall_clock_ms),
            Input::Record { topic: name, key, value, ts } => {
                driver.pipe(&topic(name), &Record::new(key.clone(), value.clone(), Timestamp(*ts)));
            }
        }
        for (name, records) in &mut outputs {
            for mut record in (built.read)(&mut driver, name) {
                record["at"] = at.into();
                records.push(record);
            }
        }
    }
    let rows = |driver: &TestDriver| scenario.stores.keys().map(|name| (name.clone(), (built.rows)(driver, name))).collect();
    let stores = rows(&driver);
    driver.restart();
    assert_eq!(stores, rows(&driver), "the stores differ once they are restored from their changelogs");
    (outputs, stores)
}

fn check(file: &str, text: &str) {
    let case: Case = serde_json::from_str(text).expect("the case file is valid");
    for scenario in &case.scenarios {
        for restarts in [false, true] {
            check_run(file, &case.operator, scenario, restarts);
        }
    }
}

fn check_run(file: &str, operator: &str, scenario: &Scenario, restarts: bool) {
    let (outputs, stores) = run(operator, scenario, restarts);
    let Scenario { name, seed, params, .. } = scenario;
    let what = format!("{file}: scenario {name:?}, seed {seed:?}, params {params}, restarts {restarts}");
    for (topic, expected) in &scenario.outputs {
        let found = &outputs[topic];
        if let Some(i) = (0..expected.len().max(found.len())).find(|i| expected.get(*i) != found.get(*i)) {
            panic!("{what}: topic {topic:?}, record {i}: expected {:?}, found {:?}", expected.get(i), found.get(i));
        }
    }
    assert_eq!(stores, scenario.stores, "{what}: stores");
}

macro_rules! cases {
    ($($test:ident = $file:literal;)*) => {$(
        #[test]
        fn $test() {
            check($file, include_str!(concat!("cases/", $file, ".json")));
        }
    )*};
}

cases! {
    branch = "branch";
    chain = "chain";
    cogroup = "cogroup";
    cogroup_windowed = "cogroup-windowed";
    dedup_by_stream_time = "dedup-stream-time";
    dedup_by_wall_clock = "dedup-wall-clock";
    filter = "filter";
    filter_not = "filter-not";
    flat_map = "flat-map";
    flat_map_values = "flat-map-values";
    group_by = "group-by";
    group_by_key_aggregate = "group-by-key-aggregate";
    group_by_key_count = "group-by-key-count";
    group_by_key_reduce = "group-by-key-reduce";
    hopping_final = "hopping-final";
    hopping_update = "hopping-update";
    map = "map";
    map_values = "map-values";
    merge = "merge";
    process_clocks = "process-clocks";
    repartition = "repartition";
    select_key = "select-key";
    session_final = "session-final";
    session_suppress_close = "session-suppress-close";
    session_suppress_limit = "session-suppress-limit";
    session_update = "session-update";
    sliding_final = "sliding-final";
    sliding_suppress_close = "sliding-suppress-close";
    sliding_suppress_limit = "sliding-suppress-limit";
    sliding_update = "sliding-update";
    stream_global_table_inner_join = "stream-global-table-inner-join";
    stream_global_table_left_join = "stream-global-table-left-join";
    stream_stream_inner_join = "stream-stream-inner-join";
    stream_stream_left_join = "stream-stream-left-join";
    stream_stream_outer_join = "stream-stream-outer-join";
    stream_stream_self_join = "stream-stream-self-join";
    stream_table_inner_join = "stream-table-inner-join";
    stream_table_left_join = "stream-table-left-join";
    table = "table";
    hopping_suppress_close = "hopping-suppress-close";
    hopping_suppress_limit = "hopping-suppress-limit";
    tumbling_suppress_close = "tumbling-suppress-close";
    tumbling_suppress_limit = "tumbling-suppress-limit";
    table_suppress_time_limit = "table-suppress-time-limit";
    to_table = "to-table";
    tumbling_final = "tumbling-final";
    tumbling_update = "tumbling-update";
    unlimited_windows = "unlimited-windows";
}

/// For whoever records more, by other seeds: the files of a directory, as far as the operators are those of the list above and no table is
/// versioned. All that differs is shown.
#[test]
#[ignore = "runs the cases of the directory that CONFORMANCE_CASES names"]
fn cases_of_another_directory() {
    let directory = std::env::var("CONFORMANCE_CASES").expect("CONFORMANCE_CASES names a directory");
    let (mut scenarios, mut differing) = (0, 0);
    for entry in std::fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("the directory can be read").path();
        let name = path.file_stem().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if include_str!("mod.rs").contains(&format!("= {name:?};")) {
            let text = std::fs::read_to_string(&path).expect("a file of cases");
            let case: Case = serde_json::from_str(&text).expect("the case file is valid");
            for scenario in case.scenarios.iter().filter(|scenario| scenario.params["historyRetentionMs"].is_null()) {
                let run = || [false, true].iter().for_each(|restarts| check_run(&name, &case.operator, scenario, *restarts));
                differing += usize::from(catch_unwind(AssertUnwindSafe(run)).is_err());
                scenarios += 1;
            }
        }
    }
    println!("{scenarios} scenarios, {differing} different");
    assert!(scenarios > 0, "there are no cases of these operators");
    assert_eq!(differing, 0, "see above");
}

/// Every recorded file is run: one that is added to the folder and not to the list above fails here.
#[test]
fn no_case_is_left_out() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/conformance/cases");
    let this = include_str!("mod.rs");
    for entry in std::fs::read_dir(folder).expect("the folder of cases is there") {
        let name = entry.expect("the folder can be read").file_name();
        let name = name.to_string_lossy().replace(".json", "");
        assert!(this.contains(&format!("= {name:?};")), "cases/{name}.json is not run");
    }
}
