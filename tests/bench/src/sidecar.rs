//! What the figures of the sidecar pair need (`tests/interop/istio/figures`): load at a fixed rate, full TLS
//! handshakes, and a pair of relays that do nothing but TLS.

pub mod handshakes;
pub mod relay;
pub mod steady;

use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{RootCertStore, SupportedProtocolVersion};

/// Both sides speak TLS 1.3, as rustls and Envoy agree on between themselves.
const VERSIONS: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];

/// A certificate's chain and its key, from PEM files.
struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Identity {
    fn read(chain: &str, key: &str) -> Result<Self> {
        let chain = certificates(chain)?;
        let key = PrivateKeyDer::from_pem_file(key).with_context(|| format!("read {key}"))?;
        Ok(Self { chain, key })
    }
}

fn certificates(path: &str) -> Result<Vec<CertificateDer<'static>>> {
    let read = CertificateDer::pem_file_iter(path).with_context(|| format!("read {path}"))?;
    read.collect::<Result<_, _>>().with_context(|| format!("certificates of {path}"))
}

fn roots(path: &str) -> Result<Arc<RootCertStore>> {
    let mut store = RootCertStore::empty();
    for certificate in certificates(path)? {
        store.add(certificate)?;
    }
    Ok(Arc::new(store))
}

/// What rustls offers of itself, or with X25519 as the only group.
fn provider(only_x25519: bool) -> Arc<CryptoProvider> {
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    if only_x25519 {
        provider.kx_groups = vec![rustls::crypto::aws_lc_rs::kx_group::X25519];
    }
    Arc::new(provider)
}

/// The values of `NAME=VALUE` arguments, in the order of `names`; those that are not given have their default.
fn settings<const N: usize>(args: &[String], mut named: [(&str, u64); N]) -> Result<[u64; N]> {
    for arg in args {
        let (name, value) = arg.split_once('=').with_context(|| format!("NAME=VALUE, not {arg}"))?;
        let Some(slot) = named.iter_mut().find(|(known, _)| *known == name) else {
            bail!("no setting {name}")
        };
        slot.1 = value.parse().with_context(|| arg.clone())?;
    }
    Ok(named.map(|(_, value)| value))
}

/// Process ids with commas between; none is fine.
fn pids(list: &str) -> Result<Vec<u32>> {
    list.split(',').filter(|pid| !pid.is_empty()).map(|pid| Ok(pid.parse()?)).collect()
}
