//! PEM text into DER.

use rustls::pki_types::pem::{Error, PemObject};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};

/// Largest chain, in certificates.
const MAX_CHAIN: usize = 64;
/// Largest bundle of CA certificates.
const MAX_BUNDLE: usize = 4096;

/// What is wrong with a text. Never shows any of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PemError {
    #[error("no certificate in it (expected PEM: -----BEGIN CERTIFICATE-----)")]
    NoCertificate,
    #[error("no private key in it (expected PEM: -----BEGIN PRIVATE KEY-----)")]
    NoKey,
    #[error("no revocation list in it (expected PEM: -----BEGIN X509 CRL-----)")]
    NoCrl,
    #[error("broken PEM: {0}")]
    Broken(String),
    #[error("more than {0} certificates")]
    TooMany(usize),
    #[error("certificate {at}: {why}")]
    Certificate { at: usize, why: String },
    #[error("revocation list {at}: {why}")]
    Crl { at: usize, why: String },
    #[error("the private key cannot be used: {0}")]
    Key(String),
    #[error("the private key is encrypted, which is not supported")]
    Encrypted,
    #[error("the private key does not belong to the certificate")]
    Mismatch,
}

fn broken(error: &Error) -> PemError {
    PemError::Broken(error.to_string())
}

fn all(text: &[u8], most: usize) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let mut found = Vec::new();
    for item in CertificateDer::pem_slice_iter(text) {
        if found.len() == most {
            return Err(PemError::TooMany(most));
        }
        found.push(item.map_err(|error| broken(&error))?);
    }
    if found.is_empty() { Err(PemError::NoCertificate) } else { Ok(found) }
}

/// A chain, leaf first.
pub(super) fn chain(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, PemError> {
    all(text, MAX_CHAIN)
}

/// CA certificates.
pub(super) fn bundle(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, PemError> {
    all(text, MAX_BUNDLE)
}

/// The first private key.
pub(super) fn key(text: &[u8]) -> Result<PrivateKeyDer<'static>, PemError> {
    match PrivateKeyDer::from_pem_slice(text) {
        Ok(key) => Ok(key),
        Err(Error::NoItemsFound) if find(text, b"ENCRYPTED PRIVATE KEY") => Err(PemError::Encrypted),
        Err(Error::NoItemsFound) => Err(PemError::NoKey),
        Err(error) => Err(broken(&error)),
    }
}

fn find(text: &[u8], what: &[u8]) -> bool {
    text.windows(what.len()).any(|part| part == what)
}

/// Revocation lists.
pub(super) fn crls(text: &[u8]) -> Result<Vec<CertificateRevocationListDer<'static>>, PemError> {
    let found: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(text).collect();
    let found = found.map_err(|error| broken(&error))?;
    if found.is_empty() { Err(PemError::NoCrl) } else { Ok(found) }
}
