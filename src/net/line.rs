//! One HTTP/1 connection: its socket, what was read of it and what waits to be written.
//!
//! One task drives both directions by poll functions; the parts of an exchange share the line by `Rc`. No
//! borrow outlives a call. An idle line holds no buffer: input is read through the worker's chunk
//! ([`ReadBuffer`]), output borrows the thread's spare one while there is something to write.

use super::{Conn, Filled, ReadBuffer, ReadPool};
use bytes::{Bytes, BytesMut};
use std::cell::{Cell, RefCell, RefMut};
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use tokio::io::AsyncWrite;
use tokio::time::Instant;

/// Parts up to this size are copied behind what waits already: cheaper than one more slice of a vectored
/// write.
const COPIED: usize = 2048;
/// Copied bytes are cut off here, so that no buffer grows without need.
const TEXT: usize = 16 * 1024;
/// What an output buffer begins with: a head and a small body fit.
const FIRST: usize = 4 * 1024;
/// Slices given to one vectored write.
const SLICES: usize = 32;

thread_local! {
    /// One spare output buffer, so that idle connections hold none.
    static SPARE: Cell<BytesMut> = Cell::new(BytesMut::new());
}

/// See the module.
pub struct Line {
    io: RefCell<Conn>,
    input: RefCell<ReadBuffer>,
    output: RefCell<Output>,
    received: Cell<u64>,
    sent: Cell<u64>,
    /// Since when the peer takes nothing of what waits.
    stalled: Cell<Option<Instant>>,
}

impl Line {
    /// A line over `io`.
    pub fn new(io: Conn, reads: &Rc<ReadPool>) -> Rc<Self> {
        Line::with(io, reads, BytesMut::new())
    }

    /// A line of which `early` was read already.
    pub fn with(io: Conn, reads: &Rc<ReadPool>, early: BytesMut) -> Rc<Self> {
        let received = Cell::new(early.len() as u64);
        let mut input = ReadBuffer::new(reads.clone());
        input.bytes = early;
        Rc::new(Line {
            io: RefCell::new(io),
            input: RefCell::new(input),
            output: RefCell::default(),
            received,
            sent: Cell::new(0),
            stalled: Cell::new(None),
        })
    }

    /// Reads once. Call after everything decodable was taken out of [`input`](Self::input).
    ///
    /// # Errors
    /// The connection broke.
    pub fn poll_fill(&self, cx: &mut Context<'_>) -> Poll<io::Result<Filled>> {
        let filled = self.input.borrow_mut().poll_fill(&mut self.io.borrow_mut(), cx);
        if let Poll::Ready(Ok(Filled::Bytes(n))) = filled {
            self.received.set(self.received.get() + n as u64);
        }
        filled
    }

    /// What was read and not taken yet.
    pub fn input(&self) -> RefMut<'_, BytesMut> {
        RefMut::map(self.input.borrow_mut(), |input| &mut input.bytes)
    }

    /// Lets go of storage the unread input does not need. Call when nothing more is decodable for now.
    pub fn settle(&self) {
        self.input.borrow_mut().settle();
    }

    /// What waits to be written.
    pub fn output(&self) -> RefMut<'_, Output> {
        self.output.borrow_mut()
    }

    /// Writes what waits, all of it in one call where the kernel takes it.
    ///
    /// # Errors
    /// The connection broke.
    pub fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut output = self.output.borrow_mut();
        while !output.is_empty() {
            match output.poll_write(&mut self.io.borrow_mut(), cx) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(n)) => {
                    output.advance(n);
                    self.sent.set(self.sent.get() + n as u64);
                    self.stalled.set(None);
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    if self.stalled.get().is_none() {
                        self.stalled.set(Some(Instant::now()));
                    }
                    return Poll::Pending;
                }
            }
        }
        drop(output);
        Pin::new(&mut *self.io.borrow_mut()).poll_flush(cx)
    }

    /// While nothing is expected: ready when the peer has closed, or sent what nobody asked for.
    pub fn poll_quiet(&self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.input.borrow().bytes.is_empty() {
            return Poll::Ready(());
        }
        self.poll_fill(cx).map(drop)
    }

    /// Whether the peer has closed an idle line, or sent what nobody asked for. Costs a system call only when
    /// there is something to read.
    pub fn is_stale(&self) -> bool {
        self.poll_quiet(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    /// Whether there is something to read, the peer's close included. Asks the kernel, which may know of a
    /// close that the runtime has not heard of yet.
    pub fn is_readable(&self) -> bool {
        self.io.borrow().is_readable()
    }

    /// Tells the peer that nothing follows what was written.
    ///
    /// # Errors
    /// The connection broke.
    pub fn poll_shutdown(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_flush(cx))?;
        Pin::new(&mut *self.io.borrow_mut()).poll_shutdown(cx)
    }

    /// Our own address; asks the system.
    pub fn local(&self) -> Option<SocketAddr> {
        self.io.borrow().local()
    }

    /// Bytes received and sent so far.
    pub fn bytes(&self) -> (u64, u64) {
        (self.received.get(), self.sent.get())
    }

    /// Since when the peer has taken nothing of what waits.
    pub fn stalled_since(&self) -> Option<Instant> {
        self.stalled.get()
    }

    /// The connection, once everybody else has let go of the line.
    pub fn into_conn(self: Rc<Self>) -> Option<Conn> {
        Rc::try_unwrap(self).ok().map(|line| line.io.into_inner())
    }
}

/// Output of a line, in order: parts of their own, then copied text.
#[derive(Default)]
pub struct Output {
    parts: VecDeque<Bytes>,
    text: BytesMut,
    /// Bytes of the front that the kernel has.
    written: usize,
    len: usize,
}

impl Output {
    /// Bytes the kernel has not taken yet.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends what `write` appends to the buffer it is given. It must not take anything out.
    pub fn write<R>(&mut self, write: impl FnOnce(&mut BytesMut) -> R) -> R {
        if self.text.capacity() == 0 {
            self.text = SPARE.take();
            // Grown by what is appended it would be copied several times on the way.
            self.text.reserve(FIRST);
        }
        let before = self.text.len();
        let result = write(&mut self.text);
        self.len += self.text.len() - before;
        result
    }

    /// Appends `bytes`.
    pub fn push(&mut self, bytes: Bytes) {
        if bytes.len() <= COPIED && self.text.len() + bytes.len() <= TEXT {
            return self.write(|text| text.extend_from_slice(&bytes));
        }
        self.len += bytes.len();
        if !self.text.is_empty() {
            let text = self.text.split().freeze();
            self.parts.push_back(text);
        }
        self.parts.push_back(bytes);
    }

    fn poll_write(&self, io: &mut Conn, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let io = Pin::new(io);
        if self.parts.is_empty() {
            return io.poll_write(cx, self.text.get(self.written..).unwrap_or_default());
        }
        let mut slices = [IoSlice::new(&[]); SLICES];
        let mut count = 0;
        let text: &[u8] = &self.text;
        let all = self.parts.iter().map(|part| &part[..]).chain([text]);
        for (slot, bytes) in slices.iter_mut().zip(all) {
            let bytes = if count == 0 { bytes.get(self.written..).unwrap_or_default() } else { bytes };
            *slot = IoSlice::new(bytes);
            count += 1;
        }
        io.poll_write_vectored(cx, slices.get(..count).unwrap_or_default())
    }

    fn advance(&mut self, n: usize) {
        self.len = self.len.saturating_sub(n);
        self.written += n;
        while let Some(front) = self.parts.front() {
            if front.len() > self.written {
                return;
            }
            self.written -= front.len();
            self.parts.pop_front();
        }
        if self.len == 0 {
            self.written = 0;
            self.text.clear();
            let text = std::mem::take(&mut self.text);
            // What was cut off is still shared; only a whole buffer is worth keeping.
            if (FIRST..=2 * TEXT).contains(&text.capacity()) {
                SPARE.set(text);
            }
            if self.parts.capacity() > 0 {
                self.parts = VecDeque::new();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixStream;

    fn line() -> (Rc<Line>, UnixStream) {
        let (near, far) = UnixStream::pair().unwrap();
        (Line::new(Conn::Unix(near), &ReadPool::new(1 << 20)), far)
    }

    #[tokio::test]
    async fn output_keeps_its_order_whatever_the_sizes() {
        let (line, mut far) = line();
        let mut expected = Vec::new();
        let sizes = [3usize, 5000, 100, 2048, 2049, 70_000, 9, 16_000, 1];
        for (i, size) in sizes.iter().cycle().take(50).enumerate() {
            let part = vec![i as u8; *size];
            expected.extend_from_slice(&part);
            match i % 2 {
                0 => line.output().push(Bytes::from(part)),
                _ => line.output().write(|text| text.extend_from_slice(&part)),
            }
        }
        assert_eq!(line.output().len(), expected.len());
        let mut got = vec![0; expected.len()];
        let (flushed, read) = tokio::join!(poll_fn(|cx| line.poll_flush(cx)), far.read_exact(&mut got));
        flushed.unwrap();
        read.unwrap();
        assert!(got == expected);
        assert!(line.output().is_empty() && line.stalled_since().is_none());
        assert_eq!(line.bytes(), (0, expected.len() as u64));
        assert_eq!(line.output().text.capacity(), 0, "an idle line holds no buffer");
    }

    #[tokio::test]
    async fn an_idle_line_tells_when_its_peer_leaves_or_speaks() {
        let (line, mut far) = self::line();
        assert!(!line.is_stale());
        far.write_all(b"unasked").await.unwrap();
        poll_fn(|cx| line.poll_quiet(cx)).await;
        assert!(line.is_stale());
        assert_eq!(&line.input()[..], b"unasked");
        let (line, far) = self::line();
        drop(far);
        poll_fn(|cx| line.poll_quiet(cx)).await;
        assert!(line.is_stale());
    }
}
