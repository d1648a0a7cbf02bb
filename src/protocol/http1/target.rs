//! What a request is for: its target and its host (RFC 9112, 3.2).

use super::scan::at;
use super::{Fault, Limits};
use bytes::Bytes;
use http::uri::{Authority, Parts, PathAndQuery, Scheme};
use http::{Method, Uri};

/// Brings a target and the Host field into the common form.
///
/// # Errors
/// The target is none of the four forms, has a fragment, or does not go with the host.
pub(super) fn read(
    head: &Bytes,
    target: (u32, u32),
    host: Option<(u32, u32)>,
    method: &Method,
    http_11: bool,
    limits: &Limits,
) -> Result<Uri, Fault> {
    let text = at(head, target);
    let cut = text.iter().position(|byte| *byte == b'#');
    if cut.is_some() && limits.reject_fragment {
        return Err(Fault::FRAGMENT);
    }
    let end = cut.map_or(target.1, |at| target.0 + at as u32);
    let target = head.slice(target.0 as usize..end as usize);
    let host = match host {
        Some(place) => Some(authority(head.slice(place.0 as usize..place.1 as usize), Fault::HOST)?),
        None if http_11 => return Err(Fault::NO_HOST),
        None => limits.default_host_10.clone(),
    };
    let mut parts = Parts::default();
    match target.first() {
        Some(b'/') => parts.path_and_query = Some(path(target)?),
        _ if *method == Method::CONNECT => {
            let named = authority(target, Fault::URL)?;
            if named.port_u16().is_none() {
                return Err(Fault::URL);
            }
            same(&named, host.as_ref())?;
            parts.authority = Some(named);
            return Uri::from_parts(parts).map_err(|_| Fault::URL);
        }
        Some(b'*') if target.len() == 1 && *method == Method::OPTIONS => {
            parts.path_and_query = Some(PathAndQuery::from_static("*"));
        }
        _ => return absolute(target, host, method, limits),
    }
    if *method == Method::CONNECT {
        return Err(Fault::URL);
    }
    finish(parts, host, limits)
}

fn finish(mut parts: Parts, host: Option<Authority>, limits: &Limits) -> Result<Uri, Fault> {
    match host {
        Some(host) => {
            parts.authority = Some(host);
            parts.scheme = Some(if limits.tls { Scheme::HTTPS } else { Scheme::HTTP });
        }
        None if limits.lenient => {}
        None => return Err(Fault::NO_HOST),
    }
    Uri::from_parts(parts).map_err(|_| Fault::URL)
}

/// `http://host/path`.
fn absolute(target: Bytes, host: Option<Authority>, method: &Method, limits: &Limits) -> Result<Uri, Fault> {
    let colon = target.windows(3).position(|window| window == b"://").ok_or(Fault::URL)?;
    if !limits.allow_absolute_url {
        return Err(Fault::ABSOLUTE_URL);
    }
    let scheme = target.get(..colon).unwrap_or_default();
    let https = scheme.eq_ignore_ascii_case(b"https");
    if !https && !scheme.eq_ignore_ascii_case(b"http") {
        return Err(Fault::SCHEME);
    }
    if https && !limits.tls {
        return Err(Fault::HTTPS_IN_PLAINTEXT);
    }
    let rest = target.slice(colon + 3..);
    let end = rest.iter().position(|byte| matches!(byte, b'/' | b'?')).unwrap_or(rest.len());
    let named = authority(rest.slice(..end), Fault::URL)?;
    same(&named, host.as_ref())?;
    let mut parts = Parts::default();
    let rest = rest.slice(end..);
    parts.path_and_query = Some(match rest.first() {
        Some(b'/') => path(rest)?,
        Some(_) => path([b"/", &rest[..]].concat().into())?,
        None if *method == Method::OPTIONS => PathAndQuery::from_static("*"),
        None => PathAndQuery::from_static("/"),
    });
    finish(parts, Some(named), limits)
}

fn path(bytes: Bytes) -> Result<PathAndQuery, Fault> {
    PathAndQuery::from_maybe_shared(bytes).map_err(|_| Fault::URL)
}

/// A host with or without port, and nothing before it.
fn authority(bytes: Bytes, fault: Fault) -> Result<Authority, Fault> {
    if bytes.is_empty() {
        return Err(Fault::NO_HOST);
    }
    let (mut bracket, mut colon) = (None, None);
    for (at, byte) in bytes.iter().enumerate() {
        match byte {
            // A comma is what two joined Host fields look like.
            b'@' | b',' => return Err(fault),
            b']' => bracket = bracket.or(Some(at + 1)),
            b':' => colon = colon.or(Some(at)),
            _ => {}
        }
    }
    // Of what follows the host only a port is of any meaning.
    let end = bracket.or(colon).unwrap_or(bytes.len());
    let (host, after) = bytes.split_at_checked(end).unwrap_or_default();
    if host.is_empty() || !is_port(after) {
        return Err(fault);
    }
    Authority::from_maybe_shared(bytes).map_err(|_| fault)
}

/// Nothing, or a colon and a number of 16 bits.
fn is_port(text: &[u8]) -> bool {
    match text {
        [] => true,
        [b':', digits @ ..] => {
            let value = digits.iter().try_fold(0u16, |sum, digit| {
                let digit = digit.is_ascii_digit().then(|| u16::from(digit - b'0'))?;
                sum.checked_mul(10)?.checked_add(digit)
            });
            !digits.is_empty() && value.is_some()
        }
        _ => false,
    }
}

/// Two names for the host would let each reader choose (RFC 9112, 3.2.2 has the field ignored; a reader behind
/// may not).
fn same(named: &Authority, host: Option<&Authority>) -> Result<(), Fault> {
    match host {
        Some(host) if !host.as_str().eq_ignore_ascii_case(named.as_str()) => Err(Fault::HOST),
        _ => Ok(()),
    }
}
