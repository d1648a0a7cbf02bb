//! Bodies, as they come.

use super::chunked::Chunks;
use super::{Fault, Framing, Limits};
use bytes::{Bytes, BytesMut};
use http::HeaderMap;

/// A part of a body.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece {
    /// Bytes, never none; a slice of the input.
    Data(Bytes),
    /// The last piece of a chunked body that has trailers.
    Trailers(HeaderMap),
}

/// Reads one body.
#[derive(Debug)]
pub struct BodyDecoder(State);

#[derive(Debug)]
enum State {
    /// So many bytes are left, never none.
    Length(u64),
    Chunked(Chunks),
    UntilClose,
    Done,
}

impl BodyDecoder {
    /// Of a body that ends where `framing` says.
    pub fn new(framing: Framing) -> Self {
        BodyDecoder(match framing {
            Framing::Empty | Framing::Length(0) => State::Done,
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::Chunked(Chunks::default()),
            Framing::UntilClose => State::UntilClose,
        })
    }

    /// Whether the body has ended.
    pub fn is_done(&self) -> bool {
        matches!(self.0, State::Done)
    }

    /// Bytes left of a body of known length.
    pub fn remaining(&self) -> Option<u64> {
        match self.0 {
            State::Length(left) => Some(left),
            State::Done => Some(0),
            State::Chunked(_) | State::UntilClose => None,
        }
    }

    /// Takes the next piece off the front of `buf`. `Ok(None)`: the body has ended, or more bytes are needed.
    ///
    /// # Errors
    /// The body cannot be read on; what came of it so far must not pass for all of it.
    pub fn decode(&mut self, buf: &mut BytesMut, limits: &Limits) -> Result<Option<Piece>, Fault> {
        let piece = match &mut self.0 {
            State::Done => None,
            State::Length(left) => {
                let data = take(buf, *left);
                *left -= data.as_ref().map_or(0, |data| data.len() as u64);
                if *left == 0 {
                    self.0 = State::Done;
                }
                data.map(Piece::Data)
            }
            State::UntilClose => take(buf, u64::MAX).map(Piece::Data),
            State::Chunked(chunks) => {
                let piece = chunks.decode(buf, limits)?;
                if chunks.is_done() {
                    self.0 = State::Done;
                }
                piece
            }
        };
        Ok(piece)
    }

    /// The peer sends no more.
    ///
    /// # Errors
    /// The body had not ended.
    pub fn on_end_of_input(&mut self) -> Result<(), Fault> {
        match self.0 {
            State::Done => Ok(()),
            State::UntilClose => {
                self.0 = State::Done;
                Ok(())
            }
            State::Length(_) | State::Chunked(_) => Err(Fault::CUT_SHORT),
        }
    }
}

/// Up to `limit` bytes; `None` if there are none.
pub(super) fn take(buf: &mut BytesMut, limit: u64) -> Option<Bytes> {
    let size = buf.len().min(usize::try_from(limit).unwrap_or(usize::MAX));
    (size > 0).then(|| buf.split_to(size).freeze())
}
