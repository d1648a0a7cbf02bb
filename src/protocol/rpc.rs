//! RPC frames as the proxy sees them: whole, moved, and never re-encoded unless their headers change.
//!
//! Owns framing and header access for request/response RPC protocols (today bolt v1). Takes in a connection's
//! read buffer; gives out [`Frame`]s that are slices of it.
//!
//! Memory: the frames of one read share one allocation with the read buffer, which lives until the last of
//! them is dropped. A connection that falls idle should therefore replace an empty buffer that has grown
//! (`*buf = BytesMut::new()`), and whoever stores a frame for long should copy it.

use crate::message;
pub use crate::protocol::bolt::headers::HeaderIter;
use crate::protocol::bolt::{self, headers};
use bytes::{Bytes, BytesMut};
use std::borrow::Cow;

#[cfg(test)]
mod tests;

/// What a frame is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A call that expects a response.
    Request,
    /// A call that expects none.
    Oneway,
    /// The answer to a call.
    Response,
    /// "Are you there?", answered by the proxy itself.
    Heartbeat,
    /// The answer to a heartbeat.
    HeartbeatAck,
    /// The sender takes no new calls on this connection.
    GoAway,
}

/// One whole, well-formed frame: the bytes as they came, and where the parts are.
#[derive(Debug)]
pub struct Frame {
    bytes: BytesMut,
    head: bolt::Head,
}

impl Frame {
    /// Puts together what the encoder has just written; `head` must describe `bytes`.
    pub(in crate::protocol) fn assemble(bytes: BytesMut, head: bolt::Head) -> Self {
        Frame { bytes, head }
    }

    /// The same frame in storage of its own, to be sent again.
    pub fn copy(&self) -> Frame {
        Frame { bytes: BytesMut::from(&*self.bytes), head: self.head }
    }

    /// What stands in for a frame that was given away.
    pub fn spent() -> Frame {
        Frame { bytes: BytesMut::new(), head: bolt::Head::REQUEST }
    }

    /// What the frame is for.
    pub fn kind(&self) -> Kind {
        self.head.kind()
    }

    /// The id that pairs a response with its request on one connection.
    pub fn request_id(&self) -> u32 {
        self.head.request_id
    }

    /// Writes another request id into the frame's own bytes.
    pub fn set_request_id(&mut self, id: u32) {
        self.head.request_id = id;
        if let Some(slot) = self.bytes.get_mut(bolt::wire::REQUEST_ID) {
            slot.copy_from_slice(&id.to_be_bytes());
        }
    }

    /// The caller's timeout in milliseconds; 0 or negative: none given (always 0 in a response).
    pub fn timeout_ms(&self) -> i32 {
        self.head.timeout_ms
    }

    /// The response's status code, see [`bolt::Status`]; 0 in a request.
    pub fn status(&self) -> u16 {
        self.head.status
    }

    /// The fixed header.
    pub fn head(&self) -> &bolt::Head {
        &self.head
    }

    /// Class name of the content, as sent (normally UTF-8).
    pub fn class(&self) -> &[u8] {
        self.bytes.get(self.head.class_range()).unwrap_or_default()
    }

    /// The header pairs in wire order, duplicates and nulls included.
    pub fn headers(&self) -> HeaderIter<'_> {
        HeaderIter::new(self.header_block())
    }

    /// The encoded header pairs.
    pub fn header_block(&self) -> &[u8] {
        self.bytes.get(self.head.header_range()).unwrap_or_default()
    }

    /// The payload, opaque here.
    pub fn content(&self) -> &[u8] {
        self.bytes.get(self.head.content_range()).unwrap_or_default()
    }

    /// The first value under exactly this key; `None` also for a null value.
    pub fn header(&self, key: &[u8]) -> Option<&[u8]> {
        self.headers().find(|(k, _)| *k == Some(key)).and_then(|(_, value)| value)
    }

    /// Whether the service tells of an error of its own under the status of success, as SOFA's do.
    pub fn is_application_error(&self) -> bool {
        self.head.status == 0 && self.header(b"sofa_head_response_error") == Some(b"true")
    }

    /// Length on the wire in bytes.
    #[expect(clippy::len_without_is_empty, reason = "a frame is never empty")]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The bytes to send; nothing is copied.
    pub fn into_bytes(self) -> Bytes {
        self.bytes.freeze()
    }

    /// The bytes to send in the storage they came in, where frames that lie side by side can be joined.
    pub fn into_storage(self) -> BytesMut {
        self.bytes
    }

    /// The same frame with its header block rewritten; everything else is carried over byte for byte.
    ///
    /// # Errors
    /// The new block does not fit its 16-bit length.
    pub fn edit_headers<'a>(
        &'a self,
        edits: impl IntoIterator<Item = HeaderEdit<'a>>,
    ) -> Result<Frame, HeaderOverflow> {
        let pairs = headers::apply(self.headers(), edits);
        bolt::encode(self.head, self.class(), pairs.iter().copied(), self.content())
    }

    /// The same frame with other content.
    ///
    /// # Errors
    /// The content does not fit its length.
    pub fn with_content(&self, content: &[u8]) -> Result<Frame, HeaderOverflow> {
        bolt::encode(self.head, self.class(), self.headers(), content)
    }
}

impl message::Head for Frame {
    fn authority(&self) -> Option<&[u8]> {
        None
    }

    fn path_and_query(&self) -> Option<&[u8]> {
        None
    }

    fn method(&self) -> Option<&[u8]> {
        None
    }

    fn header(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        let mut values = self
            .headers()
            .filter(|(key, _)| *key == Some(name.as_bytes()))
            .map(|(_, v)| v.unwrap_or_default());
        let first = values.next()?;
        let mut joined = Cow::Borrowed(first);
        for value in values {
            let all = joined.to_mut();
            all.push(b',');
            all.extend_from_slice(value);
        }
        Some(joined)
    }

    fn is_grpc(&self) -> bool {
        false
    }
}

/// One change to a frame's headers. Keys are compared byte for byte.
#[derive(Clone, Copy, Debug)]
pub enum HeaderEdit<'a> {
    /// Drops every pair with this key.
    Remove(&'a [u8]),
    /// Adds a further pair at the end.
    Append(&'a [u8], &'a [u8]),
    /// Adds a pair at the end unless the key is there.
    AddIfAbsent(&'a [u8], &'a [u8]),
    /// Puts the value in the first pair with this key and drops the others, or adds a pair at the end.
    Set(&'a [u8], &'a [u8]),
    /// As `Set`, but only if the key is there.
    ReplaceIfPresent(&'a [u8], &'a [u8]),
}

/// A part of a frame that is larger than its length field can say. Never truncated instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{part} of {len} bytes does not fit the frame (at most {max})")]
pub struct HeaderOverflow {
    /// `class`, `header block` or `content`.
    pub part: &'static str,
    /// Its length in bytes.
    pub len: usize,
    /// What the format can carry.
    pub max: usize,
}

/// Why bytes are not a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The byte stream cannot be followed any further: answer what came before, then close the connection.
    #[error("{reason}")]
    Fatal {
        /// What is wrong with it.
        reason: Malformed,
    },
    /// The frame's outer lengths hold but its header block contradicts itself. The frame has been taken out
    /// of the buffer and the connection is healthy.
    #[error("header block of request {request_id} contradicts its own length")]
    BadHeaderBlock {
        /// Id in the frame.
        request_id: u32,
        /// What the frame was for.
        kind: Kind,
    },
}

impl DecodeError {
    /// The request id that is owed a [`bolt::Status::CodecException`]; `None`: nobody waits for an answer.
    pub fn reply_to(&self) -> Option<u32> {
        match *self {
            DecodeError::BadHeaderBlock { request_id, kind: Kind::Request } => Some(request_id),
            DecodeError::Fatal { reason: Malformed::TooLarge { request_id, kind: Kind::Request, .. } } => {
                Some(request_id)
            }
            _ => None,
        }
    }
}

/// What makes a byte stream unreadable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The first byte names no protocol known here.
    #[error("first byte {0:#04x} is not bolt")]
    Protocol(u8),
    /// The first byte names bolt v2.
    #[error("bolt v2 frame on a bolt v1 connection")]
    BoltV2,
    /// The second byte names no frame type.
    #[error("bolt frame type {0:#04x} is not known")]
    Type(u8),
    /// The frame is larger than the limit; told by its header alone.
    #[error("frame of {len} bytes is over the limit of {limit}")]
    TooLarge {
        /// Whole frame in bytes.
        len: u64,
        /// The limit in bytes.
        limit: usize,
        /// Id in the header.
        request_id: u32,
        /// What the frame is for.
        kind: Kind,
    },
}

/// Cuts a byte stream into frames.
#[derive(Debug)]
pub struct Decoder {
    limit: usize,
    need: usize,
}

impl Default for Decoder {
    fn default() -> Self {
        Decoder::new(Decoder::DEFAULT_LIMIT)
    }
}

impl Decoder {
    /// Largest frame by default: 16 MiB.
    pub const DEFAULT_LIMIT: usize = 16 << 20;

    /// `limit`: largest whole frame in bytes.
    pub fn new(limit: usize) -> Self {
        Decoder { limit, need: 0 }
    }

    /// Takes the next frame out of `buf`; `None`: it is not whole yet, see [`Decoder::need`].
    ///
    /// An unfinished frame is looked at again only as far as its fixed header, so the cost of a large frame
    /// is linear in its size however it arrives.
    ///
    /// # Errors
    /// See [`DecodeError`]; `buf` still holds the offending bytes after a fatal one.
    pub fn decode(&mut self, buf: &mut BytesMut) -> Result<Option<Frame>, DecodeError> {
        self.need = 0;
        let head = match bolt::Head::parse(buf).map_err(|reason| DecodeError::Fatal { reason })? {
            bolt::wire::Parsed::Whole(head) => head,
            bolt::wire::Parsed::Need(bytes) => {
                self.need = if buf.is_empty() { 0 } else { bytes };
                return Ok(None);
            }
        };
        let len = head.frame_len();
        if len > self.limit as u64 {
            let (request_id, kind) = (head.request_id, head.kind());
            let reason = Malformed::TooLarge { len, limit: self.limit, request_id, kind };
            return Err(DecodeError::Fatal { reason });
        }
        let len = len as usize;
        if buf.len() < len {
            self.need = len - buf.len();
            return Ok(None);
        }
        let frame = Frame { bytes: buf.split_to(len), head };
        if headers::is_well_formed(frame.header_block()) {
            return Ok(Some(frame));
        }
        Err(DecodeError::BadHeaderBlock { request_id: head.request_id, kind: head.kind() })
    }

    /// Bytes still missing from the unfinished frame at the front of the buffer, at least; 0 when none has
    /// begun. Reserving them at once spares a large frame its reallocations; they count against the
    /// connection's budget for unfinished frames.
    pub fn need(&self) -> usize {
        self.need
    }
}
