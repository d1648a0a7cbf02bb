//! TLS: certificates, secrets, and what rustls is configured with.
//!
//! Owns the secrets ([`Secrets`]: by discovery, from files, or written in a resource), the verification of peers
//! (chain by webpki, names by our own matchers), and the contexts of filter chains and clusters ([`Server`],
//! [`Client`]), whose rustls configurations are built at the first handshake and again when a secret changes.
//! Takes in models; gives out handshakes and what is known of a session ([`Session`]).
//!
//! Nothing here runs, and the crypto library is not touched, before a context or a secret is used.

mod certs;
mod client;
mod hello;
mod names;
mod pem;
mod secrets;
mod server;
mod session;
mod suites;
#[cfg(test)]
mod tests;
mod verify;

pub use certs::{CertInfo, Identity, Trust};
pub use client::{Client, Wish};
pub use hello::{Heard, Hello, client_hello};
pub use pem::PemError;
pub use secrets::{Hold, Kind, Material, Need, SecretState, SecretStatus, Secrets};
pub use server::Server;
pub use session::{Peer, Session, Stream};
pub use suites::{Named, ciphers, curves};

use rustls::crypto::CryptoProvider;
use std::sync::{Arc, OnceLock};

/// The one crypto provider, made at first use.
fn provider() -> &'static Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER.get_or_init(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
}

/// Why there can be no handshake, or why it failed. What is counted follows from it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TlsError {
    /// A secret has not come, or what a file holds is no good.
    #[error("secret {0} is missing")]
    NotReady(String),
    /// The configuration and the secret do not go together.
    #[error("{0}")]
    Unusable(String),
    /// No time left.
    #[error("the handshake took too long")]
    Timeout,
    /// The peer showed no certificate.
    #[error("the peer showed no certificate")]
    NoCertificate,
    /// The chain of the peer's certificate.
    #[error("the peer's certificate was refused: {0}")]
    Chain(String),
    /// Its names.
    #[error("no name in the peer's certificate is accepted")]
    Name,
    /// Its hash or public key.
    #[error("the peer's certificate is none of those that are pinned")]
    Pin,
    /// Anything else about the connection or the protocol.
    #[error("{0}")]
    Connection(String),
}
