//! Chance that a seed decides, so that a run can be repeated.

/// SplitMix64: fast, and the same on every machine.
pub struct Random(pub u64);

impl Random {
    /// The next number below `n`, which is not 0. The tiny bias of the remainder does no harm here.
    pub fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % n
    }
}
