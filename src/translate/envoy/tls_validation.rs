//! What the certificate of a TLS peer is checked against.

use super::matchers;
use super::tls::{data, secret_ref, text};
use super::values::enumeration;
use crate::model::{SanKind, SanMatch, Validation, ValidationSource};
use crate::proto::envoy::config::core::v3 as core;
use crate::proto::envoy::extensions::transport_sockets::tls::v3 as pb;
use crate::tls::Trust;
use crate::translate::finding::{Findings, Path};

/// Where the validation of a context comes from.
pub(super) fn validation_source(
    path: &Path<'_>,
    context: &pb::CommonTlsContext,
    out: &mut Findings,
) -> Option<ValidationSource> {
    use pb::common_tls_context::ValidationContextType as Kind;
    Some(match &context.validation_context_type {
        None => ValidationSource::default(),
        Some(Kind::ValidationContext(message)) => {
            let at = path.name("validation_context");
            let given = validation(&at, message, out)?;
            needs_roots(&at, &given, out);
            ValidationSource { given: Some(given), secret: None }
        }
        Some(Kind::ValidationContextSdsSecretConfig(config)) => {
            let secret = secret_ref(&path.name("validation_context_sds_secret_config"), config, out)?;
            ValidationSource { given: None, secret: Some(secret) }
        }
        Some(Kind::CombinedValidationContext(combined)) => {
            let at = path.name("combined_validation_context");
            let inner = at.name("default_validation_context");
            let given = match &combined.default_validation_context {
                Some(message) => validation(&inner, message, out)?,
                None => Validation::default(),
            };
            if given.crl.is_some() {
                let why = "not supported beside a secret (nearest valid: in the secret)";
                out.bad(&inner.name("crl"), "", why);
            }
            let at = at.name("validation_context_sds_secret_config");
            let Some(config) = &combined.validation_context_sds_secret_config else {
                out.bad(&at, "", "is required");
                return None;
            };
            ValidationSource { given: Some(given), secret: Some(secret_ref(&at, config, out)?) }
        }
    })
}

fn needs_roots(path: &Path<'_>, given: &Validation, out: &mut Findings) {
    let has_roots = given.roots.is_some() || given.system_roots;
    if !given.names.is_empty() && !has_roots {
        let why = "names are worth nothing without trusted_ca";
        out.bad(&path.name("match_typed_subject_alt_names"), "", why);
    }
    if given.crl.is_some() && !has_roots {
        out.bad(&path.name("crl"), "", "a revocation list needs trusted_ca");
    }
}

/// What peers are checked against.
pub(super) fn validation(
    path: &Path<'_>,
    message: &pb::CertificateValidationContext,
    out: &mut Findings,
) -> Option<Validation> {
    use pb::certificate_validation_context::TrustChainVerification as Chain;
    for (field, set) in [
        ("require_signed_certificate_timestamp", message.require_signed_certificate_timestamp == Some(true)),
        ("custom_validator_config", message.custom_validator_config.is_some()),
        ("max_verify_depth", message.max_verify_depth.is_some()),
    ] {
        if set {
            out.bad(&path.name(field), "", "not supported (leave it out)");
        }
    }
    let at = path.name("trust_chain_verification");
    let chain: Chain = enumeration(&at, message.trust_chain_verification, out)?;
    let optional = |field: &str, source: &Option<core::DataSource>, out: &mut Findings| match source {
        Some(source) => data(&path.name(field), Some(source), out).map(Some),
        None => Some(None),
    };
    let roots = optional("trusted_ca", &message.trusted_ca, out)?;
    let crl = optional("crl", &message.crl, out)?;
    if let Some(roots) = &roots
        && let Some(bundle) = text(&path.name("trusted_ca"), roots, out)
    {
        let list = crl.as_ref().map(|list| text(&path.name("crl"), list, out));
        if let Err(error) = Trust::read(&bundle, list.flatten().as_deref()) {
            out.bad(&path.name("trusted_ca"), "", error);
        }
    }
    Some(Validation {
        roots,
        system_roots: message.system_root_certs.is_some(),
        crl,
        crl_leaf_only: message.only_verify_leaf_cert_crl,
        names: names(path, message, out)?,
        hashes: digests(&path.name("verify_certificate_hash"), &message.verify_certificate_hash, hex, out),
        spki: digests(&path.name("verify_certificate_spki"), &message.verify_certificate_spki, base64, out),
        allow_expired: message.allow_expired_certificate,
        accept_untrusted: chain == Chain::AcceptUntrusted,
    })
}

fn names(
    path: &Path<'_>,
    message: &pb::CertificateValidationContext,
    out: &mut Findings,
) -> Option<Vec<SanMatch>> {
    use pb::subject_alt_name_matcher::SanType;
    let mut read = Vec::new();
    let at = path.name("match_typed_subject_alt_names");
    for (i, item) in message.match_typed_subject_alt_names.iter().enumerate() {
        let at = at.index(i);
        let kind = match enumeration(&at.name("san_type"), item.san_type, out)? {
            SanType::Email => SanKind::Email,
            SanType::Dns => SanKind::Dns,
            SanType::Uri => SanKind::Uri,
            SanType::IpAddress => SanKind::Ip,
            other @ (SanType::Unspecified | SanType::OtherName) => {
                let why = "not a kind of name that is checked (nearest valid: URI, DNS, IP_ADDRESS, EMAIL)";
                out.bad(&at.name("san_type"), other.as_str_name(), why);
                return None;
            }
        };
        let Some(matcher) = &item.matcher else {
            out.bad(&at.name("matcher"), "", "is required");
            return None;
        };
        let matcher = matchers::text(&at.name("matcher"), matcher, out)?;
        read.push(SanMatch { kind: Some(kind), matcher });
    }
    // The typed list wins where both are there, as in the public API.
    if read.is_empty() {
        let at = path.name("match_subject_alt_names");
        for (i, matcher) in message.match_subject_alt_names.iter().enumerate() {
            read.push(SanMatch { kind: None, matcher: matchers::text(&at.index(i), matcher, out)? });
        }
    }
    Some(read)
}

fn digests(
    path: &Path<'_>,
    list: &[String],
    read: fn(&str) -> Option<[u8; 32]>,
    out: &mut Findings,
) -> Vec<[u8; 32]> {
    let mut found = Vec::with_capacity(list.len());
    for (i, text) in list.iter().enumerate() {
        match read(text) {
            Some(digest) => found.push(digest),
            None => out.bad(&path.index(i), text, "not a SHA-256 of 32 bytes"),
        }
    }
    found
}

/// Hexadecimal, with or without colons.
fn hex(text: &str) -> Option<[u8; 32]> {
    let digits: Vec<u8> = text
        .chars()
        .filter(|c| *c != ':')
        .map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
        .collect::<Option<_>>()?;
    let bytes: Vec<u8> = digits
        .chunks(2)
        .map(|pair| if let [high, low] = pair { Some(high << 4 | low) } else { None })
        .collect::<Option<_>>()?;
    bytes.try_into().ok()
}

fn base64(text: &str) -> Option<[u8; 32]> {
    let mut bits = 0u32;
    let mut count = 0;
    let mut bytes = Vec::with_capacity(32);
    for c in text.trim_end_matches('=').bytes() {
        let value = match c {
            b'A'..=b'Z' => c - b'A',
            b'a'..=b'z' => c - b'a' + 26,
            b'0'..=b'9' => c - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push(u8::try_from(bits >> count & 0xff).ok()?);
        }
    }
    bytes.try_into().ok()
}
