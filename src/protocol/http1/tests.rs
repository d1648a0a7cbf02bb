//! What is accepted, what is refused, and what comes of it.

mod bodies;
mod encode;
mod properties;
mod requests;
mod responses;

use super::*;
use bytes::BytesMut;

/// The first request of `text`.
fn request(text: &[u8], limits: &Limits) -> Result<Option<RequestHead>, Fault> {
    RequestDecoder::default().decode(&mut BytesMut::from(text), limits)
}

fn accepted(text: &[u8], limits: &Limits) -> RequestHead {
    match request(text, limits) {
        Ok(Some(head)) => head,
        other => panic!("{}: {other:?}", text.escape_ascii()),
    }
}

fn refused(text: &[u8], limits: &Limits) -> Fault {
    match request(text, limits) {
        Err(fault) => fault,
        other => panic!("{}: {other:?}", text.escape_ascii()),
    }
}

fn text(out: &BytesMut) -> &str {
    std::str::from_utf8(out).unwrap()
}
