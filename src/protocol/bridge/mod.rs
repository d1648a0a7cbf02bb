//! bolt carried over HTTP/2 and back, without loss.
//!
//! Every bolt field is a header of its own and every pair of the header map a flat header beside them (the key
//! names MOSN used from 2018 to 2019, so its sidecars understand both directions). What flat headers cannot
//! say, such as order, case, nulls and bytes HTTP forbids, travels in a side channel (`layout.rs`).
//!
//! The flat headers are the truth: the side channel holds no values and no header of its own, it only says
//! how the flat ones looked. A header changed, added or removed on the way is changed, added or removed in
//! the bolt map, and what a policy on the HTTP/2 side saw is what the bolt side gets.
//!
//! Takes in frames or HTTP heads; gives out the other. Sans-IO; bodies are passed through untouched.

mod from_http;
mod layout;
mod names;
mod to_http;

#[cfg(test)]
mod tests;

pub use from_http::{http2_request_to_bolt, http2_response_to_bolt};
pub use to_http::{bolt_to_http2_request, bolt_to_http2_response, failure_to_http2_response, target};

use crate::protocol::rpc::HeaderOverflow;

/// Why a message cannot be carried over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BridgeError {
    /// A bolt field's header has a value it cannot have, or is there twice.
    #[error("header `{0}` is not a valid bolt field")]
    Field(&'static str),
    /// A response where a request was expected, or the other way round.
    #[error("a frame of the wrong direction")]
    Direction,
    /// More headers than an HTTP message can hold.
    #[error("too many headers, or one too long, for an HTTP message")]
    Headers,
    /// The headers do not fit a bolt frame.
    #[error(transparent)]
    Overflow(#[from] HeaderOverflow),
}
