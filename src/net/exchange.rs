//! Connections whose peers tell each other who they are in front of the stream (Istio's metadata exchange).
//!
//! Owns the framing: each side writes one frame before anything else, four bytes of magic, four of length, and
//! so many more. Whoever is above sees neither: our frame goes out with the first chance to write, the peer's
//! is taken off what is read. A peer that sends something else has no frame, and what it sent is the stream.

use super::Conn;
use crate::model::PeerExchange;
use crate::model::workload::EXCHANGE_MAGIC;
use crate::telemetry::Registry;
use bytes::{Buf, Bytes, BytesMut};
use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes of a peer's frame at most, its head not counted.
const LARGEST: usize = 64 * 1024;
const HEAD: usize = 8;

/// What a peer told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// This, unread.
    Frame(Bytes),
    /// What came first was no frame, or the stream ended before it was whole.
    Nothing,
}

/// A connection with an exchange in front of its stream.
pub struct Exchanging {
    io: Conn,
    /// What is left of our frame.
    out: Bytes,
    /// What came of the peer's, or of the stream if there is none; given out once `told` is known.
    input: BytesMut,
    told: Arc<OnceLock<Told>>,
}

impl Conn {
    /// With the exchange in front if that is the protocol both sides agreed on.
    pub fn exchanged(self, config: &PeerExchange, registry: &Registry) -> Conn {
        let agreed = self.session().and_then(|session| session.alpn.as_deref());
        if agreed != Some(config.protocol.as_bytes()) {
            registry.exchange().alpn_protocol_not_found.inc();
            return self;
        }
        registry.exchange().alpn_protocol_found.inc();
        registry.exchange().metadata_added.inc();
        let frame = registry.node().exchange_frame(&config.labels);
        self.exchange(frame.into())
    }

    /// From now on `frame` goes out first, and the peer's is expected first.
    pub fn exchange(self, frame: Bytes) -> Conn {
        let (input, told) = (BytesMut::new(), Arc::default());
        Conn::Exchanging(Box::new(Exchanging { io: self, out: frame, input, told }))
    }

    /// What the peer told, once that is known, if it was asked at all.
    pub fn told(&self) -> Option<&Arc<OnceLock<Told>>> {
        match self {
            Conn::Exchanging(exchanging) => Some(&exchanging.told),
            Conn::Tcp(_) | Conn::Unix(_) | Conn::Tls(_) => None,
        }
    }
}

impl Exchanging {
    /// The connection below.
    pub(super) fn below(&self) -> &Conn {
        &self.io
    }

    fn poll_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.out.is_empty() {
            match std::task::ready!(Pin::new(&mut self.io).poll_write(cx, &self.out))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.out.advance(written),
            }
            if self.out.is_empty() {
                self.out = Bytes::new();
                // Encrypted bytes may wait for this.
                let _ = Pin::new(&mut self.io).poll_flush(cx);
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Looks for a whole frame in what came. `ended`: nothing more will.
    fn look(&mut self, ended: bool) -> io::Result<()> {
        let magic = EXCHANGE_MAGIC.to_be_bytes();
        let common = self.input.len().min(magic.len());
        if self.input.get(..common) != magic.get(..common) || (ended && self.input.len() < HEAD) {
            let _ = self.told.set(Told::Nothing);
            return Ok(());
        }
        let head: Option<[u8; 4]> = self.input.get(4..HEAD).and_then(|length| length.try_into().ok());
        let Some(length) = head.map(|length| u32::from_be_bytes(length) as usize) else { return Ok(()) };
        if length > LARGEST {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a peer told too much of itself"));
        }
        if self.input.len() >= HEAD + length {
            self.input.advance(HEAD);
            let _ = self.told.set(Told::Frame(self.input.split_to(length).freeze()));
        } else if ended {
            self.input.clear();
            let _ = self.told.set(Told::Nothing);
        }
        Ok(())
    }

    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        // Pending or broken: reading says what there is to say.
        let _ = self.poll_out(cx);
        while self.told.get().is_none() {
            let mut chunk = [0u8; 2048];
            let mut read = ReadBuf::new(&mut chunk);
            std::task::ready!(Pin::new(&mut self.io).poll_read(cx, &mut read))?;
            let ended = read.filled().is_empty();
            self.input.extend_from_slice(read.filled());
            self.look(ended)?;
            if ended && self.input.is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
        if self.input.is_empty() {
            return Pin::new(&mut self.io).poll_read(cx, buf);
        }
        let count = self.input.len().min(buf.remaining());
        buf.put_slice(self.input.get(..count).unwrap_or_default());
        self.input.advance(count);
        if self.input.is_empty() {
            self.input = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }

    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        std::task::ready!(self.poll_out(cx))?;
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    pub(super) fn poll_write_vectored(
        &mut self,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        std::task::ready!(self.poll_out(cx))?;
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        std::task::ready!(self.poll_out(cx))?;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    pub(super) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        std::task::ready!(self.poll_out(cx))?;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixStream;

    fn frame(text: &[u8]) -> Bytes {
        let mut frame = EXCHANGE_MAGIC.to_be_bytes().to_vec();
        frame.extend_from_slice(&(text.len() as u32).to_be_bytes());
        frame.extend_from_slice(text);
        frame.into()
    }

    async fn read(conn: &mut Conn) -> Vec<u8> {
        let mut all = Vec::new();
        conn.read_to_end(&mut all).await.unwrap();
        all
    }

    #[tokio::test]
    async fn both_sides_learn_of_each_other_and_the_stream_is_whole() {
        let (near, far) = UnixStream::pair().unwrap();
        let (mut near, mut far) =
            (Conn::Unix(near).exchange(frame(b"near")), Conn::Unix(far).exchange(frame(b"far")));
        // The server speaks first.
        far.write_all(b"hello").await.unwrap();
        near.write_all(b"there").await.unwrap();
        far.shutdown().await.unwrap();
        near.shutdown().await.unwrap();
        assert_eq!((read(&mut near).await, read(&mut far).await), (b"hello".to_vec(), b"there".to_vec()));
        assert_eq!(near.told().unwrap().get(), Some(&Told::Frame(Bytes::from_static(b"far"))));
        assert_eq!(far.told().unwrap().get(), Some(&Told::Frame(Bytes::from_static(b"near"))));
    }

    #[tokio::test]
    async fn what_is_no_frame_is_the_stream() {
        for sent in [&b"hello"[..], b"", b"\x3d\x23", b"\x3d\x23\x04\x67\0\0", b"=#nothing", &[0; 9000]] {
            let (near, mut far) = UnixStream::pair().unwrap();
            let mut near = Conn::Unix(near).exchange(frame(b"near"));
            far.write_all(sent).await.unwrap();
            far.shutdown().await.unwrap();
            assert_eq!(read(&mut near).await, sent, "{} bytes", sent.len());
            assert_eq!(near.told().unwrap().get(), Some(&Told::Nothing));
        }
    }

    #[tokio::test]
    async fn frames_cut_short_or_too_long_are_no_stream() {
        let (near, mut far) = UnixStream::pair().unwrap();
        let mut near = Conn::Unix(near).exchange(frame(b"near"));
        far.write_all(&frame(b"half")[..10]).await.unwrap();
        far.shutdown().await.unwrap();
        assert_eq!(read(&mut near).await, b"");
        assert_eq!(near.told().unwrap().get(), Some(&Told::Nothing));
        let (near, mut far) = UnixStream::pair().unwrap();
        let mut near = Conn::Unix(near).exchange(frame(b"near"));
        far.write_all(b"\x3d\x23\x04\x67\xff\xff\xff\xff").await.unwrap();
        assert!(near.read_u8().await.is_err());
    }
}
