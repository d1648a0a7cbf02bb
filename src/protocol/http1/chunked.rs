//! The chunked coding (RFC 9112, 7.1), read strictly: sizes of hexadecimal digits only, CR LF everywhere.

use super::body::{Piece, take};
use super::fields::{parse_name, parse_value, room};
use super::scan::{self, Grammar, Lines, Slots, at};
use super::{Fault, Limits};
use bytes::{Buf, BytesMut};
use httparse::Header;
use std::mem::MaybeUninit;

/// Digits of a chunk's size: 64 bits.
const DIGITS: usize = 16;
/// Bytes of a chunk's size and extensions.
const LINE: usize = 1024;
/// Extensions mean nothing to a proxy; a body may have this many bytes of them and as many as it has data.
const EXTENSIONS: u64 = 16 * 1024;

/// Fields that must not come after the body: they say where it ends, whom it is for, or how it travels.
pub(super) const NEVER_IN_TRAILERS: [&str; 11] = [
    "connection",
    "content-length",
    "expect",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Where in a chunked body the input is.
#[derive(Debug, Default)]
pub(super) struct Chunks {
    step: Step,
    data: u64,
    extensions: u64,
    /// Of the trailers.
    seen: usize,
}

#[derive(Debug, Default)]
enum Step {
    #[default]
    Size,
    /// So many bytes are left of this chunk, never none.
    Data(u64),
    DataEnd,
    Trailers,
    Done,
}

impl Chunks {
    pub(super) fn is_done(&self) -> bool {
        matches!(self.step, Step::Done)
    }

    pub(super) fn decode(&mut self, buf: &mut BytesMut, limits: &Limits) -> Result<Option<Piece>, Fault> {
        loop {
            match self.step {
                Step::Size => {
                    let Some(size) = self.size(buf)? else { return Ok(None) };
                    self.step = if size == 0 { Step::Trailers } else { Step::Data(size) };
                }
                Step::Data(left) => {
                    let Some(data) = take(buf, left) else { return Ok(None) };
                    self.data = self.data.saturating_add(data.len() as u64);
                    self.step = match left - data.len() as u64 {
                        0 => Step::DataEnd,
                        left => Step::Data(left),
                    };
                    self.end_at_once(buf);
                    return Ok(Some(Piece::Data(data)));
                }
                Step::DataEnd => match (buf.first(), buf.get(1)) {
                    (None, _) | (Some(b'\r'), None) => return Ok(None),
                    (Some(b'\r'), Some(b'\n')) => {
                        buf.advance(2);
                        self.step = Step::Size;
                    }
                    _ => return Err(Fault::CHUNK),
                },
                Step::Trailers => return self.trailers(buf, limits),
                Step::Done => return Ok(None),
            }
        }
    }

    /// Most bodies end right after their last data; known then, the end can travel with it.
    fn end_at_once(&mut self, buf: &mut BytesMut) {
        if matches!(self.step, Step::DataEnd) && buf.starts_with(b"\r\n0\r\n\r\n") {
            buf.advance(7);
            self.step = Step::Done;
        }
    }

    /// Reads a size with its extensions.
    fn size(&mut self, buf: &mut BytesMut) -> Result<Option<u64>, Fault> {
        let window = buf.get(..buf.len().min(LINE)).unwrap_or_default();
        let Some(end) = window.iter().position(|byte| *byte == b'\n') else {
            return if buf.len() < LINE { Ok(None) } else { Err(Fault::CHUNK) };
        };
        let line = window.get(..end).and_then(|line| line.strip_suffix(b"\r")).ok_or(Fault::CHUNK)?;
        let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        let (number, extensions) = line.split_at_checked(digits).unwrap_or_default();
        if number.is_empty() || number.len() > DIGITS || !are_extensions(extensions) {
            return Err(Fault::CHUNK);
        }
        let number = std::str::from_utf8(number).map_err(|_| Fault::CHUNK)?;
        let size = u64::from_str_radix(number, 16).map_err(|_| Fault::CHUNK)?;
        self.extensions += extensions.len() as u64;
        if self.extensions > self.data.saturating_add(EXTENSIONS) {
            return Err(Fault::CHUNK);
        }
        buf.advance(end + 1);
        Ok(Some(size))
    }

    fn trailers(&mut self, buf: &mut BytesMut, limits: &Limits) -> Result<Option<Piece>, Fault> {
        if self.seen == 0 && buf.starts_with(b"\r\n") {
            buf.advance(2);
            self.step = Step::Done;
            return Ok(None);
        }
        let mut slots = Slots::new();
        let lines = scan::head::<TrailerLines>(&mut self.seen, buf, limits, false, &mut slots);
        let lines = lines.map_err(|fault| match fault {
            Fault::URI_TOO_LONG => Fault::HEADERS_TOO_LARGE,
            fault => fault,
        });
        let Some(lines) = lines? else { return Ok(None) };
        self.step = Step::Done;
        if slots.len() > limits.max_headers {
            return Err(Fault::TOO_MANY_HEADERS);
        }
        let block = buf.split_to(lines.len).freeze();
        let mut fields = room(slots.len());
        for slot in &slots {
            let name = parse_name(at(&block, slot.name))?;
            if !NEVER_IN_TRAILERS.contains(&name.as_str()) {
                let value = parse_value(&block, slot)?;
                fields.try_append(name, value).map_err(|_| Fault::TOO_MANY_HEADERS)?;
            }
        }
        Ok((!fields.is_empty()).then_some(Piece::Trailers(fields)))
    }
}

/// Nothing, or after a semicolon anything but control bytes.
fn are_extensions(text: &[u8]) -> bool {
    let visible = |byte: &u8| matches!(byte, b'\t' | b' '..=b'~' | 0x80..);
    match text.trim_ascii_start().first() {
        None => text.is_empty(),
        Some(first) => *first == b';' && text.iter().all(visible),
    }
}

struct TrailerLines;

impl Grammar for TrailerLines {
    type Line = ();

    fn parse<'b>(
        bytes: &'b [u8],
        fields: &mut [MaybeUninit<Header<'b>>],
        slots: &mut Slots,
    ) -> Result<Option<Lines<()>>, httparse::Error> {
        // The parser of bare fields takes only an array that holds something.
        let mut room = vec![httparse::EMPTY_HEADER; fields.len()];
        match httparse::parse_headers(bytes, &mut room)? {
            httparse::Status::Complete((len, fields)) => {
                scan::note(bytes, fields, slots);
                Ok(Some(Lines { line: (), len }))
            }
            httparse::Status::Partial => Ok(None),
        }
    }

    fn fault(error: httparse::Error, _: &[u8]) -> Fault {
        match error {
            httparse::Error::TooManyHeaders => Fault::TOO_MANY_HEADERS,
            _ => Fault::CHARACTERS,
        }
    }
}
