//! `x-forwarded-client-cert`: what hosts are told of the client's certificate.

use crate::model::{CertMode, ClientCert, SanKind};
use crate::tls::Session;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};

const NAME: HeaderName = HeaderName::from_static("x-forwarded-client-cert");

/// Brings the header to what the mode says. What a client claims counts only on a connection that has proved who
/// the client is, or where the mode asks for nothing else than what was claimed.
pub(super) fn settle(headers: &mut HeaderMap, rule: &ClientCert, session: Option<&Session>) {
    if rule.mode == CertMode::AlwaysForwardOnly {
        return;
    }
    let Some(session) = session.filter(|session| session.verified_peer().is_some()) else {
        headers.remove(NAME);
        return;
    };
    let told = match rule.mode {
        CertMode::AlwaysForwardOnly | CertMode::ForwardOnly => return,
        CertMode::Sanitize => {
            headers.remove(NAME);
            return;
        }
        CertMode::SanitizeSet => element(rule, session),
        CertMode::AppendForward => {
            let mut list = Vec::new();
            for value in headers.get_all(NAME) {
                list.extend_from_slice(value.as_bytes());
                list.push(b',');
            }
            list.extend_from_slice(&element(rule, session));
            list
        }
    };
    headers.remove(NAME);
    if let Ok(value) = HeaderValue::from_maybe_shared(Bytes::from(told)) {
        let _ = headers.try_insert(NAME, value);
    }
}

/// What is said of the certificates of this connection.
fn element(rule: &ClientCert, session: &Session) -> Vec<u8> {
    let mut parts = Vec::new();
    let own = session.local.as_ref().and_then(|local| local.leaf());
    parts.extend(own.into_iter().flat_map(|leaf| leaf.names(SanKind::Uri)).map(|uri| format!("By={uri}")));
    if let Some(peer) = session.verified_peer() {
        parts.push(format!("Hash={}", peer.fingerprint()));
        if rule.cert {
            parts.push(format!("Cert=\"{}\"", escaped(&peer.pem(false))));
        }
        if rule.chain {
            parts.push(format!("Chain=\"{}\"", escaped(&peer.pem(true))));
        }
        if let Some(info) = peer.info() {
            if rule.subject {
                // RFC 2253 has escaped its quotes.
                parts.push(format!("Subject=\"{}\"", info.subject));
            }
            if rule.uri {
                let mut uris: Vec<_> = info.names(SanKind::Uri).map(|uri| format!("URI={uri}")).collect();
                if uris.is_empty() {
                    uris.push("URI=".to_owned());
                }
                parts.extend(uris);
            }
            if rule.dns {
                parts.extend(info.names(SanKind::Dns).map(|dns| format!("DNS={dns}")));
            }
        }
    }
    parts.join(";").into_bytes()
}

/// PEM with what a list of header elements would stumble over in percent form.
fn escaped(pem: &str) -> String {
    let mut out = String::with_capacity(pem.len() * 5 / 4);
    for c in pem.chars() {
        match c {
            '\n' => out.push_str("%0A"),
            ' ' => out.push_str("%20"),
            '+' => out.push_str("%2B"),
            '/' => out.push_str("%2F"),
            '=' => out.push_str("%3D"),
            c => out.push(c),
        }
    }
    out
}
