//! One row in memory: key, value and reference count in a single allocation behind a thin pointer, so that a row costs one `malloc`, moves
//! from the overlay to the hot layer by pointer, and is handed to readers without a copy. An entry is never changed after it was made.
//! All of the crate's unsafe code is in this file.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering, fence};

/// A key with a value, or with the mark that it was deleted. Cloning counts a reference.
pub(crate) struct Entry(NonNull<Header>);

#[repr(C)]
struct Header {
    references: AtomicU32,
    key_len: u32,
    /// `DELETED` for a tombstone.
    value_len: u32,
}

const DELETED: u32 = u32::MAX;
const HEADER: usize = size_of::<Header>();

// SAFETY: an entry is immutable after `new` but for its atomic count, so it may be read and dropped from any thread.
unsafe impl Send for Entry {}
// SAFETY: as above.
unsafe impl Sync for Entry {}

impl Entry {
    /// An entry for `key` with the concatenation of `value`'s two parts, or a tombstone.
    ///
    /// Panics if key or value reach 4 GiB.
    pub(crate) fn new(key: &[u8], value: Option<[&[u8]; 2]>) -> Entry {
        let parts = value.unwrap_or_default();
        let value_len = parts[0].len() + parts[1].len();
        assert!(key.len() < DELETED as usize && value_len < DELETED as usize, "keys and values are shorter than 4 GiB");
        let layout = layout(key.len() + value_len);
        // SAFETY: the layout is never of size 0, for it begins with the header.
        let memory = unsafe { alloc(layout) };
        let Some(header) = NonNull::new(memory.cast::<Header>()) else { handle_alloc_error(layout) };
        // SAFETY: `memory` is `layout.size()` bytes, aligned for the header; header, key and parts are written one after the other and end
        // exactly there; the sources are borrowed slices and cannot overlap fresh memory.
        unsafe {
            header.write(Header {
                references: AtomicU32::new(1),
                key_len: key.len() as u32,
                value_len: if value.is_some() { value_len as u32 } else { DELETED },
            });
            let mut at = memory.add(HEADER);
            for part in [key, parts[0], parts[1]] {
                at.copy_from_nonoverlapping(part.as_ptr(), part.len());
                at = at.add(part.len());
            }
        }
        Entry(header)
    }

    /// A tombstone for `key`.
    pub(crate) fn tombstone(key: &[u8]) -> Entry {
        Entry::new(key, None)
    }

    pub(crate) fn key(&self) -> &[u8] {
        self.bytes(0, self.header().key_len as usize)
    }

    /// The value, or `None` for a tombstone.
    pub(crate) fn value(&self) -> Option<&[u8]> {
        let Header { key_len, value_len, .. } = *self.header();
        (value_len != DELETED).then(|| self.bytes(key_len as usize, value_len as usize))
    }

    pub(crate) fn is_tombstone(&self) -> bool {
        self.header().value_len == DELETED
    }

    /// What the entry takes from the allocator, in bytes, by the rules of a 64-bit glibc: 8 bytes of its own, in steps of 16.
    pub(crate) fn memory(&self) -> usize {
        (HEADER + self.data_len() + 8).next_multiple_of(16).max(32)
    }

    /// Whether both are the same allocation.
    pub(crate) fn same(&self, other: &Entry) -> bool {
        self.0 == other.0
    }

    fn header(&self) -> &Header {
        // SAFETY: the pointer comes from `new`, and the memory lives as long as one reference does.
        unsafe { self.0.as_ref() }
    }

    fn data_len(&self) -> usize {
        let Header { key_len, value_len, .. } = *self.header();
        key_len as usize + if value_len == DELETED { 0 } else { value_len as usize }
    }

    fn bytes(&self, from: usize, len: usize) -> &[u8] {
        debug_assert!(from + len <= self.data_len());
        // SAFETY: both callers take lengths from the header, and `new` wrote as many bytes after it.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr().cast::<u8>().add(HEADER + from), len) }
    }
}

fn layout(data_len: usize) -> Layout {
    Layout::from_size_align(HEADER + data_len, align_of::<Header>()).expect("key and value are below 4 GiB each")
}

impl Clone for Entry {
    fn clone(&self) -> Entry {
        // Relaxed as in `Arc`: whoever clones holds a reference already.
        let before = self.header().references.fetch_add(1, Ordering::Relaxed);
        if before > u32::MAX / 2 {
            std::process::abort(); // two thousand million references can only be leaked ones; wrapping would free a live entry
        }
        Entry(self.0)
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if self.header().references.fetch_sub(1, Ordering::Release) != 1 {
            return;
        }
        fence(Ordering::Acquire); // every other holder's reads happen before the memory is given back
        let layout = layout(self.data_len());
        // SAFETY: this was the last reference, and `new` allocated with this same layout.
        unsafe { dealloc(self.0.as_ptr().cast(), layout) }
    }
}

#[cfg(test)]
mod tests {
    use super::Entry;

    #[test]
    fn keeps_what_it_was_made_of() {
        let check = |key: &[u8], parts: Option<[&[u8]; 2]>| {
            let entry = Entry::new(key, parts);
            let copy = entry.clone();
            drop(entry);
            assert_eq!(copy.key(), key);
            assert_eq!(copy.value(), parts.map(|p| p.concat()).as_deref());
            assert_eq!(copy.is_tombstone(), parts.is_none());
        };
        check(b"", Some([b"", b""]));
        check(b"key", Some([b"", b"value"]));
        check(b"key", Some([b"12345678", b"value"]));
        check(b"key", None);
        check(&[7; 1000], Some([&[1; 9], &[2; 100_000]]));
    }

    #[test]
    fn is_shared_between_threads() {
        let entry = Entry::new(b"key", Some([b"", b"value"]));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..1000 {
                        assert_eq!(entry.clone().value(), Some(&b"value"[..]));
                    }
                });
            }
        });
        assert_eq!(entry.key(), b"key");
    }
}
