//! What may be on disk alone. As long as a process has seen every row of a store, those that it forgot are the only ones that memory lacks:
//! their hashes are noted in Bloom filters, and a key, or a group of keys, that is in none of them needs no look at the disk. Filters do not
//! unlearn; a row that came back is looked for once more.

/// See the module.
#[derive(Default)]
pub(crate) struct Forgotten {
    /// Each twice as large as the one before.
    filters: Vec<Filter>,
}

/// A split-block Bloom filter (Putze, Sanders, Singler 2007): a hash has one bit in each word of one block.
struct Filter {
    blocks: Box<[Block]>,
    /// How many more hashes it takes.
    room: usize,
}

#[derive(Clone, Copy, Default)]
#[repr(align(32))]
struct Block([u32; 8]);

/// Blocks of the first filter.
const FIRST: usize = 64;

/// Hashes for each block: 12 bits for one, so that of those that are not there one in a few hundred seems to be in a full filter, and three
/// in a hundred in one of the seven filters of 100,000 hashes.
const PER_BLOCK: usize = 21;

/// Odd numbers, each of which picks another bit by a hash.
const SALTS: [u32; 8] = [0x47b6_137b, 0x4497_4d91, 0x8824_ad5b, 0xa2b7_289d, 0x7054_95c7, 0x2df1_424b, 0x9efc_4947, 0x5c6b_fb31];

impl Forgotten {
    /// Whether this hash may have been noted.
    pub(crate) fn may_have(&self, hash: u32) -> bool {
        self.filters.iter().any(|filter| filter.blocks[filter.place(hash)].has(hash))
    }

    /// Notes a hash.
    pub(crate) fn note(&mut self, hash: u32) {
        if self.may_have(hash) {
            return;
        }
        if self.filters.last().is_none_or(|filter| filter.room == 0) {
            let blocks = FIRST << self.filters.len();
            self.filters.push(Filter { blocks: vec![Block::default(); blocks].into(), room: blocks * PER_BLOCK });
        }
        let filter = self.filters.last_mut().expect("one was pushed if there was none");
        filter.room -= 1;
        let place = filter.place(hash);
        filter.blocks[place].set(hash);
    }

    /// Bytes that it takes.
    pub(crate) fn memory(&self) -> usize {
        self.filters.iter().map(|filter| filter.blocks.len() * size_of::<Block>()).sum()
    }
}

impl Filter {
    fn place(&self, hash: u32) -> usize {
        // The bits within a block are picked by the same hash, so it is mixed first.
        let mixed = u64::from(hash).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
        ((mixed * self.blocks.len() as u64) >> 32) as usize
    }
}

impl Block {
    fn bits(hash: u32) -> [u32; 8] {
        SALTS.map(|salt| 1 << (hash.wrapping_mul(salt) >> 27))
    }

    fn has(&self, hash: u32) -> bool {
        self.0.iter().zip(Block::bits(hash)).all(|(word, bit)| word & bit != 0)
    }

    fn set(&mut self, hash: u32) {
        self.0.iter_mut().zip(Block::bits(hash)).for_each(|(word, bit)| *word |= bit);
    }
}

#[cfg(test)]
mod tests {
    use super::Forgotten;

    #[test]
    fn all_that_was_noted_is_found_and_little_else() {
        // The finalizer of MurmurHash3, as good as the hashes of keys.
        let hash = |i: u32| {
            let i = (i ^ (i >> 16)).wrapping_mul(0x85EB_CA6B);
            let i = (i ^ (i >> 13)).wrapping_mul(0xC2B2_AE35);
            i ^ (i >> 16)
        };
        let mut forgotten = Forgotten::default();
        assert!(!forgotten.may_have(0));
        (0..100_000).for_each(|i| forgotten.note(hash(i)));
        assert!((0..100_000).all(|i| forgotten.may_have(hash(i))));
        let wrong = (100_000..200_000).filter(|i| forgotten.may_have(hash(*i))).count();
        assert!(wrong < 4_000, "{wrong} of 100,000 seem to have been noted");
        assert!(forgotten.memory() < 100_000 * 4);
    }
}
