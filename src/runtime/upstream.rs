//! What feeds the log from elsewhere: a database whose outbox a relay follows, say. A position there becomes one of the log once the relay has
//! passed it, so whoever waits for the one waits for the other first. How far the relay is, the program knows; nothing here asks.

use std::future::Future;
use std::pin::Pin;

use super::token::UnreadableToken;

/// A future that a trait object gives.
pub type Waiting<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What feeds the log. It is asked by many at the same time, and whoever asks may stop waiting at any moment.
///
/// It must not hold a [`Handle`](crate::Handle): the application holds it.
pub trait Upstream: Send + Sync {
    /// Waits until all that lies before a place is in the log. The place is in its own words: see [`Token::upstream`](crate::Token::upstream).
    ///
    /// # Errors
    /// If it is no place there.
    fn passed<'a>(&'a self, place: &'a str) -> Waiting<'a, Result<(), UnreadableToken>>;

    /// Waits until all that has happened there by now is in the log.
    fn drained(&self) -> Waiting<'_, ()>;
}
