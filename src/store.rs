//! Typed names of the stores that a processor reads and writes.

use std::marker::PhantomData;

use millstream_state::Access;

use crate::codec::Data;

/// A key-value store of keys `K` and values `V`, with a changelog of its own. It can be a constant:
///
/// ```
/// use millstream::Store;
///
/// const BALANCES: Store<u64, i64> = Store::keyed("balances");
/// const BY_USER: Store<(u64, u64), String> = Store::ordered("by-user").ttl_ms(86_400_000);
/// ```
pub struct Store<K, V> {
    pub(crate) name: &'static str,
    pub(crate) access: Access,
    pub(crate) ttl_ms: Option<u64>,
    types: PhantomData<fn() -> (K, V)>,
}

impl<K: Data, V: Data> Store<K, V> {
    /// A store that is read by key. It can be scanned too, at a higher price.
    #[must_use]
    pub const fn keyed(name: &'static str) -> Self {
        Store { name, access: Access::Keyed, ttl_ms: None, types: PhantomData }
    }

    /// A store whose keys are scanned in order, by range or prefix.
    #[must_use]
    pub const fn ordered(name: &'static str) -> Self {
        Store { name, access: Access::Ordered, ttl_ms: None, types: PhantomData }
    }

    /// A row is forgotten once stream time has passed its last write by this many milliseconds.
    #[must_use]
    pub const fn ttl_ms(mut self, ttl_ms: u64) -> Self {
        self.ttl_ms = Some(ttl_ms);
        self
    }

    /// The store's name, which is also the name of its view.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }
}
