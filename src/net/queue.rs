//! The bytes waiting to be written to one connection.
//!
//! Whoever has something to send pushes it and goes on; the connection's task writes everything that has
//! gathered with one vectored write when it gets its turn. Batching is the point: at the end of a scheduler
//! round one system call carries the answers of many requests.

use super::Conn;
use bytes::{Buf, BytesMut};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use tokio::io::AsyncWrite;

/// Buffers given to one vectored write.
const SLICES: usize = 64;

/// Output of one connection; shared (by `Rc`) between its task and those who send.
#[derive(Default)]
pub struct WriteQueue {
    inner: RefCell<Inner>,
    bytes: Cell<usize>,
}

#[derive(Default)]
struct Inner {
    items: VecDeque<Item>,
    writer: Option<Waker>,
    closed: bool,
}

struct Item {
    bytes: BytesMut,
    /// Given back when the last byte has been handed to the kernel.
    charge: Option<Charge>,
}

impl Item {
    /// Takes `next` in if it lies right behind in memory, as the frames of one read do: the kernel is then
    /// given one buffer instead of many. Gives it back otherwise.
    fn join(&mut self, mut next: Item) -> Option<Item> {
        let behind = self.bytes.as_ptr_range().end == next.bytes.as_ptr();
        let joined = behind
            && match (&mut self.charge, &mut next.charge) {
                (Some(own), Some(other)) => own.take_over(other),
                (None, None) => true,
                _ => false,
            };
        if !joined {
            return Some(next);
        }
        self.bytes.unsplit(next.bytes);
        None
    }
}

impl Inner {
    /// Writes once, as many items as one call takes.
    fn write(&self, io: &mut Conn, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let io = Pin::new(io);
        if let (1, Some(only)) = (self.items.len(), self.items.front()) {
            return io.poll_write(cx, &only.bytes);
        }
        let mut slices = [IoSlice::new(&[]); SLICES];
        let mut count = 0;
        for (slot, item) in slices.iter_mut().zip(&self.items) {
            *slot = IoSlice::new(&item.bytes);
            count += 1;
        }
        io.poll_write_vectored(cx, slices.get(..count).unwrap_or_default())
    }
}

impl WriteQueue {
    /// Queues `bytes` and wakes the connection's task. Dropped silently when the connection has ended.
    pub fn push(&self, bytes: impl Into<BytesMut>) {
        self.push_charged(bytes.into(), None);
    }

    /// As [`push`](Self::push); `charge` is dropped once the bytes have left.
    pub fn push_charged(&self, bytes: BytesMut, charge: Option<Charge>) {
        let writer = {
            let mut inner = self.inner.borrow_mut();
            if inner.closed || bytes.is_empty() {
                return;
            }
            self.bytes.set(self.bytes.get() + bytes.len());
            let item = Item { bytes, charge };
            let apart = match inner.items.back_mut() {
                Some(last) => last.join(item),
                None => Some(item),
            };
            inner.items.extend(apart);
            inner.writer.take()
        };
        if let Some(writer) = writer {
            writer.wake();
        }
    }

    /// Bytes not yet handed to the kernel.
    pub fn len(&self) -> usize {
        self.bytes.get()
    }

    /// Whether everything has been handed to the kernel.
    pub fn is_empty(&self) -> bool {
        self.bytes.get() == 0
    }

    /// Wakes the connection's task without sending anything.
    pub fn nudge(&self) {
        let writer = self.inner.borrow_mut().writer.take();
        if let Some(writer) = writer {
            writer.wake();
        }
    }

    /// Drops what waits and everything that comes.
    pub fn close(&self) {
        let items = {
            let mut inner = self.inner.borrow_mut();
            inner.closed = true;
            self.bytes.set(0);
            std::mem::take(&mut inner.items)
        };
        drop(items);
    }

    /// Writes until the queue is empty (`Ready`) or the kernel takes no more. Either way the task is woken
    /// by the next push.
    pub fn poll_flush(&self, io: &mut Conn, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if self.is_empty() {
                self.register(cx);
                return Pin::new(io).poll_flush(cx);
            }
            let written = {
                let inner = self.inner.borrow();
                match inner.write(io, cx) {
                    Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    Poll::Ready(Ok(n)) => n,
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => {
                        drop(inner);
                        self.register(cx);
                        return Poll::Pending;
                    }
                }
            };
            self.advance(written);
        }
    }

    fn register(&self, cx: &Context<'_>) {
        let mut inner = self.inner.borrow_mut();
        if !inner.writer.as_ref().is_some_and(|w| w.will_wake(cx.waker())) {
            inner.writer = Some(cx.waker().clone());
        }
    }

    fn advance(&self, mut written: usize) {
        self.bytes.set(self.bytes.get().saturating_sub(written));
        while written > 0 {
            // Taken out before it is dropped: dropping a charge wakes a reader, which must find no borrow.
            let done = {
                let mut inner = self.inner.borrow_mut();
                let Some(front) = inner.items.front_mut() else { return };
                if front.bytes.len() > written {
                    front.bytes.advance(written);
                    return;
                }
                written -= front.bytes.len();
                inner.items.pop_front()
            };
            drop(done.and_then(|item| item.charge));
        }
    }
}

/// How many bytes one source has under way in other connections' queues; its reader pauses above a limit.
/// This is how a slow upstream slows exactly the clients that send to it.
#[derive(Default)]
pub struct Budget {
    used: Cell<usize>,
    limit: usize,
    waiting: RefCell<Option<Waker>>,
}

impl Budget {
    /// A budget of `limit` bytes; one item may exceed it.
    pub fn new(limit: usize) -> Rc<Self> {
        Rc::new(Budget { limit, ..Budget::default() })
    }

    /// Counts `bytes` until the charge is dropped.
    pub fn charge(self: &Rc<Self>, bytes: usize) -> Charge {
        self.used.set(self.used.get() + bytes);
        Charge { budget: self.clone(), bytes }
    }

    /// Ready while below the limit; otherwise the task is woken when it falls below.
    pub fn poll_room(&self, cx: &Context<'_>) -> Poll<()> {
        if self.used.get() < self.limit {
            return Poll::Ready(());
        }
        *self.waiting.borrow_mut() = Some(cx.waker().clone());
        Poll::Pending
    }
}

/// Bytes counted in a [`Budget`].
pub struct Charge {
    budget: Rc<Budget>,
    bytes: usize,
}

impl Charge {
    /// Counts what `other` counted, which is left with nothing; `false` if it belongs to another budget.
    fn take_over(&mut self, other: &mut Charge) -> bool {
        if !Rc::ptr_eq(&self.budget, &other.budget) {
            return false;
        }
        self.bytes += std::mem::take(&mut other.bytes);
        true
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        if self.bytes == 0 {
            return;
        }
        let used = self.budget.used.get().saturating_sub(self.bytes);
        self.budget.used.set(used);
        if used < self.budget.limit {
            let waiting = self.budget.waiting.borrow_mut().take();
            if let Some(waiting) = waiting {
                waiting.wake();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;

    #[tokio::test]
    async fn writes_all_in_order_and_releases_charges() {
        let (near, mut far) = tokio::net::UnixStream::pair().unwrap();
        let mut near = Conn::Unix(near);
        let queue = WriteQueue::default();
        let budget = Budget::new(10);
        let parts: Vec<BytesMut> = (0..200u8).map(|i| BytesMut::from(&[i; 3][..])).collect();
        for part in &parts {
            queue.push_charged(part.clone(), Some(budget.charge(part.len())));
        }
        assert_eq!(queue.len(), 600);
        std::future::poll_fn(|cx| {
            assert!(budget.poll_room(cx).is_pending());
            queue.poll_flush(&mut near, cx)
        })
        .await
        .unwrap();
        assert_eq!(budget.used.get(), 0);
        let mut got = vec![0; 600];
        far.read_exact(&mut got).await.unwrap();
        assert_eq!(got, parts.concat());
        queue.close();
        queue.push(BytesMut::from(&b"late"[..]));
        assert!(queue.is_empty());
    }

    #[test]
    fn what_was_read_together_leaves_together() {
        let queue = WriteQueue::default();
        let (one, other) = (Budget::new(100), Budget::new(100));
        let mut read = BytesMut::from(&b"aabbccdd"[..]);
        let mut take = || read.split_to(2);
        queue.push_charged(take(), Some(one.charge(2)));
        queue.push_charged(take(), Some(one.charge(2)));
        assert_eq!(queue.inner.borrow().items.len(), 1);
        // Another client's bytes are counted apart, wherever they lie.
        queue.push_charged(take(), Some(other.charge(2)));
        queue.push_charged(take(), None);
        let texts: Vec<_> = queue.inner.borrow().items.iter().map(|item| item.bytes.to_vec()).collect();
        assert_eq!(texts, [&b"aabb"[..], b"cc", b"dd"]);
        assert_eq!((one.used.get(), other.used.get(), queue.len()), (4, 2, 8));
        queue.advance(3);
        assert_eq!(one.used.get(), 4);
        queue.advance(1);
        assert_eq!((one.used.get(), other.used.get()), (0, 2));
    }
}
