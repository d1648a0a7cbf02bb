//! Reading: bytes of one connection, without a buffer while it is idle.
//!
//! Every worker owns one chunk that all its connections read into. What was read is split off, so an idle
//! connection holds nothing; one with an unfinished frame holds that part in storage of its own, which
//! grows as bytes arrive (never by what a header promises) and counts against a limit over all connections.

use super::Conn;
use bytes::{Buf, BytesMut};
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use tokio::io::AsyncReadExt;

/// Size of the shared chunk: large enough that one read empties a busy socket, small enough that a frame
/// kept for long pins little.
const CHUNK: usize = 32 * 1024;
/// Its size after a read that filled it: large bodies are worth reading in large parts.
const LARGE: usize = 128 * 1024;
/// Unfinished input up to this size is not counted.
const SMALL: usize = 16 * 1024;
/// An unfinished rest up to this size moves to the front of the next read: reading into the little room behind
/// it would take many reads to empty a busy socket, each of which ends in the middle of a frame again.
const CARRY: usize = 2 * 1024;

/// The worker's shared chunk and the count of unfinished input.
pub struct ReadPool {
    chunk: RefCell<BytesMut>,
    /// A read has filled the chunk since it was made.
    filled: Cell<bool>,
    unfinished: Cell<usize>,
    limit: usize,
}

impl ReadPool {
    /// `limit`: bytes of unfinished frames over all connections of this worker.
    pub fn new(limit: usize) -> Rc<Self> {
        Rc::new(ReadPool {
            chunk: RefCell::default(),
            filled: Cell::new(false),
            unfinished: Cell::new(0),
            limit,
        })
    }
}

/// A message being collected outside a [`ReadBuffer`], counted in the same limit until dropped.
pub struct Unfinished {
    pool: Rc<ReadPool>,
    held: usize,
    counted: usize,
}

impl Unfinished {
    /// Nothing collected yet.
    pub fn new(pool: Rc<ReadPool>) -> Self {
        Unfinished { pool, held: 0, counted: 0 }
    }

    /// `bytes` more are held; `false` over the limit of all connections.
    pub fn add(&mut self, bytes: usize) -> bool {
        self.held += bytes;
        if self.held <= SMALL {
            return true;
        }
        let total = self.pool.unfinished.get() - self.counted + self.held;
        if total > self.pool.limit {
            return false;
        }
        self.pool.unfinished.set(total);
        self.counted = self.held;
        true
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        self.pool.unfinished.set(self.pool.unfinished.get().saturating_sub(self.counted));
    }
}

/// The input of one connection.
pub struct ReadBuffer {
    pool: Rc<ReadPool>,
    /// Bytes read and not yet consumed. Decoders take from here.
    pub bytes: BytesMut,
    counted: usize,
}

/// How a read ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filled {
    /// This many bytes came.
    Bytes(usize),
    /// The peer sends no more.
    End,
    /// The limit of unfinished input over all connections is reached.
    OverLimit,
}

impl ReadBuffer {
    /// An empty buffer.
    pub fn new(pool: Rc<ReadPool>) -> Self {
        ReadBuffer { pool, bytes: BytesMut::new(), counted: 0 }
    }

    /// Reads once. Call after everything decodable was taken out of [`bytes`](Self::bytes).
    pub fn poll_fill(&mut self, io: &mut Conn, cx: &mut Context<'_>) -> Poll<io::Result<Filled>> {
        if self.bytes.len() <= CARRY {
            return self.fill_shared(io, cx);
        }
        if !self.account() {
            return Poll::Ready(Ok(Filled::OverLimit));
        }
        // Doubling keeps the cost of large frames linear.
        let room = self.bytes.len().clamp(1024, 1 << 20);
        if self.bytes.capacity() - self.bytes.len() < room / 2 {
            self.bytes.reserve(room);
        }
        match pin!(io.read_buf(&mut self.bytes)).poll(cx) {
            Poll::Ready(Ok(0)) => Poll::Ready(Ok(Filled::End)),
            Poll::Ready(Ok(n)) => Poll::Ready(Ok(Filled::Bytes(n))),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => Poll::Pending,
        }
    }

    fn fill_shared(&mut self, io: &mut Conn, cx: &mut Context<'_>) -> Poll<io::Result<Filled>> {
        self.release();
        if self.bytes.is_empty() {
            // Whatever it pointed to is of no use now; let its storage go.
            self.bytes = BytesMut::new();
        }
        // Most polls find nothing to read: nothing is prepared for them.
        ready!(io.poll_read_ready(cx));
        let mut chunk = self.pool.chunk.borrow_mut();
        let size = if self.pool.filled.get() { LARGE } else { CHUNK };
        if chunk.capacity() < size / 2 {
            chunk.reserve(size);
            self.pool.filled.set(false);
        }
        chunk.extend_from_slice(&self.bytes);
        let result = pin!(io.read_buf(&mut *chunk)).poll(cx);
        match result {
            Poll::Ready(Ok(n @ 1..)) => {
                if chunk.len() == chunk.capacity() {
                    self.pool.filled.set(true);
                }
                self.bytes = chunk.split();
                Poll::Ready(Ok(Filled::Bytes(n)))
            }
            other => {
                chunk.clear();
                other.map_ok(|_| Filled::End)
            }
        }
    }

    /// Moves an unfinished rest out of the shared chunk. Call when decoding has stopped.
    pub fn settle(&mut self) {
        if self.bytes.is_empty() {
            self.release();
            self.bytes = BytesMut::new();
        } else if self.counted == 0 && self.bytes.len() < SMALL {
            let mut own = BytesMut::with_capacity(self.bytes.len() + 256);
            own.extend_from_slice(self.bytes.chunk());
            self.bytes = own;
        }
    }

    /// Counts large unfinished input; `false` over the limit.
    fn account(&mut self) -> bool {
        let held = self.bytes.len();
        if held <= SMALL || held <= self.counted {
            return true;
        }
        let total = self.pool.unfinished.get() - self.counted + held;
        if total > self.pool.limit {
            return false;
        }
        self.pool.unfinished.set(total);
        self.counted = held;
        true
    }

    fn release(&mut self) {
        if self.counted > 0 {
            self.pool.unfinished.set(self.pool.unfinished.get().saturating_sub(self.counted));
            self.counted = 0;
        }
    }
}

impl Drop for ReadBuffer {
    fn drop(&mut self) {
        self.release();
    }
}

#[cfg(test)]
mod tests;
