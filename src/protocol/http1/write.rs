//! The fields of heads that are written.

use super::{BodyEncoder, NameCase};
use bytes::{BufMut, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderName};

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
        for (name, value) in fields {
            nth = if last == Some(name) { nth + 1 } else { 0 };
            last = Some(name);
            match hop(name) {
                Hop::Never => continue,
                Hop::Upgrade if !upgrade => continue,
                Hop::Length => {
                    match self.length.take() {
                        Some(length) => self.put_length(length),
                        None if told && nth == 0 => self.put(name.as_str(), value.as_bytes()),
                        None => {}
                    }
                    continue;
                }
                Hop::Upgrade | Hop::No => {}
            }
            let written = self.case.and_then(|case| case.get(name, nth));
            put_field(self.out, written.unwrap_or(name.as_str().as_bytes()), value.as_bytes());
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

fn hop(name: &HeaderName) -> Hop {
    let text = name.as_str();
    match text.len() {
        4 if text == "host" => Hop::Never,
        7 if *name == UPGRADE => Hop::Upgrade,
        10 if text == "connection" || text == "keep-alive" => Hop::Never,
        14 if text == "content-length" => Hop::Length,
        14 if text == "http2-settings" => Hop::Never,
        16 if text == "proxy-connection" => Hop::Never,
        17 if text == "transfer-encoding" => Hop::Never,
        _ => Hop::No,
    }
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
