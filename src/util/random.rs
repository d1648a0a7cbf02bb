//! Random numbers for load balancing and jitter. Not for secrets.

use std::cell::Cell;
use std::hash::{BuildHasher, RandomState};

/// A generator owned by one thread (splitmix64, seeded by the system through std's hasher keys).
pub struct Random(Cell<u64>);

impl Default for Random {
    fn default() -> Self {
        Random(Cell::new(RandomState::new().hash_one(std::thread::current().id())))
    }
}

impl Random {
    /// A generator that repeats itself, for tests.
    pub fn seeded(seed: u64) -> Self {
        Random(Cell::new(seed))
    }

    /// Uniform over `u64`.
    pub fn next(&self) -> u64 {
        let state = self.0.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.0.set(state);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform below `bound` (0 when `bound` is 0); the bias of the multiplication is below 2⁻³².
    pub fn below(&self, bound: u32) -> u32 {
        ((u64::from(self.next() as u32) * u64::from(bound)) >> 32) as u32
    }
}
