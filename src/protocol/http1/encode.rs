//! Messages to bytes.
//!
//! Fields that concern the connection are written by the rules here, never passed on from a message.

use super::chunked::NEVER_IN_TRAILERS;
use super::write::{FieldWriter, put_field, put_number};
use super::{Framing, NameCase};
use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, Method, StatusCode, request, response};

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
