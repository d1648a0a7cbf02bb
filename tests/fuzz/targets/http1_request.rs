//! Any bytes, in any pieces: requests and their bodies come out the same however they arrive, and what was
//! accepted is written to a backend as one request that reads the same.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use mizzen::protocol::http1::{
    BodyDecoder, BodyEncoder, Framing, Limits, Piece, RequestDecoder, RequestHead, encode_request,
};

#[derive(Debug, PartialEq)]
enum Seen {
    Head(String),
    Data(Vec<u8>),
    Trailers(String),
    End,
    Fault(String),
}

fn limits(flags: u8) -> Limits {
    Limits {
        lenient: flags & 1 != 0,
        accept_http_10: flags & 2 != 0,
        reject_fragment: flags & 4 == 0,
        head_bytes: if flags & 8 != 0 { 256 } else { 61_440 },
        ..Limits::default()
    }
}

fn drain(
    heads: &mut RequestDecoder,
    body: &mut Option<BodyDecoder>,
    buf: &mut BytesMut,
    limits: &Limits,
    seen: &mut Vec<Seen>,
) -> bool {
    loop {
        let step = match body {
            None => heads.decode(buf, limits).map(|head| {
                let head = head?;
                check(&head);
                *body = Some(BodyDecoder::new(head.framing));
                Some(Seen::Head(format!("{:?} {:?}", head.parts, head.framing)))
            }),
            Some(decoder) if decoder.is_done() => {
                *body = None;
                Ok(Some(Seen::End))
            }
            Some(decoder) => decoder.decode(buf, limits).map(|piece| match piece {
                Some(Piece::Data(bytes)) => Some(Seen::Data(bytes.to_vec())),
                Some(Piece::Trailers(fields)) => Some(Seen::Trailers(format!("{fields:?}"))),
                None => decoder.is_done().then(|| Seen::Data(Vec::new())),
            }),
        };
        match step {
            Ok(None) => return true,
            Ok(Some(Seen::Data(more))) => match seen.last_mut() {
                Some(Seen::Data(data)) => data.extend_from_slice(&more),
                _ if more.is_empty() => {}
                _ => seen.push(Seen::Data(more)),
            },
            Ok(Some(step)) => seen.push(step),
            Err(fault) => {
                seen.push(Seen::Fault(format!("{fault:?}")));
                return false;
            }
        }
    }
}

/// What is written of a request reads the same, strictly, and in one piece.
fn check(head: &RequestHead) {
    let mut out = BytesMut::new();
    let encoder =
        encode_request(&head.parts, head.case.as_deref(), head.framing.into(), head.upgrade, false, &mut out);
    if head.parts.uri.authority().is_none() {
        return;
    }
    let limits = Limits {
        head_bytes: 1 << 20,
        max_headers: 1000,
        tls: head.parts.uri.scheme_str() == Some("https"),
        ..Limits::default()
    };
    let again = RequestDecoder::default().decode(&mut out, &limits).unwrap().unwrap();
    assert!(out.is_empty(), "{}", out.escape_ascii());
    assert_eq!(again.parts.method, head.parts.method);
    assert_eq!(again.parts.uri, head.parts.uri);
    assert_eq!(again.upgrade, head.upgrade);
    let mut fields = head.parts.headers.clone();
    match encoder {
        BodyEncoder::Length(length) => {
            assert_eq!(again.framing, Framing::Length(length));
            fields.insert("content-length", length.into());
        }
        BodyEncoder::Chunked => assert_eq!(again.framing, Framing::Chunked),
        BodyEncoder::Empty | BodyEncoder::UntilClose => {
            assert!(matches!(again.framing, Framing::Empty));
            fields.remove("content-length");
        }
    }
    assert_eq!(again.parts.headers, fields);
}

fuzz_target!(|data: &[u8]| {
    let [flags, step, stream @ ..] = data else { return };
    let limits = limits(*flags);
    let (mut whole, mut pieces) = (Vec::new(), Vec::new());
    drain(&mut RequestDecoder::default(), &mut None, &mut BytesMut::from(stream), &limits, &mut whole);
    let (mut heads, mut body, mut buf) = (RequestDecoder::default(), None, BytesMut::new());
    for piece in stream.chunks(usize::from(*step) + 1) {
        buf.extend_from_slice(piece);
        if !drain(&mut heads, &mut body, &mut buf, &limits, &mut pieces) {
            break;
        }
    }
    assert_eq!(pieces, whole);
});
