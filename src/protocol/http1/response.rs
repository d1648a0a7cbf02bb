//! Response heads.

use super::fields::Fields;
use super::scan::{self, Grammar, Lines, Slot, Slots};
use super::{Fault, Framing, Limits, NameCase};
use bytes::BytesMut;
use http::{Method, StatusCode, Version, response};
use httparse::Header;
use std::mem::MaybeUninit;
use std::rc::Rc;
use std::time::Duration;

/// What of its request decides how a response is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// HEAD: there is no body whatever the fields say.
    pub head: bool,
    /// CONNECT: a tunnel follows 2xx.
    pub connect: bool,
    /// It asked for another protocol: 101 may come.
    pub upgrade: bool,
}

impl Asked {
    /// Of a request in the common form. `upgrade`: its field is sent on.
    pub fn new(method: &Method, upgrade: bool) -> Self {
        Asked { head: *method == Method::HEAD, connect: *method == Method::CONNECT, upgrade }
    }
}

/// A response up to its body.
#[derive(Debug)]
pub struct ResponseHead {
    /// In the common form (see the module). A status of 1xx other than 101 is no final response.
    pub parts: response::Parts,
    /// Where its body ends.
    pub framing: Framing,
    /// Whether the server will use the connection again.
    pub keep_alive: bool,
    /// How long the server says it keeps an idle connection.
    pub keep_alive_timeout: Option<Duration>,
    /// What follows is another protocol's, both ways.
    pub tunnel: bool,
    /// How the names were written.
    pub case: Option<Rc<NameCase>>,
}

impl ResponseHead {
    /// Whether another head follows.
    pub fn is_interim(&self) -> bool {
        self.parts.status.is_informational() && !self.tunnel
    }
}

/// Reads the response heads of one connection.
#[derive(Debug, Default)]
pub struct ResponseDecoder {
    seen: usize,
}

impl ResponseDecoder {
    /// Takes a head off the front of `buf`; `Ok(None)` when it is not whole yet.
    ///
    /// # Errors
    /// The response is refused; the connection is of no use any more.
    pub fn decode(
        &mut self,
        buf: &mut BytesMut,
        asked: Asked,
        limits: &Limits,
    ) -> Result<Option<ResponseHead>, Fault> {
        let mut slots = Slots::new();
        let Some(lines) = scan::head::<StatusLine>(&mut self.seen, buf, limits, limits.lenient, &mut slots)?
        else {
            return Ok(None);
        };
        read(buf, &lines, &slots, asked, limits)
    }
}

fn read(
    buf: &mut BytesMut,
    lines: &Lines<StatusLine>,
    slots: &[Slot],
    asked: Asked,
    limits: &Limits,
) -> Result<Option<ResponseHead>, Fault> {
    let head = buf.split_to(lines.len).freeze();
    let http_11 = lines.line.minor == 1;
    let status = StatusCode::from_u16(lines.line.status).map_err(|_| Fault::STATUS)?;
    let mut fields = Fields::new(slots.len());
    fields.read(&head, slots, limits)?;
    let switched = status == StatusCode::SWITCHING_PROTOCOLS;
    let possible = (switched && asked.upgrade) || status == StatusCode::UPGRADE_REQUIRED;
    if !fields.take_upgrade(possible) && switched {
        return Err(Fault::STATUS);
    }
    let tunnel = switched || (asked.connect && status.is_success());
    let framing = framing(&mut fields, status, asked, tunnel, http_11)?;
    let (mut parts, ()) = http::Response::new(()).into_parts();
    parts.status = status;
    parts.version = if http_11 { Version::HTTP_11 } else { Version::HTTP_10 };
    parts.headers = fields.map;
    Ok(Some(ResponseHead {
        parts,
        framing,
        keep_alive: fields.connection.persists(http_11) && framing != Framing::UntilClose,
        keep_alive_timeout: fields.keep_alive,
        tunnel,
        case: fields.case.finish(head),
    }))
}

fn framing(
    fields: &mut Fields,
    status: StatusCode,
    asked: Asked,
    tunnel: bool,
    http_11: bool,
) -> Result<Framing, Fault> {
    let said = fields.said;
    if said.chunked && !http_11 {
        return Err(Fault::TRANSFER_ENCODING_NOT_ALLOWED);
    }
    if tunnel || status.is_informational() || status == StatusCode::NO_CONTENT {
        if said.chunked {
            return Err(Fault::TRANSFER_ENCODING_NOT_ALLOWED);
        }
        if !said.is_nothing() {
            return Err(Fault::CONTENT_LENGTH_NOT_ALLOWED);
        }
        fields.map.remove(http::header::CONTENT_LENGTH);
        return Ok(if tunnel { Framing::UntilClose } else { Framing::Empty });
    }
    if asked.head || status == StatusCode::NOT_MODIFIED {
        return Ok(Framing::Empty);
    }
    Ok(match (said.chunked, said.length) {
        (true, _) => Framing::Chunked,
        (false, Some(length)) => Framing::Length(length),
        (false, None) => Framing::UntilClose,
    })
}

/// The parts of a status line.
struct StatusLine {
    status: u16,
    minor: u8,
}

impl Grammar for StatusLine {
    type Line = StatusLine;

    fn parse<'b>(
        bytes: &'b [u8],
        fields: &mut [MaybeUninit<Header<'b>>],
        slots: &mut Slots,
    ) -> Result<Option<Lines<StatusLine>>, httparse::Error> {
        let mut response = httparse::Response::new(&mut []);
        let config = httparse::ParserConfig::default();
        let status = config.parse_response_with_uninit_headers(&mut response, bytes, fields)?;
        let httparse::Status::Complete(len) = status else { return Ok(None) };
        let line = StatusLine {
            status: response.code.unwrap_or_default(),
            minor: response.version.unwrap_or_default(),
        };
        scan::note(bytes, response.headers, slots);
        Ok(Some(Lines { line, len }))
    }

    fn fault(error: httparse::Error, _: &[u8]) -> Fault {
        match error {
            httparse::Error::Version => Fault::VERSION,
            httparse::Error::Status => Fault::STATUS,
            httparse::Error::TooManyHeaders => Fault::TOO_MANY_HEADERS,
            httparse::Error::HeaderName | httparse::Error::HeaderValue | httparse::Error::NewLine => {
                Fault::CHARACTERS
            }
            httparse::Error::Token => Fault::CODEC,
        }
    }
}
