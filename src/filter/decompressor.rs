//! Coded bodies made readable.

use super::body::{Body, Pipeline};
use super::chain::{Outgoing, Verdict};
use super::context::{Context, World};
use super::stats::{Counters, Group, counters};
use crate::message::{Failure, Headers, Reason};
use crate::model::{Algorithm, Decompressor};
use bytes::Bytes;
use std::io::{Result, Write};
use zstd::stream::{raw, zio};

counters! {
    NAMES:
    "decompressed" = DONE,
    "not_decompressed" = NOT_DONE,
    "total_compressed_bytes" = BEFORE,
    "total_uncompressed_bytes" = AFTER,
}
/// Bytes that are decoded before their growth is looked at.
const STEP: usize = 512;
/// Up to here a body may grow as it likes: short ones can be nothing but repetition.
const FREE: u64 = 64 * 1024;

pub(super) fn on_request(
    config: &Decompressor,
    place: usize,
    ctx: &mut Context<'_>,
    bodies: &mut Pipeline,
) -> Verdict {
    let coding = config.algorithm.coding();
    if config.request.is_on() && !ctx.ends {
        let group = group(config, place, "request.", &ctx.world);
        if take_coding(ctx.request, coding) {
            group.inc(DONE);
            bodies.push(Box::new(Decompressing::new(config, group)));
        } else {
            group.inc(NOT_DONE);
        }
    }
    if config.advertise && config.response.is_on() {
        let held = Headers::value(ctx.request, "accept-encoding").map(|value| value.into_owned());
        match held {
            Some(held) if held.split(|byte| *byte == b',').any(|one| named(one) == coding.as_bytes()) => {}
            Some(held) => ctx.request.set("accept-encoding", &[&held, &b","[..], coding.as_bytes()].concat()),
            None => ctx.request.set("accept-encoding", coding.as_bytes()),
        }
    }
    Verdict::Continue
}

pub(super) fn on_response(
    config: &Decompressor,
    place: usize,
    response: &mut Outgoing<'_>,
    world: &World<'_>,
    bodies: &mut Pipeline,
) {
    if !config.response.is_on() || response.ends {
        return;
    }
    let group = group(config, place, "response.", world);
    if take_coding(response.headers, config.algorithm.coding()) {
        group.inc(DONE);
        bodies.push(Box::new(Decompressing::new(config, group)));
    } else {
        group.inc(NOT_DONE);
    }
}

fn group(config: &Decompressor, place: usize, direction: &str, world: &World<'_>) -> Group {
    let prefix = format!("decompressor.{}.{}.{direction}", config.library, config.algorithm.word());
    world
        .stats
        .named(&format!("{place} {direction}"), false, |_| (None, Counters::new(prefix.as_str(), NAMES)))
}

fn named(one: &[u8]) -> &[u8] {
    one.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii()
}

/// Takes `coding` off the codings of a message, if it is the first of them.
fn take_coding(headers: &mut (impl Headers + ?Sized), coding: &str) -> bool {
    let Some(held) = headers.value("content-encoding").map(|value| value.into_owned()) else { return false };
    let mut codings: Vec<&[u8]> = held.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).collect();
    let transform = headers.value("cache-control").is_none_or(|value| {
        !value.split(|byte| *byte == b',').any(|one| one.trim_ascii().eq_ignore_ascii_case(b"no-transform"))
    });
    if !transform || !codings.pop().is_some_and(|last| last.eq_ignore_ascii_case(coding.as_bytes())) {
        return false;
    }
    if codings.is_empty() {
        headers.remove("content-encoding");
    } else {
        headers.set("content-encoding", &codings.join(&b", "[..]));
    }
    headers.remove("content-length");
    true
}

#[expect(clippy::large_enum_variant, reason = "gzip is the common one")]
enum Decoder {
    Gzip(flate2::write::MultiGzDecoder<Vec<u8>>),
    Brotli(Box<brotli::DecompressorWriter<Vec<u8>>>),
    Zstd(Box<zio::Writer<Vec<u8>, raw::Decoder<'static>>>),
    Gone,
}

impl Decoder {
    fn new(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Gzip { .. } => Decoder::Gzip(flate2::write::MultiGzDecoder::new(Vec::new())),
            Algorithm::Brotli { .. } => {
                Decoder::Brotli(Box::new(brotli::DecompressorWriter::new(Vec::new(), 4096)))
            }
            Algorithm::Zstd { .. } => match raw::Decoder::new() {
                Ok(decoder) => Decoder::Zstd(Box::new(zio::Writer::new(Vec::new(), decoder))),
                Err(_) => Decoder::Gone,
            },
        }
    }

    fn write(&mut self, data: &[u8], out: &mut Vec<u8>) -> Result<()> {
        match self {
            Decoder::Gzip(writer) => {
                writer.write_all(data)?;
                writer.flush()?;
                out.append(writer.get_mut());
            }
            Decoder::Brotli(writer) => {
                writer.write_all(data)?;
                writer.flush()?;
                out.append(writer.get_mut());
            }
            Decoder::Zstd(writer) => {
                writer.write_all(data)?;
                writer.flush()?;
                out.append(writer.writer_mut());
            }
            Decoder::Gone => return Err(std::io::ErrorKind::BrokenPipe.into()),
        }
        Ok(())
    }

    /// What is left. A body that ends in its middle is an error.
    fn finish(&mut self) -> Result<Vec<u8>> {
        match self {
            Decoder::Gzip(writer) => {
                writer.try_finish()?;
                Ok(std::mem::take(writer.get_mut()))
            }
            Decoder::Brotli(writer) => {
                writer.close()?;
                Ok(std::mem::take(writer.get_mut()))
            }
            Decoder::Zstd(writer) => {
                writer.finish()?;
                Ok(std::mem::take(writer.writer_mut()))
            }
            Decoder::Gone => Ok(Vec::new()),
        }
    }
}

struct Decompressing {
    decoder: Decoder,
    ratio: u64,
    taken: u64,
    given: u64,
    group: Group,
}

impl Decompressing {
    fn new(config: &Decompressor, group: Group) -> Self {
        let ratio = u64::from(config.max_ratio);
        Decompressing { decoder: Decoder::new(config.algorithm), ratio, taken: 0, given: 0, group }
    }
}

impl Body for Decompressing {
    fn data(&mut self, data: Bytes) -> std::result::Result<Bytes, Failure> {
        let bad = || Failure::after(Reason::TooLarge);
        let mut out = Vec::new();
        for part in data.chunks(STEP) {
            let before = out.len();
            self.decoder.write(part, &mut out).map_err(|_| Failure::after(Reason::BadRequest))?;
            self.taken += part.len() as u64;
            self.given += (out.len() - before) as u64;
            if self.given > FREE.max(self.taken.saturating_mul(self.ratio)) {
                return Err(bad());
            }
        }
        self.group.add(BEFORE, data.len() as u64);
        self.group.add(AFTER, out.len() as u64);
        Ok(out.into())
    }

    fn end(&mut self, _: &mut dyn Headers) -> std::result::Result<Bytes, Failure> {
        if self.taken == 0 {
            return Ok(Bytes::new());
        }
        let rest = self.decoder.finish().map_err(|_| Failure::after(Reason::BadRequest))?;
        self.group.add(AFTER, rest.len() as u64);
        Ok(rest.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::{Registry, Scope};
    use std::rc::Rc;

    fn decompressing(algorithm: Algorithm) -> Decompressing {
        let group = Registry::new().register(Scope::http("t"), Counters::new("", NAMES));
        let config = Decompressor {
            algorithm,
            library: String::new(),
            request: true.into(),
            response: true.into(),
            advertise: false,
            max_ratio: 100,
        };
        Decompressing::new(&config, Rc::new(group))
    }

    /// No trailers.
    struct Nothing;

    impl Headers for Nothing {
        fn value(&self, _: &str) -> Option<std::borrow::Cow<'_, [u8]>> {
            None
        }
        fn each(&self, _: &mut dyn FnMut(&str, &[u8])) {}
        fn set(&mut self, _: &str, _: &[u8]) {}
        fn append(&mut self, _: &str, _: &[u8]) {}
        fn remove(&mut self, _: &str) -> bool {
            false
        }
    }

    #[test]
    fn a_body_that_ends_in_its_middle_is_refused() {
        use std::io::Write as _;
        let plain = b"some text, some more text".repeat(40);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        gzip.write_all(&plain).unwrap();
        let mut brotli = brotli::CompressorWriter::new(Vec::new(), 4096, 5, 22);
        brotli.write_all(&plain).unwrap();
        for (algorithm, whole) in [
            (Algorithm::Gzip { level: 6 }, gzip.finish().unwrap()),
            (Algorithm::Brotli { quality: 5, window: 22 }, brotli.into_inner()),
            (Algorithm::Zstd { level: 3, checksum: false }, zstd::stream::encode_all(&plain[..], 3).unwrap()),
        ] {
            let read = |bytes: &[u8]| {
                let mut body = decompressing(algorithm);
                let mut got = body.data(Bytes::copy_from_slice(bytes)).unwrap().to_vec();
                body.end(&mut Nothing).map(|rest| {
                    got.extend_from_slice(&rest);
                    got
                })
            };
            assert_eq!(read(&whole).unwrap(), plain, "{algorithm:?}");
            for cut in [1, 5, whole.len() / 2, whole.len() - 1] {
                assert!(read(&whole[..cut]).is_err(), "{algorithm:?} cut at {cut}");
            }
            assert!(decompressing(algorithm).end(&mut Nothing).unwrap().is_empty(), "no body is no fault");
        }
    }

    #[test]
    fn bodies_are_read_part_by_part_and_bombs_are_not() {
        let plain = b"some text, some text".repeat(3);
        let zstd = |plain: &[u8]| zstd::stream::encode_all(plain, 3).unwrap();
        let mut body = decompressing(Algorithm::Zstd { level: 3, checksum: false });
        let mut got = Vec::new();
        for part in zstd(&plain).chunks(7) {
            got.extend_from_slice(&body.data(Bytes::copy_from_slice(part)).unwrap());
        }
        assert_eq!(got, plain);
        let bomb = zstd(&vec![0; 4 << 20]);
        let mut body = decompressing(Algorithm::Zstd { level: 3, checksum: false });
        assert!(body.data(bomb.into()).is_err());
        let mut body = decompressing(Algorithm::Gzip { level: 6 });
        assert!(body.data(Bytes::from_static(b"this is no gzip")).is_err());
    }
}
