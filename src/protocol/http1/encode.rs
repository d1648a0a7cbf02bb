//! Messages to bytes.
//!
//! Fields that concern the connection are written by the rules here, never passed on from a message.

use super::chunked::NEVER_IN_TRAILERS;
use super::{Framing, NameCase};
use bytes::{BufMut, Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderName, Method, StatusCode, request, response};

/// Where encoded bytes go, in order.
pub trait Out {
    /// Appends what `write` appends to the buffer it is given.
    fn write<R>(&mut self, write: impl FnOnce(&mut BytesMut) -> R) -> R;
    /// Appends a part of a body.
    fn push(&mut self, bytes: Bytes);
}

impl Out for BytesMut {
    fn write<R>(&mut self, write: impl FnOnce(&mut BytesMut) -> R) -> R {
        write(self)
    }

    fn push(&mut self, bytes: Bytes) {
        self.extend_from_slice(&bytes);
    }
}

/// What is known of a body before it is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyLength {
    /// There is none.
    Empty,
    /// So many bytes, and no trailers.
    Known(u64),
    /// Its end comes as a surprise.
    Unknown,
}

impl From<Framing> for BodyLength {
    fn from(framing: Framing) -> Self {
        match framing {
            Framing::Empty => BodyLength::Empty,
            Framing::Length(length) => BodyLength::Known(length),
            Framing::Chunked | Framing::UntilClose => BodyLength::Unknown,
        }
    }
}

/// Writes one body after its head.
#[derive(Debug, PartialEq, Eq)]
pub enum BodyEncoder {
    /// There is none, or the client must not get one: what is given is dropped.
    Empty,
    /// So many bytes are left.
    Length(u64),
    /// In chunks.
    Chunked,
    /// As it is; the connection ends with it. Also tunnels.
    UntilClose,
}

/// More or less of a body was given than its head says. The connection must be closed at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WrongLength;

impl BodyEncoder {
    /// Appends a part.
    ///
    /// # Errors
    /// It is more than was announced; nothing of it is written.
    pub fn data(&mut self, bytes: Bytes, out: &mut impl Out) -> Result<(), WrongLength> {
        match self {
            BodyEncoder::Empty => {}
            BodyEncoder::UntilClose => out.push(bytes),
            BodyEncoder::Length(left) => {
                *left = left.checked_sub(bytes.len() as u64).ok_or(WrongLength)?;
                out.push(bytes);
            }
            BodyEncoder::Chunked if bytes.is_empty() => {}
            BodyEncoder::Chunked => {
                out.write(|text| put_number(text, bytes.len() as u64, 16, b"\r\n"));
                out.push(bytes);
                out.write(|text| text.put_slice(b"\r\n"));
            }
        }
        Ok(())
    }

    /// Ends the body. Trailers are written where they can be: see [`takes_trailers`](Self::takes_trailers).
    ///
    /// # Errors
    /// It is less than was announced.
    pub fn end(&mut self, trailers: Option<&HeaderMap>, out: &mut impl Out) -> Result<(), WrongLength> {
        match self {
            BodyEncoder::Empty | BodyEncoder::Length(0) | BodyEncoder::UntilClose => Ok(()),
            BodyEncoder::Length(_) => Err(WrongLength),
            BodyEncoder::Chunked => {
                out.write(|text| {
                    text.put_slice(b"0\r\n");
                    for (name, value) in trailers.into_iter().flatten() {
                        if !NEVER_IN_TRAILERS.contains(&name.as_str()) {
                            put_field(text, name.as_str().as_bytes(), value.as_bytes());
                        }
                    }
                    text.put_slice(b"\r\n");
                });
                *self = BodyEncoder::Empty;
                Ok(())
            }
        }
    }

    /// Whether trailers can follow.
    pub fn takes_trailers(&self) -> bool {
        matches!(self, BodyEncoder::Chunked)
    }

    /// Whether the body ends with the connection.
    pub fn needs_close(&self) -> bool {
        matches!(self, BodyEncoder::UntilClose)
    }
}

/// Writes a request's head. Its `upgrade` field is sent only with `upgrade`; `close`: it is the last one on
/// this connection.
pub fn request(
    parts: &request::Parts,
    case: Option<&NameCase>,
    body: BodyLength,
    upgrade: bool,
    close: bool,
    out: &mut impl Out,
) -> BodyEncoder {
    out.write(|text| request_head(parts, case, body, upgrade, close, text))
}

fn request_head(
    parts: &request::Parts,
    case: Option<&NameCase>,
    body: BodyLength,
    upgrade: bool,
    close: bool,
    text: &mut BytesMut,
) -> BodyEncoder {
    let connect = parts.method == Method::CONNECT;
    text.put_slice(parts.method.as_str().as_bytes());
    text.put_u8(b' ');
    let authority = parts.uri.authority().map(|authority| authority.as_str().as_bytes());
    match parts.uri.path_and_query() {
        _ if connect => text.put_slice(authority.unwrap_or_default()),
        Some(path) => {
            if path.as_str().starts_with('?') {
                text.put_u8(b'/');
            }
            text.put_slice(path.as_str().as_bytes());
        }
        None => text.put_u8(b'/'),
    }
    text.put_slice(b" HTTP/1.1\r\n");
    let mut fields = FieldWriter { case, out: text, length: None };
    fields.put("host", authority.unwrap_or_default());
    let encoder = match body {
        _ if connect || upgrade => BodyEncoder::UntilClose,
        BodyLength::Known(length) => BodyEncoder::Length(length),
        BodyLength::Unknown => BodyEncoder::Chunked,
        BodyLength::Empty if [Method::POST, Method::PUT, Method::PATCH].contains(&parts.method) => {
            BodyEncoder::Length(0)
        }
        BodyLength::Empty => BodyEncoder::Empty,
    };
    if let BodyEncoder::Length(length) = encoder {
        fields.length = Some(length);
    }
    fields.put_all(&parts.headers, upgrade, false);
    fields.finish(&encoder, upgrade, close, false)
}

/// For whom a response is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ResponseTo {
    /// Its request was HEAD.
    pub head: bool,
    /// Its request was CONNECT.
    pub connect: bool,
    /// The client speaks HTTP/1.0.
    pub http_10: bool,
    /// The connection stays open if this response lets it.
    pub keep_alive: bool,
}

/// Writes a response's head. The connection must be closed after the body if it was not to stay open, or if
/// the encoder [needs it](BodyEncoder::needs_close). Interim responses are not written to HTTP/1.0 clients.
pub fn response(
    parts: &response::Parts,
    case: Option<&NameCase>,
    body: BodyLength,
    to: ResponseTo,
    out: &mut impl Out,
) -> BodyEncoder {
    out.write(|text| response_head(parts, case, body, to, text))
}

fn response_head(
    parts: &response::Parts,
    case: Option<&NameCase>,
    body: BodyLength,
    to: ResponseTo,
    text: &mut BytesMut,
) -> BodyEncoder {
    let status = parts.status;
    let switched = status == StatusCode::SWITCHING_PROTOCOLS;
    let tunnel = switched || (to.connect && status.is_success());
    let interim = status.is_informational() && !switched;
    if interim && to.http_10 {
        return BodyEncoder::Empty;
    }
    let none = interim || status == StatusCode::NO_CONTENT;
    let bodiless = none || to.head || status == StatusCode::NOT_MODIFIED;
    let encoder = match body {
        _ if tunnel => BodyEncoder::UntilClose,
        _ if bodiless => BodyEncoder::Empty,
        BodyLength::Empty => BodyEncoder::Length(0),
        BodyLength::Known(length) => BodyEncoder::Length(length),
        BodyLength::Unknown if to.http_10 => BodyEncoder::UntilClose,
        BodyLength::Unknown => BodyEncoder::Chunked,
    };
    text.put_slice(if to.http_10 { b"HTTP/1.0 " } else { b"HTTP/1.1 " });
    text.put_slice(status.as_str().as_bytes());
    text.put_u8(b' ');
    text.put_slice(status.canonical_reason().unwrap_or_default().as_bytes());
    text.put_slice(b"\r\n");
    let mut fields = FieldWriter { case, out: text, length: None };
    fields.length = match (&encoder, body) {
        (BodyEncoder::Length(length), _) => Some(*length),
        (BodyEncoder::Empty, BodyLength::Known(length)) if !none => Some(length),
        _ => None,
    };
    let upgrade = switched || status == StatusCode::UPGRADE_REQUIRED;
    fields.put_all(&parts.headers, upgrade, bodiless && !none);
    let close = !interim && !tunnel && (!to.keep_alive || encoder.needs_close());
    fields.finish(&encoder, switched, close, to.http_10 && to.keep_alive && !close && !tunnel)
}

/// Writes the fields of one head.
struct FieldWriter<'a> {
    case: Option<&'a NameCase>,
    out: &'a mut BytesMut,
    /// Announced length that is not written yet.
    length: Option<u64>,
}

impl FieldWriter<'_> {
    /// A field of ours, spelled as the message did.
    fn put(&mut self, name: &str, value: &[u8]) {
        let written = self.case.and_then(|case| case.find(name, 0));
        put_field(self.out, written.unwrap_or(name.as_bytes()), value);
    }

    /// The fields that travel. `told`: a length among them is passed on where none is announced.
    fn put_all(&mut self, fields: &HeaderMap, upgrade: bool, told: bool) {
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
    fn finish(mut self, body: &BodyEncoder, upgrade: bool, close: bool, keep: bool) -> BodyEncoder {
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
fn put_number(out: &mut BytesMut, number: u64, base: u64, end: &[u8]) {
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

fn put_field(out: &mut BytesMut, name: &[u8], value: &[u8]) {
    out.reserve(name.len() + value.len() + 4);
    out.put_slice(name);
    out.put_slice(b": ");
    out.put_slice(value);
    out.put_slice(b"\r\n");
}
