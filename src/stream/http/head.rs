//! Heads: what routers see of a request, and the changes made on its way.

use crate::message::{Failure, Head, Metadata, Reason};
use crate::model::{Block, HeaderEdit, RouterOptions};
use crate::net::h2::MAX_HEADERS;
use crate::router::{Edit, EditPlan, RouteSpec};
use crate::stream::Handle;
use crate::stream::exchange::Forward;
use crate::stream::facts::StreamFacts;
use bytes::Bytes;
use h2::ext::Protocol;
use http::header::{COOKIE, EXPECT, HOST, UPGRADE};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, Version, request};
use std::borrow::Cow;
use tokio::time::Instant;

/// A request's head as routes see it.
pub struct RequestHead<'a>(pub &'a request::Parts);

impl Head for RequestHead<'_> {
    fn authority(&self) -> Option<&[u8]> {
        self.0.uri.authority().map(|authority| authority.as_str().as_bytes())
    }

    fn path_and_query(&self) -> Option<&[u8]> {
        self.0.uri.path_and_query().map(|path| path.as_str().as_bytes())
    }

    fn method(&self) -> Option<&[u8]> {
        Some(self.0.method.as_str().as_bytes())
    }

    fn header(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        match name.as_bytes().first() {
            Some(b':') => match name {
                ":method" => self.method().map(Cow::Borrowed),
                ":path" => self.path_and_query().map(Cow::Borrowed),
                ":authority" => self.authority().map(Cow::Borrowed),
                ":scheme" => self.0.uri.scheme().map(|scheme| Cow::Borrowed(scheme.as_str().as_bytes())),
                _ => None,
            },
            _ if name.eq_ignore_ascii_case("host") => self.authority().map(Cow::Borrowed),
            _ => joined(&self.0.headers, name),
        }
    }

    fn each_field(&self, each: &mut dyn FnMut(&str, &[u8])) -> bool {
        self.0.headers.iter().for_each(|(name, value)| each(name.as_str(), value.as_bytes()));
        true
    }

    fn each_value(&self, name: &str, each: &mut dyn FnMut(&[u8])) {
        if name.starts_with(':') || name.eq_ignore_ascii_case("host") {
            self.header(name).iter().for_each(|value| each(value));
        } else {
            self.0.headers.get_all(name).iter().for_each(|value| each(value.as_bytes()));
        }
    }
}

pub fn joined<'a>(headers: &'a HeaderMap, name: &str) -> Option<Cow<'a, [u8]>> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?.as_bytes();
    let Some(second) = values.next() else { return Some(Cow::Borrowed(first)) };
    let mut all = first.to_vec();
    for value in std::iter::once(second).chain(values) {
        all.push(b',');
        all.extend_from_slice(value.as_bytes());
    }
    Some(Cow::Owned(all))
}

/// What admission found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admitted {
    /// The client waits for a 100 before it sends the body.
    pub expects: bool,
    /// It asks for another protocol on this connection or stream.
    pub change: Option<Change>,
    /// There is an `expect`, whatever it says.
    pub expect: bool,
    /// What else there is.
    pub names: Names,
}

/// Fields of a request that are looked for on arrival; `false`: there is none. Most requests have none of them,
/// and one pass over the names costs less than a look-up each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// `x-forwarded-for`
    pub forwarded_for: bool,
    /// `x-request-id`
    pub request_id: bool,
    /// Any `x-forwarded-client-cert`
    pub client_cert: bool,
    /// Any `x-envoy-…`
    pub envoy: bool,
}

/// How a request asks for another protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// By CONNECT, to bytes.
    Connect,
    /// By HTTP/1's `upgrade`.
    Upgrade,
    /// By HTTP/2's extended CONNECT (RFC 8441).
    Extended,
}

#[cfg(test)]
impl Names {
    /// Those of `headers`.
    pub fn of(headers: &HeaderMap) -> Self {
        Told::read(headers).names
    }
}

/// Checks a request and gives it one form: an authority, and no `host` beside it that could say otherwise.
///
/// # Errors
/// Too many headers, no authority, or what another protocol would read as something else.
pub fn admit(head: &mut request::Parts, max_headers: usize) -> Result<Admitted, Failure> {
    let refused = || Failure::before(Reason::BadRequest);
    // Cookies count each while they are apart: joining them costs what a client makes it cost.
    if head.headers.len() > MAX_HEADERS.max(max_headers) {
        return Err(Failure::before(Reason::HeaderOverflow));
    }
    let told = Told::read(&head.headers);
    if told.cookies {
        join_cookies(&mut head.headers)?;
    }
    if head.headers.len() > max_headers {
        return Err(Failure::before(Reason::HeaderOverflow));
    }
    let change = if head.method == Method::CONNECT {
        let extended = head.extensions.get::<Protocol>().is_some();
        Some(if extended { Change::Extended } else { Change::Connect })
    } else {
        told.upgrade.then_some(Change::Upgrade)
    };
    match head.uri.path_and_query().map(PathAndQuery::as_str) {
        _ if change == Some(Change::Connect) => {}
        Some("*") if head.method == Method::OPTIONS => {}
        Some(path) if path.starts_with('/') || path.starts_with('?') => {}
        _ => return Err(refused()),
    }
    if told.host
        && let Some(host) = head.headers.remove(HOST)
        && head.uri.authority().is_none()
    {
        let authority = Authority::try_from(host.as_bytes()).map_err(|_| refused())?;
        head.uri = with_authority(&head.uri, authority).ok_or_else(refused)?;
    }
    // A user, or two hosts in one: another reader may take either for the host.
    let plain = |authority: &Authority| !authority.as_str().bytes().any(|byte| matches!(byte, b'@' | b','));
    if !head.uri.authority().is_some_and(plain) {
        return Err(refused());
    }
    if head.headers.values().any(is_padded) {
        return Err(refused());
    }
    let continues = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"100-continue");
    let expects =
        told.expect && head.headers.get(EXPECT).is_some_and(continues) && head.version != Version::HTTP_10;
    Ok(Admitted { expects, change, expect: told.expect, names: told.names })
}

/// Which of the fields that need a look a head has.
#[derive(Default)]
struct Told {
    cookies: bool,
    upgrade: bool,
    host: bool,
    expect: bool,
    names: Names,
}

impl Told {
    fn read(headers: &HeaderMap) -> Self {
        let mut told = Told::default();
        for name in headers.keys() {
            let text = name.as_str();
            told.names.envoy |= text.starts_with("x-envoy-");
            match text.len() {
                4 => told.host |= *name == HOST,
                6 => {
                    told.cookies |= *name == COOKIE;
                    told.expect |= *name == EXPECT;
                }
                7 => told.upgrade |= *name == UPGRADE,
                12 => told.names.request_id |= text == "x-request-id",
                15 => told.names.forwarded_for |= text == "x-forwarded-for",
                23 => told.names.client_cert |= text == "x-forwarded-client-cert",
                _ => {}
            }
        }
        told
    }
}

/// Cookies become one field, as HTTP/1 has them (RFC 9113, 8.2.3).
fn join_cookies(headers: &mut HeaderMap) -> Result<(), Failure> {
    let mut crumbs = headers.get_all(COOKIE).iter();
    let (Some(first), Some(second)) = (crumbs.next(), crumbs.next()) else { return Ok(()) };
    let mut joined = first.as_bytes().to_vec();
    for crumb in std::iter::once(second).chain(crumbs) {
        joined.extend_from_slice(b"; ");
        joined.extend_from_slice(crumb.as_bytes());
    }
    let joined = HeaderValue::from_maybe_shared(Bytes::from(joined));
    headers.insert(COOKIE, joined.map_err(|_| Failure::before(Reason::BadRequest))?);
    Ok(())
}

/// A value that another reader would take for a shorter one (RFC 9113, 8.2.1).
fn is_padded(value: &HeaderValue) -> bool {
    let blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    blank(value.as_bytes().first()) || blank(value.as_bytes().last())
}

/// The protocol a request asks for, lower case.
pub fn wanted(head: &request::Parts, change: Change) -> String {
    match change {
        Change::Connect => "connect".to_owned(),
        Change::Extended => head
            .extensions
            .get::<Protocol>()
            .map(|name| name.as_str().to_ascii_lowercase())
            .unwrap_or_default(),
        Change::Upgrade => {
            let name = head.headers.get(UPGRADE).and_then(|name| name.to_str().ok());
            name.unwrap_or_default().to_ascii_lowercase()
        }
    }
}

/// The head as the upstream gets it, but for what depends on the picked host.
///
/// # Errors
/// A rewrite made something that is no path or authority.
pub fn rewrite(
    head: &mut request::Parts,
    to: &Forward<'_>,
    handle: &Handle,
    begin: Instant,
    metadata: &Metadata,
    router: Option<&RouterOptions>,
) -> Result<(), Failure> {
    let invalid = || Failure::before(Reason::LocalReset);
    if let Some(host) = to.share.and_then(|share| share.host_rewrite.as_deref()) {
        let authority = Authority::try_from(host).map_err(|_| invalid())?;
        head.uri = with_authority(&head.uri, authority).ok_or_else(invalid)?;
    }
    let plan = to.request_edits.resolved(
        Block::Request,
        &StreamFacts { metadata: Some(metadata), ..facts(&RequestHead(head), handle, begin, to.route) },
    );
    edit(&mut head.headers, &plan);
    let seen = RequestHead(head);
    let facts = StreamFacts { metadata: Some(metadata), ..facts(&seen, handle, begin, to.route) };
    let host = to.route.rewrite_host(&seen, &facts);
    let path = seen.path_and_query().and_then(|path| to.route.rewrite_path(path, &facts));
    if let Some(host) = &host
        && to.route.options().is_some_and(|options| options.append_x_forwarded_host)
        && let Some(old) = head.uri.authority()
        && old.as_str().as_bytes() != host.as_slice()
        && let Ok(old) = HeaderValue::from_str(old.as_str())
    {
        // A map that is full keeps what it has.
        let _ = head.headers.try_append("x-forwarded-host", old);
    }
    if let Some(path) = path {
        set_path(head, path, router.is_none_or(|router| !router.suppress_headers))?;
    }
    if let Some(host) = host {
        let authority = Authority::try_from(host).map_err(|_| invalid())?;
        head.uri = with_authority(&head.uri, authority).ok_or_else(invalid)?;
    }
    Ok(())
}

/// Gives the head another path and query, and notes the old one in `x-envoy-original-path` if `note` says so.
///
/// # Errors
/// It is none.
pub fn set_path(head: &mut request::Parts, path: Vec<u8>, note: bool) -> Result<(), Failure> {
    let invalid = |_| Failure::before(Reason::LocalReset);
    let path = PathAndQuery::try_from(path).map_err(invalid)?;
    let old = head.uri.path_and_query().and_then(|old| HeaderValue::from_str(old.as_str()).ok());
    if let Some(old) = old.filter(|_| note) {
        // A map that is full keeps what it has.
        let _ = head.headers.try_insert("x-envoy-original-path", old);
    }
    let mut parts = std::mem::take(&mut head.uri).into_parts();
    parts.path_and_query = Some(path);
    head.uri = Uri::from_parts(parts).map_err(|_| Failure::before(Reason::LocalReset))?;
    Ok(())
}

/// The word of log lines.
pub fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_11 => "HTTP/1.1",
        _ => "HTTP/2",
    }
}

/// What format strings may ask before there is a response.
pub fn facts<'a>(
    head: &'a RequestHead<'_>,
    handle: &'a Handle,
    begin: Instant,
    route: &'a RouteSpec,
) -> StreamFacts<'a> {
    StreamFacts {
        protocol: protocol(head.0.version),
        request: head,
        begin,
        handle: Some(handle),
        route: Some(route),
        attempt: None,
        response: None,
        metadata: None,
    }
}

/// `uri` at another authority.
pub fn with_authority(uri: &Uri, authority: Authority) -> Option<Uri> {
    let mut parts = uri.clone().into_parts();
    parts.scheme.get_or_insert(Scheme::HTTP);
    parts.authority = Some(authority);
    Uri::from_parts(parts).ok()
}

/// Applies `plan`. Names and values that HTTP cannot carry are passed over; so are pseudo headers.
pub fn edit(headers: &mut HeaderMap, plan: &EditPlan) {
    for step in plan.iter() {
        match step {
            Edit::Remove(name) => {
                headers.remove(name.as_str());
            }
            Edit::Write(write) => {
                let (HeaderEdit::Append { name, value }
                | HeaderEdit::AddIfAbsent { name, value }
                | HeaderEdit::Set { name, value }
                | HeaderEdit::ReplaceIfPresent { name, value }) = write;
                let (Ok(name), Ok(value)) =
                    (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_bytes(value.as_bytes()))
                else {
                    continue;
                };
                let there = headers.contains_key(&name);
                // A map that is full keeps what it has.
                let _ = match write {
                    HeaderEdit::Append { .. } => headers.try_append(name, value).map(drop),
                    HeaderEdit::AddIfAbsent { .. } if there => Ok(()),
                    HeaderEdit::ReplaceIfPresent { .. } if !there => Ok(()),
                    _ => headers.try_insert(name, value).map(drop),
                };
            }
        }
    }
}
