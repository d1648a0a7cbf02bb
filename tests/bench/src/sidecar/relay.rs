//! Two relays in a row are the least that a pair of sidecars can cost: one takes plain bytes and speaks TLS to the
//! other, which speaks plain to the server. Mutual TLS, 64 KiB buffers, one thread each, nothing else.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use rustls::pki_types::ServerName;
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional_with_sizes};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::{Identity, VERSIONS, provider, roots};

const BUFFER: usize = 64 * 1024;
/// Name in the certificate of the second relay.
const NAME: &str = "relay.test";

enum Side {
    /// TLS towards where it connects to.
    Client(TlsConnector),
    /// TLS towards who connects.
    Server(TlsAcceptor),
}

/// `tls-relay client|server LISTEN CONNECT CHAIN KEY ROOT`: two addresses, three PEM files.
pub async fn run(args: &[String]) -> Result<()> {
    let [side, listen, connect, chain, key, root] = args else {
        bail!("tls-relay client|server LISTEN CONNECT CHAIN KEY ROOT")
    };
    let side = Arc::new(side_of(side, Identity::read(chain, key)?, root)?);
    let target: SocketAddr = connect.parse()?;
    let listener = TcpListener::bind(listen).await?;
    println!("ready");
    loop {
        let (socket, _) = listener.accept().await?;
        let side = side.clone();
        tokio::task::spawn_local(async move {
            if let Err(error) = carry(&side, socket, target).await {
                eprintln!("tls-relay: {error:#}");
            }
        });
    }
}

fn side_of(side: &str, identity: Identity, root: &str) -> Result<Side> {
    let roots = roots(root)?;
    Ok(match side {
        "client" => Side::Client(TlsConnector::from(Arc::new(
            ClientConfig::builder_with_provider(provider(false))
                .with_protocol_versions(VERSIONS)?
                .with_root_certificates(roots)
                .with_client_auth_cert(identity.chain, identity.key)?,
        ))),
        "server" => Side::Server(TlsAcceptor::from(Arc::new(
            ServerConfig::builder_with_provider(provider(false))
                .with_protocol_versions(VERSIONS)?
                .with_client_cert_verifier(
                    WebPkiClientVerifier::builder_with_provider(roots, provider(false)).build()?,
                )
                .with_single_cert(identity.chain, identity.key)?,
        ))),
        other => bail!("no side {other}"),
    })
}

async fn carry(side: &Side, socket: TcpStream, target: SocketAddr) -> Result<()> {
    let server = TcpStream::connect(target).await.context("connect")?;
    socket.set_nodelay(true)?;
    server.set_nodelay(true)?;
    match side {
        Side::Client(connector) => {
            let server = connector.connect(ServerName::try_from(NAME)?, server).await.context("handshake")?;
            both_ways(socket, server).await
        }
        Side::Server(acceptor) => {
            both_ways(acceptor.accept(socket).await.context("handshake")?, server).await
        }
    }
}

async fn both_ways<A, B>(mut one: A, mut other: B) -> Result<()>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    copy_bidirectional_with_sizes(&mut one, &mut other, BUFFER, BUFFER).await?;
    Ok(())
}
