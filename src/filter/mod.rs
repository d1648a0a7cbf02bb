//! HTTP filters: what requests and responses meet between the connection and the router.
//!
//! Owns the compiled [`Chain`], the state of one message pair on its way through it ([`Stream`]), and the filters,
//! one file each. Takes in heads through `message::{Request, Headers}` and bodies as bytes; gives out what to do
//! next ([`Step`]) and [`Pipeline`]s that bodies go through. Knows neither protocol nor socket: who drives it
//! waits, buffers and answers.

mod ask;
mod body;
mod buffer;
mod chain;
mod compressor;
mod context;
mod cors;
mod decompressor;
mod ext_authz;
mod facts;
mod fault;
mod grpc_stats;
mod grpc_web;
mod header_mutation;
mod header_to_metadata;
mod health_check;
mod ip_access;
mod jwt_authn;
mod local_ratelimit;
pub mod mesh;
mod rbac;
mod set_filter_state;
mod set_metadata;
mod stats;

pub use ask::{Ask, Heard, Retries, Told};
pub use body::{Body, Pipeline};
pub use chain::{Chain, Given, MAX_FILTERS, Outgoing, Part, Step, Stream};
pub use context::{Context, Reply, World};
pub use ext_authz::{ConnectionCheck, Ruling};
pub use facts::With;
pub use grpc_web::{Decode as GrpcWebDecode, Encode as GrpcWebEncode};
pub use jwt_authn::Keeper;
pub use local_ratelimit::Bucket;
pub use rbac::{Peer, admits, metadata_holds};
pub use set_filter_state::state_text;
pub(crate) use stats::counters;
pub use stats::{Counters, Workers};
