//! A worker that was frozen past its session timeout and thinks that it still has its tasks: whatever it commits, nothing is committed.

use super::broker::signal;
use super::groups::{Copier, PROTOCOLS, key, until};
use super::{config, prefix};
use crate::log::support::{put, read, topic};
use millstream::log::kafka::GroupProtocol;
use millstream::log::{KafkaConfig, KafkaLog, Log, TopicInfo};
use std::env;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::Duration;

const SESSION: Duration = Duration::from_millis(1500);

#[test]
fn a_zombie_commits_nothing() {
    for protocol in PROTOCOLS {
        let name = prefix();
        let log = KafkaLog::open(config().group_protocol(protocol).session_timeout(SESSION)).expect("the broker answers");
        let (inputs, output) = topics(&log, &name);
        for i in 0..20 {
            put(&log, &inputs[i % 2], (i / 2 % 2) as u32, &[(&i.to_string(), "v")]);
        }
        let this = env::current_exe().expect("a test binary");
        let mut child = Command::new(this)
            .args(["--exact", "log::kafka::zombie::child_that_is_frozen", "--ignored", "--nocapture"])
            .env("ZOMBIE", format!("{} {name} {protocol:?}", super::shared_broker().address()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the test binary runs");
        let mut said = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        let mut hear = |what: &str| {
            let line = said.by_ref().map(|line| line.expect("a line")).find(|line| line.contains("ZOMBIE "));
            let line = line.expect("the child says something");
            assert!(line.contains(what), "{protocol:?}: {line}");
            line
        };
        // It has read and is about to commit, and then the world stands still for it.
        hear("read");
        signal(child.id(), libc::SIGSTOP);

        let mut heir = Copier::join(&log, &format!("{name}group"), 1, &inputs, &output);
        let mut copied = 0;
        until("the heir has copied all", || {
            copied += heir.turn_over();
            heir.member.wait(Duration::from_millis(20));
            copied == 20
        });
        signal(child.id(), libc::SIGCONT);
        child.stdin.take().expect("a pipe").write_all(b"commit\n").expect("the child reads");
        println!("{protocol:?}: {}", hear("refused"));
        until("the child ends", || {
            copied += heir.turn_over();
            heir.member.wait(Duration::from_millis(20));
            child.try_wait().expect("its state can be asked").is_some_and(|status| status.success())
        });
        let mut found: Vec<_> = (0..2).flat_map(|partition| read(&log, &output, partition)).map(|record| key(&record)).collect();
        found.sort_unstable();
        assert_eq!(found, (0..20).collect::<Vec<_>>(), "{protocol:?}");
    }
}

fn topics(log: &dyn Log, name: &str) -> ([TopicInfo; 2], TopicInfo) {
    ([topic(log, &format!("{name}a"), 2), topic(log, &format!("{name}b"), 2)], topic(log, &format!("{name}out"), 2))
}

#[test]
#[ignore = "runs in the child process of a_zombie_commits_nothing"]
fn child_that_is_frozen() {
    let told = env::var("ZOMBIE").expect("told by the parent");
    let [address, name, protocol] = told.split(' ').collect::<Vec<_>>()[..] else { panic!("{told}") };
    let protocol = if protocol == "Classic" { GroupProtocol::Classic } else { GroupProtocol::Consumer };
    let config = KafkaConfig::new(address).group_protocol(protocol).session_timeout(SESSION);
    let log = KafkaLog::open(config).expect("the broker answers");
    let (inputs, output) = topics(&log, name);
    let mut copier = Copier::join(&log, &format!("{name}group"), 0, &inputs, &output);
    let mut outcome = Ok(0);
    until("something is read", || {
        copier.member.wait(Duration::from_millis(20));
        outcome = copier.turn_with(|records| {
            println!("ZOMBIE read {records}");
            let mut line = String::new();
            std::io::stdin().read_line(&mut line).expect("the parent says when");
        });
        !matches!(outcome, Ok(0))
    });
    match outcome {
        Ok(records) => println!("ZOMBIE committed {records}"),
        Err(error) => println!("ZOMBIE refused {}: {error}", error.is_retriable() || error.is_outcome_unknown()),
    }
}
