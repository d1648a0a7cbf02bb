//! Names of ciphers and groups: those of configuration (OpenSSL's and IANA's) into what the provider has.

use super::provider;
use rustls::crypto::{CryptoProvider, SupportedKxGroup};
use rustls::{CipherSuite, NamedGroup, SupportedCipherSuite};
use std::sync::Arc;

/// TLS 1.2 suites we speak: OpenSSL's name, which observers are shown too, and IANA's.
const CIPHERS: &[(&str, &str, CipherSuite)] = &[
    (
        "ECDHE-ECDSA-AES256-GCM-SHA384",
        "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    ),
    (
        "ECDHE-ECDSA-AES128-GCM-SHA256",
        "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    ),
    (
        "ECDHE-ECDSA-CHACHA20-POLY1305",
        "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    ),
    (
        "ECDHE-RSA-AES256-GCM-SHA384",
        "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
    ),
    (
        "ECDHE-RSA-AES128-GCM-SHA256",
        "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
    ),
    (
        "ECDHE-RSA-CHACHA20-POLY1305",
        "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
        CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
    ),
];

/// Groups we speak: BoringSSL's names.
const CURVES: &[(&str, &str, NamedGroup)] = &[
    ("X25519", "X25519", NamedGroup::X25519),
    ("P-256", "prime256v1", NamedGroup::secp256r1),
    ("P-384", "secp384r1", NamedGroup::secp384r1),
    ("X25519MLKEM768", "X25519MLKEM768", NamedGroup::X25519MLKEM768),
];

/// What became of a list of names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Named {
    /// Those that are spoken, in order, each once.
    pub known: Vec<&'static str>,
    /// The others.
    pub unknown: Vec<String>,
}

fn named<T>(table: &[(&'static str, &'static str, T)], names: impl Iterator<Item = String>) -> Named {
    let mut read = Named::default();
    for name in names {
        match table.iter().find(|(a, b, _)| name.eq_ignore_ascii_case(a) || name.eq_ignore_ascii_case(b)) {
            Some((word, ..)) if read.known.contains(word) => {}
            Some((word, ..)) => read.known.push(word),
            None => read.unknown.push(name),
        }
    }
    read
}

/// Reads `cipher_suites`; an entry may be a group of equal rank: `[A|B]`.
pub fn ciphers(list: &[String]) -> Named {
    let one = |entry: &String| -> Vec<String> {
        let inner = entry.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        inner.unwrap_or(entry).split('|').map(str::to_owned).collect()
    };
    named(CIPHERS, list.iter().flat_map(one))
}

/// Reads `ecdh_curves`.
pub fn curves(list: &[String]) -> Named {
    named(CURVES, list.iter().cloned())
}

/// A provider with only what the names allow. TLS 1.3 has suites of its own, which no list touches.
pub(super) fn restricted(
    ciphers: Option<&[&'static str]>,
    curves: Option<&[&'static str]>,
) -> Arc<CryptoProvider> {
    let base = provider();
    if ciphers.is_none() && curves.is_none() {
        return base.clone();
    }
    let mut own = (**base).clone();
    if let Some(names) = ciphers {
        let suites13 = base.cipher_suites.iter().filter(|suite| suite.tls13().is_some());
        let suites12 = names.iter().filter_map(|name| {
            let (.., wanted) = CIPHERS.iter().find(|(word, ..)| word == name)?;
            base.cipher_suites.iter().find(|suite| suite.suite() == *wanted)
        });
        own.cipher_suites = suites13.chain(suites12).copied().collect();
    }
    if let Some(names) = curves {
        let all: &[&'static dyn SupportedKxGroup] = rustls::crypto::aws_lc_rs::ALL_KX_GROUPS;
        let group = |name: &&'static str| {
            let (.., wanted) = CURVES.iter().find(|(word, ..)| word == name)?;
            all.iter().find(|group| group.name() == *wanted)
        };
        own.kx_groups = names.iter().filter_map(group).copied().collect();
    }
    Arc::new(own)
}

/// A suite as observers are shown it.
pub(super) fn cipher_word(suite: SupportedCipherSuite) -> &'static str {
    let known = CIPHERS.iter().find(|(.., known)| *known == suite.suite());
    match suite.suite() {
        CipherSuite::TLS13_AES_128_GCM_SHA256 => "TLS_AES_128_GCM_SHA256",
        CipherSuite::TLS13_AES_256_GCM_SHA384 => "TLS_AES_256_GCM_SHA384",
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => "TLS_CHACHA20_POLY1305_SHA256",
        _ => known.map_or("other", |(word, ..)| word),
    }
}

/// A group as observers are shown it.
pub(super) fn curve_word(group: NamedGroup) -> &'static str {
    CURVES.iter().find(|(.., known)| *known == group).map_or("other", |(word, ..)| word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_we_lack_are_told_apart() {
        let list = ["ECDHE-RSA-AES128-GCM-SHA256", "AES128-GCM-SHA256", "[ECDHE-ECDSA-AES128-GCM-SHA256|X]"];
        let read = ciphers(&list.map(str::to_owned));
        assert_eq!(read.known, ["ECDHE-RSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES128-GCM-SHA256"]);
        assert_eq!(read.unknown, ["AES128-GCM-SHA256", "X"]);
        let read = curves(&["P-256".to_owned(), "x25519".to_owned(), "P-521".to_owned()]);
        assert_eq!((read.known, read.unknown), (vec!["P-256", "X25519"], vec!["P-521".to_owned()]));
    }

    #[test]
    fn a_restricted_provider_keeps_tls13() {
        let own = restricted(Some(&["ECDHE-RSA-AES128-GCM-SHA256"]), Some(&["P-384"]));
        assert_eq!(own.cipher_suites.iter().filter(|suite| suite.tls13().is_some()).count(), 3);
        assert_eq!(own.cipher_suites.len(), 4);
        assert_eq!(own.kx_groups.len(), 1);
        for (name, ..) in CIPHERS {
            assert_eq!(restricted(Some(&[name]), None).cipher_suites.len(), 4, "{name}");
        }
        for (name, ..) in CURVES {
            assert_eq!(restricted(None, Some(&[name])).kx_groups.len(), 1, "{name}");
        }
    }
}
