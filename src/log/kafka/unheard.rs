//! What the group took from a member and the member was not told.
//!
//! With KIP-848 a broker says once what a member has to give back, in the answer to a heartbeat. librdkafka 2.12 sends a heartbeat whose
//! answer did not come in time (100 ms are enough) again as it was, and not as one that asks for the whole assignment, as it does when the
//! connection breaks. So the member goes on as before, the broker waits for it, and nobody else gets what it should have given back. It is
//! noticed here by what the broker has down as the member's target, and mended by leaving the group and joining it anew.

use super::native::{Client, Failure};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// From a request without an answer to a look at the target, and to the second one: what is being told meanwhile is heard in that time.
const LATER: Duration = Duration::from_secs(1);
/// How long a look may take.
const LOOK: Duration = Duration::from_millis(500);

pub(super) struct Unheard {
    group: String,
    topics: Vec<Arc<str>>,
    look_at: Option<Instant>,
    /// Something was held at the last look that is not in the target.
    is_suspected: bool,
}

impl Unheard {
    /// Of a member of this group that subscribed to these topics.
    pub(super) fn new(group: &str, topics: Vec<Arc<str>>) -> Unheard {
        Unheard { group: group.to_owned(), topics, look_at: None, is_suspected: false }
    }

    /// Looks, where there is a reason to, and joins anew if that is needed. `held` is what the member was given and not told to give up.
    pub(super) fn serve(&mut self, member: &Client, held: impl FnOnce() -> Vec<(String, i32)>) -> Result<(), Failure> {
        let now = Instant::now();
        if member.timed_out() {
            self.look_at.get_or_insert(now + LATER);
        }
        if self.look_at.is_none_or(|at| at > now) {
            return Ok(());
        }
        self.look_at = Some(now + LATER);
        let Ok(target) = member.target(&self.group, LOOK) else { return Ok(()) };
        let is_behind = target.is_some_and(|target| held().iter().any(|partition| !target.contains(partition)));
        if is_behind && self.is_suspected {
            tracing::warn!(group = self.group, "the group took tasks that this worker was not told of: it joins anew");
            member.unsubscribe()?;
            member.subscribe(&self.topics)?;
        }
        if !is_behind || self.is_suspected {
            self.look_at = None;
        }
        self.is_suspected = is_behind && !self.is_suspected;
        Ok(())
    }
}
