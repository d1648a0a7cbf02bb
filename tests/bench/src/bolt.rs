//! The few bytes of bolt v1 that a load generator and its backend need.

use bytes::{Buf as _, BytesMut};

pub const REQUEST_HEAD: usize = 22;
pub const RESPONSE_HEAD: usize = 20;

/// A two-way request with id 0: class, one `service` header, `size` bytes of content.
pub fn request(service: &str, size: usize) -> Vec<u8> {
    let class = b"com.alipay.sofa.rpc.core.request.SofaRequest";
    let mut headers = Vec::new();
    for text in ["service", service] {
        headers.extend((text.len() as u32).to_be_bytes());
        headers.extend(text.as_bytes());
    }
    let mut frame = vec![1, 1, 0, 1, 1, 0, 0, 0, 0, 1];
    frame.extend(10_000_u32.to_be_bytes());
    frame.extend((class.len() as u16).to_be_bytes());
    frame.extend((headers.len() as u16).to_be_bytes());
    frame.extend((size as u32).to_be_bytes());
    frame.extend(class);
    frame.extend(headers);
    frame.resize(frame.len() + size, b'x');
    frame
}

/// A SUCCESS response with `size` bytes of content.
pub fn response(size: usize) -> Vec<u8> {
    let class = b"com.alipay.sofa.rpc.core.response.SofaResponse";
    let mut frame = vec![1, 0, 0, 2, 1, 0, 0, 0, 0, 1, 0, 0];
    frame.extend((class.len() as u16).to_be_bytes());
    frame.extend(0_u16.to_be_bytes());
    frame.extend((size as u32).to_be_bytes());
    frame.extend(class);
    frame.resize(frame.len() + size, b'y');
    frame
}

pub fn set_id(frame: &mut [u8], id: u32) {
    frame[5..9].copy_from_slice(&id.to_be_bytes());
}

pub struct Head {
    pub id: u32,
    /// 0 in a response means SUCCESS; of a request always 0.
    pub status: u16,
    pub content: usize,
}

/// Takes one whole frame off the front of `buf`.
pub fn take(buf: &mut BytesMut) -> Option<Head> {
    let is_request = *buf.get(1)? != 0;
    let head_len = if is_request { REQUEST_HEAD } else { RESPONSE_HEAD };
    let head = buf.get(..head_len)?;
    let u16_at = |at: usize| u16::from_be_bytes([head[at], head[at + 1]]);
    let tail = head_len - 8;
    let id = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
    let content =
        u32::from_be_bytes([head[tail + 4], head[tail + 5], head[tail + 6], head[tail + 7]]) as usize;
    let whole = head_len + usize::from(u16_at(tail)) + usize::from(u16_at(tail + 2)) + content;
    let status = if is_request { 0 } else { u16_at(10) };
    if buf.len() < whole {
        return None;
    }
    buf.advance(whole);
    Some(Head { id, status, content })
}
