//! Runs a test of this binary in a process of its own, which can be killed or limited as this one can't.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Lines};
use std::process::{Child, ChildStdout, Command, Stdio};

/// Names the directory to a test that runs as a child. Without it such a test has nothing to do.
const DIR: &str = "MILLSTREAM_CHILD_DIR";

/// The directory, in a child.
pub fn dir() -> Option<std::ffi::OsString> {
    std::env::var_os(DIR)
}

/// Starts the ignored test of this name, with faults armed as `MILLSTREAM_FAULT` says.
pub fn start(test: &str, dir: impl AsRef<OsStr>, faults: &str) -> (Child, Lines<BufReader<ChildStdout>>) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--ignored", "--nocapture", "--test-threads=1"])
        .env(DIR, dir)
        .envs((!faults.is_empty()).then_some(("MILLSTREAM_FAULT", faults)))
        .stdout(Stdio::piped())
        .spawn()
        .expect("the test binary starts");
    let lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
    (child, lines)
}
