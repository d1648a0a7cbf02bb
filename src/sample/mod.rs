//! The bolt sample: a server that answers every call and a client that calls it.
//!
//! Owns two small, ordinary bolt programs that know nothing of proxies: the ends of the README's walk-through,
//! of the demo and of tests. Takes in the command line's arguments; gives out text on stdout.
//!
//! The server echoes a call's headers and content and adds the header [`SERVER_KEY`]. A call may ask for its
//! own delay with the header [`DELAY_KEY`].

mod client;
mod server;

#[cfg(test)]
mod tests;

pub use client::{CallError, Client, run_client};
pub use server::{Settings, run_server, serve};

/// Header of an answer: the server's name.
pub const SERVER_KEY: &str = "sample_server";
/// Header of a call: milliseconds to wait before the answer, instead of the server's own delay.
pub const DELAY_KEY: &str = "sample_delay_ms";
/// Class name of calls and answers.
const CLASS: &[u8] = b"mizzen.sample.Echo";

/// Why the sample ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server's port cannot be had.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// As given.
        address: String,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The call got no successful answer.
    #[error("the call failed: {0}")]
    Call(#[from] CallError),
    /// Stdout is gone.
    #[error("cannot print: {0}")]
    Print(#[source] std::io::Error),
}

/// Prints a line without the panic of `println!` when nobody reads it.
fn print(line: std::fmt::Arguments<'_>) -> Result<(), Error> {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).map_err(Error::Print)
}
