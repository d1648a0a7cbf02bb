//! The byte stream under an h2 connection.
//!
//! [`Wire`] sits between h2 and the socket. It gathers what h2 writes in one turn, so that one system call
//! carries the frames of many streams; it follows the frame headers that come in and bounds the kinds h2 takes
//! without limit (PING, SETTINGS, PRIORITY, RST_STREAM, empty DATA), and the resets that a peer provokes by
//! breaking the rules of streams; and it shows the connection's task what h2 does not tell: floods, a GOAWAY, a
//! peer that takes nothing.
//!
//! Empty DATA frames that end nothing mean nothing, yet h2 ends a connection over 100 of them in its life; they
//! are taken out of what it reads.

mod frames;
#[cfg(test)]
mod tests;

use super::Conn;
use bytes::{Buf, Bytes};
use frames::{Echo, Follower, PREFACE};
use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

/// Gathered output is written early once it is this long.
const BATCH: usize = 32 * 1024;
/// With this much waiting for the socket h2 is asked to wait too.
const LIMIT: usize = 64 * 1024;

thread_local! {
    /// One spare output buffer, so that idle connections hold none.
    static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// One connection's bytes; shared (by `Rc`) between h2 and the connection's task.
pub struct Wire {
    io: RefCell<Conn>,
    early: RefCell<Bytes>,
    out: RefCell<Out>,
    follower: RefCell<Follower>,
    echo: RefCell<Echo>,
    received: Cell<u64>,
    sent: Cell<u64>,
    stalled: Cell<Option<Instant>>,
    /// See [`Wire::repeat`].
    repeats: Cell<bool>,
    /// The last read found nothing.
    dry: Cell<bool>,
}

#[derive(Default)]
struct Out {
    bytes: Vec<u8>,
    written: usize,
}

impl Wire {
    /// Under the server side of a connection. `early`: what was read before the protocol was known.
    pub fn server(io: Conn, early: Bytes) -> Rc<Self> {
        Self::new(io, early, PREFACE, 0)
    }

    /// Under the client side.
    pub fn client(io: Conn) -> Rc<Self> {
        Self::new(io, Bytes::new(), 0, PREFACE)
    }

    /// `in_skip`, `out_skip`: bytes before the first frame.
    fn new(io: Conn, early: Bytes, in_skip: usize, out_skip: usize) -> Rc<Self> {
        Rc::new(Wire {
            io: RefCell::new(io),
            early: RefCell::new(early),
            out: RefCell::default(),
            follower: RefCell::new(Follower::after(in_skip)),
            echo: RefCell::new(Echo::after(out_skip)),
            received: Cell::new(0),
            sent: Cell::new(0),
            stalled: Cell::new(None),
            repeats: Cell::new(false),
            dry: Cell::new(false),
        })
    }

    /// What h2 reads and writes. Its flush does nothing: the connection's task calls [`Wire::poll_flush`].
    pub fn io(self: &Rc<Self>) -> WireIo {
        WireIo(self.clone())
    }

    /// Writes what has gathered. Call at the end of every turn of the connection's task.
    pub fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut out = self.out.borrow_mut();
        while out.len() > 0 {
            let written = Pin::new(&mut *self.io.borrow_mut()).poll_write(cx, out.rest());
            match written {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(n)) => {
                    out.advance(n);
                    self.progress(n);
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
        drop(out);
        Pin::new(&mut *self.io.borrow_mut()).poll_flush(cx)
    }

    fn progress(&self, n: usize) {
        self.sent.set(self.sent.get() + n as u64);
        if self.stalled.get().is_some() {
            self.stalled.set(None);
        }
    }

    /// `again`: h2 is polled once more in the same turn of the same task, as it is for every stream it hands over. A
    /// socket that had nothing to read then has nothing now, and the task is called when it has.
    pub fn repeat(&self, again: bool) {
        self.repeats.set(again);
        if !again {
            self.dry.set(false);
        }
    }

    /// Since when the peer has taken nothing of what waits.
    pub fn stalled_since(&self) -> Option<Instant> {
        self.stalled.get()
    }

    /// Whether the peer sent more control frames than anybody needs. Nothing is read any more.
    pub fn flooded(&self) -> bool {
        self.follower.borrow().flooded
    }

    /// Whether the peer's first SETTINGS have come.
    pub fn is_greeted(&self) -> bool {
        self.follower.borrow().greeted
    }

    /// Whether the peer wants no new streams, or the connection is near a limit of h2.
    pub fn is_worn(&self) -> bool {
        self.follower.borrow().is_worn()
    }

    /// Whether the peer has sent a GOAWAY.
    pub fn is_told(&self) -> bool {
        self.follower.borrow().goaway
    }

    /// Bytes received and sent so far.
    pub fn bytes(&self) -> (u64, u64) {
        (self.received.get(), self.sent.get())
    }

    /// The connection, once h2 has let go of it.
    pub fn into_conn(self: Rc<Self>) -> Option<Conn> {
        Rc::try_unwrap(self).ok().map(|wire| wire.io.into_inner())
    }

    fn write(&self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let taken = self.take(cx, bufs);
        if let Poll::Ready(Ok(mut taken)) = taken {
            let (mut echo, mut follower) = (self.echo.borrow_mut(), self.follower.borrow_mut());
            for buf in bufs {
                let part = buf.get(..taken.min(buf.len())).unwrap_or_default();
                taken -= part.len();
                echo.follow(part, |code| follower.on_own_reset(code));
            }
        }
        taken
    }

    /// Gathers or writes what h2 has to say; how much of it.
    fn take(&self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let total: usize = bufs.iter().map(|buf| buf.len()).sum();
        let mut out = self.out.borrow_mut();
        if out.len() + total > BATCH {
            let mut slices = [IoSlice::new(out.rest()); 8];
            let mut used = usize::from(out.len() > 0);
            for (slot, buf) in slices.iter_mut().skip(used).zip(bufs) {
                *slot = IoSlice::new(buf);
                used += 1;
            }
            let slices = slices.get(..used).unwrap_or_default();
            let written = Pin::new(&mut *self.io.borrow_mut()).poll_write_vectored(cx, slices);
            match written {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(n)) => {
                    self.progress(n);
                    let gathered = n.min(out.len());
                    out.advance(gathered);
                    if n > gathered {
                        return Poll::Ready(Ok(n - gathered));
                    }
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                // The task flushes at the end of its turn, which notes the stall.
                Poll::Pending if out.len() >= LIMIT => return Poll::Pending,
                Poll::Pending => {}
            }
        }
        for buf in bufs {
            out.push(buf);
        }
        Poll::Ready(Ok(total))
    }

    fn read(&self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut follower = self.follower.borrow_mut();
        if follower.flooded {
            // The task sees it at the end of this turn and ends the connection.
            return Poll::Pending;
        }
        if self.repeats.get() && self.dry.get() {
            return Poll::Pending;
        }
        let before = buf.filled().len();
        loop {
            let mut early = self.early.borrow_mut();
            if early.is_empty() {
                let read = Pin::new(&mut *self.io.borrow_mut()).poll_read(cx, buf);
                self.dry.set(read.is_pending());
                ready!(read)?;
            } else {
                let n = early.len().min(buf.remaining());
                buf.put_slice(early.get(..n).unwrap_or_default());
                early.advance(n);
            }
            let new = buf.filled_mut().get_mut(before..).unwrap_or_default();
            let came = new.len();
            self.received.set(self.received.get() + came as u64);
            let left = follower.follow(new);
            buf.set_filled(before + left);
            // Nothing left of what came would look like the end of the connection.
            if left > 0 || came == 0 {
                return Poll::Ready(Ok(()));
            }
            if follower.flooded {
                return Poll::Pending;
            }
        }
    }
}

impl Out {
    fn len(&self) -> usize {
        self.bytes.len() - self.written
    }

    fn rest(&self) -> &[u8] {
        self.bytes.get(self.written..).unwrap_or_default()
    }

    fn push(&mut self, bytes: &[u8]) {
        if self.bytes.capacity() == 0 {
            self.bytes = SPARE.take();
        }
        self.bytes.extend_from_slice(bytes);
    }

    fn advance(&mut self, n: usize) {
        self.written += n;
        if self.written >= self.bytes.len() {
            self.written = 0;
            self.bytes.clear();
            if self.bytes.capacity() <= 2 * LIMIT {
                SPARE.set(std::mem::take(&mut self.bytes));
            } else {
                self.bytes = Vec::new();
            }
        }
    }
}

/// See [`Wire::io`].
pub struct WireIo(Rc<Wire>);

impl Wire {
    /// Our own address; asks the system.
    pub fn local(&self) -> Option<SocketAddr> {
        self.io.borrow().local()
    }
}

impl AsyncRead for WireIo {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.0.read(cx, buf)
    }
}

impl AsyncWrite for WireIo {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.0.write(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.0.write(cx, bufs)
    }

    /// Bodies of less than 1 KiB are then copied behind their frame's head: h2 writes in front of and behind every
    /// one it hands over by itself, and here it is copied in any case.
    fn is_write_vectored(&self) -> bool {
        false
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.0.poll_flush(cx))?;
        Pin::new(&mut *self.0.io.borrow_mut()).poll_shutdown(cx)
    }
}
