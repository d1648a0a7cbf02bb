//! One connection, whatever it runs over.

use crate::model::Address;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
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
        }
    }

    /// The peer's address.
    pub fn peer(&self) -> PeerAddress {
        match self {
            Conn::Tcp(stream) => stream.peer_addr().map_or(PeerAddress::Unix, PeerAddress::Ip),
            Conn::Unix(_) => PeerAddress::Unix,
        }
    }

    /// Our own address of this connection; `None` on Unix sockets.
    pub fn local(&self) -> Option<SocketAddr> {
        match self {
            Conn::Tcp(stream) => stream.local_addr().ok(),
            Conn::Unix(_) => None,
        }
    }

    /// Whether the kernel has something to read, be it that the peer has closed.
    pub fn is_readable(&self) -> bool {
        use rustix::io::Errno;
        use rustix::net::{RecvFlags, recv};
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        let peeked = match self {
            Conn::Tcp(stream) => recv(stream, &mut [0u8; 1], flags),
            Conn::Unix(stream) => recv(stream, &mut [0u8; 1], flags),
        };
        !matches!(peeked, Err(Errno::AGAIN | Errno::INTR))
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
        if let Conn::Tcp(stream) = self {
            // Where that fails the peer sees an end like any other.
            let _ = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
        }
    }
}

macro_rules! each {
    ($self:ident, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            Conn::Tcp($stream) => $call,
            Conn::Unix($stream) => $call,
        }
    };
}

impl AsyncRead for Conn {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for Conn {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        each!(self, stream => Pin::new(stream).poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(self, stream => Pin::new(stream).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_shutdown(cx))
    }
}
