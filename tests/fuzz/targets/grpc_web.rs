//! Any bytes as gRPC-Web text: the same calls in any pieces, and messages written as text read the same.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use mizzen::filter::{Body, GrpcWebDecode, GrpcWebEncode};
use mizzen::util::base64;

fn read<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Option<Vec<u8>> {
    let (mut decode, mut all) = (GrpcWebDecode::default(), Vec::new());
    for piece in pieces {
        all.extend_from_slice(&decode.data(Bytes::copy_from_slice(piece)).ok()?);
    }
    Some(all)
}

fuzz_target!(|data: &[u8]| {
    let Some((size, rest)) = data.split_first() else { return };
    let size = usize::from(*size).max(1);
    // Text that is good stays good however it is cut, and is the same.
    if let Some(whole) = read([rest].into_iter())
        && let Some(parts) = read(rest.chunks(size))
    {
        assert_eq!(whole, parts);
    }
    // A message and what follows it, as text: groups of three at least, each readable by itself.
    let mut frame = vec![0];
    frame.extend_from_slice(&(rest.len() as u32).to_be_bytes());
    frame.extend_from_slice(rest);
    let mut encode = GrpcWebEncode::default();
    let mut text = Vec::new();
    for part in frame.chunks(size) {
        let piece = encode.data(part);
        assert_eq!(piece.len() % 4, 0);
        text.extend_from_slice(&piece);
    }
    assert_eq!(base64::decode(&text), Some(frame));
});
