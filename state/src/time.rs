//! The times by which rows with time-to-live are there or not: stream time, or a store's own time where it was given one.

/// The times of a task. A store is named by its place in the task.
pub(crate) struct Times {
    pub(crate) stream_ms: i64,
    own: Box<[Option<i64>]>,
}

impl Times {
    pub(crate) fn new(stream_ms: i64, stores: usize) -> Times {
        Times { stream_ms, own: vec![None; stores].into() }
    }

    /// The time that holds for a store.
    pub(crate) fn of(&self, place: usize) -> i64 {
        self.own[place].unwrap_or(self.stream_ms)
    }

    pub(crate) fn set_own(&mut self, place: usize, time_ms: i64) {
        self.own[place] = Some(time_ms);
    }

    /// Becomes equal to the times of the same task at another moment.
    pub(crate) fn set(&mut self, other: &Times) {
        self.stream_ms = other.stream_ms;
        self.own.copy_from_slice(&other.own);
    }
}
