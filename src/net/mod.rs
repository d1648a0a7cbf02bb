//! Sockets and time.
//!
//! Owns connections ([`Conn`]), listening sockets ([`sockets`]), socket options, and the worker's timer
//! wheel. Knows addresses, not listeners or clusters.

mod bind;
mod conn;
mod exchange;
pub mod h2;
mod h2guard;
mod handshake;
mod inbuf;
mod keepalive;
mod line;
pub mod options;
mod queue;
pub mod sockets;
mod splice;
mod wheel;

pub use bind::{BindError, connect_from};
pub use conn::{Conn, PeerAddress};
pub use exchange::{Exchanging, Told};
pub use h2guard::{Wire, WireIo};
pub use handshake::count_handshake;
pub use inbuf::{Filled, ReadBuffer, ReadPool, Unfinished};
pub use keepalive::Keepalive;
pub use line::{Line, Output};
pub use queue::{Budget, Charge, WriteQueue};
pub use splice::poll_splice;
pub use wheel::{Sleep, Wheel};
