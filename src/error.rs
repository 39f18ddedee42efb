//! Why a record, a timer or a punctuation could not be processed, and whose fault that was.

use crate::codec;

/// The error of user code and operators.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// The record's bytes are not what the codec reads. Not retried: the bytes will not change.
    #[error("{part} {error}")]
    Undecodable {
        /// `key` or `value`.
        part: &'static str,
        /// What is wrong with it.
        error: codec::Error,
    },
    /// What was made of the record cannot be written: it does not encode, or the log would refuse it. Not retried.
    #[error("{0}")]
    Unwritable(String),
    /// Its timestamp is further ahead of the clock than its topic allows. Not retried: it can be replayed when its time has come.
    #[error("its timestamp is {ahead_ms} ms ahead of the clock, and may be {most_ms}")]
    TooFarAhead {
        /// By how much, in milliseconds.
        ahead_ms: i64,
        /// What [`Topic::max_ahead_ms`](crate::Topic::max_ahead_ms) allows.
        most_ms: u64,
    },
    /// User code failed or panicked. Retried, then parked in the dead-letter topic.
    #[error("{0}")]
    Failed(String),
    /// The state could not be read or written. Not the record's doing: the transaction is aborted.
    #[error("{0}")]
    State(#[from] millstream_state::Error),
}

impl ProcessError {
    /// User code could not process the record, for the reason that is given: it is undone, retried, and parked if it fails again.
    pub fn failed(reason: impl ToString) -> ProcessError {
        ProcessError::Failed(reason.to_string())
    }

    /// What a panic of user code comes to.
    pub(crate) fn panicked(panic: &(dyn std::any::Any + Send)) -> ProcessError {
        let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
        ProcessError::Failed(format!("panicked: {}", text.unwrap_or("with no message")))
    }

    /// Whether the state may work again by itself, as when a full disk has space again.
    pub(crate) fn is_passing(&self) -> bool {
        matches!(self, ProcessError::State(millstream_state::Error::Io { .. }))
    }

    pub(crate) fn unwritable(what: &str, error: &codec::Error) -> ProcessError {
        ProcessError::Unwritable(format!("{what} {error}"))
    }

    /// Whether trying again can help.
    #[must_use]
    pub fn is_retriable(&self) -> bool {
        matches!(self, ProcessError::Failed(_))
    }
}
