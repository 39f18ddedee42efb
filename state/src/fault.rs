//! Named points at which a test stops the program: in a commit, a flush, a restore, and wherever else a crash must do no harm. They are in
//! every build, so that what is tested is what runs, and cost one relaxed load until one is armed.
//!
//! `MILLSTREAM_FAULT=state:flush:store-synced:2:abort` kills the process at the second time it comes by that point; `fail` in place of
//! `abort` makes the point return an error, that time and every time after. Several are separated by commas. The points of this crate are
//! those that `tests/state/faults.rs` goes through.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use parking_lot::Mutex;

/// What happens at an armed point.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// The process dies as by `kill -9`: nothing is flushed, nothing is dropped.
    Abort,
    /// The point returns an error, until it is disarmed: as a disk that is full.
    Fail,
}

#[derive(Clone)]
enum Deed {
    Act(Action),
    Run(Arc<dyn Fn() + Send + Sync>),
}

struct Fault {
    name: String,
    /// Visits until it acts; 0 is now.
    after: u32,
    deed: Deed,
}

const UNREAD: u8 = 0;
const OFF: u8 = 1;
const ON: u8 = 2;

static STATE: AtomicU8 = AtomicU8::new(UNREAD);
static ARMED: Mutex<Vec<Fault>> = Mutex::new(Vec::new());

/// A point of this name. Names are `crate:step:moment`.
#[inline]
pub fn point(name: &str) -> io::Result<()> {
    if STATE.load(Ordering::Relaxed) == OFF { Ok(()) } else { visit(name) }
}

/// A point in code that cannot fail: it only ever aborts.
#[inline]
pub fn crash_point(name: &str) {
    let outcome = point(name);
    assert!(outcome.is_ok(), "{name} can only be armed to abort");
}

/// Arms a point of this process: it acts when it is visited for the `nth` time from now, from 1.
pub fn arm(name: &str, nth: u32, action: Action) {
    add(name, nth.saturating_sub(1), Deed::Act(action));
}

/// Calls this at every visit of a point of this process: to look at what is there just then, or to hold up who comes by.
pub fn on_visit(name: &str, run: impl Fn() + Send + Sync + 'static) {
    add(name, 0, Deed::Run(Arc::new(run)));
}

fn add(name: &str, after: u32, deed: Deed) {
    let mut armed = ARMED.lock();
    read_environment(&mut armed);
    armed.push(Fault { name: name.to_owned(), after, deed });
    STATE.store(ON, Ordering::Relaxed);
}

/// Disarms every fault of this name.
pub fn disarm(name: &str) {
    let mut armed = ARMED.lock();
    armed.retain(|f| f.name != name);
}

#[cold]
fn visit(name: &str) -> io::Result<()> {
    let mut due = Vec::new();
    {
        let mut armed = ARMED.lock();
        read_environment(&mut armed);
        for fault in armed.iter_mut().filter(|f| f.name == name) {
            if fault.after > 0 {
                fault.after -= 1;
            } else {
                due.push(fault.deed.clone());
            }
        }
    }
    for deed in due {
        match deed {
            Deed::Act(Action::Abort) => std::process::abort(),
            Deed::Act(Action::Fail) => return Err(io::Error::other(format!("fault injected at {name}"))),
            Deed::Run(run) => run(),
        }
    }
    Ok(())
}

fn read_environment(armed: &mut Vec<Fault>) {
    if STATE.load(Ordering::Relaxed) != UNREAD {
        return;
    }
    if let Ok(list) = std::env::var("MILLSTREAM_FAULT") {
        armed.extend(
            list.split(',')
                .map(|text| parse(text).unwrap_or_else(|| panic!("MILLSTREAM_FAULT: {text:?} is not name:nth:action"))),
        );
    }
    STATE.store(if armed.is_empty() { OFF } else { ON }, Ordering::Relaxed);
}

fn parse(text: &str) -> Option<Fault> {
    let (rest, action) = text.rsplit_once(':')?;
    let (name, nth) = rest.rsplit_once(':')?;
    let action = match action {
        "abort" => Action::Abort,
        "fail" => Action::Fail,
        _ => return None,
    };
    Some(Fault { name: name.to_owned(), after: nth.parse::<u32>().ok()?.checked_sub(1)?, deed: Deed::Act(action) })
}
