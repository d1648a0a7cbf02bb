//! Any bytes, in any pieces, as the answer to any request: responses come out the same however they arrive, and
//! what is written of them to a client reads the same.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use mizzen::protocol::http1::{
    Asked, BodyDecoder, BodyEncoder, Framing, Limits, Piece, ResponseDecoder, ResponseHead, ResponseTo,
    encode_response,
};

/// The head, the body so far, whether it has ended, and the fault that ended the connection.
type Seen = (Option<String>, Vec<u8>, bool, Option<String>);

fn read<'a>(pieces: impl Iterator<Item = &'a [u8]>, asked: Asked, limits: &Limits) -> Seen {
    let (mut heads, mut body, mut buf) = (ResponseDecoder::default(), None::<BodyDecoder>, BytesMut::new());
    let mut seen: Seen = (None, Vec::new(), false, None);
    for piece in pieces {
        buf.extend_from_slice(piece);
        loop {
            let more = match &mut body {
                None => heads.decode(&mut buf, asked, limits).map(|head| {
                    let Some(head) = head else { return false };
                    check(&head, asked);
                    if !head.is_interim() {
                        body = Some(BodyDecoder::new(head.framing));
                        seen.0 = Some(format!("{:?} {:?}", head.parts, head.framing));
                    }
                    true
                }),
                Some(decoder) => decoder.decode(&mut buf, limits).map(|piece| match piece {
                    Some(Piece::Data(bytes)) => {
                        seen.1.extend_from_slice(&bytes);
                        true
                    }
                    Some(Piece::Trailers(_)) => true,
                    None => false,
                }),
            };
            seen.2 = body.as_ref().is_some_and(BodyDecoder::is_done);
            match more {
                Ok(true) => {}
                Ok(false) => break,
                Err(fault) => {
                    seen.3 = Some(format!("{fault:?}"));
                    return seen;
                }
            }
        }
    }
    seen
}

/// What is written of a response reads the same, strictly, and in one piece.
fn check(head: &ResponseHead, asked: Asked) {
    let to = ResponseTo { head: asked.head, connect: asked.connect, http_10: false, keep_alive: true };
    let mut out = BytesMut::new();
    let encoder = encode_response(&head.parts, head.case.as_deref(), head.framing.into(), to, &mut out);
    let limits = Limits { head_bytes: 1 << 20, max_headers: 1000, ..Limits::default() };
    let again = ResponseDecoder::default().decode(&mut out, asked, &limits).unwrap().unwrap();
    assert!(out.is_empty(), "{}", out.escape_ascii());
    assert_eq!(again.parts.status, head.parts.status);
    assert_eq!(again.tunnel, head.tunnel);
    match encoder {
        BodyEncoder::Length(length) => assert_eq!(again.framing, Framing::Length(length)),
        BodyEncoder::Chunked => assert_eq!(again.framing, Framing::Chunked),
        BodyEncoder::Empty => assert_eq!(again.framing, Framing::Empty),
        BodyEncoder::UntilClose => assert_eq!(again.framing, Framing::UntilClose),
    }
}

fuzz_target!(|data: &[u8]| {
    let [flags, step, stream @ ..] = data else { return };
    let asked = Asked { head: flags & 1 != 0, connect: flags & 2 != 0, upgrade: flags & 4 != 0 };
    let limits = Limits { lenient: flags & 8 != 0, ..Limits::default() };
    let whole = read(std::iter::once(stream), asked, &limits);
    let pieces = read(stream.chunks(usize::from(*step) + 1), asked, &limits);
    assert_eq!(pieces, whole);
});
