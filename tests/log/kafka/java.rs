//! Java's own clients on the same topics: their records lie where ours would, whatever the compression, and its tools see what we do.

use super::{open, prefix, shared_broker};
use crate::log::support::{put, read, topic};
use millstream::Partition;
use millstream::log::partition;

#[test]
fn records_of_java_producers_lie_where_ours_would_and_are_read() {
    let log = open();
    let name = prefix() + "orders";
    let orders = topic(&log, &name, 5);
    let keys: Vec<String> = (0..40).map(|i| format!("{}-{i}", "key".repeat(i % 7))).chain(["키".into(), "ключ".into()]).collect();
    let lines: String = keys.iter().map(|key| format!("{key}\tvalue of {key}\n")).collect();
    std::thread::scope(|scope| {
        for codec in ["none", "gzip", "snappy", "lz4", "zstd"] {
            let (name, lines) = (&name, &lines);
            scope.spawn(move || {
                let args = ["--topic", name, "--compression-codec", codec, "--reader-property", "parse.key=true"];
                shared_broker().tool("org.apache.kafka.tools.ConsoleProducer", &args, lines);
            });
        }
    });
    let mut found = 0;
    for number in 0..5 {
        for record in read(&log, &orders, number) {
            let (_, content) = record.split_once(' ').unwrap();
            let (key, value) = content.split_once('=').unwrap();
            assert_eq!(partition(Some(key.as_bytes()), 5, 0), Partition(number), "{key}");
            assert_eq!(value, format!("value of {key}"));
            found += 1;
        }
    }
    assert_eq!(found, 5 * keys.len());
}

#[test]
fn kafkas_own_tools_see_what_was_committed() {
    let log = open();
    let name = prefix() + "orders";
    let orders = topic(&log, &name, 1);
    put(&log, &orders, 0, &[("a", "1"), ("b", "2")]);
    let offsets = shared_broker().tool("org.apache.kafka.tools.GetOffsetShell", &["--topic", &name], "");
    assert_eq!(offsets.trim(), format!("{name}:0:3"));
}
