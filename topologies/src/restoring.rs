//! A bar on the terminal while state is restored at the start, or when tasks come: how much of their changelogs is still to be read. Where
//! nobody looks, there is none.

use std::collections::HashMap;
use std::io::IsTerminal as _;
use std::sync::Mutex;

use indicatif::{ProgressBar, ProgressStyle};
use millstream::{Partition, Restoration, RestoreListener, RestoreStep};

/// What draws the bar, if standard error is a terminal.
pub fn bar() -> Option<RestoreListener> {
    if !std::io::stderr().is_terminal() {
        return None;
    }
    let shown = Mutex::new((Totals::default(), None::<ProgressBar>));
    Some(RestoreListener::new(move |restoration| {
        let mut shown = shown.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let (totals, bar) = &mut *shown;
        totals.take(restoration);
        if totals.tasks.is_empty() || totals.of == 0 {
            if let Some(bar) = bar.take() {
                bar.finish_and_clear();
            }
            return;
        }
        let bar = bar.get_or_insert_with(|| {
            let form = "restoring {bar:40} {human_pos} of {human_len} records, {eta} left";
            ProgressBar::new(0).with_style(ProgressStyle::with_template(form).expect("the form is right"))
        });
        bar.set_length(totals.of);
        bar.set_position(totals.done);
    }))
}

/// How much is restored of all that has begun since nothing was being restored.
#[derive(Default)]
struct Totals {
    done: u64,
    of: u64,
    /// Where each task stands, and where it is going.
    tasks: HashMap<(String, Partition), (u64, u64)>,
}

impl Totals {
    fn take(&mut self, restoration: &Restoration<'_>) {
        let place = (restoration.sub_topology.to_owned(), restoration.partition);
        match restoration.step {
            RestoreStep::Start { from, end } => {
                if self.tasks.is_empty() {
                    (self.done, self.of) = (0, 0);
                }
                self.of += end.0.saturating_sub(from.0);
                self.tasks.insert(place, (from.0, end.0));
            }
            RestoreStep::Batch { next, .. } => {
                if let Some((at, end)) = self.tasks.get_mut(&place) {
                    // What was appended meanwhile may be read with the rest.
                    let next = next.0.min(*end);
                    self.done += next.saturating_sub(*at);
                    *at = next;
                }
            }
            RestoreStep::End { .. } | RestoreStep::Suspended => {
                if let Some((at, end)) = self.tasks.remove(&place) {
                    self.done += end.saturating_sub(at);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use millstream::Offset;

    use super::*;

    #[test]
    fn what_is_done_grows_to_the_whole_and_begins_anew() {
        let mut totals = Totals::default();
        let mut check = |sub_topology: &str, step: RestoreStep, expected: (u64, u64)| {
            totals.take(&Restoration {
                sub_topology,
                stores: &["a", "b"],
                changelog: "changelog",
                partition: Partition(0),
                step,
            });
            assert_eq!((totals.done, totals.of), expected, "{sub_topology} {step:?}");
        };
        let (start, end) =
            (|from, end| RestoreStep::Start { from: Offset(from), end: Offset(end) }, RestoreStep::End { records: 1 });
        let batch = |next, end| RestoreStep::Batch { records: 1, next: Offset(next), end: Offset(end) };
        for _ in 0..2 {
            check("a", start(10, 30), (0, 20));
            check("b", start(0, 5), (0, 25));
            check("a", batch(20, 30), (10, 25));
            check("b", RestoreStep::Suspended, (15, 25));
            check("a", batch(35, 30), (25, 25));
            check("a", end, (25, 25));
        }
    }
}
