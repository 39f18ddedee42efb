//! Sorting entries by key, as changelog and flush want them.

/// Sorts by key. Keys of a store mostly begin alike, so the eight bytes after their common beginning are compared first, beside the item
/// and without a look into memory elsewhere.
pub(crate) fn sort_by_key<T>(items: Vec<T>, key: impl Fn(&T) -> &[u8]) -> impl Iterator<Item = T> {
    let common = common_prefix(items.iter().map(&key));
    let mut sorted: Vec<(u64, T)> = items
        .into_iter()
        .map(|item| {
            let rest = &key(&item)[common..];
            let mut head = [0; 8];
            let len = rest.len().min(8);
            head[..len].copy_from_slice(&rest[..len]);
            (u64::from_be_bytes(head), item)
        })
        .collect();
    sorted.sort_unstable_by(|a, b| a.0.cmp(&b.0).then_with(|| key(&a.1).cmp(key(&b.1))));
    sorted.into_iter().map(|(_, item)| item)
}

fn common_prefix<'a>(mut keys: impl Iterator<Item = &'a [u8]>) -> usize {
    let Some(first) = keys.next() else { return 0 };
    keys.fold(first.len(), |common, key| {
        let same = |(a, b): &(&u8, &u8)| a == b;
        if key.get(..common) == Some(&first[..common]) { common } else { first.iter().zip(key).take_while(same).count() }
    })
}
