//! What a TLS transport socket is told.

use super::StringMatch;
use crate::util::hash;
use serde::{Serialize, Serializer};
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

/// Bytes that are never shown: two of them are told apart by a hash.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Hidden(Arc<[u8]>);

impl Hidden {
    /// Keeps `bytes`.
    pub fn new(bytes: &[u8]) -> Self {
        Hidden(bytes.into())
    }

    /// The bytes themselves.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[redacted {} bytes {:016x}]", self.0.len(), hash::xxh64(&self.0, 0))
    }
}

impl Serialize for Hidden {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{self:?}"))
    }
}

/// Where PEM text comes from.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub enum Data {
    /// In the resource.
    Inline(Hidden),
    /// A file, read again when it changes.
    File(PathBuf),
}

/// A certificate chain, leaf first, and its private key.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Certificate {
    pub chain: Data,
    pub key: Data,
}

/// Who serves a secret.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub enum SecretSource {
    /// The ADS stream's control plane.
    Ads,
    /// A secret discovery service behind a cluster of the bootstrap.
    Cluster(String),
}

/// A secret by name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct SecretRef {
    pub name: String,
    pub source: SecretSource,
}

/// A secret's content.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub enum Secret {
    /// Ours.
    Certificate(Certificate),
    /// What peers are checked against.
    Validation(Box<Validation>),
}

/// The certificates a side shows.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub enum Certificates {
    /// Written or in files. Empty: none is shown.
    Given(Vec<Certificate>),
    /// By secret discovery.
    Sds(Vec<SecretRef>),
}

/// What names of a peer's certificate are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub enum SanKind {
    Uri,
    Dns,
    Ip,
    Email,
}

/// A subject alternative name that is accepted; without a kind all kinds are tried.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SanMatch {
    pub kind: Option<SanKind>,
    pub matcher: StringMatch,
}

/// What a peer's certificate must be. The default checks nothing.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Validation {
    /// CA certificates a chain must lead to.
    pub roots: Option<Data>,
    /// The system's CA certificates.
    pub system_roots: bool,
    /// Certificate revocation lists.
    pub crl: Option<Data>,
    /// Only the peer's own certificate is looked up in them.
    pub crl_leaf_only: bool,
    /// One of these names must be in it; empty: names do not count.
    pub names: Vec<SanMatch>,
    /// SHA-256 of the certificate; with `spki`, one of either must fit.
    pub hashes: Vec<[u8; 32]>,
    /// SHA-256 of its public key.
    pub spki: Vec<[u8; 32]>,
    /// A certificate past its time is accepted.
    pub allow_expired: bool,
    /// A chain that leads nowhere is accepted (and told apart in what observers see).
    pub accept_untrusted: bool,
}

/// Where the validation comes from. With a secret, what is written stands beside what the secret brings.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ValidationSource {
    /// Written in the resource; `None`: there is no validation but the secret's.
    pub given: Option<Validation>,
    /// By secret discovery.
    pub secret: Option<SecretRef>,
}

impl ValidationSource {
    /// Whether peers are asked for a certificate at all.
    pub fn is_none(&self) -> bool {
        self.given.is_none() && self.secret.is_none()
    }
}

/// Versions that are spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum TlsVersion {
    Tls12,
    Tls13,
}

/// What both sides have in common.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CommonTls {
    pub min: TlsVersion,
    pub max: TlsVersion,
    /// Known TLS 1.2 suites by their IANA names; `None`: all that are known.
    pub ciphers: Option<Vec<&'static str>>,
    /// Known groups; `None`: all that are known.
    pub curves: Option<Vec<&'static str>>,
    /// Protocols in order of preference.
    pub alpn: Vec<String>,
    pub certificates: Certificates,
    pub validation: ValidationSource,
}

/// `DownstreamTlsContext`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DownstreamTls {
    pub common: CommonTls,
    pub require_client_certificate: bool,
    /// A client must send a server name.
    pub require_sni: bool,
    /// Sessions are resumed from tickets.
    pub tickets: bool,
    /// Sessions are resumed from memory.
    pub stateful: bool,
}

/// `UpstreamTlsContext`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct UpstreamTls {
    pub common: CommonTls,
    /// Server name sent; empty: none.
    pub sni: String,
    /// The host's name is sent instead, where it has one.
    pub host_sni: bool,
    /// The certificate must be for the name that is sent; other names do not count.
    pub check_sni: bool,
    /// Sessions kept for resumption; 0: none. Default 1.
    pub max_session_keys: u32,
}

/// A transport socket of a cluster.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub enum TransportSocket {
    /// As it is.
    Plain,
    /// TLS.
    Tls(Arc<UpstreamTls>),
}

/// A transport socket for hosts with some metadata.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SocketMatch {
    pub name: String,
    /// All of these must be the host's, under `envoy.transport_socket_match`; empty: every host.
    pub labels: std::collections::BTreeMap<String, String>,
    pub socket: TransportSocket,
}

/// Which socket a cluster's connections get: the first match, else the last resort.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TransportSockets {
    pub fallback: TransportSocket,
    pub matches: Vec<SocketMatch>,
}

impl Default for TransportSockets {
    fn default() -> Self {
        TransportSockets { fallback: TransportSocket::Plain, matches: Vec::new() }
    }
}

impl TransportSockets {
    /// Plaintext towards every host: what most clusters have, kept once.
    pub fn plain() -> Arc<Self> {
        static PLAIN: LazyLock<Arc<TransportSockets>> = LazyLock::new(Arc::default);
        PLAIN.clone()
    }

    /// Whether any host may be spoken to by TLS.
    pub fn is_encrypted(&self) -> bool {
        let all = self.matches.iter().map(|m| &m.socket).chain([&self.fallback]);
        all.into_iter().any(|socket| matches!(socket, TransportSocket::Tls(_)))
    }
}

/// TLS towards the clients of a filter chain.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ChainTls {
    pub context: Arc<DownstreamTls>,
    /// How long a handshake may take; `None`: the default.
    pub timeout: Option<Duration>,
}
