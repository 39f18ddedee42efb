//! What was read of the state of this process, which may be ahead of the disk: the tasks go on from what is written to the log, and
//! views show it before it is synced. Nobody outside may be told of that. So a read gives its value only to who says what it is for.

use std::sync::Arc;

use super::Shared;
use super::view::QueryError;
use crate::log::Moment;

/// What a view was read to hold: to be waited for until it is [`durable`](Seen::durable), or used [`ahead`](Seen::ahead) of that.
#[must_use = "what was read is not given before it is said what it is for"]
pub struct Seen<T> {
    value: T,
    at: Moment,
    shared: Arc<Shared>,
}

impl<T> Seen<T> {
    pub(super) fn new(shared: &Arc<Shared>, value: T, at: Moment) -> Seen<T> {
        Seen { value, at, shared: Arc::clone(shared) }
    }

    /// The value, once no crash can take it back: for whoever is to be told of it. That takes a sync of the disk, or nothing if the task did
    /// not commit just now.
    ///
    /// # Errors
    /// [`QueryError::Log`] if the log fails before.
    pub async fn durable(self) -> Result<T, QueryError> {
        self.shared.log.durable(self.at).await?;
        Ok(self.value)
    }

    /// The same for a thread that may block.
    ///
    /// # Errors
    /// As [`Seen::durable`].
    ///
    /// # Panics
    /// In an asynchronous task.
    pub fn wait(self) -> Result<T, QueryError> {
        self.shared.log.durable(self.at).wait()?;
        Ok(self.value)
    }

    /// The value at once: to decide what to append, which lies behind it in the log and is not acknowledged before. Nothing of it may be
    /// told to anybody else; a refusal waits for [`Handle::settled`](super::Handle::settled).
    pub fn ahead(self) -> T {
        self.value
    }

    /// The same for what is made of the value.
    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> Seen<U> {
        Seen { value: f(self.value), at: self.at, shared: self.shared }
    }

    pub(super) fn at(&self) -> Moment {
        self.at
    }

    pub(super) fn try_map<U, E>(self, f: impl FnOnce(T) -> Result<U, E>) -> Result<Seen<U>, E> {
        Ok(Seen { value: f(self.value)?, at: self.at, shared: self.shared })
    }

    /// The value at once, to decide what else to read.
    pub fn peek(&self) -> &T {
        &self.value
    }
}
