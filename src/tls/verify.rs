//! Whether a peer's certificate is accepted.
//!
//! The chain is webpki's to check; names, hashes and keys are ours, since certificates of a mesh carry no host
//! name. One verifier serves both sides of a handshake, and sessions that are resumed.

use super::TlsError;
use super::certs::Trust;
use super::names;
use super::provider;
use crate::model::{SanMatch, Validation};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme,
};
use std::sync::Arc;
use webpki::{
    EndEntityCert, ExpirationPolicy, KeyUsage, RevocationCheckDepth, RevocationOptionsBuilder,
    UnknownStatusPolicy,
};
use x509_parser::prelude::{FromDer, X509Certificate};

/// What is checked of a peer, in the form it is checked in.
#[derive(Clone, Debug, Default)]
pub(super) struct Verifier {
    /// `None`: the chain is not looked at.
    pub(super) trust: Option<Arc<Trust>>,
    pub(super) names: Vec<SanMatch>,
    /// One of these must be in it beside one of those.
    pub(super) also: Vec<SanMatch>,
    pub(super) hashes: Vec<[u8; 32]>,
    pub(super) spki: Vec<[u8; 32]>,
    pub(super) crl_leaf_only: bool,
    pub(super) allow_expired: bool,
    pub(super) accept_untrusted: bool,
    /// Clients are asked for a certificate.
    pub(super) ask: bool,
    /// And must show one.
    pub(super) require: bool,
}

impl Verifier {
    /// Adds what `validation` asks for beside the chain.
    pub(super) fn add(&mut self, validation: &Validation) {
        self.names.extend(validation.names.iter().cloned());
        self.hashes.extend(&validation.hashes);
        self.spki.extend(&validation.spki);
        self.crl_leaf_only |= validation.crl_leaf_only;
        self.allow_expired |= validation.allow_expired;
        self.accept_untrusted |= validation.accept_untrusted;
    }

    /// Whether anything is checked of a certificate.
    pub(super) fn checks(&self) -> bool {
        self.trust.is_some() || !self.hashes.is_empty() || !self.spki.is_empty()
    }

    /// Looks at a certificate with its chain.
    pub(super) fn check(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        usage: KeyUsage,
    ) -> Result<(), Error> {
        if let Some(trust) = &self.trust
            && let Err(error) = self.check_chain(trust, leaf, intermediates, now, usage)
            && !self.accept_untrusted
        {
            return Err(error);
        }
        let named = !self.names.is_empty() || !self.also.is_empty();
        if !named && self.hashes.is_empty() && self.spki.is_empty() {
            return Ok(());
        }
        let parsed = X509Certificate::from_der(leaf);
        let (_, certificate) =
            parsed.map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))?;
        if named {
            let sans = names::sans(&certificate);
            let wanted = |names: &[SanMatch]| names.is_empty() || names::accepts(names, &sans);
            if !wanted(&self.names) || !wanted(&self.also) {
                return Err(other(TlsError::Name));
            }
        }
        let pinned = self.hashes.contains(&sha256(leaf))
            || (!self.spki.is_empty() && self.spki.contains(&sha256(certificate.public_key().raw)));
        let pins = !self.hashes.is_empty() || !self.spki.is_empty();
        if pins && !pinned { Err(other(TlsError::Pin)) } else { Ok(()) }
    }

    fn check_chain(
        &self,
        trust: &Trust,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        usage: KeyUsage,
    ) -> Result<(), Error> {
        // A certificate that is itself trusted needs no chain, CA or not.
        if trust.crls.is_empty() && trust.certificates.iter().any(|known| known.as_ref() == leaf.as_ref()) {
            return self.check_time(leaf, now);
        }
        let certificate = EndEntityCert::try_from(leaf).map_err(|error| chain_error(&error))?;
        let lists: Vec<_> = trust.crls.iter().collect();
        let revocation = match RevocationOptionsBuilder::new(&lists) {
            Ok(options) => {
                let depth = match self.crl_leaf_only {
                    true => RevocationCheckDepth::EndEntity,
                    false => RevocationCheckDepth::Chain,
                };
                let options = options.with_depth(depth).with_status_policy(UnknownStatusPolicy::Deny);
                Some(options.with_expiration_policy(ExpirationPolicy::Enforce).build())
            }
            Err(_none) => None,
        };
        // A leaf past its time is looked at as of its last moment.
        let now = if self.allow_expired { last_moment(leaf, now) } else { now };
        let algorithms = provider().signature_verification_algorithms.all;
        certificate
            .verify_for_usage(algorithms, &trust.anchors, intermediates, now, usage, revocation, None)
            .map(drop)
            .map_err(|error| chain_error(&error))
    }

    fn check_time(&self, leaf: &CertificateDer<'_>, now: UnixTime) -> Result<(), Error> {
        let parsed = X509Certificate::from_der(leaf);
        let (_, certificate) =
            parsed.map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))?;
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let validity = certificate.validity();
        if now < validity.not_before.timestamp() {
            return Err(CertificateError::NotValidYet.into());
        }
        if now > validity.not_after.timestamp() && !self.allow_expired {
            return Err(CertificateError::Expired.into());
        }
        Ok(())
    }
}

fn last_moment(leaf: &CertificateDer<'_>, now: UnixTime) -> UnixTime {
    let Ok((_, certificate)) = X509Certificate::from_der(leaf) else { return now };
    let end = u64::try_from(certificate.validity().not_after.timestamp()).unwrap_or(0);
    if end < now.as_secs() { UnixTime::since_unix_epoch(std::time::Duration::from_secs(end)) } else { now }
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    super::session::sha256(bytes)
}

fn other(error: TlsError) -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(error))))
}

/// A webpki error as rustls has it: the alert the peer gets depends on it.
fn chain_error(error: &webpki::Error) -> Error {
    use webpki::Error as E;
    match error {
        E::CertExpired { .. } => CertificateError::Expired.into(),
        E::CertNotValidYet { .. } => CertificateError::NotValidYet.into(),
        E::CertRevoked => CertificateError::Revoked.into(),
        E::UnknownIssuer => CertificateError::UnknownIssuer.into(),
        E::UnknownRevocationStatus => CertificateError::UnknownRevocationStatus.into(),
        error => other(TlsError::Chain(error.to_string())),
    }
}

/// What a failed handshake means.
pub(super) fn meaning(error: &Error) -> TlsError {
    match error {
        Error::InvalidCertificate(CertificateError::Other(OtherError(inner))) => {
            match inner.downcast_ref::<TlsError>() {
                Some(own) => own.clone(),
                None => TlsError::Chain(inner.to_string()),
            }
        }
        Error::InvalidCertificate(why) => TlsError::Chain(format!("{why}")),
        Error::NoCertificatesPresented => TlsError::NoCertificate,
        error => TlsError::Connection(error.to_string()),
    }
}

macro_rules! signatures {
    () => {
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            verify_tls12_signature(message, cert, dss, &provider().signature_verification_algorithms)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            verify_tls13_signature(message, cert, dss, &provider().signature_verification_algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            provider().signature_verification_algorithms.supported_schemes()
        }
    };
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(end_entity, intermediates, now, KeyUsage::server_auth())
            .map(|()| ServerCertVerified::assertion())
    }

    signatures!();
}

impl ClientCertVerifier for Verifier {
    fn offer_client_auth(&self) -> bool {
        self.ask
    }

    fn client_auth_mandatory(&self) -> bool {
        self.require
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.trust.as_ref().map_or(&[], |trust| &trust.subjects)
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check(end_entity, intermediates, now, KeyUsage::client_auth())
            .map(|()| ClientCertVerified::assertion())
    }

    signatures!();
}
