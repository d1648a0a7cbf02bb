//! What is known of a TLS connection once its handshake is done.

use super::certs::{CertInfo, Identity};
use super::suites;
use crate::model::SanKind;
use aws_lc_rs::digest;
use rustls::CommonState;
use rustls::pki_types::CertificateDer;
use std::fmt::Write as _;
use std::sync::{Arc, OnceLock};

/// The byte stream over a connection of either side.
pub type Stream<IO> = tokio_rustls::TlsStream<IO>;

/// The outcome of a handshake.
pub struct Session {
    /// The server name the client asked for.
    pub server_name: Option<Box<str>>,
    /// The protocol both agreed on.
    pub alpn: Option<Box<[u8]>>,
    /// `TLSv1.2` or `TLSv1.3`.
    pub version: &'static str,
    /// The suite, as OpenSSL names it.
    pub cipher: &'static str,
    /// The group keys were agreed in, unless the session was resumed without one.
    pub curve: Option<&'static str>,
    /// Whether an earlier session went on.
    pub resumed: bool,
    /// The peer's certificate, if it showed one.
    pub peer: Option<Peer>,
    /// Our own certificate, if there is one.
    pub local: Option<Arc<Identity>>,
}

/// A peer's certificate.
pub struct Peer {
    /// Leaf first, DER.
    pub chain: Vec<CertificateDer<'static>>,
    /// Whether anything was checked of it.
    pub verified: bool,
    info: OnceLock<Option<CertInfo>>,
}

impl Session {
    pub(super) fn new(
        state: &CommonState,
        server_name: Option<&str>,
        verified: bool,
        local: Option<Arc<Identity>>,
    ) -> Session {
        let version = match state.protocol_version() {
            Some(rustls::ProtocolVersion::TLSv1_3) => "TLSv1.3",
            _ => "TLSv1.2",
        };
        let chain = state.peer_certificates().filter(|chain| !chain.is_empty());
        Session {
            server_name: server_name.map(Into::into),
            alpn: state.alpn_protocol().map(Into::into),
            version,
            cipher: state.negotiated_cipher_suite().map_or("", suites::cipher_word),
            curve: state.negotiated_key_exchange_group().map(|group| suites::curve_word(group.name())),
            resumed: state.handshake_kind() == Some(rustls::HandshakeKind::Resumed),
            peer: chain.map(|chain| Peer {
                chain: chain.iter().map(|der| der.clone().into_owned()).collect(),
                verified,
                info: OnceLock::new(),
            }),
            local,
        }
    }

    /// Whether both agreed on HTTP/2.
    pub fn is_http2(&self) -> bool {
        self.alpn.as_deref() == Some(b"h2")
    }

    /// The peer's certificate, if it was checked.
    pub fn verified_peer(&self) -> Option<&Peer> {
        self.peer.as_ref().filter(|peer| peer.verified)
    }
}

impl Peer {
    /// What the leaf says.
    pub fn info(&self) -> Option<&CertInfo> {
        let read = || CertInfo::read(self.chain.first()?).ok();
        self.info.get_or_init(read).as_ref()
    }

    /// Who it says it is: its URI names, else its DNS names, else its subject.
    pub fn principals(&self) -> Vec<String> {
        let Some(info) = self.info() else { return Vec::new() };
        for kind in [SanKind::Uri, SanKind::Dns] {
            let names: Vec<String> = info.names(kind).map(str::to_owned).collect();
            if !names.is_empty() {
                return names;
            }
        }
        vec![info.subject.clone()]
    }

    /// SHA-256 of the leaf, in lower-case hexadecimal.
    pub fn fingerprint(&self) -> String {
        let hash = sha256(self.chain.first().map_or(&[], |leaf| leaf.as_ref()));
        hash.iter().fold(String::with_capacity(64), |mut out, byte| {
            let _ = write!(out, "{byte:02x}");
            out
        })
    }

    /// SHA-1 of the leaf, likewise.
    pub fn fingerprint_sha1(&self) -> String {
        let leaf = self.chain.first().map_or(&[][..], |leaf| leaf.as_ref());
        let hash = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, leaf);
        hash.as_ref().iter().fold(String::with_capacity(40), |mut out, byte| {
            let _ = write!(out, "{byte:02x}");
            out
        })
    }

    /// The leaf, or the whole chain, in PEM.
    pub fn pem(&self, whole: bool) -> String {
        let count = if whole { self.chain.len() } else { 1 };
        self.chain.iter().take(count).map(|der| pem(der)).collect()
    }
}

/// SHA-256 of `bytes`.
pub(super) fn sha256(bytes: &[u8]) -> [u8; 32] {
    // The suite's own hash: the provider has no other door to it.
    let suite = rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256.tls13();
    let hash = suite.map(|suite| suite.common.hash_provider.hash(bytes));
    hash.and_then(|hash| hash.as_ref().try_into().ok()).unwrap_or_default()
}

fn pem(der: &[u8]) -> String {
    let text = base64(der);
    let mut out = String::with_capacity(text.len() + text.len() / 64 + 64);
    out.push_str("-----BEGIN CERTIFICATE-----\n");
    for (at, c) in text.chars().enumerate() {
        if at > 0 && at % 64 == 0 {
            out.push('\n');
        }
        out.push(c);
    }
    out.push_str("\n-----END CERTIFICATE-----\n");
    out
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let at = |i: usize| u32::from(group.get(i).copied().unwrap_or(0));
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        for i in 0..4 {
            let index = (bits >> (18 - 6 * i)) & 63;
            let c = ALPHABET.get(index as usize).copied().unwrap_or(b'=');
            out.push(if i <= group.len() { char::from(c) } else { '=' });
        }
    }
    out
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn text_forms() {
        assert_eq!(base64(b""), "");
        assert_eq!(base64(b"f"), "Zg==");
        assert_eq!(base64(b"fo"), "Zm8=");
        assert_eq!(base64(b"foob"), "Zm9vYg==");
        assert_eq!(base64(b"foobar"), "Zm9vYmFy");
        let long = pem(&[7; 100]);
        assert!(long.lines().all(|line| line.len() <= 64) && long.ends_with("-----END CERTIFICATE-----\n"));
        let empty: String = sha256(b"").iter().take(4).map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(empty, "e3b0c442");
    }
}
