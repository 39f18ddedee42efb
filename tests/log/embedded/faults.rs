//! Commits that fail although the disk is fine, at points where a test can decide it: what is said, and what is found afterwards.

use super::child;
use crate::log::support::{appending, open, put, read, topic, wait_until_up};
use millstream::log::Log;
use millstream_state::fault::{self, Action};

#[test]
fn a_failed_commit_is_of_unknown_outcome_and_found_or_not() {
    let dir = tempfile::tempdir().unwrap();
    let (mut process, lines) = child::start("log::embedded::faults::child_whose_commits_fail", dir.path(), "");
    let lines: Vec<_> = lines.map_while(Result::ok).collect();
    assert!(process.wait().unwrap().success() && lines.iter().any(|line| line.contains("survived")), "{}", lines.join("\n"));
}

#[test]
#[ignore = "runs in the child process of a_failed_commit_is_of_unknown_outcome_and_found_or_not"]
fn child_whose_commits_fail() {
    let Some(dir) = child::dir() else { return };
    let log = open(dir.as_ref());
    let orders = topic(&log, "orders", 1);
    put(&log, &orders, 0, &[("a", "0")]);
    let mut expected = vec!["0 a=0".to_owned()];
    for (point, is_found) in [("log:commit:before-write", false), ("log:commit:after-write", true)] {
        fault::arm(point, 1, Action::Fail);
        let error = log.commit(appending(&orders, 0, &[("b", point)])).wait().unwrap_err();
        assert!(error.is_outcome_unknown(), "{point}: {error}");
        fault::disarm(point);
        wait_until_up(&log);
        if is_found {
            expected.push(format!("{} b={point}", expected.len()));
        }
        assert_eq!(read(&log, &orders, 0), expected);
        assert_eq!(put(&log, &orders, 0, &[("c", "1")]), expected.len() as u64);
        expected.push(format!("{} c=1", expected.len()));
        assert_eq!(read(&log, &orders, 0), expected);
    }
    println!("survived");
}
