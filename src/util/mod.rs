//! Leaf helpers: random numbers, durations, back-off, hashing. Use nothing else of this crate.

pub mod backoff;
pub mod duration;
pub mod hash;
pub mod random;
pub mod text;
