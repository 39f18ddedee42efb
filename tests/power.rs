//! Power cuts: what a machine would keep of a log that is killed. The lengths that the write-ahead log has when a sync begins are what
//! that sync makes durable; afterwards all that lies beyond is cut off.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;

use millstream_state::fault;
use parking_lot::{Condvar, Mutex};

/// The lengths of the files of the write-ahead log, by name.
pub type Lengths = BTreeMap<OsString, u64>;

/// As they are now, of the log in this directory.
pub fn lengths(log: &Path) -> Lengths {
    let files = std::fs::read_dir(log.join("db")).expect("the log has a database");
    let files = files.map(|file| file.expect("its directory can be read"));
    let files = files.filter(|file| file.path().extension().is_some_and(|extension| extension == "log"));
    // One may be deleted meanwhile.
    files.filter_map(|file| Some((file.file_name(), file.metadata().ok()?.len()))).collect()
}

/// Cuts the files back to these lengths. A file that is not among them was never synced.
pub fn cut(log: &Path, durable: &Lengths) {
    for (name, length) in lengths(log) {
        let kept = durable.get(&name).copied().unwrap_or(0).min(length);
        let file = std::fs::File::options().write(true).open(log.join("db").join(name)).expect("the file is there");
        file.set_len(kept).expect("it can be cut");
    }
}

/// From now on notes beside the log in this directory what its syncs have made durable.
pub fn note_syncs(log: &Path) {
    let (begun, log) = (Arc::new(Mutex::new(Lengths::new())), log.to_owned());
    let (noted, dir) = (Arc::clone(&begun), log.clone());
    let _ = std::fs::remove_file(log.with_extension("synced"));
    fault::on_visit("log:sync:begin", move || *noted.lock() = lengths(&dir));
    fault::on_visit("log:sync:done", move || {
        let lines: Vec<String> = begun.lock().iter().map(|(name, length)| format!("{} {length}", name.display())).collect();
        let (new, file) = (log.with_extension("synced.new"), log.with_extension("synced"));
        std::fs::write(&new, lines.join("\n")).and_then(|()| std::fs::rename(&new, &file)).expect("it can be noted");
    });
}

/// Cuts the power of a log that was killed: leaves what its last sync made durable. How many bytes are gone, if it came to a sync at all.
pub fn cut_off(log: &Path) -> Option<u64> {
    let noted = std::fs::read_to_string(log.with_extension("synced")).ok()?;
    let line = |line: &str| {
        let (name, length) = line.split_once(' ').expect("name and length");
        (OsString::from(name), length.parse().expect("a length"))
    };
    let sum = |lengths: &Lengths| lengths.values().sum::<u64>();
    let before = sum(&lengths(log));
    cut(log, &noted.lines().map(line).collect());
    Some(before - sum(&lengths(log)))
}

/// Holds up every sync until it is opened.
pub struct Gate(Arc<(Mutex<bool>, Condvar)>);

/// From now on no sync begins.
pub fn hold_syncs() -> Gate {
    let gate = Arc::new((Mutex::new(false), Condvar::new()));
    let held = Arc::clone(&gate);
    fault::on_visit("log:sync:begin", move || {
        let mut open = held.0.lock();
        while !*open {
            held.1.wait(&mut open);
        }
    });
    Gate(gate)
}

impl Gate {
    /// Lets them go, for good.
    pub fn open(&self) {
        *self.0.0.lock() = true;
        self.0.1.notify_all();
    }
}

impl Drop for Gate {
    /// A test that fails need not hang.
    fn drop(&mut self) {
        self.open();
    }
}
