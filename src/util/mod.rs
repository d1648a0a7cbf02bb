//! Leaf helpers: random numbers, durations, back-off, hashing. Use nothing else of this crate.

pub mod random;
