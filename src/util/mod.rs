//! Leaf helpers: random numbers, durations, back-off, hashing, base64, protobuf's wire format, waiting. Use nothing else of this crate.

pub mod backoff;
pub mod base64;
pub mod duration;
pub mod hash;
pub mod park;
pub mod protobuf;
pub mod random;
pub mod text;
