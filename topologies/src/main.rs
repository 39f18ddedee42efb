//! The shop's binary: reads the command line, does what it says, and turns the outcome into an exit code.

mod cli;
mod client;
mod coupons;
mod dlq;
mod load;
mod notifications;
mod time;
mod topology;

use std::process::ExitCode;

use cli::Command;

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let done = match cli::parse() {
        Command::Load(load) => runtime.block_on(load::run(&load)).map_err(|error| error.to_string()),
        Command::Dlq(dlq) => runtime.block_on(dlq::run(&dlq)).map_err(|error| error.to_string()),
        other => Err(format!("not here yet: {other:?} {}", topology::all().unwrap().to_text(""))),
    };
    done.map_or_else(
        |error| {
            eprintln!("shop: {error}");
            ExitCode::FAILURE
        },
        |()| ExitCode::SUCCESS,
    )
}
