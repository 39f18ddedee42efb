//! Comparing keys that lie elsewhere in memory, by what of them lies at hand. Keys of a store mostly begin alike, so the eight bytes after
//! their common beginning decide nearly always.

/// Sorts by key.
pub(crate) fn sort_by_key<T>(items: Vec<T>, key: impl Fn(&T) -> &[u8]) -> impl Iterator<Item = T> {
    let mut keys = items.iter().map(&key);
    let first = keys.next().unwrap_or_default();
    let common = keys.fold(first.len(), |common, key| common_len(&first[..common], key));
    let mut sorted: Vec<(u64, T)> = items.into_iter().map(|item| (head(&key(&item)[common..]), item)).collect();
    sorted.sort_unstable_by(|a, b| a.0.cmp(&b.0).then_with(|| key(&a.1).cmp(key(&b.1))));
    sorted.into_iter().map(|(_, item)| item)
}

/// How many bytes two keys begin with in common.
pub(crate) fn common_len(a: &[u8], b: &[u8]) -> usize {
    if b.starts_with(a) { a.len() } else { a.iter().zip(b).take_while(|(a, b)| a == b).count() }
}

/// The first eight bytes as a number that compares as they do; shorter keys are filled up with zeros, so equal heads do not mean equal keys.
pub(crate) fn head(rest: &[u8]) -> u64 {
    let mut bytes = [0; 8];
    let len = rest.len().min(8);
    bytes[..len].copy_from_slice(&rest[..len]);
    u64::from_be_bytes(bytes)
}
