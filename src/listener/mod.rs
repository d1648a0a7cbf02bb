//! The downstream side of one worker.
//!
//! Owns listeners as the current snapshot has them, the connections accepted on each, chain matching and
//! accepting. Takes in sockets and snapshots; hands every connection to its driver in `stream`.

mod accept;
mod active;
mod chain;
mod drain;
mod guards;
mod inspect;
mod limits;
mod report;
mod set;

pub use accept::{Acceptor, Handoff};
pub use active::Active;
pub use drain::Spread;
pub use limits::Ceiling;
pub use report::ListenerReport;
pub use set::Listeners;
