//! TLS towards hosts.

use super::secrets::Secrets;
use super::server::{Sources, failed, recheck, versions};
use super::session::{Session, Stream};
use super::suites;
use super::verify::Verifier;
use super::{Identity, TlsError};
use crate::model::{SanKind, SanMatch, StringMatch, UpstreamTls};
use arc_swap::ArcSwapOption;
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::pki_types::ServerName;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, SignatureScheme};
use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

/// Configurations kept per context: one for each list of protocols and each name that is asked for.
const VARIANTS: usize = 256;

/// What one connection asks for beside what is configured.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Wish {
    /// Protocols offered instead of the configured ones.
    pub alpn: Option<Arc<[String]>>,
    /// Protocols offered when none are configured.
    pub alpn_fallback: &'static [&'static str],
    /// Server name instead of the configured one.
    pub sni: Option<Arc<str>>,
    /// The certificate must be for the server name; other names that are configured do not count.
    pub check_name: bool,
    /// The certificate must be for one of these names or addresses, with `,` between them, too.
    pub also_for: Option<Arc<str>>,
}

/// The TLS context of a cluster's transport socket.
pub struct Client {
    model: Arc<UpstreamTls>,
    sources: Sources,
    built: ArcSwapOption<Built>,
    building: Mutex<()>,
}

/// A configuration, and the verifier that was made for it.
type Config = (Arc<ClientConfig>, Arc<Verifier>);

struct Built {
    versions: Vec<u64>,
    verifier: Arc<Verifier>,
    local: Option<Arc<Identity>>,
    keys: Vec<Arc<CertifiedKey>>,
    configs: Mutex<HashMap<Wish, Config>>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Client({:?})", self.model.sni)
    }
}

impl Client {
    pub(super) fn new(model: Arc<UpstreamTls>, secrets: &Secrets) -> Client {
        let sources = Sources::new(&model.common, secrets);
        Client { model, sources, built: ArcSwapOption::empty(), building: Mutex::new(()) }
    }

    /// As configured.
    pub fn model(&self) -> &UpstreamTls {
        &self.model
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
        let held = self.sources.take()?;
        let built = Arc::new(Built {
            versions: held.versions,
            verifier: Arc::new(held.verifier),
            local: held.identities.first().cloned(),
            keys: held.identities.iter().map(|identity| identity.certified.clone()).collect(),
            configs: Mutex::default(),
        });
        self.built.store(Some(built.clone()));
        Ok(built)
    }

    fn config(&self, built: &Built, wish: &Wish) -> Result<(Arc<ClientConfig>, Arc<Verifier>), TlsError> {
        let mut configs = built.configs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = configs.get(wish) {
            return Ok(found.clone());
        }
        let made = self.make(built, wish)?;
        if configs.len() >= VARIANTS {
            configs.clear();
        }
        configs.insert(wish.clone(), made.clone());
        Ok(made)
    }

    fn make(&self, built: &Built, wish: &Wish) -> Result<(Arc<ClientConfig>, Arc<Verifier>), TlsError> {
        let common = &self.model.common;
        let mut verifier = built.verifier.clone();
        if wish.check_name {
            verifier = Arc::new(verifier.for_name(self.name(wish))?);
        }
        if let Some(name) = &wish.also_for {
            verifier = Arc::new(verifier.also_for(name)?);
        }
        let provider = suites::restricted(common.ciphers.as_deref(), common.curves.as_deref());
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&versions(common))
            .map_err(|error| TlsError::Unusable(error.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(verifier.clone());
        let mut config = match built.keys.is_empty() {
            true => config.with_no_client_auth(),
            false => config.with_client_cert_resolver(Arc::new(Keys(built.keys.clone()))),
        };
        let bytes = |name: &str| name.as_bytes().to_vec();
        config.alpn_protocols = match &wish.alpn {
            Some(names) => names.iter().map(|name| bytes(name)).collect(),
            None if common.alpn.is_empty() => wish.alpn_fallback.iter().map(|name| bytes(name)).collect(),
            None => common.alpn.iter().map(|name| bytes(name)).collect(),
        };
        config.enable_sni = !self.name(wish).is_empty();
        config.resumption = match self.model.max_session_keys {
            0 => Resumption::disabled(),
            keys => Resumption::in_memory_sessions(keys.min(1024) as usize),
        };
        Ok((Arc::new(config), verifier))
    }

    /// Looks at the host of an open connection again: what is accepted may have changed since its handshake.
    ///
    /// # Errors
    /// It would not be accepted now.
    pub fn still_accepts(&self, session: &Session) -> Result<(), TlsError> {
        match (self.current(), &session.peer) {
            (Ok(built), Some(peer)) if built.verifier.checks() => {
                recheck(&built.verifier, &peer.chain, webpki::KeyUsage::server_auth())
            }
            _ => Ok(()),
        }
    }

    fn name<'a>(&'a self, wish: &'a Wish) -> &'a str {
        wish.sni.as_deref().unwrap_or(&self.model.sni)
    }

    /// Opens TLS on a connection to `address`. The caller bounds the time.
    ///
    /// # Errors
    /// There can be none, or it failed.
    pub async fn connect<IO>(
        &self,
        io: IO,
        wish: &Wish,
        address: Option<IpAddr>,
    ) -> Result<(Stream<IO>, Session), TlsError>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let built = self.current()?;
        let (config, verifier) = self.config(&built, wish)?;
        let name = match self.name(wish) {
            // Never sent; sessions are kept by it.
            "" => ServerName::from(address.unwrap_or(IpAddr::from([0, 0, 0, 0]))),
            name => ServerName::try_from(name.to_owned())
                .map_err(|_| TlsError::Unusable(format!("{name} cannot be a server name")))?,
        };
        let stream = TlsConnector::from(config).connect(name, io).await.map_err(|e| failed(&e))?;
        let (_, state) = stream.get_ref();
        let session = Session::new(state, None, verifier.checks(), built.local.clone());
        if session.resumed
            && let Some(peer) = &session.peer
        {
            recheck(&verifier, &peer.chain, webpki::KeyUsage::server_auth())?;
        }
        Ok((Stream::Client(stream), session))
    }
}

impl Verifier {
    /// The same, for certificates that are for `name` only.
    fn for_name(&self, name: &str) -> Result<Verifier, TlsError> {
        Ok(Verifier { names: self.only([name])?, ..self.clone() })
    }

    /// The same, for certificates that are for one of `names` too.
    fn also_for(&self, names: &str) -> Result<Verifier, TlsError> {
        Ok(Verifier { also: self.only(names.split(',').map(str::trim))?, ..self.clone() })
    }

    /// A name says nothing in a certificate that anybody may have made.
    fn only<'n>(&self, names: impl IntoIterator<Item = &'n str>) -> Result<Vec<SanMatch>, TlsError> {
        let read = |name: &str| {
            if name.is_empty() || self.trust.is_none() {
                let why = "a name is checked only where there is one, and a CA certificate";
                return Err(TlsError::Unusable(why.to_owned()));
            }
            let kind = match name {
                name if name.parse::<IpAddr>().is_ok() => SanKind::Ip,
                name if name.contains("://") => SanKind::Uri,
                _ => SanKind::Dns,
            };
            let matcher = StringMatch::Exact { value: name.to_owned(), ignore_case: kind == SanKind::Dns };
            Ok(SanMatch { kind: Some(kind), matcher })
        };
        names.into_iter().map(read).collect()
    }
}

#[derive(Debug)]
struct Keys(Vec<Arc<CertifiedKey>>);

impl ResolvesClientCert for Keys {
    // What the server hints at is not looked at: a mesh's roots change while connections are made.
    fn resolve(&self, _hints: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.iter().find(|key| key.key.choose_scheme(schemes).is_some()).cloned()
    }

    fn has_certs(&self) -> bool {
        !self.0.is_empty()
    }
}
