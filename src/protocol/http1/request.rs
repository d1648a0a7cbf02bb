//! Request heads.

use super::fields::Fields;
use super::scan::{self, Grammar, Lines, Slot, Slots, at, place};
use super::{Fault, Framing, Limits, NameCase, target};
use bytes::BytesMut;
use http::{Method, Version, request};
use httparse::Header;
use std::mem::MaybeUninit;
use std::rc::Rc;

/// A request up to its body.
#[derive(Debug)]
pub struct RequestHead {
    /// In the common form (see the module).
    pub parts: request::Parts,
    /// Where its body ends. What follows CONNECT is no body.
    pub framing: Framing,
    /// Whether the client will use the connection again.
    pub keep_alive: bool,
    /// The client waits for a 100 before it sends the body. `expect` stays among the fields.
    pub expect_continue: bool,
    /// The client asks for the protocol that the field `upgrade` names. Never with a body.
    pub upgrade: bool,
    /// How the names were written.
    pub case: Option<Rc<NameCase>>,
}

/// Reads the request heads of one connection.
#[derive(Debug, Default)]
pub struct RequestDecoder {
    seen: usize,
}

impl RequestDecoder {
    /// Takes a head off the front of `buf`; `Ok(None)` when it is not whole yet.
    ///
    /// # Errors
    /// The request is refused; the connection has to be closed after the answer.
    pub fn decode(&mut self, buf: &mut BytesMut, limits: &Limits) -> Result<Option<RequestHead>, Fault> {
        let mut slots = Slots::new();
        let Some(lines) = scan::head::<RequestLine>(&mut self.seen, buf, limits, limits.lenient, &mut slots)?
        else {
            return Ok(None);
        };
        read(buf, &lines, &slots, limits)
    }

    /// Whether a part of a head has come.
    pub fn has_begun(&self) -> bool {
        self.seen > 0
    }
}

fn read(
    buf: &mut BytesMut,
    lines: &Lines<RequestLine>,
    slots: &[Slot],
    limits: &Limits,
) -> Result<Option<RequestHead>, Fault> {
    let head = buf.split_to(lines.len).freeze();
    let http_11 = lines.line.minor == 1;
    if !http_11 && !limits.accept_http_10 {
        return Err(Fault::LOW_VERSION);
    }
    let method = Method::from_bytes(at(&head, lines.line.method)).map_err(|_| Fault::CODEC)?;
    if !limits.custom_methods && !is_registered(&method) {
        return Err(Fault::METHOD);
    }
    let mut fields = Fields::new(slots.len());
    fields.read(&head, slots, limits)?;
    let uri = target::read(&head, lines.line.target, fields.host, &method, http_11, limits)?;
    let framing = framing(&fields, &method, http_11)?;
    let upgrade = fields.take_upgrade(http_11 && fields.said.is_nothing() && method != Method::CONNECT);
    let (mut parts, ()) = http::Request::new(()).into_parts();
    parts.method = method;
    parts.uri = uri;
    parts.version = if http_11 { Version::HTTP_11 } else { Version::HTTP_10 };
    parts.headers = fields.map;
    Ok(Some(RequestHead {
        parts,
        framing,
        keep_alive: fields.connection.persists(http_11),
        expect_continue: fields.expect && http_11,
        upgrade,
        case: fields.case.finish(head),
    }))
}

/// Whether a method is among those that servers of today know: RFC 9110's and those of WebDAV, UPnP and caches.
fn is_registered(method: &Method) -> bool {
    const FURTHER: [&str; 26] = [
        "ACL",
        "BIND",
        "CHECKOUT",
        "COPY",
        "LINK",
        "LOCK",
        "M-SEARCH",
        "MERGE",
        "MKACTIVITY",
        "MKCALENDAR",
        "MKCOL",
        "MOVE",
        "MSEARCH",
        "NOTIFY",
        "PROPFIND",
        "PROPPATCH",
        "PURGE",
        "REBIND",
        "REPORT",
        "SEARCH",
        "SOURCE",
        "SUBSCRIBE",
        "UNBIND",
        "UNLINK",
        "UNLOCK",
        "UNSUBSCRIBE",
    ];
    match *method {
        Method::GET | Method::POST | Method::PUT | Method::HEAD | Method::DELETE => true,
        Method::CONNECT | Method::OPTIONS | Method::TRACE | Method::PATCH => true,
        ref other => FURTHER.binary_search(&other.as_str()).is_ok(),
    }
}

fn framing(fields: &Fields, method: &Method, http_11: bool) -> Result<Framing, Fault> {
    if *method == Method::CONNECT && !fields.said.is_nothing() {
        return Err(Fault::BODY_DISALLOWED);
    }
    match (fields.said.chunked, fields.said.length) {
        (true, _) if !http_11 => Err(Fault::TRANSFER_ENCODING_NOT_ALLOWED),
        (true, _) => Ok(Framing::Chunked),
        (false, Some(length)) => Ok(Framing::Length(length)),
        (false, None) => Ok(Framing::Empty),
    }
}

/// Where the parts of a request line are.
struct RequestLine {
    method: (u32, u32),
    target: (u32, u32),
    minor: u8,
}

impl Grammar for RequestLine {
    type Line = RequestLine;

    fn parse<'b>(
        bytes: &'b [u8],
        fields: &mut [MaybeUninit<Header<'b>>],
        slots: &mut Slots,
    ) -> Result<Option<Lines<RequestLine>>, httparse::Error> {
        let mut request = httparse::Request::new(&mut []);
        let status = request.parse_with_uninit_headers(bytes, fields)?;
        let httparse::Status::Complete(len) = status else { return Ok(None) };
        let line = RequestLine {
            method: place(bytes, request.method.unwrap_or_default().as_bytes()),
            target: place(bytes, request.path.unwrap_or_default().as_bytes()),
            minor: request.version.unwrap_or_default(),
        };
        scan::note(bytes, request.headers, slots);
        Ok(Some(Lines { line, len }))
    }

    fn fault(error: httparse::Error, bytes: &[u8]) -> Fault {
        match error {
            httparse::Error::Version if names_other_version(bytes) => Fault::VERSION,
            httparse::Error::TooManyHeaders => Fault::TOO_MANY_HEADERS,
            httparse::Error::HeaderName | httparse::Error::HeaderValue | httparse::Error::NewLine => {
                Fault::CHARACTERS
            }
            _ => Fault::CODEC,
        }
    }
}

/// Whether the first line of `bytes` is another protocol's: it neither begins with a method that is registered nor
/// ends with a version of HTTP. Who wrote it would not understand an answer.
pub fn is_foreign(bytes: &[u8]) -> bool {
    let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else { return false };
    let line = bytes.get(..end).unwrap_or_default().trim_ascii_end();
    let mut words = line.split(|byte| *byte == b' ');
    let (first, last) = (words.next().unwrap_or_default(), words.next_back().unwrap_or_default());
    let registered = Method::from_bytes(first).is_ok_and(|method| is_registered(&method));
    !registered && !last.is_empty() && !last.to_ascii_uppercase().starts_with(b"HTTP")
}

/// Whether the first line ends in the name of another version.
fn names_other_version(bytes: &[u8]) -> bool {
    let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default().trim_ascii_end();
    let word = line.rsplit(|byte| *byte == b' ').next().unwrap_or_default();
    match word.strip_prefix(b"HTTP/") {
        Some(b"1.0" | b"1.1") => false,
        Some([major, b'.', minor]) => major.is_ascii_digit() && minor.is_ascii_digit(),
        Some([major]) => major.is_ascii_digit(),
        _ => false,
    }
}
