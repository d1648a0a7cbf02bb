//! Full TLS handshakes, one connection each: X25519 only, nothing resumed, a client certificate. The server's CPU
//! time counts from when the first of them begins until the last is closed from both sides.

use std::cell::Cell;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{Identity, VERSIONS, pids, provider, settings};
use crate::os;

const PATIENCE: Duration = Duration::from_secs(5);
/// After a batch, for what the server still does when its sockets are closed.
const SETTLE: Duration = Duration::from_millis(200);

/// `handshakes ADDRESS HOST PIDS CHAIN KEY [count=2000] [at_once=8] [warm=100]`
pub async fn run(args: &[String]) -> Result<()> {
    let [address, host, processes, chain, key, rest @ ..] = args else {
        bail!("handshakes ADDRESS HOST PIDS CHAIN KEY NAME=VALUE…")
    };
    let [count, at_once, warm] = settings(rest, [("count", 2000), ("at_once", 8), ("warm", 100)])?;
    let (address, processes): (SocketAddr, _) = (address.parse()?, pids(processes)?);
    let connector = connector(Identity::read(chain, key)?)?;
    let key = timeout(PATIENCE, ask(&connector, address, host)).await.context("first request")??;
    batch(&connector, address, warm, at_once).await;
    let total = || processes.iter().map(|pid| os::cpu_time(*pid)).sum::<Duration>();
    let (cpu, began) = (total(), Instant::now());
    let failed = batch(&connector, address, count, at_once).await;
    let seconds = began.elapsed().as_secs_f64();
    sleep(SETTLE).await;
    let cpu = total().saturating_sub(cpu).as_secs_f64();
    let line = json!({
        "handshakes": count - failed, "failed": failed, "seconds": seconds, "cpu_us": cpu * 1e6, "key": key,
    });
    println!("result {line}");
    Ok(())
}

fn connector(identity: Identity) -> Result<TlsConnector> {
    let mut config = ClientConfig::builder_with_provider(provider(true))
        .with_protocol_versions(VERSIONS)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone))
        .with_client_auth_cert(identity.chain, identity.key)?;
    config.resumption = Resumption::disabled();
    // The name under which a sidecar takes a connection for the mesh's own TLS.
    config.alpn_protocols = vec![b"istio".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

async fn open(connector: &TlsConnector, address: SocketAddr) -> Result<TlsStream<TcpStream>> {
    let socket = TcpStream::connect(address).await.context("connect")?;
    socket.set_nodelay(true)?;
    connector.connect(ServerName::try_from("figures.test")?, socket).await.context("handshake")
}

/// One request, to know that this is the way to the application; the kind of key of the server's certificate.
async fn ask(connector: &TlsConnector, address: SocketAddr, host: &str) -> Result<&'static str> {
    let mut stream = open(connector, address).await?;
    let kind = key_kind(stream.get_ref().1.peer_certificates().unwrap_or_default());
    let request = format!("GET /16 HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    if !answer.starts_with(b"HTTP/1.1 200") {
        bail!("answer {}", String::from_utf8_lossy(&answer));
    }
    Ok(kind)
}

/// By the object identifiers that are in the first certificate.
fn key_kind(chain: &[CertificateDer<'_>]) -> &'static str {
    const RSA: &[u8] = b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01";
    const P256: &[u8] = b"\x2a\x86\x48\xce\x3d\x03\x01\x07";
    let has = |id: &[u8]| chain.first().is_some_and(|leaf| leaf.windows(id.len()).any(|window| window == id));
    match (has(P256), has(RSA)) {
        (true, _) => "P-256",
        (false, true) => "RSA",
        (false, false) => "another",
    }
}

/// `count` handshakes, `at_once` of them at a time; how many failed.
async fn batch(connector: &TlsConnector, address: SocketAddr, count: u64, at_once: u64) -> u64 {
    let (left, failed) = (Rc::new(Cell::new(count)), Rc::new(Cell::new(0)));
    let workers: Vec<_> = (0..at_once)
        .map(|_| {
            let (left, failed, connector) = (left.clone(), failed.clone(), connector.clone());
            tokio::task::spawn_local(async move {
                while left.get() > 0 {
                    left.set(left.get() - 1);
                    let outcome = timeout(PATIENCE, one(&connector, address)).await;
                    if let Err(error) = outcome.context("too slow").flatten() {
                        eprintln!("handshakes: {error:#}");
                        failed.set(failed.get() + 1);
                    }
                }
            })
        })
        .collect();
    for worker in workers {
        if worker.await.is_err() {
            failed.set(failed.get() + 1);
        }
    }
    failed.get()
}

/// The client is done before the server has seen its certificate: only the server's own end, by a notice or not, says
/// that it liked it; else an alert comes.
async fn one(connector: &TlsConnector, address: SocketAddr) -> Result<()> {
    let mut stream = open(connector, address).await?;
    stream.shutdown().await.context("close")?;
    let mut rest = Vec::new();
    match stream.read_to_end(&mut rest).await {
        Err(error) if error.kind() != ErrorKind::UnexpectedEof => Err(error).context("refused"),
        _ => Ok(()),
    }
}

/// Load does not judge its server: it would cost the machine what is measured at the other end.
#[derive(Debug)]
struct Anyone;

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![
            SignatureScheme::ECDSA_NISTP256_SHA256,
            SignatureScheme::RSA_PSS_SHA256,
            SignatureScheme::RSA_PSS_SHA384,
            SignatureScheme::RSA_PSS_SHA512,
        ]
    }
}
