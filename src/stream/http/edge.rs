//! What a connection manager does with a request's head on arrival, and with a response's on departure.

use super::client_cert;
use super::head::{Names, with_authority};
use super::path::{self, Resolved};
use super::trace::{self, REQUEST_ID};
use crate::message::{Failure, Reason};
use crate::model::{Edge, RequestScheme, ServerHeader, StripPort, Underscores};
use crate::net::PeerAddress;
use crate::stream::Handle;
use crate::util::random::Random;
use bytes::Bytes;
use http::header::{DATE, SERVER, USER_AGENT, VIA};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, request};
use std::cell::RefCell;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const EXTERNAL: HeaderName = HeaderName::from_static("x-envoy-external-address");
const INTERNAL: HeaderName = HeaderName::from_static("x-envoy-internal");

/// Fields by which a request steers the proxy; only internal ones may.
const CONTROL: [&str; 14] = [
    "x-envoy-retry-on",
    "x-envoy-retry-grpc-on",
    "x-envoy-max-retries",
    "x-envoy-retriable-status-codes",
    "x-envoy-retriable-header-names",
    "x-envoy-upstream-alt-stat-name",
    "x-envoy-upstream-rq-timeout-ms",
    "x-envoy-upstream-rq-timeout-alt-response",
    "x-envoy-upstream-rq-per-try-timeout-ms",
    "x-envoy-expected-rq-timeout-ms",
    "x-envoy-force-trace",
    "x-envoy-ip-tags",
    "x-envoy-original-url",
    "x-envoy-hedge-on-per-try-timeout",
];

/// What arrival found.
#[derive(Default)]
pub(super) struct Arrival {
    /// The request comes from inside: what it says to the proxy counts.
    pub(super) internal: bool,
    /// Who the client is, as far as those in front of us are believed.
    pub(super) client: Option<IpAddr>,
    /// The client is to come back with this path.
    pub(super) redirect: Option<String>,
    /// The response carries it too.
    pub(super) request_id: Option<HeaderValue>,
}

/// Gives the request of a client the form that routes and hosts see. `names`: what it brought.
///
/// # Errors
/// It is refused.
pub(super) fn arrive(
    head: &mut request::Parts,
    names: Names,
    edge: &Edge,
    handle: &Handle,
    random: &Random,
) -> Result<Arrival, Failure> {
    let mut arrival = Arrival::default();
    check_names(&mut head.headers, edge.underscores)?;
    settle_authority(head, edge, handle)?;
    if head.method != Method::CONNECT {
        arrival.redirect = settle_path(head, edge)?;
    }
    let external = note_client(&mut head.headers, names, edge, handle, &mut arrival);
    if names.client_cert || handle.tls().is_some() {
        client_cert::settle(&mut head.headers, &edge.client_cert, handle.tls().map(|session| &**session));
    }
    if let Some(scheme) = edge.scheme {
        set_scheme(head, scheme)?;
    }
    let at_edge = external && edge.use_remote_address;
    trace::identify(&mut head.headers, names.request_id, &edge.request_id, at_edge, random);
    append_via(&mut head.headers, &edge.via);
    Ok(arrival)
}

fn set_scheme(head: &mut request::Parts, scheme: RequestScheme) -> Result<(), Failure> {
    // A CONNECT has no path, and then no scheme either.
    if head.uri.path_and_query().is_none() {
        return Ok(());
    }
    let mut parts = std::mem::take(&mut head.uri).into_parts();
    parts.scheme = Some(match scheme {
        RequestScheme::Http => Scheme::HTTP,
        RequestScheme::Https => Scheme::HTTPS,
    });
    head.uri = Uri::from_parts(parts).map_err(|_| Failure::before(Reason::BadRequest))?;
    Ok(())
}

fn check_names(headers: &mut HeaderMap, action: Underscores) -> Result<(), Failure> {
    if action == Underscores::Allow {
        return Ok(());
    }
    let marked: Vec<HeaderName> =
        headers.keys().filter(|name| name.as_str().contains('_')).cloned().collect();
    if action == Underscores::Reject && !marked.is_empty() {
        return Err(Failure::before(Reason::BadRequest));
    }
    for name in marked {
        headers.remove(name);
    }
    Ok(())
}

fn settle_authority(head: &mut request::Parts, edge: &Edge, handle: &Handle) -> Result<(), Failure> {
    let Some(authority) = head.uri.authority() else { return Ok(()) };
    let stripped = match edge.strip_port {
        StripPort::Keep => false,
        _ if head.method == Method::CONNECT => false,
        StripPort::Any => authority.port().is_some(),
        StripPort::Matching => {
            authority.port_u16().is_some_and(|port| handle.local.is_some_and(|at| at.port() == port))
        }
    };
    let mut text = if stripped { authority.host() } else { authority.as_str() };
    if edge.strip_trailing_dot && authority.port().is_none() | stripped {
        text = text.strip_suffix('.').unwrap_or(text);
    }
    if text.len() == authority.as_str().len() {
        return Ok(());
    }
    let invalid = || Failure::before(Reason::BadRequest);
    let authority = Authority::try_from(text).map_err(|_| invalid())?;
    head.uri = with_authority(&head.uri, authority).ok_or_else(invalid)?;
    Ok(())
}

/// Returns where the client is sent instead.
fn settle_path(head: &mut request::Parts, edge: &Edge) -> Result<Option<String>, Failure> {
    let Some(now) = head.uri.path_and_query().map(PathAndQuery::as_str) else { return Ok(None) };
    let invalid = || Failure::before(Reason::BadRequest);
    let next = match path::resolve(now, edge) {
        Resolved::Same => return Ok(None),
        Resolved::Refused => return Err(invalid()),
        Resolved::Redirect(path) => return Ok(Some(path)),
        Resolved::Other(path) => path,
    };
    let mut parts = std::mem::take(&mut head.uri).into_parts();
    parts.path_and_query = Some(PathAndQuery::try_from(next).map_err(|_| invalid())?);
    head.uri = Uri::from_parts(parts).map_err(|_| invalid())?;
    Ok(None)
}

/// Notes where the request came from, as far as it is believed. Returns whether it is from outside.
fn note_client(
    headers: &mut HeaderMap,
    names: Names,
    edge: &Edge,
    handle: &Handle,
    arrival: &mut Arrival,
) -> bool {
    let peer = match handle.peer {
        PeerAddress::Ip(addr) => Some(addr.ip().to_canonical()),
        PeerAddress::Unix => None,
    };
    let hops = edge.trusted_hops as usize;
    let scheme = HeaderValue::from_static(if handle.tls().is_some() { "https" } else { "http" });
    let (client, single) = if edge.use_remote_address {
        let single = !names.forwarded_for;
        let told = hops.checked_sub(1).and_then(|skip| forwarded(headers, skip));
        if let (Some(peer), false) = (peer, edge.skip_xff_append) {
            append_list(headers, FORWARDED_FOR, &peer.to_string());
        }
        if hops == 0 || !headers.contains_key(FORWARDED_PROTO) {
            headers.insert(FORWARDED_PROTO, scheme.clone());
        }
        if edge.append_port && (hops == 0 || !headers.contains_key(FORWARDED_PORT)) {
            let port = handle.local.map_or(0, |at| at.port());
            headers.insert(FORWARDED_PORT, HeaderValue::from(port));
        }
        (told.or(peer), single)
    } else if !names.forwarded_for {
        (None, true)
    } else {
        let single = headers.get(FORWARDED_FOR).is_none_or(|list| !list.as_bytes().contains(&b','));
        (forwarded(headers, hops), single)
    };
    arrival.client = client;
    headers.entry(FORWARDED_PROTO).or_insert(scheme);
    arrival.internal =
        single && client.is_some_and(|ip| edge.internal.iter().any(|range| range.contains(ip)));
    if arrival.internal {
        headers.insert(INTERNAL, HeaderValue::from_static("true"));
        return false;
    }
    if names.envoy {
        headers.remove(INTERNAL);
        for name in CONTROL {
            headers.remove(name);
        }
        if edge.use_remote_address {
            headers.remove("x-envoy-decorator-operation");
            headers.remove("x-envoy-downstream-service-cluster");
            headers.remove("x-envoy-downstream-service-node");
        }
    }
    if edge.use_remote_address
        && let Some(client) = client
    {
        set(headers, EXTERNAL, client.to_string());
    }
    true
}

/// The address `skip` places from the end of `x-forwarded-for`.
fn forwarded(headers: &HeaderMap, skip: usize) -> Option<IpAddr> {
    let last = headers.get_all(FORWARDED_FOR).iter().next_back()?;
    last.to_str().ok()?.rsplit(',').nth(skip)?.trim().parse().ok()
}

fn append_list(headers: &mut HeaderMap, name: HeaderName, item: &str) {
    let joined = match headers.get(&name) {
        Some(list) => {
            let mut joined = list.as_bytes().to_vec();
            joined.extend_from_slice(b",");
            joined.extend_from_slice(item.as_bytes());
            joined
        }
        None => item.as_bytes().to_vec(),
    };
    set(headers, name, joined);
}

/// Sets a field; a map that is full keeps what it has.
fn set(headers: &mut HeaderMap, name: HeaderName, value: impl Into<Bytes>) {
    if let Ok(value) = HeaderValue::from_maybe_shared(value.into()) {
        let _ = headers.try_insert(name, value);
    }
}

/// Tells which proxy a request came through (`add_user_agent`).
pub(super) fn introduce(headers: &mut HeaderMap, (id, cluster): &(String, String)) {
    let text = |text: &str| Bytes::copy_from_slice(text.as_bytes());
    set(headers, HeaderName::from_static("x-envoy-downstream-service-cluster"), text(cluster));
    if !headers.contains_key(USER_AGENT) {
        set(headers, USER_AGENT, text(cluster));
    }
    if !id.is_empty() {
        set(headers, HeaderName::from_static("x-envoy-downstream-service-node"), text(id));
    }
}

fn append_via(headers: &mut HeaderMap, via: &str) {
    if !via.is_empty() {
        append_list(headers, VIA, via);
    }
}

/// Gives a response what every response of this manager has.
pub(super) fn depart(
    status: StatusCode,
    headers: &mut HeaderMap,
    edge: &Edge,
    server_name: &str,
    arrival: &Arrival,
) {
    let there = headers.contains_key(SERVER);
    match edge.server_header {
        ServerHeader::PassThrough => {}
        ServerHeader::AppendIfAbsent if there => {}
        _ if server_name == "envoy" => drop(headers.insert(SERVER, HeaderValue::from_static("envoy"))),
        _ => set(headers, SERVER, Bytes::copy_from_slice(server_name.as_bytes())),
    }
    if status != StatusCode::SWITCHING_PROTOCOLS {
        headers.entry(DATE).or_insert_with(date);
    }
    if let Some(id) = &arrival.request_id {
        headers.insert(REQUEST_ID, id.clone());
    }
    append_via(headers, &edge.via);
}

thread_local! {
    /// The text of a second, and which.
    static DATE_TEXT: RefCell<(u64, HeaderValue)> = const { RefCell::new((0, HeaderValue::from_static(""))) };
}

/// The present time as HTTP writes it.
pub(super) fn date() -> HeaderValue {
    let second = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_secs();
    DATE_TEXT.with_borrow_mut(|(at, text)| {
        if *at != second {
            let time = SystemTime::UNIX_EPOCH + Duration::from_secs(second);
            if let Ok(value) = HeaderValue::from_maybe_shared(Bytes::from(httpdate::fmt_http_date(time))) {
                (*at, *text) = (second, value);
            }
        }
        text.clone()
    })
}

#[cfg(test)]
mod tests;
