//! Bytes on their way out.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use std::collections::VecDeque;
use std::io::IoSlice;

/// Bodies up to this size are copied behind what waits: cheaper than a part of their own in a vectored write.
const COPIED: usize = 4096;
/// Storage kept while nothing waits.
const KEPT: usize = 2048;

/// What waits to be written to one connection: small parts in one piece, large ones as they are. Read it as a
/// [`Buf`], with `chunks_vectored`.
#[derive(Debug, Default)]
pub struct Output {
    parts: VecDeque<Bytes>,
    /// Behind the parts.
    tail: BytesMut,
    /// Bytes in the parts.
    held: usize,
}

impl Output {
    /// Nothing waits.
    pub fn new() -> Self {
        Self::default()
    }

    /// Bytes that wait.
    pub fn len(&self) -> usize {
        self.held + self.tail.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Appends a copy.
    pub fn put_slice(&mut self, bytes: &[u8]) {
        self.tail.extend_from_slice(bytes);
    }

    /// Appends `bytes`, without a copy if they are many.
    pub fn put(&mut self, bytes: Bytes) {
        if bytes.len() <= COPIED {
            return self.put_slice(&bytes);
        }
        if !self.tail.is_empty() {
            self.push(self.tail.len());
        }
        self.held += bytes.len();
        self.parts.push_back(bytes);
    }

    fn push(&mut self, size: usize) {
        self.held += size;
        let part = self.tail.split_to(size).freeze();
        self.parts.push_back(part);
    }

    /// Drops what waits.
    pub fn clear(&mut self) {
        *self = Output::default();
    }

    /// Where heads are written.
    pub(super) fn tail(&mut self) -> &mut BytesMut {
        if self.tail.capacity() - self.tail.len() < 256 {
            self.tail.reserve(1024);
        }
        &mut self.tail
    }

    /// Appends a chunk's size.
    pub(super) fn put_chunk_size(&mut self, size: usize) {
        let mut digits = [0; 2 * size_of::<usize>() + 2];
        let mut count = 0;
        let mut rest = size;
        let ends = [b'\n', b'\r'];
        let hex = std::iter::from_fn(|| {
            let digit = b"0123456789abcdef".get(rest & 15).copied();
            let more = rest > 0;
            rest >>= 4;
            more.then_some(digit).flatten()
        });
        for (place, byte) in digits.iter_mut().rev().zip(ends.into_iter().chain(hex)) {
            *place = byte;
            count += 1;
        }
        self.tail.put_slice(digits.get(digits.len() - count..).unwrap_or_default());
    }
}

impl Buf for Output {
    fn remaining(&self) -> usize {
        self.len()
    }

    fn chunk(&self) -> &[u8] {
        self.parts.front().map_or(&self.tail[..], |part| part)
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let parts = self.parts.iter().map(|part| &part[..]);
        let tail = (!self.tail.is_empty()).then_some(&self.tail[..]);
        let mut count = 0;
        for (slice, part) in slices.iter_mut().zip(parts.chain(tail)) {
            *slice = IoSlice::new(part);
            count += 1;
        }
        count
    }

    fn advance(&mut self, mut size: usize) {
        while let Some(part) = self.parts.front_mut() {
            if part.len() > size {
                self.held -= size;
                return part.advance(size);
            }
            size -= part.len();
            self.held -= part.len();
            self.parts.pop_front();
        }
        self.tail.advance(size.min(self.tail.len()));
        if self.tail.is_empty() {
            // What was sent is of no use; a large storage is not kept for a connection that may be idle.
            self.tail = match std::mem::take(&mut self.tail) {
                tail if tail.capacity() > KEPT => BytesMut::new(),
                tail => tail,
            };
        }
    }
}
