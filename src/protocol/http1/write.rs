//! The fields of heads that are written.

use super::{BodyEncoder, NameCase};
use bytes::{BufMut, BytesMut};
use http::HeaderMap;
use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING};
use std::ops::Range;

/// Writes the fields of one head.
pub(super) struct FieldWriter<'a> {
    pub(super) case: Option<&'a NameCase>,
    pub(super) out: &'a mut BytesMut,
    /// Announced length that is not written yet.
    pub(super) length: Option<u64>,
}

impl FieldWriter<'_> {
    /// A field of ours, spelled as the message did.
    pub(super) fn put(&mut self, name: &str, value: &[u8]) {
        let written = self.case.and_then(|case| case.find(name, 0));
        put_field(self.out, written.unwrap_or(name.as_bytes()), value);
    }

    /// The fields that travel. `told`: a length among them is passed on where none is announced.
    pub(super) fn put_all(&mut self, fields: &HeaderMap, upgrade: bool, told: bool) {
        let (mut last, mut nth) = (None, 0);
        // Lines that stand side by side in the head they came with are copied in one piece.
        let mut lines = 0..0;
        for (name, value) in fields {
            // Values of one name come with the same reference to it.
            nth = if last.is_some_and(|last| std::ptr::eq(last, name)) { nth + 1 } else { 0 };
            last = Some(name);
            let text = name.as_str();
            match hop(text) {
                Hop::Never => continue,
                Hop::Upgrade if !upgrade => continue,
                // As it came, if it is right.
                Hop::Length
                    if nth == 0 && self.length.is_some_and(|length| says(value.as_bytes(), length)) =>
                {
                    self.length = None;
                }
                Hop::Length => {
                    self.put_lines(&mut lines);
                    match self.length.take() {
                        Some(length) => self.put_length(length),
                        None if told && nth == 0 => self.put(text, value.as_bytes()),
                        None => {}
                    }
                    continue;
                }
                Hop::Upgrade | Hop::No => {}
            }
            if let Some(line) = self.case.and_then(|case| case.line(text, value.as_bytes())) {
                if line.start != lines.end {
                    self.put_lines(&mut lines);
                    lines.start = line.start;
                }
                lines.end = line.end;
                continue;
            }
            self.put_lines(&mut lines);
            let written = self.case.and_then(|case| case.find(text, nth));
            put_field(self.out, written.unwrap_or(text.as_bytes()), value.as_bytes());
        }
        self.put_lines(&mut lines);
    }

    /// Writes lines that wait to be, as they came.
    fn put_lines(&mut self, lines: &mut Range<usize>) {
        if let Some(case) = self.case.filter(|_| lines.start < lines.end) {
            self.out.put_slice(case.lines(std::mem::take(lines)));
        }
    }

    fn put_length(&mut self, length: u64) {
        let written = self.case.and_then(|case| case.find(CONTENT_LENGTH.as_str(), 0));
        self.out.put_slice(written.unwrap_or(CONTENT_LENGTH.as_str().as_bytes()));
        self.out.put_slice(b": ");
        put_number(self.out, length, 10, b"\r\n");
    }

    /// What the body and the connection need.
    pub(super) fn finish(
        mut self,
        body: &BodyEncoder,
        upgrade: bool,
        close: bool,
        keep: bool,
    ) -> BodyEncoder {
        if let Some(length) = self.length.take() {
            self.put_length(length);
        }
        if *body == BodyEncoder::Chunked {
            self.put(TRANSFER_ENCODING.as_str(), b"chunked");
        }
        if upgrade {
            self.put(CONNECTION.as_str(), b"upgrade");
        } else if close {
            self.put(CONNECTION.as_str(), b"close");
        } else if keep {
            self.put(CONNECTION.as_str(), b"keep-alive");
        }
        self.out.put_slice(b"\r\n");
        match body {
            BodyEncoder::Empty => BodyEncoder::Empty,
            BodyEncoder::Length(length) => BodyEncoder::Length(*length),
            BodyEncoder::Chunked => BodyEncoder::Chunked,
            BodyEncoder::UntilClose => BodyEncoder::UntilClose,
        }
    }
}

/// How a field of a message is treated.
enum Hop {
    No,
    Never,
    Length,
    Upgrade,
}

fn hop(text: &str) -> Hop {
    match text.len() {
        4 if text == "host" => Hop::Never,
        7 if text == "upgrade" => Hop::Upgrade,
        10 if text == "connection" || text == "keep-alive" => Hop::Never,
        14 if text == "content-length" => Hop::Length,
        14 if text == "http2-settings" => Hop::Never,
        16 if text == "proxy-connection" => Hop::Never,
        17 if text == "transfer-encoding" => Hop::Never,
        _ => Hop::No,
    }
}

/// Whether `text` is `number` as [`put_number`] writes it.
fn says(text: &[u8], number: u64) -> bool {
    let digit = |digit: &u8| digit.is_ascii_digit().then(|| u64::from(digit - b'0'));
    let read = text.iter().try_fold(0u64, |sum, next| sum.checked_mul(10)?.checked_add(digit(next)?));
    read == Some(number) && (text.first() != Some(&b'0') || text.len() == 1)
}

/// Appends a number in base 10 or 16, and what ends it.
pub(super) fn put_number(out: &mut BytesMut, number: u64, base: u64, end: &[u8]) {
    let mut digits = [0; 20];
    let (mut rest, mut count) = (number, 0);
    for place in digits.iter_mut().rev() {
        *place = match (rest % base) as u8 {
            digit @ 0..=9 => b'0' + digit,
            digit => b'a' + digit - 10,
        };
        count += 1;
        rest /= base;
        if rest == 0 {
            break;
        }
    }
    out.put_slice(digits.get(digits.len() - count..).unwrap_or_default());
    out.put_slice(end);
}

pub(super) fn put_field(out: &mut BytesMut, name: &[u8], value: &[u8]) {
    out.reserve(name.len() + value.len() + 4);
    out.put_slice(name);
    out.put_slice(b": ");
    out.put_slice(value);
    out.put_slice(b"\r\n");
}
