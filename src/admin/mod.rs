//! The admin server: Envoy's paths and MOSN's on one port, for agents, tools and people.
//!
//! Owns the HTTP server ([`Server`]) with its limits, the answers, and redaction. Takes in what [`Source`]
//! holds: the snapshot store, the metrics registry, the life-cycle, and closures that ask the build thread and
//! the workers. Gives out text and JSON, and [`Command`]s for what it may not do itself.
//!
//! Runs on the control runtime. Whatever grows with the mesh is written piece by piece on a thread of its own
//! at low priority, so that `/ready` never waits for a dump and a slow reader holds up nobody.

mod access;
mod body;
mod certs;
mod clusters;
mod config_dump;
mod derived;
mod envoy;
mod explain;
mod init_dump;
mod io;
mod json;
mod listeners;
pub mod memory;
mod mosn;
mod query;
mod redact;
mod reply;
mod runtime;
mod server;
mod source;

pub use derived::{Updates, provide_by_name};
pub use redact::redact;
pub use server::{BindError, Server};
pub use source::{
    Ask, Body, Command, DumpState, Failed, Kind, Lifecycle, ListenerStatus, Modify, ProcessInfo, Resource,
    ServerState, Source, TypeState, Version,
};

#[cfg(test)]
mod tests;
