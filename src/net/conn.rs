//! One connection, whatever it runs over.

use super::exchange::Exchanging;
use crate::model::Address;
use crate::tls;
use bytes::{Buf, Bytes};
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

/// A byte stream to a peer. An enum, so that the request path has no dynamic dispatch.
pub enum Conn {
    /// TCP.
    Tcp(TcpStream),
    /// Unix stream socket.
    Unix(UnixStream),
    /// TLS over one of the others.
    Tls(Box<Encrypted>),
    /// One of the others, peers telling each other who they are in front of the stream.
    Exchanging(Box<Exchanging>),
}

/// A TLS stream and what is known of it.
pub struct Encrypted {
    stream: tls::Stream<Replay>,
    session: Arc<tls::Session>,
}

/// A connection of which the first bytes were read already; they are read again.
pub struct Replay {
    early: Bytes,
    io: Conn,
}

/// Who is at the other end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerAddress {
    /// IP and port.
    Ip(SocketAddr),
    /// A Unix socket; clients rarely have a path.
    Unix,
}

impl fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PeerAddress::Ip(addr) => addr.fmt(f),
            PeerAddress::Unix => f.write_str("unix"),
        }
    }
}

impl Conn {
    /// Connects. The caller bounds the time.
    ///
    /// # Errors
    /// Whatever the system says, the resolver included. A name is resolved anew for each connection, and its
    /// addresses are tried in the resolver's order.
    pub async fn connect(address: &Address) -> io::Result<Conn> {
        match address {
            Address::Ip(addr) => {
                let stream = TcpStream::connect(addr).await?;
                stream.set_nodelay(true)?;
                Ok(Conn::Tcp(stream))
            }
            Address::Unix(path) => Ok(Conn::Unix(UnixStream::connect(path).await?)),
            Address::Name(host, port) => {
                let stream = TcpStream::connect((host.as_str(), *port)).await?;
                stream.set_nodelay(true)?;
                Ok(Conn::Tcp(stream))
            }
            Address::Internal(_) => Err(io::ErrorKind::AddrNotAvailable.into()),
        }
    }

    /// Serves a TLS handshake; `early`: what was read of the connection before. The caller bounds the time.
    ///
    /// # Errors
    /// It failed.
    pub async fn accept_tls(self, early: Bytes, context: &tls::Server) -> Result<Conn, tls::TlsError> {
        let (stream, session) = context.accept(Replay { early, io: self }).await?;
        Ok(Conn::Tls(Box::new(Encrypted { stream, session: Arc::new(session) })))
    }

    /// Opens TLS towards the peer. The caller bounds the time.
    ///
    /// # Errors
    /// It failed.
    pub async fn open_tls(self, context: &tls::Client, wish: &tls::Wish) -> Result<Conn, tls::TlsError> {
        let address = match self.peer() {
            PeerAddress::Ip(address) => Some(address.ip()),
            PeerAddress::Unix => None,
        };
        let (stream, session) =
            context.connect(Replay { early: Bytes::new(), io: self }, wish, address).await?;
        Ok(Conn::Tls(Box::new(Encrypted { stream, session: Arc::new(session) })))
    }

    /// What is known of its TLS session, if it has one.
    pub fn session(&self) -> Option<&Arc<tls::Session>> {
        match self {
            Conn::Tls(tls) => Some(&tls.session),
            Conn::Exchanging(exchanging) => exchanging.below().session(),
            Conn::Tcp(_) | Conn::Unix(_) => None,
        }
    }

    /// The peer's address.
    pub fn peer(&self) -> PeerAddress {
        match self {
            Conn::Tls(tls) => tls.stream.get_ref().0.io.peer(),
            Conn::Exchanging(exchanging) => exchanging.below().peer(),
            Conn::Tcp(stream) => stream.peer_addr().map_or(PeerAddress::Unix, PeerAddress::Ip),
            Conn::Unix(_) => PeerAddress::Unix,
        }
    }

    /// Where the peer meant to connect before the system redirected it here; `None` where it was not.
    pub fn original_destination(&self) -> Option<SocketAddr> {
        use rustix::net::sockopt::{ip_original_dst, ipv6_original_dst};
        let Conn::Tcp(stream) = self else { return None };
        let local = stream.local_addr().ok()?;
        let meant = match local.ip().to_canonical() {
            IpAddr::V4(_) => SocketAddr::V4(ip_original_dst(stream).ok()?),
            IpAddr::V6(_) => SocketAddr::V6(ipv6_original_dst(stream).ok()?),
        };
        // Where connections are tracked, those that were not redirected are answered too.
        let same = meant.port() == local.port() && meant.ip() == local.ip().to_canonical();
        (!same).then_some(meant)
    }

    /// Our own address of this connection; `None` on Unix sockets.
    pub fn local(&self) -> Option<SocketAddr> {
        match self {
            Conn::Tls(tls) => tls.stream.get_ref().0.io.local(),
            Conn::Exchanging(exchanging) => exchanging.below().local(),
            Conn::Tcp(stream) => stream.local_addr().ok(),
            Conn::Unix(_) => None,
        }
    }

    /// Pending if a read would be: found out without a buffer, and without asking the kernel. The others may
    /// hold what was read already, so that only a read can tell.
    pub fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Conn::Tcp(stream) => stream.poll_read_ready(cx).map(drop),
            Conn::Unix(stream) => stream.poll_read_ready(cx).map(drop),
            Conn::Tls(_) | Conn::Exchanging(_) => Poll::Ready(()),
        }
    }

    /// Whether the kernel has something to read, be it that the peer has closed. On TLS a record that is not the
    /// peer's word that it closes says nothing: session tickets come whenever the peer likes.
    pub fn is_readable(&self) -> bool {
        use rustix::io::Errno;
        let mut head = [0u8; 5];
        let below = if let Conn::Exchanging(exchanging) = self { exchanging.below() } else { self };
        match (below, below.peek(&mut head)) {
            (_, Err(Errno::AGAIN | Errno::INTR)) => false,
            (Conn::Tls(_), Ok(5)) => is_alert(head),
            _ => true,
        }
    }

    fn peek(&self, head: &mut [u8; 5]) -> rustix::io::Result<usize> {
        use rustix::net::{RecvFlags, recv};
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        match self {
            Conn::Tcp(stream) => recv(stream, head.as_mut_slice(), flags).map(|(n, _)| n),
            Conn::Unix(stream) => recv(stream, head.as_mut_slice(), flags).map(|(n, _)| n),
            Conn::Tls(tls) => tls.stream.get_ref().0.io.peek(head),
            Conn::Exchanging(exchanging) => exchanging.below().peek(head),
        }
    }

    /// Ends the connection without losing what was written last: shuts the write side, discards input until
    /// the peer closes or `limit` passes. A plain close with unread input makes the kernel reset, which
    /// destroys answers still on their way.
    pub async fn close_gently(mut self, limit: Duration) {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        // Boxed, as its buffer would be part of every open connection's task.
        let drain = Box::pin(async {
            let _ = self.shutdown().await;
            let mut waste = [0u8; 2048];
            while matches!(self.read(&mut waste).await, Ok(n) if n > 0) {}
        });
        let _ = tokio::time::timeout(limit, drain).await;
    }

    /// Ends the connection so that the peer cannot take it for an orderly end.
    pub fn reset(self) {
        let mut below = &self;
        while let Conn::Exchanging(exchanging) = below {
            below = exchanging.below();
        }
        if let Conn::Tls(tls) = below {
            below = &tls.stream.get_ref().0.io;
        }
        if let Conn::Tcp(stream) = below {
            // Where that fails the peer sees an end like any other.
            let _ = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO));
        }
    }
}

/// Whether a record's head is that of an alert: plain, or as short as an encrypted one of TLS 1.3.
fn is_alert([kind, _, _, high, low]: [u8; 5]) -> bool {
    kind == 21 || (kind == 23 && (high, low) == (0, 2 + 1 + 16))
}

macro_rules! each {
    ($self:ident, $stream:ident => $call:expr, $whole:expr) => {
        match $self.get_mut() {
            Conn::Tcp($stream) => $call,
            Conn::Unix($stream) => $call,
            Conn::Tls(tls) => {
                let $stream = &mut tls.stream;
                $call
            }
            Conn::Exchanging($stream) => $whole,
        }
    };
}

impl AsyncRead for Conn {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_read(cx, buf), stream.poll_read(cx, buf))
    }
}

impl AsyncWrite for Conn {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        each!(self, stream => Pin::new(stream).poll_write(cx, buf), stream.poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(self, stream => Pin::new(stream).poll_write_vectored(cx, bufs), stream.poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Sockets have nothing to flush; TLS may hold records the kernel has not taken yet.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Conn::Tcp(_) | Conn::Unix(_) => Poll::Ready(Ok(())),
            Conn::Tls(tls) => Pin::new(&mut tls.stream).poll_flush(cx),
            Conn::Exchanging(exchanging) => exchanging.poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_shutdown(cx), stream.poll_shutdown(cx))
    }
}

impl AsyncRead for Replay {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.early.is_empty() {
            return Pin::new(&mut this.io).poll_read(cx, buf);
        }
        let count = this.early.len().min(buf.remaining());
        buf.put_slice(this.early.get(..count).unwrap_or_default());
        this.early.advance(count);
        if this.early.is_empty() {
            this.early = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Replay {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}
