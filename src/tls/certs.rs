//! What a secret holds, parsed once: our own certificate and key, or the CA certificates peers lead to.

use super::names::{self, San};
use super::pem::{self, PemError};
use super::provider;
use crate::model::SanKind;
use rustls::DistinguishedName;
use rustls::pki_types::{CertificateDer, TrustAnchor};
use rustls::sign::CertifiedKey;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use webpki::{CertRevocationList, OwnedCertRevocationList};
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::x509::X509Name;

/// Our own certificate chain with its key, ready to sign.
pub struct Identity {
    pub(super) certified: Arc<CertifiedKey>,
    /// What people are shown of the chain, leaf first.
    pub infos: Vec<CertInfo>,
}

/// The CA certificates a peer's chain must lead to, and revocation lists.
pub struct Trust {
    pub(super) anchors: Vec<TrustAnchor<'static>>,
    pub(super) certificates: Vec<CertificateDer<'static>>,
    pub(super) subjects: Vec<DistinguishedName>,
    pub(super) crls: Vec<CertRevocationList<'static>>,
    /// What people are shown.
    pub infos: Vec<CertInfo>,
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Trust({} certificates, {} revocation lists)", self.certificates.len(), self.crls.len())
    }
}

/// A certificate as people are shown it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertInfo {
    /// Lower-case hexadecimal, without leading zeros but one digit at least.
    pub serial: String,
    /// Names it is for.
    pub sans: Vec<San>,
    /// RFC 2253.
    pub subject: String,
    /// Whoever signed it, RFC 2253.
    pub issuer: String,
    pub not_before: SystemTime,
    pub not_after: SystemTime,
}

impl CertInfo {
    /// Reads a certificate.
    ///
    /// # Errors
    /// What is wrong with its DER.
    pub fn read(der: &[u8]) -> Result<CertInfo, String> {
        let (_, certificate) = X509Certificate::from_der(der).map_err(|error| error.to_string())?;
        Ok(CertInfo::of(&certificate))
    }

    pub(super) fn of(certificate: &X509Certificate<'_>) -> CertInfo {
        let validity = certificate.validity();
        CertInfo {
            serial: serial(certificate.raw_serial()),
            sans: names::sans(certificate),
            subject: rfc2253(certificate.subject()),
            issuer: rfc2253(certificate.issuer()),
            not_before: moment(validity.not_before.timestamp()),
            not_after: moment(validity.not_after.timestamp()),
        }
    }

    /// Its names of one kind.
    pub fn names(&self, kind: SanKind) -> impl Iterator<Item = &str> {
        self.sans.iter().filter(move |(k, _)| *k == kind).map(|(_, name)| name.as_str())
    }

    /// Whole days from `now` to its end; negative when it is over.
    pub fn days_left(&self, now: SystemTime) -> i64 {
        let days = |duration: Duration| i64::try_from(duration.as_secs() / 86_400).unwrap_or(i64::MAX);
        match self.not_after.duration_since(now) {
            Ok(left) => days(left),
            Err(over) => -days(over.duration()),
        }
    }
}

fn moment(seconds: i64) -> SystemTime {
    match u64::try_from(seconds) {
        Ok(after) => UNIX_EPOCH + Duration::from_secs(after),
        Err(_) => UNIX_EPOCH,
    }
}

fn serial(bytes: &[u8]) -> String {
    let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let digits = text.trim_start_matches('0');
    if digits.is_empty() { "0".to_owned() } else { digits.to_owned() }
}

/// A name as RFC 2253 writes it: the last part first.
fn rfc2253(name: &X509Name<'_>) -> String {
    let mut parts = Vec::new();
    for set in name.iter_rdn() {
        let mut of_set = Vec::new();
        for attribute in set.iter() {
            let oid = attribute.attr_type();
            let key = x509_parser::objects::oid2abbrev(oid, x509_parser::objects::oid_registry());
            let value = escaped(attribute.as_str().unwrap_or_default());
            of_set.push(match key {
                Ok(key) => format!("{key}={value}"),
                Err(_) => format!("{oid}={value}"),
            });
        }
        parts.push(of_set.join("+"));
    }
    parts.reverse();
    parts.join(",")
}

fn escaped(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    let last = value.chars().count().saturating_sub(1);
    for (at, c) in value.chars().enumerate() {
        let edge = (c == ' ' && (at == 0 || at == last)) || (c == '#' && at == 0);
        if edge || matches!(c, ',' | '+' | '"' | '\\' | '<' | '>' | ';') {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

fn infos(chain: &[CertificateDer<'static>]) -> Result<Vec<CertInfo>, PemError> {
    let read = |(at, der): (usize, &CertificateDer<'static>)| {
        CertInfo::read(der).map_err(|why| PemError::Certificate { at, why })
    };
    chain.iter().enumerate().map(read).collect()
}

impl Identity {
    /// From PEM texts.
    ///
    /// # Errors
    /// Either cannot be read, or they do not belong together.
    pub fn read(chain: &[u8], key: &[u8]) -> Result<Identity, PemError> {
        let chain = pem::chain(chain)?;
        let infos = infos(&chain)?;
        let key = provider().key_provider.load_private_key(pem::key(key)?);
        let key = key.map_err(|error| PemError::Key(error.to_string()))?;
        let certified = CertifiedKey::new(chain, key);
        match certified.keys_match() {
            Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {}
            Err(rustls::Error::InconsistentKeys(_)) => return Err(PemError::Mismatch),
            Err(error) => return Err(PemError::Certificate { at: 0, why: error.to_string() }),
        }
        Ok(Identity { certified: Arc::new(certified), infos })
    }

    /// The first URI name of the leaf.
    pub fn uri(&self) -> Option<&str> {
        self.infos.first()?.names(SanKind::Uri).next()
    }

    /// The leaf.
    pub fn leaf(&self) -> Option<&CertInfo> {
        self.infos.first()
    }
}

impl Trust {
    /// From PEM texts: CA certificates and, if any, revocation lists.
    ///
    /// # Errors
    /// Either cannot be read.
    pub fn read(roots: &[u8], crl: Option<&[u8]>) -> Result<Trust, PemError> {
        Trust::of(pem::bundle(roots)?, crl)
    }

    /// The CA certificates of the system, wherever it keeps them.
    ///
    /// # Errors
    /// There are none.
    pub fn system(crl: Option<&[u8]>) -> Result<Trust, PemError> {
        let places =
            ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];
        let text = places.iter().find_map(|path| std::fs::read(path).ok());
        Trust::of(pem::bundle(&text.unwrap_or_default())?, crl)
    }

    fn of(certificates: Vec<CertificateDer<'static>>, crl: Option<&[u8]>) -> Result<Trust, PemError> {
        let infos = infos(&certificates)?;
        let mut anchors = Vec::with_capacity(certificates.len());
        let mut subjects = Vec::with_capacity(certificates.len());
        for (at, der) in certificates.iter().enumerate() {
            let anchor = webpki::anchor_from_trusted_cert(der)
                .map_err(|error| PemError::Certificate { at, why: error.to_string() })?;
            subjects.push(DistinguishedName::in_sequence(&anchor.subject));
            anchors.push(anchor.to_owned());
        }
        let mut crls = Vec::new();
        if let Some(text) = crl {
            for (at, der) in pem::crls(text)?.iter().enumerate() {
                let list = OwnedCertRevocationList::from_der(der);
                crls.push(list.map_err(|error| PemError::Crl { at, why: error.to_string() })?.into());
            }
        }
        Ok(Trust { anchors, certificates, subjects, crls, infos })
    }
}
