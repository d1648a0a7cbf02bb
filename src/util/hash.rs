//! xxHash64 and MurmurHash2 with a seed: hashes that are the same on every machine and in every build.
//!
//! Takes in bytes, gives out 64 bits. Envoy uses the same function for consistent-hash rings and for its
//! numeric `version` gauges, so values computed here compare with values seen there. Not for hash maps
//! (those use foldhash) and not against forgery.

const P1: u64 = 0x9E37_79B1_85EB_CA87;
const P2: u64 = 0xC2B2_AE3D_27D4_EB4F;
const P3: u64 = 0x1656_67B1_9E37_79F9;
const P4: u64 = 0x85EB_CA77_C2B2_AE63;
const P5: u64 = 0x27D4_EB2F_1656_67C5;

/// xxHash64 of `data` with `seed`.
#[must_use]
pub fn xxh64(data: &[u8], seed: u64) -> u64 {
    let (stripes, mut tail) = data.as_chunks::<32>();
    let mut hash = if stripes.is_empty() { seed.wrapping_add(P5) } else { lanes(stripes, seed) };
    hash = hash.wrapping_add(data.len() as u64);
    while let Some((eight, rest)) = tail.split_first_chunk::<8>() {
        hash =
            (hash ^ round(0, u64::from_le_bytes(*eight))).rotate_left(27).wrapping_mul(P1).wrapping_add(P4);
        tail = rest;
    }
    if let Some((four, rest)) = tail.split_first_chunk::<4>() {
        let word = u64::from(u32::from_le_bytes(*four));
        hash = (hash ^ word.wrapping_mul(P1)).rotate_left(23).wrapping_mul(P2).wrapping_add(P3);
        tail = rest;
    }
    for byte in tail {
        hash = (hash ^ u64::from(*byte).wrapping_mul(P5)).rotate_left(11).wrapping_mul(P1);
    }
    hash = (hash ^ (hash >> 33)).wrapping_mul(P2);
    hash = (hash ^ (hash >> 29)).wrapping_mul(P3);
    hash ^ (hash >> 32)
}

fn lanes(stripes: &[[u8; 32]], seed: u64) -> u64 {
    let mut acc =
        [seed.wrapping_add(P1).wrapping_add(P2), seed.wrapping_add(P2), seed, seed.wrapping_sub(P1)];
    for stripe in stripes {
        let (words, _) = stripe.as_chunks::<8>();
        for (lane, word) in acc.iter_mut().zip(words) {
            *lane = round(*lane, u64::from_le_bytes(*word));
        }
    }
    let mut hash = 0u64;
    for (lane, turn) in acc.iter().zip([1, 7, 12, 18]) {
        hash = hash.wrapping_add(lane.rotate_left(turn));
    }
    for lane in acc {
        hash = (hash ^ round(0, lane)).wrapping_mul(P1).wrapping_add(P4);
    }
    hash
}

fn round(acc: u64, word: u64) -> u64 {
    acc.wrapping_add(word.wrapping_mul(P2)).rotate_left(31).wrapping_mul(P1)
}

/// MurmurHash2, its 64-bit variant A, of `data` with `seed`: what libstdc++ hashes strings with.
#[must_use]
pub fn murmur2(data: &[u8], seed: u64) -> u64 {
    const M: u64 = 0xc6a4_a793_5bd1_e995;
    let (words, tail) = data.as_chunks::<8>();
    let mut hash = seed ^ (data.len() as u64).wrapping_mul(M);
    for word in words {
        let word = u64::from_le_bytes(*word).wrapping_mul(M);
        hash = (hash ^ (word ^ (word >> 47)).wrapping_mul(M)).wrapping_mul(M);
    }
    if !tail.is_empty() {
        let last = tail.iter().rev().fold(0u64, |word, byte| word << 8 | u64::from(*byte));
        hash = (hash ^ last).wrapping_mul(M);
    }
    hash = (hash ^ (hash >> 47)).wrapping_mul(M);
    hash ^ (hash >> 47)
}

#[cfg(test)]
mod tests {
    use super::{murmur2, xxh64};

    /// What `std::hash<std::string>` of libstdc++ gives.
    #[test]
    fn murmur_as_libstdcxx() {
        assert_eq!(murmur2(b"", 0xc70f_6907), 6_142_509_188_972_423_790);
        assert_eq!(murmur2(b"a", 0xc70f_6907), 4_993_892_634_952_068_459);
        assert_eq!(murmur2(b"hello", 0xc70f_6907), 2_762_169_579_135_187_400);
    }

    #[test]
    fn published_vectors() {
        assert_eq!(xxh64(b"", 0), 0xEF46_DB37_51D8_E999);
        assert_eq!(xxh64(b"a", 0), 0xD24E_C4F1_A98C_6E5B);
        assert_eq!(xxh64(b"abc", 0), 0x44BC_2CF5_AD77_0999);
        assert_eq!(xxh64(b"Nobody inspects the spammish repetition", 0), 0xFBCE_A83C_8A37_8BF1);
    }

    #[test]
    fn seed_and_length_matter() {
        assert_ne!(xxh64(b"abc", 0), xxh64(b"abc", 1));
        assert_ne!(xxh64(b"a", 0), xxh64(b"a\0", 0));
    }
}
