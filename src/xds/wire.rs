//! gRPC message framing, without sockets: body chunks in, whole messages out.
//!
//! A message is kept as the chunks it arrived in and decoded from them, each freed as soon as it is read. A
//! 10 MB response thus never needs a second 10 MB in one piece, and no buffer of its size stays behind with
//! the stream.

use std::collections::VecDeque;

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Compression flag and length.
const HEADER: usize = 5;

/// One whole message, readable as a `Buf`.
#[derive(Debug, Clone, Default)]
pub struct Message {
    chunks: VecDeque<Bytes>,
    remaining: usize,
}

impl Message {
    /// Bytes not read yet.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.remaining
    }

    /// Nothing left to read.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.remaining == 0
    }

    fn push(&mut self, chunk: Bytes) {
        if !chunk.is_empty() {
            self.remaining += chunk.len();
            self.chunks.push_back(chunk);
        }
    }

    /// The first `len` bytes as a message of their own; all of it when there are fewer.
    fn split_to(&mut self, len: usize) -> Self {
        let mut head = Self::default();
        while head.remaining < len {
            let Some(mut chunk) = self.chunks.pop_front() else { break };
            let wanted = len - head.remaining;
            if chunk.len() > wanted {
                let rest = chunk.split_off(wanted);
                self.chunks.push_front(rest);
            }
            self.remaining -= chunk.len();
            head.push(chunk);
        }
        head
    }
}

impl From<Bytes> for Message {
    fn from(bytes: Bytes) -> Self {
        let mut message = Self::default();
        message.push(bytes);
        message
    }
}

impl Buf for Message {
    fn remaining(&self) -> usize {
        self.remaining
    }

    fn chunk(&self) -> &[u8] {
        self.chunks.front().map_or(&[], |chunk| chunk)
    }

    fn advance(&mut self, count: usize) {
        let mut left = count.min(self.remaining);
        self.remaining -= left;
        while let Some(chunk) = self.chunks.front_mut() {
            if left < chunk.len() {
                chunk.advance(left);
                break;
            }
            left -= chunk.len();
            self.chunks.pop_front();
        }
    }

    /// Without a copy where the bytes came in one piece.
    fn copy_to_bytes(&mut self, len: usize) -> Bytes {
        let len = len.min(self.remaining);
        match self.chunks.front_mut() {
            Some(chunk) if chunk.len() > len => {
                self.remaining -= len;
                chunk.split_to(len)
            }
            _ => {
                let mut out = BytesMut::with_capacity(len);
                out.put(self.take(len));
                out.freeze()
            }
        }
    }
}

/// Cuts a response body into messages.
#[derive(Debug)]
pub struct Framer {
    buffered: Message,
    /// Length of the message whose header was read.
    expected: Option<usize>,
    max: usize,
}

impl Framer {
    /// Refuses messages of more than `max` bytes.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self { buffered: Message::default(), expected: None, max }
    }

    /// Takes in the next piece of the body.
    pub fn push(&mut self, chunk: Bytes) {
        self.buffered.push(chunk);
    }

    /// The next whole message.
    ///
    /// # Errors
    /// One line, when the message is compressed (never offered) or larger than the limit.
    pub fn next_message(&mut self) -> Result<Option<Message>, String> {
        let expected = match self.expected {
            Some(expected) => expected,
            None if self.buffered.remaining < HEADER => return Ok(None),
            None => {
                if self.buffered.get_u8() != 0 {
                    return Err("a compressed message, though no compression was offered".to_owned());
                }
                let expected = self.buffered.get_u32() as usize;
                if expected > self.max {
                    return Err(format!(
                        "a message of {expected} bytes, more than the limit of {}",
                        self.max
                    ));
                }
                *self.expected.insert(expected)
            }
        };
        if self.buffered.remaining < expected {
            return Ok(None);
        }
        self.expected = None;
        Ok(Some(self.buffered.split_to(expected)))
    }
}

/// Puts the header in front of an encoded message.
#[must_use]
pub fn frame(message: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(HEADER + message.len());
    out.put_u8(0);
    out.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    out.put_slice(message);
    out.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(mut message: Message) -> Vec<u8> {
        let len = message.len();
        message.copy_to_bytes(len).to_vec()
    }

    #[test]
    fn limits_are_kept_from_the_header_alone() {
        let mut framer = Framer::new(4);
        framer.push(Bytes::from_static(&[0, 0, 0, 0, 5]));
        assert_eq!(framer.next_message().unwrap_err(), "a message of 5 bytes, more than the limit of 4");
        let mut framer = Framer::new(4);
        framer.push(Bytes::from_static(&[1, 0, 0, 0, 0]));
        assert!(framer.next_message().unwrap_err().contains("compressed"));
    }

    proptest! {
        #[test]
        fn any_split_of_the_body_gives_the_same_messages(
            messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..6),
            cuts in prop::collection::vec(1usize..9, 1..20),
        ) {
            let body: Vec<u8> = messages.iter().flat_map(|message| frame(message).to_vec()).collect();
            let mut framer = Framer::new(64);
            let mut got = Vec::new();
            let (mut rest, mut cuts) = (&body[..], cuts.iter().cycle());
            while !rest.is_empty() {
                let (chunk, after) = rest.split_at((*cuts.next().unwrap()).min(rest.len()));
                rest = after;
                framer.push(Bytes::copy_from_slice(chunk));
                while let Some(message) = framer.next_message().unwrap() {
                    got.push(read(message));
                }
            }
            prop_assert_eq!(got, messages);
        }

        #[test]
        fn reading_in_any_steps_gives_all_bytes(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..9), 0..9),
            steps in prop::collection::vec(1usize..12, 1..20),
        ) {
            let mut message = Message::default();
            for chunk in &chunks {
                message.push(Bytes::from(chunk.clone()));
            }
            let mut got = Vec::new();
            for step in steps.iter().cycle() {
                let step = (*step).min(message.remaining());
                got.extend(message.copy_to_bytes(step));
                if !message.has_remaining() {
                    break;
                }
            }
            prop_assert_eq!(got, chunks.concat());
        }
    }
}
