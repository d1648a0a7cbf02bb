//! A request's life between a downstream connection and a cluster.
//!
//! Owns the connection drivers per protocol ([`rpc`], [`tcp`], [`http1`], [`http2`]) and what they share: the worker's
//! [`Local`], a connection's [`Handle`], planning and retrying ([`exchange`]), and one RPC call whatever its
//! client spoke ([`call`]). Takes in accepted connections; gives them back to the listener when they end.

mod around;
mod authorize;
mod call;
pub mod exchange;
mod facts;
mod handle;
pub mod http;
pub mod http1;
pub mod http2;
mod local;
mod record;
pub mod rpc;
mod sniff;
mod state;
pub mod tcp;
mod tcp_told;
mod tls_facts;
mod upstream_http2;

pub use authorize::authorize;
pub use handle::{Bound, Drain, Handle, Seen};
pub use local::{Inspected, Local};
pub use record::{Record, Rewritten};
pub use sniff::{Served, serve_sniffed};
pub use state::set_state;
