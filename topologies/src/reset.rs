//! `shop reset`: forgets what the shop knows, in a cluster or in a data directory, and begins its inputs anew. The shop must not run meanwhile.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use millstream::log::KafkaLog;
use millstream::{Config, Offset, ResetReport};

use crate::cli::Reset;
use crate::cluster;
use crate::serving::{Error, misconfigured};
use crate::topology::{self, Settings};

/// Does it, and prints what was done to standard output.
///
/// # Errors
/// If the shop runs, or what is asked for cannot be.
pub fn run(command: &Reset) -> Result<(), Error> {
    let Reset { to, input_topics, dry_run, force, .. } = command.clone();
    let reset = millstream::Reset { to, inputs: input_topics, dry_run, force };
    let done = match (&command.cluster, &command.data) {
        (Some(cluster), _) => {
            let topology = topology::shared(&Settings::default()).map_err(misconfigured)?;
            let log = KafkaLog::open(cluster::kafka_config(cluster)?).map_err(misconfigured)?;
            reset.run(&topology, &log)
        }
        (None, Some(data)) => {
            if !data.is_dir() {
                return Err(misconfigured(format!("there is no data directory {}", data.display())));
            }
            let topology = topology::all(&Settings::default()).map_err(misconfigured)?;
            reset.run_embedded(&topology, &Config::embedded(data))
        }
        (None, None) => return Err(misconfigured("--brokers or --data is needed")),
    };
    print!("{}", describe(&done.map_err(misconfigured)?, dry_run));
    Ok(())
}

fn describe(report: &ResetReport, dry_run: bool) -> String {
    let mut said = String::new();
    let begins = if dry_run { "would begin" } else { "begins" };
    let mut topics = BTreeMap::<&str, (bool, Vec<Offset>)>::new();
    for begin in &report.begins {
        let (is_input, offsets) = topics.entry(&begin.topic).or_default();
        *is_input = begin.is_input;
        offsets.push(begin.offset);
    }
    for (topic, (is_input, offsets)) in topics {
        let offsets: Vec<String> = offsets.iter().map(Offset::to_string).collect();
        let why = if is_input { "" } else { ", its end" };
        // Writing to a string cannot fail.
        let _ = writeln!(said, "{topic} {begins} at {}{why}", offsets.join(" "));
    }
    let forgotten = if dry_run { "would be forgotten" } else { "forgotten" };
    for topic in &report.forgotten {
        let _ = writeln!(said, "{topic} {forgotten}");
    }
    said
}
