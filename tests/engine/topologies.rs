//! What a topology may be: mistakes are found when it is built, all at once; what was built can be described; keys meet across partitions.

use millstream::codec::Decimal;
use millstream::testing::TestDriver;
use millstream::{Record, StreamBuilder, Timestamp, Topic};

const LINES: Topic<String, String> = Topic::new("lines").partitions(3);
const COUNTS: Topic<String, u64> = Topic::new("counts").partitions(2);

fn word_count() -> StreamBuilder {
    let mut builder = StreamBuilder::new("word-count");
    let words = builder.stream(&LINES).flat_map_values(|line: String| line.split(' ').map(str::to_owned).collect::<Vec<_>>());
    words.group_by("by-word", |_, word| word.clone()).count("counts").to_stream().to(&COUNTS);
    builder
}

#[test]
fn words_are_counted_in_the_task_of_the_word_whatever_partition_the_line_was_in() {
    let mut driver = TestDriver::new(word_count().build().expect("the topology is valid"));
    for (i, line) in ["to be or not to be", "that is the question", "to be is to do"].iter().enumerate() {
        driver.pipe(&LINES, &Record::new(format!("line-{i}"), (*line).to_owned(), Timestamp(i as i64)));
    }
    let mut counts = driver.table::<String, u64>("counts");
    counts.sort();
    let counts: Vec<_> = counts.iter().map(|(word, count, _)| (word.as_str(), *count)).collect();
    let expected = [("be", 3), ("do", 1), ("is", 2), ("not", 1), ("or", 1), ("question", 1), ("that", 1), ("the", 1), ("to", 4)];
    assert_eq!(counts, expected);
    let of_to = driver.read(&COUNTS).into_iter().filter(|record| record.key == "to").map(|record| record.value);
    assert_eq!(of_to.collect::<Vec<_>>(), [1, 2, 3, 4]);
}

#[test]
fn a_topology_is_described_as_text_and_as_a_graph() {
    let topology = word_count().build().expect("the topology is valid");
    let text = "\
Topology: word-count
  Sub-topology: lines
    Source: from-lines (topic: lines)
      --> flat-map-values-1
    Processor: flat-map-values-1
      --> select-key-2
      <-- from-lines
    Processor: select-key-2
      --> to-3
      <-- flat-map-values-1
    Sink: to-3 (topic: word-count-by-word-repartition)
      <-- select-key-2
  Sub-topology: by-word
    Source: from-word-count-by-word-repartition (topic: word-count-by-word-repartition)
      --> counts
    Processor: counts (stores: counts)
      --> to-stream-6
      <-- from-word-count-by-word-repartition
    Processor: to-stream-6
      --> to-7
      <-- counts
    Sink: to-7 (topic: counts)
      <-- to-stream-6
";
    assert_eq!(topology.to_text(""), text);
    assert_eq!(topology.to_text("by-word").lines().count(), 12, "one part of it");
    assert!(topology.to_mermaid("").contains("node_counts --> store_counts[(\"counts\")]"), "{}", topology.to_mermaid(""));
    assert!(topology.to_dot("").contains("node_select_2d_key_2d_2 -> node_to_2d_3;"), "{}", topology.to_dot(""));
}

/// The mistakes of a topology, as `build` reports them.
pub fn mistakes(declare: impl FnOnce(&mut StreamBuilder)) -> Vec<String> {
    let mut builder = StreamBuilder::new("app");
    declare(&mut builder);
    builder.build().err().expect("the topology is refused").0
}

#[test]
fn mistakes_are_found_when_it_is_built_and_all_at_once() {
    assert_eq!(mistakes(|_| {}), ["the topology reads no topic"]);
    let twice = mistakes(|builder| {
        builder.stream(&LINES).group_by_key().count("n");
        builder.stream(&LINES).group_by_key().count("n");
    });
    assert_eq!(
        twice,
        [
            "two nodes are named \"from-lines\"",
            "topic \"lines\" is read twice; read it once and use the handle twice",
            "two stores are named \"n\"",
            "two nodes are named \"n\"",
        ]
    );
    let names = mistakes(|builder| builder.stream(&Topic::<String, String>::new("a/b")).to(&Topic::new("")));
    assert!(names.iter().all(|mistake| mistake.contains("topic name")) && names.len() >= 2, "{names:?}");
}

#[test]
fn what_is_joined_must_be_partitioned_alike() {
    let counts = mistakes(|builder| {
        let table = builder.table(&Topic::<String, String>::new("users").partitions(2), "users");
        builder.stream(&LINES).join("with-user", &table, |line, user| line + &user);
    });
    assert_eq!(
        counts,
        ["\"with-user\" joins \"lines\" with 3 partitions and \"users\" with 2 partitions; they must have equally many"]
    );
    let codecs = mistakes(|builder| {
        let table = builder.table(&Topic::<u64, u64>::new("prices"), "prices");
        let orders = Topic::<u64, u64>::with_codecs("orders", &Decimal, <u64 as millstream::codec::Data>::CODEC);
        builder.stream(&orders).join("priced", &table, |order, price| order * price);
    });
    assert_eq!(codecs, ["\"priced\" joins keys that are encoded as decimal with keys that are encoded as u64"]);
}

#[test]
fn a_stream_whose_key_changed_is_repartitioned_like_the_table_before_it_is_joined() {
    let mut builder = StreamBuilder::new("app");
    let table =
        builder.table(&Topic::<u64, String>::with_codecs("users", &Decimal, &millstream::codec::Utf8).partitions(4), "users");
    let named =
        builder.stream(&LINES).select_key(|_, line| line.len() as u64).join("with-user", &table, |line, user| line + &user);
    let out: Topic<u64, String> = Topic::new("out");
    named.to(&out);
    let mut driver = TestDriver::new(builder.build().expect("the topology is valid"));
    let users: Topic<u64, String> = Topic::with_codecs("users", &Decimal, &millstream::codec::Utf8).partitions(4);
    for id in 0..20 {
        driver.pipe(&users, &Record::new(id, format!("-{id}"), Timestamp(0)));
    }
    for id in 0..20usize {
        driver.pipe(&LINES, &Record::new(String::new(), "x".repeat(id), Timestamp(1)));
    }
    let joined: Vec<String> = driver.read(&out).into_iter().map(|record| record.value).collect();
    assert_eq!(joined, (0..20).map(|id| format!("{}-{id}", "x".repeat(id))).collect::<Vec<_>>());
}

#[test]
fn a_grouped_stream_can_be_folded_more_than_once() {
    let mut builder = StreamBuilder::new("app");
    let words = builder.stream(&LINES).group_by("by-line", |_, line| line.clone());
    words.count("counts");
    words.reduce("longest", |a, b| if a.len() > b.len() { a } else { b });
    let mut driver = TestDriver::new(builder.build().expect("one repartition topic serves both"));
    driver.pipe(&LINES, &Record::new("k".to_owned(), "line".to_owned(), Timestamp(0)));
    assert_eq!(driver.table::<String, u64>("counts").len(), 1);
    assert_eq!(driver.table::<String, String>("longest").len(), 1);
}
