//! The shop's binary: reads the command line, does what it says, and turns the outcome into an exit code: 0 done, 1 failed while running,
//! 2 wrong usage or configuration.

mod api;
mod arenas;
mod cdc;
mod cli;
mod client;
mod cluster;
mod coupons;
mod deliveries;
mod demo;
mod dev;
mod dlq;
mod events;
mod gate;
mod inventory;
mod load;
mod logging;
mod messages;
mod metrics;
mod notifications;
mod open_files;
mod orders;
mod outbox;
mod payments;
mod points;
mod receive;
mod reset;
mod restoring;
mod serving;
mod sink;
mod statistics;
#[cfg(test)]
mod tests;
mod time;
mod topology;

use std::process::ExitCode;

use cli::{Command, TopologyFormat};
use millstream::log::KafkaLog;

fn main() -> ExitCode {
    let outcome = match cli::parse() {
        Command::Dev(dev) => served(dev::run(&dev)),
        Command::Worker(worker) => served(cluster::work(&worker)),
        Command::Api(api) => served(cluster::serve_api(&api)),
        Command::Cdc(cdc) => served(cluster::relay(&cdc)),
        Command::Sink(sink) => served(cluster::deliver(&sink)),
        Command::Receive(receive) => served(receive::run(&receive)),
        Command::Topology(command) => print_topology(&command).map_err(|error| (2, error)),
        Command::Load(command) => match command.database() {
            Ok(outbox) => as_client(load::run(&command, outbox.as_ref())),
            Err(sentence) => Err((2, sentence)),
        },
        Command::Reset(command) => served(reset::run(&command)),
        Command::Dlq(command) => as_client(dlq::run(&command)),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err((code, sentence)) => {
            eprintln!("shop: {sentence}");
            ExitCode::from(code)
        }
    }
}

fn served(outcome: Result<(), serving::Error>) -> Result<(), (u8, String)> {
    outcome.map_err(|error| match error {
        serving::Error::Misconfigured(sentence) => (2, sentence),
        serving::Error::Failed(sentence) => (1, sentence),
    })
}

/// Runs what talks to a shop, on one thread: it leaves the most of the machine to the shop.
fn as_client<E: ToString>(command: impl Future<Output = Result<(), E>>) -> Result<(), (u8, String)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let done = runtime.map_err(|error| (1, error.to_string()))?.block_on(command);
    done.map_err(|error| (1, error.to_string()))
}

fn print_topology(command: &cli::Topology) -> Result<(), String> {
    let built = match &command.name {
        None if command.cluster.is_some() => topology::shared(&topology::Settings::default()),
        None => topology::all(&topology::Settings::default()),
        Some(name) => {
            topology::named(name).ok_or_else(|| format!("there is no topology {name:?}, only {}", topology::names()))?
        }
    };
    let topology = built.map_err(|error| error.to_string())?;
    let tasks = match &command.cluster {
        Some(cluster) => {
            let log = cluster::kafka_config(cluster).map_err(|error| error.to_string())?;
            let log = KafkaLog::open(log).map_err(|error| error.to_string())?;
            topology.tasks_in(&log).map_err(|error| error.to_string())?
        }
        None => Vec::new(),
    };
    print!(
        "{}",
        match command.format {
            TopologyFormat::Text => topology.to_text(""),
            TopologyFormat::Mermaid => topology.to_mermaid(""),
            TopologyFormat::Dot => topology.to_dot(""),
        }
    );
    for task in tasks.iter().filter(|_| command.format == TopologyFormat::Text) {
        let owner = task.owner.as_deref().unwrap_or("nobody");
        println!("  Task: {}-{} (owner: {owner}, lag: {})", task.sub_topology, task.partition, task.lag);
    }
    Ok(())
}
