//! What format strings may ask about TLS sessions, that with the client and that with the host.

use crate::message::Fact;
use crate::model::{SanKind, TimeFormat};
use crate::tls::{CertInfo, Session};
use std::time::SystemTime;

/// What is asked of a session, whichever side it is of.
enum Asked {
    Version,
    Cipher,
    /// What the peer's certificate says.
    Peer(Says),
    /// What our own says.
    Local(Says),
    PeerPem,
    Fingerprint256,
    Fingerprint1,
}

/// Parts of a certificate.
enum Says {
    Subject,
    Issuer,
    Serial,
    Names(SanKind),
    Start,
    End,
}

/// Appends the value of `fact` if the client's session has one.
pub(super) fn fact(session: &Session, fact: Fact, out: &mut Vec<u8>) -> bool {
    use SanKind::{Dns, Email, Ip, Uri};
    let asked = match fact {
        Fact::RequestedServerName => {
            return put(session.server_name.as_deref().unwrap_or_default(), out);
        }
        Fact::DownstreamTlsVersion => Asked::Version,
        Fact::DownstreamTlsCipher => Asked::Cipher,
        Fact::DownstreamPeerSubject => Asked::Peer(Says::Subject),
        Fact::DownstreamPeerIssuer => Asked::Peer(Says::Issuer),
        Fact::DownstreamPeerSerial => Asked::Peer(Says::Serial),
        Fact::DownstreamPeerUriSan => Asked::Peer(Says::Names(Uri)),
        Fact::DownstreamPeerDnsSan => Asked::Peer(Says::Names(Dns)),
        Fact::DownstreamPeerIpSan => Asked::Peer(Says::Names(Ip)),
        Fact::DownstreamPeerEmailSan => Asked::Peer(Says::Names(Email)),
        Fact::DownstreamPeerCertStart => Asked::Peer(Says::Start),
        Fact::DownstreamPeerCertEnd => Asked::Peer(Says::End),
        Fact::DownstreamPeerCert => Asked::PeerPem,
        Fact::DownstreamPeerFingerprint256 => Asked::Fingerprint256,
        Fact::DownstreamPeerFingerprint1 => Asked::Fingerprint1,
        Fact::DownstreamLocalSubject => Asked::Local(Says::Subject),
        Fact::DownstreamLocalUriSan => Asked::Local(Says::Names(Uri)),
        Fact::DownstreamLocalDnsSan => Asked::Local(Says::Names(Dns)),
        Fact::DownstreamLocalIpSan => Asked::Local(Says::Names(Ip)),
        Fact::DownstreamLocalEmailSan => Asked::Local(Says::Names(Email)),
        _ => return false,
    };
    write(session, &asked, out)
}

/// Appends the value of `fact` if the session with the host has one.
pub(super) fn upstream(session: &Session, fact: Fact, out: &mut Vec<u8>) -> bool {
    use SanKind::{Dns, Email, Ip, Uri};
    let asked = match fact {
        Fact::UpstreamTlsVersion => Asked::Version,
        Fact::UpstreamTlsCipher => Asked::Cipher,
        Fact::UpstreamPeerSubject => Asked::Peer(Says::Subject),
        Fact::UpstreamPeerIssuer => Asked::Peer(Says::Issuer),
        Fact::UpstreamPeerUriSan => Asked::Peer(Says::Names(Uri)),
        Fact::UpstreamPeerDnsSan => Asked::Peer(Says::Names(Dns)),
        Fact::UpstreamPeerIpSan => Asked::Peer(Says::Names(Ip)),
        Fact::UpstreamPeerEmailSan => Asked::Peer(Says::Names(Email)),
        Fact::UpstreamPeerCert => Asked::PeerPem,
        Fact::UpstreamLocalSubject => Asked::Local(Says::Subject),
        Fact::UpstreamLocalUriSan => Asked::Local(Says::Names(Uri)),
        Fact::UpstreamLocalDnsSan => Asked::Local(Says::Names(Dns)),
        Fact::UpstreamLocalIpSan => Asked::Local(Says::Names(Ip)),
        Fact::UpstreamLocalEmailSan => Asked::Local(Says::Names(Email)),
        _ => return false,
    };
    write(session, &asked, out)
}

fn write(session: &Session, asked: &Asked, out: &mut Vec<u8>) -> bool {
    let peer = session.peer.as_ref();
    let said = |part: &Says, info: Option<&CertInfo>, out: &mut Vec<u8>| {
        info.is_some_and(|info| say(part, info, out))
    };
    match asked {
        Asked::Version => put(session.version, out),
        Asked::Cipher => put(session.cipher, out),
        Asked::Peer(part) => said(part, peer.and_then(|peer| peer.info()), out),
        Asked::Local(part) => said(part, session.local.as_ref().and_then(|local| local.leaf()), out),
        Asked::PeerPem => peer.is_some_and(|peer| put(&peer.pem(false).replace('\n', "%0A"), out)),
        Asked::Fingerprint256 => peer.is_some_and(|peer| put(&peer.fingerprint(), out)),
        Asked::Fingerprint1 => peer.is_some_and(|peer| put(&peer.fingerprint_sha1(), out)),
    }
}

fn say(part: &Says, info: &CertInfo, out: &mut Vec<u8>) -> bool {
    match part {
        Says::Subject => put(&info.subject, out),
        Says::Issuer => put(&info.issuer, out),
        Says::Serial => put(&info.serial, out),
        Says::Names(kind) => put(&info.names(*kind).collect::<Vec<_>>().join(","), out),
        Says::Start => put_time(info.not_before, out),
        Says::End => put_time(info.not_after, out),
    }
}

fn put_time(time: SystemTime, out: &mut Vec<u8>) -> bool {
    TimeFormat::parse("").is_ok_and(|format| {
        format.write(time, out);
        true
    })
}

fn put(text: &str, out: &mut Vec<u8>) -> bool {
    out.extend_from_slice(text.as_bytes());
    !text.is_empty()
}
