//! The log of the process: lines for people or JSON for programs, on standard error.

use std::io::{IsTerminal, stderr};

use tracing::level_filters::LevelFilter;

use crate::cli::{LogFormat, LogLevel};

/// Starts logging. Only the first call of a process has an effect.
pub fn start(level: LogLevel, format: LogFormat) {
    let level = match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    let log = tracing_subscriber::fmt().with_writer(stderr).with_max_level(level);
    let started = match format {
        LogFormat::Text => log.with_ansi(stderr().is_terminal()).try_init(),
        LogFormat::Json => log.json().try_init(),
    };
    drop(started); // an error says that logging was started before
}
