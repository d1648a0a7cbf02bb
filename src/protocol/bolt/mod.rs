//! bolt v1, the remoting format of SOFA RPC.
//!
//! Owns the wire layout (`wire.rs`), the header block ([`headers`]) and the status codes. Takes in the parts of
//! a message; gives out frames for [`crate::protocol::rpc`], whose `Decoder` reads them back.

pub mod headers;
mod status;
pub(in crate::protocol) mod wire;

pub use headers::Pair;
pub use status::Status;
pub use wire::Head;

use crate::protocol::rpc::{Frame, HeaderOverflow};
use bytes::{Buf, BufMut, Bytes, BytesMut};

/// A call. `timeout_ms`: −1 = none.
///
/// # Errors
/// A part does not fit its length field.
pub fn request<'a>(
    id: u32,
    class: &[u8],
    headers: impl IntoIterator<Item = (&'a [u8], &'a [u8])>,
    content: impl Buf,
    timeout_ms: i32,
) -> Result<Frame, HeaderOverflow> {
    let head = Head { request_id: id, timeout_ms, ..Head::REQUEST };
    encode(head, class, headers.into_iter().map(|(k, v)| (Some(k), Some(v))), content)
}

/// An answer with content.
///
/// # Errors
/// A part does not fit its length field.
pub fn response<'a>(
    id: u32,
    status: Status,
    class: &[u8],
    headers: impl IntoIterator<Item = (&'a [u8], &'a [u8])>,
    content: impl Buf,
) -> Result<Frame, HeaderOverflow> {
    let head = Head { request_id: id, status: status.code(), ..Head::RESPONSE };
    encode(head, class, headers.into_iter().map(|(k, v)| (Some(k), Some(v))), content)
}

/// The bare answer the proxy gives itself: no class, no headers, no content.
pub fn reply(request_id: u32, status: Status) -> Bytes {
    bare(Head { request_id, status: status.code(), ..Head::RESPONSE })
}

/// A heartbeat; ids are drawn from the same counter as those of calls.
pub fn heartbeat(request_id: u32) -> Bytes {
    bare(Head { request_id, cmd_code: wire::CMD_HEARTBEAT, ..Head::REQUEST })
}

/// The answer to a heartbeat.
pub fn heartbeat_ack(heartbeat: &Frame) -> Bytes {
    let request_id = heartbeat.request_id();
    bare(Head { request_id, cmd_code: wire::CMD_HEARTBEAT, ..Head::RESPONSE })
}

/// "No new calls on this connection, please." Java clients do not know it and raise an error.
pub fn goaway(request_id: u32) -> Bytes {
    bare(Head { request_id, cmd_code: wire::CMD_GOAWAY, timeout_ms: 0, ..Head::REQUEST })
}

fn bare(head: Head) -> Bytes {
    let mut out = BytesMut::with_capacity(wire::REQUEST_LEN);
    head.write(&mut out);
    out.freeze()
}

/// Writes a whole frame. The lengths in `head` are replaced by those of the parts.
///
/// # Errors
/// A part does not fit its length field.
pub fn encode<'a>(
    head: Head,
    class: &[u8],
    pairs: impl IntoIterator<Item = Pair<'a>>,
    content: impl Buf,
) -> Result<Frame, HeaderOverflow> {
    encode_with(head, class, content, |out| {
        for pair in pairs {
            headers::put_pair(out, pair);
        }
    })
}

/// As [`encode`], with the header block written by `block`, which must append whole pairs.
pub(in crate::protocol) fn encode_with(
    mut head: Head,
    class: &[u8],
    mut content: impl Buf,
    block: impl FnOnce(&mut BytesMut),
) -> Result<Frame, HeaderOverflow> {
    /// Room for a typical header block, so that most frames are written without growing.
    const USUAL_BLOCK: usize = 512;

    head.class_len = fit("class", class.len(), u16::MAX.into())? as u16;
    head.content_len = fit("content", content.remaining(), u32::MAX as usize)? as u32;
    let fixed = head.fixed_len();
    let mut out = BytesMut::with_capacity(fixed + class.len() + USUAL_BLOCK + content.remaining());
    out.put_bytes(0, fixed);
    out.put_slice(class);
    let start = out.len();
    block(&mut out);
    head.header_len = fit("header block", out.len() - start, headers::MAX_BLOCK)? as u16;
    out.put(&mut content);
    if let Some(mut front) = out.get_mut(..fixed) {
        head.write(&mut front);
    }
    Ok(Frame::assemble(out, head))
}

fn fit(part: &'static str, len: usize, max: usize) -> Result<usize, HeaderOverflow> {
    if len > max { Err(HeaderOverflow { part, len, max }) } else { Ok(len) }
}
