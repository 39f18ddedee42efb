//! Watching a store: every committed change of a key or a prefix, the last value of each key and commit, in commit order.
//!
//! A watcher has a bounded queue. One that does not keep up is cut off and told so; it never slows a commit. A change lies in the queue as soon as
//! readers can see it, and is given once it is durable.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{RwLock, RwLockReadGuard};
use tokio::sync::mpsc;

use crate::log::{Log, Moment};
use crate::record::{Offset, Partition};
use crate::topology::StoreIndex;

/// How many changes a watcher may be behind.
const QUEUE: usize = 4096;

/// How long to wait before it is asked again whether a change is durable, while the log repairs itself.
const PAUSE: Duration = Duration::from_millis(50);

/// One committed change of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The key's bytes in the store.
    pub key: Bytes,
    /// The new value's bytes, or `None` where the row was deleted.
    pub value: Option<Bytes>,
    /// The partition of the task that made the change.
    pub partition: Partition,
    /// The end of the store's changelog with this change in it.
    pub position: Offset,
    /// When it is durable.
    pub(crate) at: Moment,
}

/// What to watch.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Watched {
    /// The row of this key.
    Key(Vec<u8>),
    /// All rows whose key begins so; with no bytes, the whole store.
    Prefix(Vec<u8>),
}

struct Watcher {
    queue: mpsc::Sender<Arc<Change>>,
    lagged: Arc<AtomicBool>,
}

#[derive(Default)]
struct StoreWatchers {
    keys: HashMap<Vec<u8>, Vec<Watcher>>,
    /// By the length of the prefix, so that a change looks up one prefix of its key for each length in use.
    prefixes: HashMap<usize, HashMap<Vec<u8>, Vec<Watcher>>>,
}

#[derive(Default)]
struct State {
    stores: HashMap<StoreIndex, StoreWatchers>,
    /// Nothing is committed any more.
    closed: bool,
}

/// All watchers of an application.
pub(crate) struct Watchers {
    state: RwLock<State>,
    /// Who watches keeps no log open.
    log: Weak<dyn Log>,
}

/// The watchers while a commit becomes visible: nobody begins or ends a watch meanwhile.
pub(crate) struct HeldWatchers<'a>(RwLockReadGuard<'a, State>);

/// A running watch; dropping it ends it.
pub struct Watch {
    queue: mpsc::Receiver<Arc<Change>>,
    /// The next change, which is not durable yet.
    next: Option<Arc<Change>>,
    lagged: Arc<AtomicBool>,
    watchers: Arc<Watchers>,
    store: StoreIndex,
    watched: Watched,
}

impl Watchers {
    pub(crate) fn new(log: &Arc<dyn Log>) -> Watchers {
        Watchers { state: RwLock::default(), log: Arc::downgrade(log) }
    }

    pub(crate) fn watch(self: &Arc<Self>, store: StoreIndex, watched: Watched) -> Watch {
        let (sender, queue) = mpsc::channel(QUEUE);
        let lagged = Arc::new(AtomicBool::new(false));
        let watcher = Watcher { queue: sender, lagged: Arc::clone(&lagged) };
        let mut state = self.state.write();
        if !state.closed {
            let watchers = state.stores.entry(store).or_default();
            match &watched {
                Watched::Key(key) => watchers.keys.entry(key.clone()).or_default().push(watcher),
                Watched::Prefix(prefix) => {
                    let of_length = watchers.prefixes.entry(prefix.len()).or_default();
                    of_length.entry(prefix.clone()).or_default().push(watcher);
                }
            }
        }
        Watch { queue, next: None, lagged, watchers: Arc::clone(self), store, watched }
    }

    pub(crate) fn hold(&self) -> HeldWatchers<'_> {
        HeldWatchers(self.state.read())
    }

    /// Ends every watch as that of one who was too slow: there were changes that it will not be given.
    pub(crate) fn cut_off(&self) {
        for watcher in self.state.write().stores.drain().flat_map(|(_, watchers)| watchers.into_all()) {
            watcher.lagged.store(true, Ordering::Release);
        }
    }

    /// Ends every watch, for there will be no more changes.
    pub(crate) fn close(&self) {
        let mut state = self.state.write();
        state.closed = true;
        state.stores.clear();
    }
}

impl StoreWatchers {
    fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.prefixes.is_empty()
    }

    fn into_all(self) -> impl Iterator<Item = Watcher> {
        self.keys.into_values().chain(self.prefixes.into_values().flat_map(HashMap::into_values)).flatten()
    }
}

impl HeldWatchers<'_> {
    /// Whether nobody watches anything: then a commit gathers no changes.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.stores.is_empty()
    }

    /// Whether anybody watches this row.
    pub(crate) fn wants(&self, store: StoreIndex, key: &[u8]) -> bool {
        let Some(watchers) = self.0.stores.get(&store) else { return false };
        watchers.keys.contains_key(key)
            || watchers.prefixes.iter().any(|(len, prefixes)| key.get(..*len).is_some_and(|prefix| prefixes.contains_key(prefix)))
    }

    /// Hands the change to those who watch its row. To be called once the commit is visible to readers.
    pub(crate) fn publish(&self, store: StoreIndex, change: &Arc<Change>) {
        let Some(watchers) = self.0.stores.get(&store) else { return };
        let by_prefix =
            watchers.prefixes.iter().filter_map(|(len, prefixes)| change.key.get(..*len).and_then(|prefix| prefixes.get(prefix)));
        for watcher in watchers.keys.get(&change.key[..]).into_iter().chain(by_prefix).flatten() {
            if watcher.lagged.load(Ordering::Relaxed) {
                continue;
            }
            if let Err(mpsc::error::TrySendError::Full(_)) = watcher.queue.try_send(Arc::clone(change)) {
                watcher.lagged.store(true, Ordering::Release);
            }
        }
    }
}

impl Watch {
    /// The next change; `None` once the watcher fell too far behind and was cut off ([`Watch::lagged`]), or the application has stopped.
    /// What was queued before is given first. Nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> Option<Arc<Change>> {
        if self.next.is_none() {
            self.next = Some(match self.queue.try_recv() {
                Ok(change) => change,
                Err(_) if self.lagged() => return None,
                Err(_) => self.queue.recv().await?,
            });
        }
        loop {
            let at = self.next.as_ref()?.at;
            let durable = self.watchers.log.upgrade()?.durable(at);
            match durable.await {
                Ok(()) => return self.next.take(),
                Err(error) if error.is_retriable() && !self.queue.is_closed() => tokio::time::sleep(PAUSE).await,
                // The application has failed, or was stopped before.
                Err(_) => return None,
            }
        }
    }

    /// Whether the watcher was too slow and misses changes.
    #[must_use]
    pub fn lagged(&self) -> bool {
        self.lagged.load(Ordering::Acquire)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.queue.close();
        let mut state = self.watchers.state.write();
        let Some(watchers) = state.stores.get_mut(&self.store) else { return };
        let remove = |rows: &mut HashMap<Vec<u8>, Vec<Watcher>>, key: &Vec<u8>| {
            if let Some(list) = rows.get_mut(key) {
                list.retain(|watcher| !Arc::ptr_eq(&watcher.lagged, &self.lagged));
                if list.is_empty() {
                    rows.remove(key);
                }
            }
        };
        match &self.watched {
            Watched::Key(key) => remove(&mut watchers.keys, key),
            Watched::Prefix(prefix) => {
                if let Some(of_length) = watchers.prefixes.get_mut(&prefix.len()) {
                    remove(of_length, prefix);
                    if of_length.is_empty() {
                        watchers.prefixes.remove(&prefix.len());
                    }
                }
            }
        }
        if watchers.is_empty() {
            state.stores.remove(&self.store);
        }
    }
}
