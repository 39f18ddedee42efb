//! What the API knows of one kind of thing: its view, by id, and the wait before saying that something is not so.

use std::time::Duration;

use millstream::codec::Data;
use millstream::serve::ApiError;
use millstream::{Direction, Handle, Partition, Range, Seen, Store, Topic, TypedView, Watched};

/// The longest wait for the views before a refusal that they could still take back.
pub const CATCH_UP: Duration = Duration::from_secs(2);

type Place = Box<dyn Fn(&Handle, u64) -> Result<Partition, ApiError> + Send + Sync>;

/// Rows by id, in the partition that the id has in the topic that makes them.
pub struct Known<V: Data> {
    app: Handle,
    store: &'static str,
    view: TypedView<u64, V>,
    place: Place,
}

/// The view of a store.
///
/// # Panics
/// If the application does not run the shop's topologies: a programming error.
pub fn view<K: Data, V: Data>(app: &Handle, store: &Store<K, V>) -> TypedView<K, V> {
    let view = app.view(store.name()).unwrap_or_else(|| panic!("the topology has no store {:?}", store.name()));
    view.typed(store)
}

impl<V: Data> Known<V> {
    /// The rows of a store that is kept by whoever reads `topic`.
    pub fn new<T: 'static>(app: &Handle, store: &Store<u64, V>, topic: Topic<u64, T>) -> Known<V> {
        let place: Place = Box::new(move |app, id| app.partition(&topic, &id).map_err(ApiError::internal));
        Known { app: app.clone(), store: store.name(), view: view(app, store), place }
    }

    /// The view, over all ids.
    pub fn view(&self) -> &TypedView<u64, V> {
        &self.view
    }

    /// Where everything about an id lies.
    pub fn partition(&self, id: u64) -> Result<Partition, ApiError> {
        (self.place)(&self.app, id)
    }

    /// The row as the view has it now.
    pub fn now(&self, id: u64) -> Result<Seen<Option<V>>, ApiError> {
        Ok(self.view.get_in(self.partition(id)?, &id)?)
    }

    /// Those rows of these ids that there are, durable or not.
    pub fn all(&self, ids: &[u64]) -> Result<Vec<V>, ApiError> {
        ids.iter().filter_map(|id| self.now(*id).map(Seen::ahead).transpose()).collect()
    }

    /// The row. A view that has not heard of it may be about to, so it is waited for.
    pub async fn get(&self, id: u64) -> Result<Seen<Option<V>>, ApiError> {
        self.get_if(id, |_| true).await
    }

    /// The row, waited for also where the one that is there does not suffice to say yes.
    pub async fn get_if(&self, id: u64, suffices: impl Fn(&V) -> bool) -> Result<Seen<Option<V>>, ApiError> {
        let suffices = |seen: &Seen<Option<V>>| seen.peek().as_ref().is_some_and(&suffices);
        let now = self.now(id)?;
        if suffices(&now) {
            return Ok(now);
        }
        // Who asks right after a write is answered as soon as that has arrived, and not only once everything has that the log holds.
        let mut key = Vec::new();
        u64::CODEC.encode(&id, &mut key).map_err(ApiError::internal)?;
        let mut changes = self.view.untyped().watch(Watched::Key(key));
        let caught_up = self.catch_up();
        tokio::pin!(caught_up);
        loop {
            let now = self.now(id)?;
            if suffices(&now) {
                return Ok(now);
            }
            tokio::select! {
                done = &mut caught_up => {
                    done?;
                    return self.now(id);
                }
                Some(_) = changes.next() => {}
            }
        }
    }

    /// Lets the view reach the log's end as it is now.
    pub async fn catch_up(&self) -> Result<(), ApiError> {
        let caught_up = self.app.caught_up(self.store, CATCH_UP).await;
        caught_up.map_err(|behind| ApiError::unavailable("NOT_READY", behind.to_string()))
    }

    /// The greatest id that there is, durable or not.
    pub fn greatest(&self) -> Result<Option<u64>, ApiError> {
        let last = self.view.page(&Range::all(), Direction::Reverse, 1)?.ahead();
        Ok(last.first().map(|(id, _)| *id))
    }
}
