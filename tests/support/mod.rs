//! Doubles the integration tests share.
#![allow(dead_code, reason = "each test program uses its own part of the support")]

pub mod ads;
pub mod proxy;
pub mod resources;
