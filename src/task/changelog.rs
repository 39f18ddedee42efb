//! How the rows of a task's stores lie in its changelog, of which each task has one: what a commit changes is one run of records in one
//! partition. A record's key is the store's name, a zero byte, and the row's key; its value is the row as it is stored. The task's own rows come
//! last in a commit: who reads a part of one has not seen how far the task has read without what came of it. Nothing is read or written here.

use crate::log::RecordRef;
use crate::topology::{StoreIndex, SubTopology, Topology};

/// Ends a store's name, in which it does not occur.
const END_OF_NAME: u8 = 0;

/// How many bytes the key of a store's row is longer in the changelog.
pub(super) fn added_bytes(store: &str) -> usize {
    store.len() + 1
}

/// The key of a store's row in the changelog.
pub(crate) fn key(store: &str, row: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(added_bytes(store) + row.len());
    push_key(&mut key, store, row);
    key
}

pub(super) fn push_key(key: &mut Vec<u8>, store: &str, row: &[u8]) {
    key.extend_from_slice(store.as_bytes());
    key.push(END_OF_NAME);
    key.extend_from_slice(row);
}

/// A row of a store, as a changelog has it: no value if it was deleted.
pub(crate) struct ChangelogRow<'a> {
    pub store: StoreIndex,
    pub key: &'a [u8],
    pub value: Option<&'a [u8]>,
}

/// Tells the rows of a task's stores apart.
pub(crate) struct ChangelogReader {
    stores: Vec<(Box<[u8]>, StoreIndex)>,
    /// The place of the last row's store: rows of a commit lie store by store.
    last: usize,
}

impl ChangelogReader {
    pub(crate) fn new(topology: &Topology, sub: &SubTopology) -> ChangelogReader {
        let stores = sub.stores.iter().map(|store| (key(&topology.stores[store.0].name, &[]).into(), *store)).collect();
        ChangelogReader { stores, last: 0 }
    }

    /// The row of a record; `None` for what is not a row of these stores, such as one of a store that only a later version has.
    pub(crate) fn row<'a>(&mut self, record: &RecordRef<'a>) -> Option<ChangelogRow<'a>> {
        let key = record.key?;
        if !key.starts_with(&self.stores[self.last].0) {
            self.last = self.stores.iter().position(|(prefix, _)| key.starts_with(prefix))?;
        }
        let (prefix, store) = &self.stores[self.last];
        Some(ChangelogRow { store: *store, key: &key[prefix.len()..], value: record.value })
    }
}

#[cfg(test)]
mod tests {
    use crate::{StreamBuilder, Topic};

    #[test]
    fn a_tasks_own_rows_come_last_whatever_was_declared_before() {
        let mut builder = StreamBuilder::new("app");
        for name in ["a", "b", "zeta"] {
            let topic: Topic<String, u64> = Topic::new(name);
            let stream = builder.stream(&topic);
            stream.clone().group_by_key().count(&format!("{name}-counts"));
            stream.group_by(&format!("{name}-by-value"), |_, value| *value).count(&format!("{name}-by-value-counts"));
        }
        let topology = builder.build().expect("the topology is valid");
        assert_eq!(topology.subs.len(), 6);
        for sub in &topology.subs {
            let [rest @ .., last] = &sub.stores[..] else { panic!("{} has no store", sub.name) };
            assert!(*last == sub.meta && rest.len() == 1 && !rest.contains(last), "{}", sub.name);
        }
    }
}
