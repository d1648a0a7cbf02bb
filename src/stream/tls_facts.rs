//! What format strings may ask about a client's TLS session.

use crate::message::Fact;
use crate::model::SanKind;
use crate::tls::Session;
use std::io::Write;

/// Appends the value of `fact` if the session has one.
pub(super) fn fact(session: &Session, fact: Fact, out: &mut Vec<u8>) -> bool {
    let peer = || session.peer.as_ref();
    let info = || peer().and_then(|peer| peer.info());
    let text = match fact {
        Fact::RequestedServerName => session.server_name.as_deref().map(str::to_owned),
        Fact::DownstreamTlsVersion => Some(session.version.to_owned()),
        Fact::DownstreamTlsCipher => Some(session.cipher.to_owned()),
        Fact::DownstreamPeerSubject => info().map(|info| info.subject.clone()),
        Fact::DownstreamPeerIssuer => info().map(|info| info.issuer.clone()),
        Fact::DownstreamPeerSerial => info().map(|info| info.serial.clone()),
        Fact::DownstreamPeerFingerprint256 => peer().map(|peer| peer.fingerprint()),
        Fact::DownstreamPeerCert => peer().map(|peer| peer.pem(false).replace('\n', "%0A")),
        Fact::DownstreamPeerUriSan => info().map(|info| list(info.names(SanKind::Uri))),
        Fact::DownstreamPeerDnsSan => info().map(|info| list(info.names(SanKind::Dns))),
        Fact::DownstreamLocalUriSan => {
            let leaf = session.local.as_ref().and_then(|local| local.leaf());
            leaf.map(|leaf| list(leaf.names(SanKind::Uri)))
        }
        Fact::DownstreamLocalSubject => {
            let leaf = session.local.as_ref().and_then(|local| local.leaf());
            leaf.map(|leaf| leaf.subject.clone())
        }
        _ => None,
    };
    // Writing to a vector cannot fail.
    text.filter(|text| !text.is_empty()).is_some_and(|text| out.write_all(text.as_bytes()).is_ok())
}

fn list<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.collect::<Vec<_>>().join(",")
}
