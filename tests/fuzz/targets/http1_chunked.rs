//! Any bytes as a chunked body: the same data and trailers in any pieces; written again they read the same.
#![no_main]

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use libfuzzer_sys::fuzz_target;
use mizzen::protocol::http1::{BodyDecoder, BodyEncoder, Fault, Framing, Limits, Piece};

#[derive(Debug, Default, PartialEq)]
struct Body {
    data: Vec<u8>,
    trailers: HeaderMap,
    done: bool,
    fault: Option<Fault>,
    rest: usize,
}

fn read<'a>(pieces: impl Iterator<Item = &'a [u8]>, limits: &Limits) -> Body {
    let (mut decoder, mut buf, mut body) =
        (BodyDecoder::new(Framing::Chunked), BytesMut::new(), Body::default());
    for piece in pieces {
        buf.extend_from_slice(piece);
        loop {
            match decoder.decode(&mut buf, limits) {
                Ok(Some(Piece::Data(bytes))) => body.data.extend_from_slice(&bytes),
                Ok(Some(Piece::Trailers(fields))) => body.trailers = fields,
                Ok(None) => break,
                Err(fault) => {
                    body.fault = Some(fault);
                    return body;
                }
            }
        }
    }
    body.done = decoder.is_done();
    body.rest = if body.done { buf.len() } else { 0 };
    body
}

fuzz_target!(|data: &[u8]| {
    let [flags, step, stream @ ..] = data else { return };
    let head_bytes = if flags & 1 != 0 { 128 } else { 61_440 };
    let limits = Limits { head_bytes, ..Limits::default() };
    let whole = read(std::iter::once(stream), &limits);
    assert_eq!(read(stream.chunks(usize::from(*step) + 1), &limits), whole);
    if whole.done {
        let (mut out, mut encoder) = (BytesMut::new(), BodyEncoder::Chunked);
        for part in whole.data.chunks(usize::from(*step) + 1) {
            encoder.data(Bytes::copy_from_slice(part), &mut out).unwrap();
        }
        encoder.end(Some(&whole.trailers), &mut out).unwrap();
        let again = read(std::iter::once(&out[..]), &Limits::default());
        assert_eq!(again, Body { rest: 0, ..whole });
    }
});
