//! The sending side of an HTTP/2 stream.
//!
//! Owns h2's handle, and a count of the small frames that h2 holds for it. h2 bounds what it holds in bytes, but
//! a frame costs it a few hundred of them however short it is: 64 KiB that came byte by byte would be 20 MB. So
//! while the socket takes nothing only so many small frames are handed over; what comes after them is gathered by
//! the stream's `Flow`, or waits with its sender.

use bytes::Bytes;
use h2::SendStream;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;

/// Frames longer than this are bounded well enough by their bytes.
const SMALL: usize = 256;
/// Small frames that one stream may have waiting inside h2.
pub(in crate::stream) const MOST_SMALL: usize = 64;
/// The first small frames of a stream are not counted: most streams have no more, and counting one costs two
/// allocations.
pub(in crate::stream) const FREE: u32 = 16;

/// See the module.
pub struct Http2Sink {
    stream: SendStream<Bytes>,
    /// Small frames sent, up to [`FREE`].
    free: u32,
    small: Option<Small>,
}

/// What a stream of many small frames keeps.
#[derive(Default)]
struct Small {
    waiting: Arc<Waiting>,
    /// Set while there are as many as may be.
    freed: Option<Pin<Box<OwnedNotified>>>,
}

/// Small frames inside h2. Shared with each of them, and frames can be sent between threads.
#[derive(Default)]
struct Waiting {
    count: AtomicUsize,
    freed: Arc<Notify>,
}

/// A small frame that is counted until h2 has written it or given it up.
struct Counted {
    bytes: Bytes,
    waiting: Arc<Waiting>,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        if self.waiting.count.fetch_sub(1, Relaxed) == MOST_SMALL {
            self.waiting.freed.notify_one();
        }
    }
}

impl Small {
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.waiting.count.load(Relaxed) >= MOST_SMALL {
            let freed = &self.waiting.freed;
            let freed = self.freed.get_or_insert_with(|| Box::pin(freed.clone().notified_owned()));
            ready!(freed.as_mut().poll(cx));
            self.freed = None;
        }
        Poll::Ready(())
    }

    fn count(&self, bytes: Bytes) -> Bytes {
        self.waiting.count.fetch_add(1, Relaxed);
        Bytes::from_owner(Counted { bytes, waiting: self.waiting.clone() })
    }
}

impl Http2Sink {
    /// How many bytes it takes now, of `wanted`; at least one. `None`: the stream is gone.
    pub(super) fn poll_room(&mut self, cx: &mut Context<'_>, wanted: usize) -> Poll<Option<usize>> {
        if wanted <= SMALL
            && let Some(small) = &mut self.small
        {
            ready!(small.poll_room(cx));
        }
        self.stream.reserve_capacity(wanted);
        match self.stream.capacity() {
            0 => self.stream.poll_capacity(cx).map(|room| room?.ok()),
            room => Poll::Ready(Some(room)),
        }
    }

    /// Sends `bytes`; `last`: and nothing after them.
    ///
    /// # Errors
    /// The stream is gone.
    pub(super) fn send(&mut self, mut bytes: Bytes, last: bool) -> Result<(), h2::Error> {
        if !last && bytes.len() <= SMALL {
            if self.free < FREE {
                self.free += 1;
            } else {
                bytes = self.small.get_or_insert_default().count(bytes);
            }
        }
        self.stream.send_data(bytes, last)
    }

    /// h2's handle.
    pub(super) fn stream(&mut self) -> &mut SendStream<Bytes> {
        &mut self.stream
    }
}

impl From<SendStream<Bytes>> for Http2Sink {
    fn from(stream: SendStream<Bytes>) -> Self {
        Http2Sink { stream, free: 0, small: None }
    }
}
