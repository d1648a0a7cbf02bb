//! TLS towards clients.

use super::secrets::{Cell, Kind, Material, Secrets};
use super::session::{Session, Stream};
use super::suites;
use super::verify::{Verifier, meaning};
use super::{Identity, TlsError};
use crate::model::{Certificates, CommonTls, DownstreamTls, TlsVersion, Validation};
use arc_swap::ArcSwapOption;
use rustls::pki_types::UnixTime;
use rustls::server::{
    Acceptor, ClientHello, NoServerSessionStorage, ResolvesServerCert, ServerSessionMemoryCache,
};
use rustls::sign::CertifiedKey;
use rustls::{ServerConfig, SupportedProtocolVersion};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::LazyConfigAcceptor;

/// Sessions kept where they are resumed from memory.
const SESSIONS: usize = 1024;

/// Where the secrets of a context come from.
pub(super) struct Sources {
    identities: Vec<Arc<Cell>>,
    trust: Vec<Arc<Cell>>,
    /// What is checked beside what the secrets bring.
    given: Option<Validation>,
}

/// What the secrets hold now.
pub(super) struct Held {
    pub(super) versions: Vec<u64>,
    pub(super) identities: Vec<Arc<Identity>>,
    pub(super) verifier: Verifier,
}

impl Sources {
    pub(super) fn new(common: &CommonTls, secrets: &Secrets) -> Sources {
        let identities = match &common.certificates {
            Certificates::Given(list) => list.iter().map(|c| secrets.certificate(c)).collect(),
            Certificates::Sds(list) => list.iter().map(|s| secrets.secret(s, Kind::Certificate)).collect(),
        };
        let validation = &common.validation;
        let mut trust = Vec::new();
        if let Some(given) = &validation.given
            && (given.roots.is_some() || given.system_roots || given.crl.is_some())
        {
            trust.push(secrets.validation(given));
        }
        trust.extend(validation.secret.as_ref().map(|s| secrets.secret(s, Kind::Validation)));
        Sources { identities, trust, given: validation.given.clone() }
    }

    pub(super) fn cells(&self) -> impl Iterator<Item = &Arc<Cell>> {
        self.identities.iter().chain(&self.trust)
    }

    /// Whether nothing has come since `versions`.
    pub(super) fn is_current(&self, versions: &[u64]) -> bool {
        self.cells().map(|cell| cell.version()).eq(versions.iter().copied())
    }

    /// Takes what the secrets hold.
    pub(super) fn take(&self) -> Result<Held, TlsError> {
        // Before the contents: a newer one is taken at the next look.
        let versions = self.cells().map(|cell| cell.version()).collect();
        let material =
            |cell: &Arc<Cell>| cell.material().ok_or_else(|| TlsError::NotReady(cell.label().to_owned()));
        let mut identities = Vec::with_capacity(self.identities.len());
        for cell in &self.identities {
            match &*material(cell)? {
                Material::Identity(identity) => identities.push(identity.clone()),
                Material::Trust(..) => return Err(TlsError::NotReady(cell.label().to_owned())),
            }
        }
        let mut verifier = Verifier::default();
        if let Some(given) = &self.given {
            verifier.add(given);
        }
        for cell in &self.trust {
            match &*material(cell)? {
                Material::Trust(trust, validation) => {
                    if trust.is_some() {
                        verifier.trust.clone_from(trust);
                    }
                    if cell.is_secret() {
                        verifier.add(validation);
                    }
                }
                Material::Identity(_) => return Err(TlsError::NotReady(cell.label().to_owned())),
            }
        }
        if !verifier.names.is_empty() && verifier.trust.is_none() {
            return Err(TlsError::Unusable("names are checked, but there is no CA certificate".to_owned()));
        }
        Ok(Held { versions, identities, verifier })
    }
}

/// Protocol versions from the lowest to the highest allowed.
pub(super) fn versions(common: &CommonTls) -> Vec<&'static SupportedProtocolVersion> {
    let all = [(TlsVersion::Tls13, &rustls::version::TLS13), (TlsVersion::Tls12, &rustls::version::TLS12)];
    let within = |version: &TlsVersion| (common.min..=common.max).contains(version);
    all.into_iter().filter(|(version, _)| within(version)).map(|(_, version)| version).collect()
}

/// The TLS context of filter chains.
pub struct Server {
    model: Arc<DownstreamTls>,
    sources: Sources,
    built: ArcSwapOption<Built>,
    building: Mutex<()>,
}

struct Built {
    versions: Vec<u64>,
    with_alpn: Arc<ServerConfig>,
    /// For clients whose list has nothing of ours: they go on without.
    without_alpn: Arc<ServerConfig>,
    verifier: Arc<Verifier>,
    local: Option<Arc<Identity>>,
}

impl Server {
    pub(super) fn new(model: Arc<DownstreamTls>, secrets: &Secrets) -> Server {
        let sources = Sources::new(&model.common, secrets);
        Server { model, sources, built: ArcSwapOption::empty(), building: Mutex::new(()) }
    }

    pub(super) fn cells(&self) -> impl Iterator<Item = &Arc<Cell>> {
        self.sources.cells()
    }

    fn current(&self) -> Result<Arc<Built>, TlsError> {
        let fresh = |built: &Arc<Built>| self.sources.is_current(&built.versions);
        if let Some(built) = self.built.load_full().filter(fresh) {
            return Ok(built);
        }
        let _one = self.building.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(built) = self.built.load_full().filter(fresh) {
            return Ok(built);
        }
        let built = Arc::new(self.build()?);
        self.built.store(Some(built.clone()));
        Ok(built)
    }

    fn build(&self) -> Result<Built, TlsError> {
        let mut held = self.sources.take()?;
        if held.identities.is_empty() {
            return Err(TlsError::Unusable("no certificate is configured".to_owned()));
        }
        let common = &self.model.common;
        held.verifier.require = self.model.require_client_certificate;
        held.verifier.ask = held.verifier.require || held.verifier.checks();
        let (local, verifier) = (held.identities.first().cloned(), Arc::new(held.verifier));
        let keys = held.identities.iter().map(|identity| identity.certified.clone()).collect();
        let provider = suites::restricted(common.ciphers.as_deref(), common.curves.as_deref());
        let unusable = |error: rustls::Error| TlsError::Unusable(error.to_string());
        let config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&versions(common))
            .map_err(unusable)?;
        let mut config = match verifier.ask {
            true => config.with_client_cert_verifier(verifier.clone()),
            false => config.with_no_client_auth(),
        }
        .with_cert_resolver(Arc::new(Choice(keys)));
        config.send_tls13_tickets = 1;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        if self.model.tickets {
            // Its keys are replaced every six hours; a new configuration begins with new ones.
            config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new().map_err(unusable)?;
        } else if self.model.stateful {
            config.session_storage = ServerSessionMemoryCache::new(SESSIONS);
        } else {
            config.send_tls13_tickets = 0;
        }
        let without_alpn = Arc::new(config.clone());
        config.alpn_protocols = common.alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        Ok(Built { versions: held.versions, with_alpn: Arc::new(config), without_alpn, verifier, local })
    }

    /// Looks at the client of an open connection again: what is accepted may have changed since its handshake.
    ///
    /// # Errors
    /// It would not be accepted now.
    pub fn still_accepts(&self, session: &Session) -> Result<(), TlsError> {
        match (self.current(), &session.peer) {
            (Ok(built), Some(peer)) if built.verifier.checks() => {
                recheck(&built.verifier, &peer.chain, webpki::KeyUsage::client_auth())
            }
            _ => Ok(()),
        }
    }

    /// Serves the handshake of a client. The caller bounds the time.
    ///
    /// # Errors
    /// There can be none, or it failed; the client was told as far as it could be.
    pub async fn accept<IO>(&self, io: IO) -> Result<(Stream<IO>, Session), TlsError>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let built = self.current()?;
        let start = LazyConfigAcceptor::new(Acceptor::default(), io).await.map_err(|e| failed(&e))?;
        let hello = start.client_hello();
        if self.model.require_sni && hello.server_name().is_none() {
            return Err(TlsError::Connection("the client sent no server name".to_owned()));
        }
        let overlap = hello.alpn().is_some_and(|mut offered| {
            offered.any(|name| self.model.common.alpn.iter().any(|own| own.as_bytes() == name))
        });
        let config = if overlap { &built.with_alpn } else { &built.without_alpn };
        let stream = start.into_stream(config.clone()).await.map_err(|e| failed(&e))?;
        let (_, state) = stream.get_ref();
        let name = state.server_name();
        let session = Session::new(state, name, built.verifier.checks(), built.local.clone());
        // A resumed session brings the certificate it was begun with: what is accepted may have changed since.
        if session.resumed {
            match &session.peer {
                Some(peer) => recheck(&built.verifier, &peer.chain, webpki::KeyUsage::client_auth())?,
                None if built.verifier.require => return Err(TlsError::NoCertificate),
                None => {}
            }
        }
        Ok((Stream::Server(stream), session))
    }
}

/// Looks at the certificate of a resumed session again.
pub(super) fn recheck(
    verifier: &Verifier,
    chain: &[rustls::pki_types::CertificateDer<'static>],
    usage: webpki::KeyUsage,
) -> Result<(), TlsError> {
    let Some((leaf, rest)) = chain.split_first() else { return Err(TlsError::NoCertificate) };
    verifier.check(leaf, rest, UnixTime::now(), usage).map_err(|error| meaning(&error))
}

/// What an I/O error of a handshake means.
pub(super) fn failed(error: &io::Error) -> TlsError {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(error) => meaning(error),
        None => TlsError::Connection(error.to_string()),
    }
}

/// The certificates of a context: the first for the asked name that the client can check, else the first it can
/// check.
#[derive(Debug)]
struct Choice(Vec<Arc<CertifiedKey>>);

impl ResolvesServerCert for Choice {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let signs = |key: &&Arc<CertifiedKey>| key.key.choose_scheme(hello.signature_schemes()).is_some();
        if let ([_, _, ..], Some(name)) = (&*self.0, hello.server_name())
            && let Ok(name) = rustls::pki_types::ServerName::try_from(name)
        {
            let named = |key: &&Arc<CertifiedKey>| {
                let leaf = key.cert.first().and_then(|leaf| webpki::EndEntityCert::try_from(leaf).ok());
                leaf.is_some_and(|leaf| leaf.verify_is_valid_for_subject_name(&name).is_ok())
            };
            if let Some(key) = self.0.iter().filter(signs).find(named) {
                return Some(key.clone());
            }
        }
        self.0.iter().find(signs).or(self.0.first()).cloned()
    }
}
