//! Connections to hosts, one pool per host and protocol.

pub mod auto;
mod dial;
pub mod http1;
pub mod http2;
pub mod mux;
pub mod rpc;

pub(crate) use dial::connect;
