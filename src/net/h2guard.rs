//! The byte stream under an h2 connection.
//!
//! [`Wire`] sits between h2 and the socket. It gathers what h2 writes in one turn, so that one system call
//! carries the frames of many streams; it follows the frame headers that come in and bounds the kinds h2 takes
//! without limit (PING, SETTINGS, PRIORITY, RST_STREAM, empty DATA); and it shows the connection's task what h2
//! does not tell: floods, a GOAWAY, a peer that takes nothing.
//!
//! Empty DATA frames that end nothing mean nothing, yet h2 ends a connection over 100 of them in its life; they
//! are taken out of what it reads.

use super::Conn;
use bytes::{Buf, Bytes};
use smallvec::SmallVec;
use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

/// Gathered output is written early once it is this long.
const BATCH: usize = 32 * 1024;
/// With this much waiting for the socket h2 is asked to wait too.
const LIMIT: usize = 64 * 1024;
/// Over how long frames are counted.
const SECOND: Duration = Duration::from_secs(1);
/// Empty DATA frames after which a connection is to be retired: h2 ends one at 100 in its life. Only those
/// that could not be taken out count.
const EMPTY_DATA: u32 = 50;
/// Length of the client's preface.
const PREFACE: usize = 24;
const FRAME_HEAD: usize = 9;

const DATA: u8 = 0;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const END_STREAM: u8 = 1;
const PADDED: u8 = 8;

/// Kinds of frames bounded per second. Orders of magnitude above what peers send in earnest, and cheap to
/// serve at the limit: clients measuring bandwidth send a PING per round trip, cancelling ones were seen at
/// 2,000 resets a second.
const PER_SECOND: [(u8, u32); 5] =
    [(PING, 1000), (SETTINGS, 100), (PRIORITY, 1000), (RST_STREAM, 5000), (DATA, 10_000)];

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
    received: Cell<u64>,
    sent: Cell<u64>,
    stalled: Cell<Option<Instant>>,
}

#[derive(Default)]
struct Out {
    bytes: Vec<u8>,
    written: usize,
}

impl Wire {
    /// Under the server side of a connection. `early`: what was read before the protocol was known.
    pub fn server(io: Conn, early: Bytes) -> Rc<Self> {
        Self::new(io, early, PREFACE)
    }

    /// Under the client side.
    pub fn client(io: Conn) -> Rc<Self> {
        Self::new(io, Bytes::new(), 0)
    }

    fn new(io: Conn, early: Bytes, skip: usize) -> Rc<Self> {
        Rc::new(Wire {
            io: RefCell::new(io),
            early: RefCell::new(early),
            out: RefCell::default(),
            follower: RefCell::new(Follower { skip, ..Follower::default() }),
            received: Cell::new(0),
            sent: Cell::new(0),
            stalled: Cell::new(None),
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
        Poll::Ready(Ok(()))
    }

    fn progress(&self, n: usize) {
        self.sent.set(self.sent.get() + n as u64);
        if self.stalled.get().is_some() {
            self.stalled.set(None);
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
        let follower = self.follower.borrow();
        follower.goaway || follower.empty_data >= EMPTY_DATA
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
        let before = buf.filled().len();
        loop {
            let mut early = self.early.borrow_mut();
            if early.is_empty() {
                ready!(Pin::new(&mut *self.io.borrow_mut()).poll_read(cx, buf))?;
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

/// Follows the frames of one direction by their headers.
#[derive(Default)]
struct Follower {
    /// Bytes until the next frame header.
    skip: usize,
    head: [u8; FRAME_HEAD],
    /// Bytes of `head` that have come.
    have: usize,
    since: Option<Instant>,
    counts: [u32; PER_SECOND.len()],
    empty_data: u32,
    greeted: bool,
    goaway: bool,
    flooded: bool,
}

impl Follower {
    /// Follows `bytes` and moves what is left of them to their front; returns its length.
    fn follow(&mut self, bytes: &mut [u8]) -> usize {
        let mut cuts: SmallVec<[usize; 8]> = SmallVec::new();
        let mut at = 0;
        while at < bytes.len() {
            let skipped = self.skip.min(bytes.len() - at);
            self.skip -= skipped;
            at += skipped;
            let missing = self.head.get_mut(self.have..).unwrap_or_default();
            let rest = bytes.get(at..).unwrap_or_default();
            let taken = missing.len().min(rest.len());
            for (to, from) in missing.iter_mut().zip(rest) {
                *to = *from;
            }
            let whole = taken == FRAME_HEAD;
            self.have += taken;
            if self.have == FRAME_HEAD {
                self.have = 0;
                if self.on_frame(whole) {
                    cuts.push(at);
                }
            }
            at += taken;
        }
        cut(bytes, &cuts)
    }

    /// `whole`: the header can be taken out. Returns whether it is to be.
    fn on_frame(&mut self, whole: bool) -> bool {
        let [a, b, c, kind, flags, ..] = self.head;
        self.skip = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        match kind {
            DATA if flags & END_STREAM != 0 => {}
            DATA if self.skip == 0 => {
                self.count(DATA);
                if whole {
                    return true;
                }
                self.empty_data += 1;
            }
            // Padding alone is as empty to h2, but takes of the window; a short padded frame is taken for one,
            // which costs nothing but an early retirement.
            DATA if flags & PADDED != 0 && self.skip <= 256 => self.empty_data += 1,
            DATA => {}
            GOAWAY => self.goaway = true,
            kind => {
                self.greeted |= kind == SETTINGS;
                self.count(kind);
            }
        }
        false
    }

    fn count(&mut self, kind: u8) {
        let Some(at) = PER_SECOND.iter().position(|(bounded, _)| *bounded == kind) else { return };
        let now = Instant::now();
        if self.since.is_none_or(|since| now.duration_since(since) >= SECOND) {
            self.since = Some(now);
            self.counts = Default::default();
        }
        if let (Some(count), Some((_, limit))) = (self.counts.get_mut(at), PER_SECOND.get(at)) {
            *count += 1;
            self.flooded |= *count > *limit;
        }
    }
}

/// Takes the frame headers at `cuts` (ascending) out of `bytes`; returns the length that is left.
fn cut(bytes: &mut [u8], cuts: &[usize]) -> usize {
    let Some((&first, _)) = cuts.split_first() else { return bytes.len() };
    let mut left = first;
    for (i, &start) in cuts.iter().enumerate() {
        let kept = start + FRAME_HEAD..cuts.get(i + 1).copied().unwrap_or(bytes.len());
        let len = kept.len();
        bytes.copy_within(kept, left);
        left += len;
    }
    left
}

/// See [`Wire::io`].
pub struct WireIo(Rc<Wire>);

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

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.0.poll_flush(cx))?;
        Pin::new(&mut *self.0.io.borrow_mut()).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: usize) -> Vec<u8> {
        let mut bytes = vec![0, (payload >> 8) as u8, payload as u8, kind, flags, 0, 0, 0, 1];
        bytes.resize(FRAME_HEAD + payload, 0xff);
        bytes
    }

    /// The follower after `parts`, cut into pieces, and what it left of them.
    fn followed(parts: &[Vec<u8>], piece: usize) -> (Follower, Vec<u8>) {
        let mut follower = Follower { skip: PREFACE, ..Follower::default() };
        let mut bytes = vec![b'P'; PREFACE];
        bytes.extend(parts.concat());
        let mut left = Vec::new();
        for piece in bytes.chunks_mut(piece) {
            let len = follower.follow(piece);
            left.extend_from_slice(&piece[..len]);
        }
        (follower, left.split_off(PREFACE))
    }

    #[test]
    fn frames_are_counted_however_they_are_cut() {
        let mut parts = vec![frame(DATA, 0, 300), frame(DATA, 0, 0), frame(DATA, END_STREAM, 0)];
        parts.push(frame(DATA, PADDED, 7));
        parts.extend((0..50).map(|_| frame(SETTINGS, 0, 0)));
        parts.extend([frame(DATA, 0, 0), frame(DATA, 0, 0), frame(DATA, 0, 3), frame(DATA, 0, 0)]);
        parts.push(frame(PING, 0, 8));
        for piece in [1, 2, 8, 9, 10, 11, 100, 1000, 100_000] {
            let (follower, left) = followed(&parts, piece);
            assert_eq!(follower.counts, [1, 50, 0, 0, 4], "pieces of {piece}");
            assert!(!follower.flooded && !follower.goaway && follower.greeted);
            // What is left differs only by the empty frames that were cut apart.
            let kept: Vec<_> = parts.iter().filter(|part| **part != frame(DATA, 0, 0)).cloned().collect();
            let apart = follower.empty_data as usize - 1;
            assert_eq!(left.len(), kept.concat().len() + apart * FRAME_HEAD, "pieces of {piece}");
            if apart == 0 {
                assert!(left == kept.concat());
            }
            let (_, again) = followed(&[left], 100_000);
            assert!(again == kept.concat(), "pieces of {piece}");
        }
        parts.extend((0..51).map(|_| frame(SETTINGS, 1, 0)));
        parts.push(frame(GOAWAY, 0, 8));
        let (follower, _) = followed(&parts, 3);
        assert!(follower.flooded && follower.goaway);
    }

    #[tokio::test(start_paused = true)]
    async fn counts_begin_anew_every_second() {
        let mut follower = Follower::default();
        for _ in 0..3 {
            (0..1000).for_each(|_| assert_eq!(follower.follow(&mut frame(PING, 0, 8)), 17));
            tokio::time::advance(SECOND).await;
        }
        assert!(!follower.flooded);
    }

    #[tokio::test]
    async fn small_writes_leave_together_and_large_ones_keep_their_order() {
        use tokio::io::AsyncReadExt;
        let (near, mut far) = tokio::net::UnixStream::pair().unwrap();
        let wire = Wire::client(Conn::Unix(near));
        let mut expected = Vec::new();
        let mut sizes = [3usize, 5000, 100, 16_384, 16_384, 70_000, 9].iter().cycle().take(70);
        let reader = async {
            let mut got = vec![0; 70 / 7 * (3 + 5000 + 100 + 2 * 16_384 + 70_000 + 9)];
            far.read_exact(&mut got).await.unwrap();
            got
        };
        let writer = async {
            let mut io = wire.io();
            for (i, size) in sizes.by_ref().enumerate() {
                let part = vec![i as u8; *size];
                expected.extend_from_slice(&part);
                let mut rest = &part[..];
                while !rest.is_empty() {
                    let n = std::future::poll_fn(|cx| Pin::new(&mut io).poll_write(cx, rest)).await.unwrap();
                    rest = &rest[n..];
                    assert!(wire.out.borrow().len() <= LIMIT + 70_000);
                }
            }
            std::future::poll_fn(|cx| wire.poll_flush(cx)).await.unwrap();
        };
        let (got, ()) = tokio::join!(reader, writer);
        assert!(got == expected);
        assert_eq!((wire.out.borrow().len(), wire.bytes().1), (0, expected.len() as u64));
    }
}
