//! bolt → HTTP/2.

use super::BridgeError;
use super::layout::{Mark, Writer};
use super::names::{
    CONTENT_LEN, Field, LAYOUT, NULL_KEY, SUMS, escape, flat_name, is_plain_value, is_value_char,
};
use crate::protocol::bolt::{self, Head, wire};
use crate::protocol::rpc::Frame;
use bytes::Bytes;
use http::uri::{Authority, PathAndQuery, Scheme, Uri};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response};

/// Header blocks up to this size are copied once and their values share the copy; of larger ones each value is
/// copied, for an HPACK table may keep a value, and with it what it shares, for as long as the connection.
const SHARED_BLOCK: usize = 4096;

/// The request target of converted calls, `scheme://authority/`: make it once per upstream and clone it.
///
/// # Errors
/// `authority` is none.
pub fn target(scheme: Scheme, authority: &str) -> Result<Uri, http::Error> {
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(scheme);
    parts.authority = Some(authority.parse::<Authority>()?);
    parts.path_and_query = Some(PathAndQuery::from_static("/"));
    Ok(Uri::from_parts(parts)?)
}

/// A call as an HTTP/2 request to `target`, and its body.
///
/// # Errors
/// The frame is a response, or its headers do not fit an HTTP message.
pub fn bolt_to_http2_request(frame: Frame, target: Uri) -> Result<(Request<()>, Bytes), BridgeError> {
    if frame.head().is_response() {
        return Err(BridgeError::Direction);
    }
    let (headers, content) = flatten(frame)?;
    let mut request = Request::new(());
    *request.method_mut() = if content.is_empty() { Method::GET } else { Method::POST };
    *request.uri_mut() = target;
    *request.headers_mut() = headers;
    Ok((request, content))
}

/// An answer as an HTTP/2 response with status 200, and its body; the bolt status is in `respstatus`.
///
/// # Errors
/// The frame is a request, or its headers do not fit an HTTP message.
pub fn bolt_to_http2_response(frame: Frame) -> Result<(Response<()>, Bytes), BridgeError> {
    if !frame.head().is_response() {
        return Err(BridgeError::Direction);
    }
    let (headers, content) = flatten(frame)?;
    let mut response = Response::new(());
    *response.headers_mut() = headers;
    Ok((response, content))
}

/// The proxy's own bodiless answer to a converted call: what [`bolt::reply`] is on a bolt connection.
pub fn failure_to_http2_response(request_id: u32, status: bolt::Status) -> Response<()> {
    let head = Head { request_id, status: status.code(), ..Head::RESPONSE };
    let mut headers = HeaderMap::with_capacity(Field::COUNT);
    headers.insert(Field::ClassName.name(), HeaderValue::from_static(""));
    put_fields(&mut headers, &head, 0);
    let mut response = Response::new(());
    *response.headers_mut() = headers;
    response
}

/// Fields, then pairs in order, then the side channel.
fn flatten(frame: Frame) -> Result<(HeaderMap, Bytes), BridgeError> {
    let head = *frame.head();
    let pairs = frame.headers().count();
    let mut headers =
        HeaderMap::try_with_capacity(Field::COUNT + 3 + pairs).map_err(|_| BridgeError::Headers)?;

    // One copy of class and header block, which the values below share.
    let block = frame.header_block();
    let shared = (block.len() <= SHARED_BLOCK).then(|| Bytes::copy_from_slice(block));
    let pairs = match &shared {
        Some(block) => bolt::headers::HeaderIter::new(block),
        None => frame.headers(),
    };

    let (class, mark) = match frame.class() {
        b"com.alipay.sofa.rpc.core.request.SofaRequest" => {
            (const { HeaderValue::from_static("com.alipay.sofa.rpc.core.request.SofaRequest") }, Mark::Plain)
        }
        b"com.alipay.sofa.rpc.core.response.SofaResponse" => (
            const { HeaderValue::from_static("com.alipay.sofa.rpc.core.response.SofaResponse") },
            Mark::Plain,
        ),
        class => flat_value(class, None)?,
    };
    headers.insert(Field::ClassName.name(), class);
    put_fields(&mut headers, &head, frame.content().len());

    let mut side = Writer::new(mark == Mark::Escaped, block.len() / 2 + 16);
    for (key, value) in pairs {
        let (value, mark) = match value {
            Some(value) => flat_value(value, shared.as_ref())?,
            None => (HeaderValue::from_static(""), Mark::Null),
        };
        side.push(key, mark, value.as_bytes());
        let name = match key {
            Some(key) => flat_name(key).ok_or(BridgeError::Headers)?,
            None => NULL_KEY,
        };
        append(&mut headers, name, value)?;
    }
    if !side.is_needless() {
        append(&mut headers, LAYOUT, text_value(side.layout)?)?;
        if !side.sums.is_empty() {
            append(&mut headers, SUMS, unindexed(text_value(side.sums)?))?;
        }
    }
    let content = frame.into_bytes().slice(head.content_range());
    Ok((headers, content))
}

fn append(headers: &mut HeaderMap, name: HeaderName, value: HeaderValue) -> Result<(), BridgeError> {
    headers.try_append(name, value).map(|_| ()).map_err(|_| BridgeError::Headers)
}

/// The value as HTTP can carry it; a slice of `shared` if it is in there.
fn flat_value(value: &[u8], shared: Option<&Bytes>) -> Result<(HeaderValue, Mark), BridgeError> {
    if !is_plain_value(value) {
        let mut escaped = Vec::with_capacity(value.len() + 16);
        escape(value, is_value_char, &mut escaped);
        return Ok((text_value(escaped)?, Mark::Escaped));
    }
    let flat = match shared {
        _ if value.is_empty() => Ok(HeaderValue::from_static("")),
        Some(shared) => HeaderValue::from_maybe_shared(shared.slice_ref(value)),
        None => HeaderValue::from_bytes(value),
    };
    Ok((flat.map_err(|_| BridgeError::Headers)?, Mark::Plain))
}

fn text_value(text: Vec<u8>) -> Result<HeaderValue, BridgeError> {
    HeaderValue::from_maybe_shared(Bytes::from(text)).map_err(|_| BridgeError::Headers)
}

/// Keeps a value that never comes again out of the HPACK tables.
fn unindexed(mut value: HeaderValue) -> HeaderValue {
    value.set_sensitive(true);
    value
}

fn put_fields(headers: &mut HeaderMap, head: &Head, content_len: usize) {
    headers.insert(Field::Protocol.name(), small(wire::PROTOCOL_V1.into()));
    headers.insert(Field::CmdType.name(), small(head.cmd_type.into()));
    headers.insert(Field::CmdCode.name(), small(head.cmd_code));
    headers.insert(Field::Version.name(), small(head.version.into()));
    headers.insert(Field::RequestId.name(), unindexed(HeaderValue::from(head.request_id)));
    headers.insert(Field::Codec.name(), small(head.codec.into()));
    if head.is_response() {
        headers.insert(Field::RespStatus.name(), small(head.status));
    } else {
        headers.insert(Field::Timeout.name(), timeout(head.timeout_ms));
    }
    headers.insert(CONTENT_LEN, unindexed(HeaderValue::from(content_len)));
}

/// A number that is 0, 1 or 2 nearly always.
fn small(number: u16) -> HeaderValue {
    match number {
        0 => const { HeaderValue::from_static("0") },
        1 => const { HeaderValue::from_static("1") },
        2 => const { HeaderValue::from_static("2") },
        _ => HeaderValue::from(number),
    }
}

/// Milliseconds; a negative timeout is written as an unsigned 64-bit number, as MOSN did.
fn timeout(milliseconds: i32) -> HeaderValue {
    match milliseconds {
        -1 => HeaderValue::from_static("18446744073709551615"),
        _ => HeaderValue::from(i64::from(milliseconds) as u64),
    }
}
