//! Foreign configuration dialects into `model`: pure functions, no I/O, no state.
//!
//! Owns the verdict on one resource: a model value with notes on what had no effect, or a `Rejection` that
//! names every fault with its field path. `envoy` reads xDS resources, `mosn` MOSN's files; `unknown` finds
//! what the trimmed protos do not know, on the wire bytes.

pub mod envoy;
mod fault;
mod finding;
pub mod locate;
pub mod mosn;
pub mod unknown;

pub use fault::{Finding, Severity, join};
pub use finding::{Field, Findings, Note, NoteKind, Path, Rejection, Translated};
