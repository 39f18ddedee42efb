//! What one user has heard: a growing sequence of events, which is the same one however often it is read.

use std::fmt::Debug;

use super::Broken;

/// An event that a user hears, as far as a load looks at it.
pub trait Told: Clone + Debug + PartialEq + Send + 'static {
    /// Its place in the user's sequence.
    fn id(&self) -> u64;
}

/// What one user has heard so far, over all connections.
#[derive(Clone)]
pub struct Heard<T>(Vec<T>);

impl<T> Default for Heard<T> {
    fn default() -> Heard<T> {
        Heard(Vec::new())
    }
}

impl<T: Told> Heard<T> {
    /// Takes an event of a connection on which `previous` came before it; says whether it was new. An event that was heard
    /// before has to be the same, and in the same place.
    pub fn take(&mut self, user: u64, previous: u64, event: T) -> Result<bool, Broken> {
        if event.id() <= previous {
            return Err(format!("user {user} heard event {} after event {previous}", event.id()));
        }
        match self.0.get(self.0.partition_point(|told| told.id() <= previous)) {
            None => {
                self.0.push(event);
                Ok(true)
            }
            Some(known) if *known == event => Ok(false),
            Some(known) => Err(format!("user {user} heard {known:?} at first, and {event:?} when the stream was repeated")),
        }
    }

    /// All that was heard, in order.
    #[must_use]
    pub fn all(&self) -> &[T] {
        &self.0
    }

    /// The id of the last event, or 0.
    #[must_use]
    pub fn last(&self) -> u64 {
        self.0.last().map_or(0, Told::id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Told for (u64, &'static str) {
        fn id(&self) -> u64 {
            self.0
        }
    }

    #[test]
    fn a_repeated_stream_is_the_same_stream() {
        let (mut heard, issued, rejected) = (Heard::default(), |id| (id, "issued"), |id| (id, "rejected"));
        assert_eq!(heard.take(1, 0, issued(3)), Ok(true));
        assert_eq!(heard.take(1, 3, rejected(5)), Ok(true));
        assert_eq!(heard.take(1, 0, issued(3)), Ok(false));
        assert_eq!(heard.take(1, 3, rejected(5)), Ok(false));
        assert_eq!(heard.take(1, 4, rejected(5)), Ok(false));
        let mut broken = |previous, event, expected: &str| {
            let sentence = heard.take(1, previous, event).expect_err(expected);
            assert!(sentence.contains(expected), "{sentence}");
        };
        broken(5, issued(5), "after event 5");
        broken(0, rejected(5), "when the stream was repeated");
        broken(3, issued(5), "when the stream was repeated");
        assert_eq!(heard.last(), 5);
    }
}
