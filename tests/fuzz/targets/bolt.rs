//! Any bytes, in any pieces: the decoder never panics, gives the same frames however they arrive, and what it
//! gives encodes to the bytes it took.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use mizzen::protocol::bolt;
use mizzen::protocol::rpc::{DecodeError, Decoder, Frame, HeaderEdit};

const LIMIT: usize = 1 << 20;

fn drain(decoder: &mut Decoder, buf: &mut BytesMut, seen: &mut Vec<Result<Vec<u8>, DecodeError>>) -> bool {
    loop {
        match decoder.decode(buf) {
            Ok(Some(frame)) => seen.push(Ok(check(frame))),
            Ok(None) => return true,
            Err(error) => {
                seen.push(Err(error));
                if let DecodeError::Fatal { .. } = error {
                    return false;
                }
            }
        }
    }
}

fn check(mut frame: Frame) -> Vec<u8> {
    let again = bolt::encode(*frame.head(), frame.class(), frame.headers(), frame.content()).unwrap();
    let id = frame.request_id();
    frame.set_request_id(!id);
    frame.set_request_id(id);
    if let Ok(edited) = frame.edit_headers([HeaderEdit::Set(b"fuzz", b"1")]) {
        assert_eq!(edited.header(b"fuzz"), Some(&b"1"[..]));
        assert_eq!(edited.content(), frame.content());
    }
    let bytes = frame.into_bytes();
    assert_eq!(again.into_bytes(), bytes);
    bytes.to_vec()
}

fuzz_target!(|data: &[u8]| {
    let Some((&step, stream)) = data.split_first() else { return };
    let mut whole = Vec::new();
    drain(&mut Decoder::new(LIMIT), &mut BytesMut::from(stream), &mut whole);

    let mut pieces = Vec::new();
    let (mut decoder, mut buf) = (Decoder::new(LIMIT), BytesMut::new());
    for piece in stream.chunks(usize::from(step) + 1) {
        buf.extend_from_slice(piece);
        if !drain(&mut decoder, &mut buf, &mut pieces) {
            break;
        }
    }
    assert_eq!(pieces, whole);
});
