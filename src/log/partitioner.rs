//! Which partition a key belongs to: murmur2 as Java clients have it, so that any client may write to a topic.
//! Nothing here is random: a record without a key goes where its caller's counter says.

use crate::Partition;

/// The partition of a record in a topic of `partitions` partitions. Records without a key are spread by `spread`: a caller
/// that gives the same number throughout a transaction keeps them together, one that counts up spreads them evenly.
///
/// # Panics
/// If `partitions` is 0; no topic has none.
#[must_use]
pub fn partition(key: Option<&[u8]>, partitions: u32, spread: u32) -> Partition {
    let number = key.map_or(spread, |key| murmur2(key) & 0x7fff_ffff);
    Partition(number % partitions)
}

/// MurmurHash2 with 32 bits, Austin Appleby's, with the seed that Kafka's `Utils.murmur2` uses.
fn murmur2(data: &[u8]) -> u32 {
    const SEED: u32 = 0x9747_b28c;
    const M: u32 = 0x5bd1_e995;
    let (words, rest) = data.as_chunks::<4>();
    let mut hash = SEED ^ data.len() as u32;
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(M);
        k ^= k >> 24;
        hash = hash.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    if !rest.is_empty() {
        for (i, &byte) in rest.iter().enumerate() {
            hash ^= u32::from(byte) << (8 * i);
        }
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ (hash >> 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The cases of `org.apache.kafka.common.utils.UtilsTest#testMurmur2`, and of other clients that were made with the Java one.
    const JAVA: &[(&[u8], i32)] = &[
        (b"21", -973_932_308),
        (b"foobar", -790_332_482),
        (b"a-little-bit-long-string", -985_981_536),
        (b"a-little-bit-longer-string", -1_486_304_829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
        (b"abc", 479_470_107),
        (&[12, 42, 56, 24, 109, 111], 274_204_207),
        (b"0", 971_027_396),
        (b"1", -1_993_445_489),
        (b"128", -326_012_175),
        (b"2187", -1_508_407_203),
        (b"16384", -325_739_742),
        (b"78125", -1_654_490_814),
    ];

    #[test]
    fn hashes_are_those_of_java_clients() {
        for (key, hash) in JAVA {
            assert_eq!(murmur2(key) as i32, *hash, "{key:?}");
        }
    }

    #[test]
    fn a_key_has_one_partition_and_no_key_follows_the_counter() {
        assert_eq!(partition(Some(b"21"), 6, 5), Partition(1_173_551_340 % 6));
        assert_eq!(partition(Some(b"foobar"), 1, 5), Partition(0));
        assert_eq!((0..4).map(|n| partition(None, 3, n).0).collect::<Vec<_>>(), [0, 1, 2, 0]);
    }
}
