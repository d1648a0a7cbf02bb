//! Connections to hosts, one pool per host and protocol.

pub mod mux;
pub mod rpc;
