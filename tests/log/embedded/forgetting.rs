//! What a log forgets and what it keeps: retention, compaction, trimming, and the space of it all.

use crate::app::support::eventually;
use crate::log::support::{ManualClock, Random, put, read, read_from, spec, topic};
use millstream::log::embedded::{Durability, EmbeddedLog, Options};
use millstream::log::{Append, Cleanup, Error, Log, RecordBatch, TopicInfo, Transaction};
use millstream::{Headers, Offset, Partition, Timestamp};
use std::path::Path;

const DAY: i64 = 24 * 3600 * 1000;

fn log_with(dir: &Path, cleanup: Cleanup, options: Options) -> (EmbeddedLog, TopicInfo) {
    let log = EmbeddedLog::open(dir, options).unwrap();
    let topic = log.create_topic(&spec("events", 2, cleanup)).unwrap();
    (log, topic)
}

#[test]
fn retention_by_time_drops_whole_batches_and_moves_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let clock = ManualClock::at(100 * DAY);
    let cleanup = Cleanup::Delete { retention_ms: Some(7 * DAY as u64), retention_bytes: None };
    let (log, events) = log_with(dir.path(), cleanup, clock.options());
    put(&log, &events, 0, &[("a", "0"), ("b", "1")]);
    clock.advance_ms(DAY);
    put(&log, &events, 0, &[("c", "2")]);
    clock.advance_ms(6 * DAY);
    log.maintain().unwrap();
    assert_eq!(read(&log, &events, 0), ["0 a=0", "1 b=1", "2 c=2"], "seven days old is not older than seven days");
    clock.advance_ms(1);
    log.maintain().unwrap();
    assert_eq!(read(&log, &events, 0), ["2 c=2"]);
    assert!(matches!(read_from(&log, &events, 0, 1, 1), Err(Error::OutOfRange { start: Offset(2), .. })));

    clock.advance_ms(100 * DAY);
    log.maintain().unwrap();
    drop(log);
    let (log, events) = log_with(dir.path(), cleanup, clock.options());
    assert_eq!(read(&log, &events, 0), [""; 0]);
    assert_eq!(put(&log, &events, 0, &[("d", "3")]), 3, "an empty partition goes on where it was");
}

#[test]
fn retention_by_size_keeps_the_last_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let cleanup = Cleanup::Delete { retention_ms: None, retention_bytes: Some(10_000) };
    let (log, events) = log_with(dir.path(), cleanup, ManualClock::at(0).options());
    let value = "x".repeat(950);
    for _ in 0..100 {
        put(&log, &events, 1, &[("k", &value)]);
    }
    log.maintain().unwrap();
    let start = log.bounds(events.id, Partition(1)).unwrap().start.0;
    assert!((89..=91).contains(&start), "{start}");
    assert_eq!(read(&log, &events, 1).len() as u64, 100 - start);
}

#[test]
fn compaction_keeps_the_last_record_of_each_key_where_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let clock = ManualClock::at(100 * DAY);
    let cleanup = Cleanup::Compact { delete_retention_ms: 7 * DAY as u64 };
    let options = || Options { compact_bytes: 1, ..clock.options() };
    let (log, table) = log_with(dir.path(), cleanup, options());
    put(&log, &table, 0, &[("a", "0"), ("b", "1"), ("a", "2")]);
    put(&log, &table, 0, &[("c", "3"), ("b", "-"), ("a", "5")]);
    put(&log, &table, 0, &[("d", "6"), ("d", "7")]);
    put(&log, &table, 1, &[("a", "0")]);
    log.maintain().unwrap();
    let compacted = ["3 c=3", "4 b=-", "5 a=5", "7 d=7"];
    // The last batches are still in memory as they were; what is on disk shows after opening again.
    drop(log);
    let (log, table) = log_with(dir.path(), cleanup, options());
    assert_eq!(read(&log, &table, 0), compacted);
    for from in 0..=8 {
        let expected: Vec<_> = compacted.iter().filter(|r| r.as_bytes()[0] - b'0' >= from).copied().collect();
        assert_eq!(read_from(&log, &table, 0, u64::from(from), 1).unwrap(), expected, "from {from}");
    }
    assert_eq!(read(&log, &table, 1), ["0 a=0"]);

    clock.advance_ms(7 * DAY + 1);
    let long = "9".repeat(500);
    assert_eq!(put(&log, &table, 0, &[("c", "8"), ("e", &long)]), 8);
    log.maintain().unwrap();
    drop(log);
    let (log, table) = log_with(dir.path(), cleanup, options());
    assert_eq!(
        read(&log, &table, 0),
        ["5 a=5", "7 d=7", "8 c=8", &format!("9 e={long}")],
        "the tombstone of b was there for its time"
    );
}

#[test]
fn compaction_of_much_leaves_the_last_of_each_key() {
    let dir = tempfile::tempdir().unwrap();
    let clock = ManualClock::at(0);
    let cleanup = Cleanup::Compact { delete_retention_ms: u64::MAX };
    let (log, table) = log_with(dir.path(), cleanup, clock.options());
    let mut pending = Vec::new();
    // 40 MB in batches of 200 kB: several slices and runs.
    for i in 0..200_000u32 {
        if i % 1_000 == 0 {
            pending.push(RecordBatch::new());
        }
        let key = (i % 7_001).to_string();
        pending.last_mut().unwrap().push(Timestamp(0), Some(key.as_bytes()), Some(&[i as u8; 200]), &Headers::EMPTY);
    }
    for batch in pending {
        let append = Append { topic: table.id, partition: Partition(0), batch };
        log.commit(Transaction { appends: vec![append], ..Transaction::default() }).wait().unwrap();
    }
    let before = disk_bytes(dir.path());
    log.maintain().unwrap();
    drop(log);
    let (log, table) = log_with(dir.path(), cleanup, clock.options());
    let mut at = Offset(0);
    let mut offsets = Vec::new();
    while at < Offset(200_000) {
        let fetched = log.fetch(table.id, Partition(0), at, 1 << 20).unwrap();
        for record in fetched.batches.iter().flat_map(|b| b.records()) {
            assert_eq!(record.key, Some((record.offset.0 % 7_001).to_string().as_bytes()));
            assert_eq!(record.value, Some(&[record.offset.0 as u8; 200][..]));
            offsets.push(record.offset.0);
        }
        at = fetched.next;
    }
    assert_eq!(offsets, (200_000 - 7_001..200_000).collect::<Vec<_>>());
    let after = disk_bytes(dir.path());
    assert!(after < before / 2, "{before} bytes before, {after} after");
}

/// Fills a topic with 48 MB beside another with 12 MB, trims it, and looks at what the directory holds.
fn check_space(trimmed: Cleanup, kept: Cleanup) {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { write_buffer_bytes: 2 << 20, durability: Durability::Buffered, ..ManualClock::at(0).options() };
    let log = EmbeddedLog::open(dir.path(), options.clone()).unwrap();
    let trimmed = log.create_topic(&spec("trimmed", 1, trimmed)).unwrap();
    let kept = log.create_topic(&spec("kept", 1, kept)).unwrap();
    let mut random = Random::new(7);
    for i in 0..400u32 {
        let noise: Vec<u8> = (0..120_000).map(|_| random.below(256) as u8).collect();
        let mut appends = Vec::new();
        for (topic, bytes) in [(&trimmed, 120_000), (&kept, 30_000)] {
            let mut batch = RecordBatch::new();
            batch.push(Timestamp(0), Some(&i.to_be_bytes()), Some(&noise[..bytes]), &Headers::EMPTY);
            appends.push(Append { topic: topic.id, partition: Partition(0), batch });
        }
        log.commit(Transaction { appends, ..Transaction::default() }).wait().unwrap();
    }
    let before = disk_bytes(dir.path());
    assert!(before > 60_000_000, "{before}");
    log.trim(trimmed.id, Partition(0), Offset(390)).unwrap();
    log.maintain().unwrap();
    // 13 MB are alive; write-ahead log and the last blob file may hold some more. RocksDB removes files when nothing that it does in the
    // background may need them, which no event tells.
    eventually("the space is given back", || disk_bytes(dir.path()) < 24_000_000);
    drop(log);
    let log = EmbeddedLog::open(dir.path(), options).unwrap();
    assert_eq!((read(&log, &trimmed, 0).len(), read(&log, &kept, 0).len()), (10, 400));
}

#[test]
fn a_trimmed_changelog_gives_its_space_back() {
    check_space(Cleanup::Compact { delete_retention_ms: 1 }, Cleanup::KEEP);
}

#[test]
fn a_trimmed_topic_gives_its_space_back_from_between_another() {
    check_space(Cleanup::KEEP, Cleanup::KEEP);
}

#[test]
fn who_reads_while_the_start_moves_gets_all_or_hears_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = ManualClock::at(0).options();
    (options.tail_cache_bytes, options.durability) = (0, Durability::Buffered);
    let log = EmbeddedLog::open(dir.path(), options).unwrap();
    let events = topic(&log, "events", 1);
    for i in 0..300 {
        put(&log, &events, 0, &[("k", &i.to_string())]);
    }
    std::thread::scope(|scope| {
        let trimming = scope.spawn(|| {
            for before in 1..300 {
                log.trim(events.id, Partition(0), Offset(before)).unwrap();
                log.maintain().unwrap();
            }
        });
        while !trimming.is_finished() {
            let at = log.bounds(events.id, Partition(0)).unwrap().start;
            match log.fetch(events.id, Partition(0), at, 200) {
                Ok(fetched) => {
                    let first = fetched.batches[0].records_from(at).next().map(|record| record.offset);
                    assert_eq!(first, Some(at), "a fetch begins where it was asked to");
                }
                Err(error) => assert!(matches!(error, Error::OutOfRange { start, .. } if start > at), "{error}"),
            }
        }
    });
}

/// What the directory holds, in bytes.
fn disk_bytes(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|path| if path.is_dir() { disk_bytes(&path) } else { path.metadata().map_or(0, |m| m.len()) }).sum()
}
