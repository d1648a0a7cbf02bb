//! The libraries that compress, behind one face.

use crate::model::Algorithm;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use std::io::{Result, Write};

/// Brotli's and zstd's states are large and are boxed.
#[expect(clippy::large_enum_variant, reason = "gzip is the common one")]
pub(super) enum Coder {
    Gzip(GzEncoder<Vec<u8>>),
    Brotli(Box<brotli::CompressorWriter<Vec<u8>>>),
    Zstd(Box<zstd::stream::write::Encoder<'static, Vec<u8>>>),
    /// It cannot be made, or has ended.
    Gone,
}

impl Coder {
    pub(super) fn new(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Gzip { level } => {
                Coder::Gzip(GzEncoder::new(Vec::new(), Compression::new(u32::from(level))))
            }
            Algorithm::Brotli { quality, window } => {
                let writer = brotli::CompressorWriter::new(Vec::new(), 4096, quality.into(), window.into());
                Coder::Brotli(Box::new(writer))
            }
            Algorithm::Zstd { level, checksum } => {
                let made = zstd::stream::write::Encoder::new(Vec::new(), i32::from(level));
                match made.and_then(|mut encoder| encoder.include_checksum(checksum).map(|()| encoder)) {
                    Ok(encoder) => Coder::Zstd(Box::new(encoder)),
                    Err(_) => Coder::Gone,
                }
            }
        }
    }

    /// Everything of `data`, flushed: the reader may be waiting for it.
    pub(super) fn write(&mut self, data: &[u8]) -> Result<Bytes> {
        fn through<W: Write>(writer: &mut W, data: &[u8]) -> Result<()> {
            writer.write_all(data)?;
            writer.flush()
        }
        let out = match self {
            Coder::Gzip(writer) => through(writer, data).map(|()| std::mem::take(writer.get_mut()))?,
            Coder::Brotli(writer) => through(writer, data).map(|()| std::mem::take(writer.get_mut()))?,
            Coder::Zstd(writer) => through(writer, data).map(|()| std::mem::take(writer.get_mut()))?,
            Coder::Gone => return Err(std::io::ErrorKind::BrokenPipe.into()),
        };
        Ok(out.into())
    }

    /// The end.
    pub(super) fn finish(&mut self) -> Result<Bytes> {
        let out = match std::mem::replace(self, Coder::Gone) {
            Coder::Gzip(writer) => writer.finish()?,
            Coder::Brotli(writer) => writer.into_inner(),
            Coder::Zstd(writer) => writer.finish()?,
            Coder::Gone => return Err(std::io::ErrorKind::BrokenPipe.into()),
        };
        Ok(out.into())
    }
}
