//! gRPC-Web: the same calls for clients without trailers, as bytes or as text.

use super::body::{Body, Pipeline};
use super::chain::{Outgoing, State as Held, Verdict};
use super::context::Context;
use super::grpc_stats::Frames;
use crate::message::{Failure, Headers, Reason};
use crate::util::base64;
use bytes::{BufMut, Bytes, BytesMut};

/// How the client is answered.
pub(super) struct State {
    text: bool,
}

const TEXT: &[&[u8]] = &[b"application/grpc-web-text", b"application/grpc-web-text+proto"];
const BINARY: &[&[u8]] = &[b"application/grpc-web", b"application/grpc-web+proto"];

pub(super) fn on_request(held: &mut Held, ctx: &mut Context<'_>, bodies: &mut Pipeline) -> Verdict {
    let Some(kind) = ctx.request.header("content-type") else { return Verdict::Continue };
    let text = TEXT.contains(&&*kind);
    if !text && !BINARY.contains(&&*kind) {
        return Verdict::Continue;
    }
    let takes_text = ctx.request.header("accept").is_some_and(|accept| TEXT.contains(&&*accept));
    *held = Held::GrpcWeb(State { text: takes_text });
    ctx.request.remove("content-length");
    ctx.request.set("content-type", b"application/grpc");
    ctx.request.set("te", b"trailers");
    ctx.request.set("grpc-accept-encoding", b"identity,deflate,gzip");
    if text {
        bodies.push(Box::new(Decode::default()));
    }
    Verdict::Continue
}

pub(super) fn on_response(held: &Held, response: &mut Outgoing<'_>, bodies: &mut Pipeline) {
    let Held::GrpcWeb(state) = held else { return };
    let is_grpc =
        response.headers.value("content-type").is_some_and(|kind| kind.starts_with(b"application/grpc"));
    if !is_grpc {
        return;
    }
    let kind: &[u8] =
        if state.text { b"application/grpc-web-text+proto" } else { b"application/grpc-web+proto" };
    response.headers.set("content-type", kind);
    if !response.ends {
        response.headers.remove("content-length");
        let encode = state.text.then(Encode::default);
        bodies.push(Box::new(Trailers { encode }));
    }
}

/// Text to bytes; keeps what is not four digits yet.
#[derive(Default)]
pub struct Decode(Vec<u8>);

impl Body for Decode {
    fn data(&mut self, data: Bytes) -> Result<Bytes, Failure> {
        self.0.extend_from_slice(&data);
        let whole = self.0.len() / 4 * 4;
        let rest = self.0.split_off(whole);
        let text = std::mem::replace(&mut self.0, rest);
        base64::decode(&text).map(Bytes::from).ok_or(Failure::before(Reason::BadRequest))
    }

    fn end(&mut self, _: &mut dyn Headers) -> Result<Bytes, Failure> {
        if self.0.is_empty() { Ok(Bytes::new()) } else { Err(Failure::before(Reason::BadRequest)) }
    }
}

/// Bytes to text. A message is padded at its end, so that a reader gets it whole at once.
#[derive(Default)]
pub struct Encode {
    frames: Frames,
    /// Fewer than three bytes.
    kept: Vec<u8>,
}

impl Encode {
    /// The text of what came so far.
    pub fn data(&mut self, data: &[u8]) -> Bytes {
        self.frames.count(data);
        self.kept.extend_from_slice(data);
        // What ends in the middle of a message waits for its group of three; a client could not use it yet.
        let whole = if self.frames.at_start() { self.kept.len() } else { self.kept.len() / 3 * 3 };
        let rest = self.kept.split_off(whole);
        let bytes = std::mem::replace(&mut self.kept, rest);
        let mut out = Vec::with_capacity(whole.div_ceil(3) * 4);
        base64::encode(&bytes, &mut out);
        out.into()
    }
}

/// Trailers become the last message.
struct Trailers {
    encode: Option<Encode>,
}

impl Body for Trailers {
    fn data(&mut self, data: Bytes) -> Result<Bytes, Failure> {
        Ok(match &mut self.encode {
            Some(encode) => encode.data(&data),
            None => data,
        })
    }

    fn end(&mut self, trailers: &mut dyn Headers) -> Result<Bytes, Failure> {
        let mut text = BytesMut::new();
        let mut names = Vec::new();
        trailers.each(&mut |name, value| {
            text.put_slice(name.to_ascii_lowercase().as_bytes());
            text.put_slice(b":");
            text.put_slice(value);
            text.put_slice(b"\r\n");
            names.push(name.to_owned());
        });
        for name in &names {
            trailers.remove(name);
        }
        if names.is_empty() {
            return Ok(Bytes::new());
        }
        let mut frame = BytesMut::with_capacity(5 + text.len());
        frame.put_u8(0x80);
        frame.put_u32(u32::try_from(text.len()).unwrap_or(u32::MAX));
        frame.extend_from_slice(&text);
        Ok(match &mut self.encode {
            Some(encode) => encode.data(&frame),
            None => frame.freeze(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message(bytes: &[u8]) -> Vec<u8> {
        let mut frame = vec![0];
        frame.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
        frame.extend_from_slice(bytes);
        frame
    }

    proptest! {
        #[test]
        fn text_is_read_however_it_is_cut(
            bytes in proptest::collection::vec(any::<u8>(), 0..300),
            cuts in proptest::collection::vec(1usize..9, 1..100),
        ) {
            let mut text = Vec::new();
            base64::encode(&bytes, &mut text);
            let (mut decode, mut got, mut rest) = (Decode::default(), Vec::new(), text.as_slice());
            let mut cuts = cuts.iter().cycle();
            while !rest.is_empty() {
                let (part, after) = rest.split_at((*cuts.next().unwrap()).min(rest.len()));
                got.extend_from_slice(&decode.data(Bytes::copy_from_slice(part)).unwrap());
                rest = after;
            }
            prop_assert_eq!(got, bytes);
            prop_assert!(decode.0.is_empty());
        }

        #[test]
        fn no_text_breaks_the_decoder(text in proptest::collection::vec(any::<u8>(), 0..200), cut in 0usize..200) {
            let (first, second) = text.split_at(cut.min(text.len()));
            let mut decode = Decode::default();
            let _ = decode.data(Bytes::copy_from_slice(first));
            let _ = decode.data(Bytes::copy_from_slice(second));
            prop_assert!(decode.0.len() < 4);
        }

        #[test]
        fn each_message_is_whole_text_by_itself(
            messages in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 1..6),
            cut in 1usize..30,
        ) {
            let mut encode = Encode::default();
            let mut all = Vec::new();
            for bytes in &messages {
                let frame = message(bytes);
                let mut text = Vec::new();
                for part in frame.chunks(cut) {
                    text.extend_from_slice(&encode.data(part));
                }
                prop_assert_eq!(base64::decode(&text), Some(frame.clone()));
                all.extend_from_slice(&frame);
            }
        }
    }
}
