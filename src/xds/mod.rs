//! The client side of xDS: one aggregated stream, state of the world or delta.
//!
//! `state` is the protocol without sockets and without a clock: subscriptions, versions, nonces, verdicts,
//! reconnects. It lives on the build thread, where resources are compared, translated and judged. `client`
//! is the task of the control thread: it owns the socket and the frames and nothing else. The two talk over
//! bounded channels, so that a push of 10,000 clusters never holds up a PING or `/ready`.
//!
//! ```text
//!  control thread                           build thread
//!  client::run ── ClientEvent ──►  state::AdsState ── Update ──► translate, Builder
//!              ◄── ClientRequest ──               ◄── Rejection ──
//! ```

pub mod client;
pub mod convert;
pub mod disk;
pub mod driver;
pub mod dump;
mod grpc;
mod held;
pub mod message;
mod nack;
pub mod name;
pub mod names;
mod repeat;
mod requests;
pub mod sds;
pub mod state;
pub mod stats;
mod ttl;
pub mod types;
pub mod wire;
