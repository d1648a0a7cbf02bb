//! Sockets and time.
//!
//! Owns connections ([`Conn`]), listening sockets ([`sockets`]), socket options, and the worker's timer
//! wheel. Knows addresses, not listeners or clusters.

mod conn;
pub mod options;
pub mod sockets;
mod wheel;

pub use conn::{Conn, PeerAddress};
pub use wheel::{Sleep, Wheel};
