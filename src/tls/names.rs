//! The names in a certificate, and whether one of them is accepted.

use crate::model::{SanKind, SanMatch, StringMatch};
use std::net::IpAddr;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::X509Certificate;

/// A subject alternative name as text.
pub(super) type San = (SanKind, String);

/// All names of the kinds we know, in the certificate's order.
pub(super) fn sans(certificate: &X509Certificate<'_>) -> Vec<San> {
    let mut found = Vec::new();
    for extension in certificate.extensions() {
        let ParsedExtension::SubjectAlternativeName(names) = extension.parsed_extension() else { continue };
        for name in &names.general_names {
            found.extend(match name {
                GeneralName::URI(uri) => Some((SanKind::Uri, (*uri).to_owned())),
                GeneralName::DNSName(name) => Some((SanKind::Dns, (*name).to_owned())),
                GeneralName::RFC822Name(name) => Some((SanKind::Email, (*name).to_owned())),
                GeneralName::IPAddress(bytes) => address(bytes).map(|ip| (SanKind::Ip, ip.to_string())),
                _ => None,
            });
        }
    }
    found
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}

/// Whether any of `sans` is accepted by any of `matches`.
pub(super) fn accepts(matches: &[SanMatch], sans: &[San]) -> bool {
    matches.iter().any(|wanted| sans.iter().any(|san| fits(wanted, san)))
}

fn fits(wanted: &SanMatch, (kind, name): &San) -> bool {
    if wanted.kind.is_some_and(|wanted| wanted != *kind) {
        return false;
    }
    match &wanted.matcher {
        // A certificate's wildcard stands for one label.
        StringMatch::Exact { value, .. } if *kind == SanKind::Dns => dns_fits(name, value),
        matcher => matcher.matches(name.as_bytes()),
    }
}

/// Whether `pattern` of a certificate covers `host`.
fn dns_fits(pattern: &str, host: &str) -> bool {
    if pattern.eq_ignore_ascii_case(host) {
        return true;
    }
    let Some(domain) = pattern.strip_prefix("*.") else { return false };
    let Some((first, rest)) = host.split_once('.') else { return false };
    !first.is_empty() && domain.contains('.') && !domain.contains('*') && rest.eq_ignore_ascii_case(domain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exact(kind: Option<SanKind>, value: &str) -> SanMatch {
        SanMatch { kind, matcher: StringMatch::Exact { value: value.into(), ignore_case: false } }
    }

    #[test]
    fn kinds_and_wildcards() {
        let sans = [
            (SanKind::Uri, "spiffe://td/ns/a/sa/b".to_owned()),
            (SanKind::Dns, "*.Example.com".to_owned()),
            (SanKind::Ip, "10.0.0.1".to_owned()),
            (SanKind::Email, "a@b.c".to_owned()),
        ];
        let ok = |wanted: SanMatch| accepts(&[wanted], &sans);
        assert!(ok(exact(Some(SanKind::Uri), "spiffe://td/ns/a/sa/b")));
        assert!(!ok(exact(Some(SanKind::Uri), "spiffe://td/ns/a/sa/bc")));
        assert!(ok(exact(Some(SanKind::Dns), "www.example.com")));
        assert!(ok(exact(None, "WWW.example.com")));
        assert!(!ok(exact(None, "a.b.example.com")) && !ok(exact(None, "example.com")));
        assert!(!ok(exact(Some(SanKind::Uri), "www.example.com")));
        assert!(ok(exact(None, "10.0.0.1")) && ok(exact(None, "a@b.c")));
        assert!(!ok(exact(Some(SanKind::Dns), "10.0.0.1")));
        let prefix = StringMatch::Prefix { value: "spiffe://td/".into(), ignore_case: false };
        assert!(ok(SanMatch { kind: Some(SanKind::Uri), matcher: prefix }));
        assert!(!accepts(&[], &sans) && !accepts(&[exact(None, "x")], &[]));
        assert!(!dns_fits("*.com", "example.com"), "a wildcard over a whole top-level domain");
    }
}
