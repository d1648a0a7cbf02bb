//! What crosses from a protocol to the rest: a request's head, and how a request failed.
//!
//! Depends on `bytes` only. Routers and filters see requests through [`Head`]; drivers report failures as
//! [`Failure`]; [`failure`] is the only place that maps a failure to status codes, flags and words.

mod facts;
pub mod failure;
mod flags;
mod head;
mod headers;
mod metadata;
pub mod state;

pub use facts::{Fact, Facts, Moment, Point};
pub use failure::{Failure, Reason, grpc_of_http};
pub use flags::Flags;
pub use head::Head;
pub use headers::{Headers, Request};
pub use metadata::{Datum, Metadata};
pub use state::FilterState;
