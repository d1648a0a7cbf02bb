//! Doubles the integration tests share.
#![allow(dead_code, reason = "each test program uses its own part of the support")]

pub mod ads;
pub mod authz;
pub mod bolt;
pub mod chain;
pub mod http1;
pub mod http1_traffic;
pub mod http2;
pub mod jwt;
pub mod names;
pub mod netns;
pub mod pki;
pub mod process;
pub mod proxy;
pub mod resources;
pub mod sds;
pub mod traffic;
pub mod upstream;
pub mod world;
