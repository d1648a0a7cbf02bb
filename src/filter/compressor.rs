//! Bodies made smaller, where the receiver takes that and it is worth it.

mod coder;
mod encodings;

use self::coder::Coder;
use super::body::{Body, Pipeline};
use super::chain::{Outgoing, State, Verdict, Visit};
use super::context::World;
use super::stats::{Counters, Group, counters};
use crate::message::{Failure, Headers, Reason, Request};
use crate::model::{Compression, Compressor, FilterConfig};
use bytes::Bytes;
use std::borrow::Cow;

counters! {
    NAMES:
    "compressed" = COMPRESSED,
    "not_compressed" = NOT_COMPRESSED,
    "total_uncompressed_bytes" = BEFORE,
    "total_compressed_bytes" = AFTER,
    "content_length_too_small" = TOO_SMALL,
    "not_compressed_etag" = ETAG,
    "no_accept_header",
    "header_compressor_used",
    "header_not_valid",
    "header_identity",
    "header_wildcard",
    "header_compressor_overshadowed",
}

/// What is compressed if nothing else is said, as in Envoy.
const TYPES: &[&[u8]] = &[
    b"application/ecmascript",
    b"application/grpc-web",
    b"application/grpc-web+proto",
    b"application/javascript",
    b"application/json",
    b"application/x-javascript",
    b"application/x-json",
    b"application/xhtml+xml",
    b"application/xml",
    b"image/svg+xml",
    b"text/css",
    b"text/ecmascript",
    b"text/html",
    b"text/javascript",
    b"text/js",
    b"text/jscript",
    b"text/plain",
    b"text/x-javascript",
    b"text/x-js",
    b"text/xml",
];

pub(super) fn on_request(
    visit: &mut Visit<'_>,
    config: &Compressor,
    request: &mut dyn Request,
    ends: bool,
) -> Verdict {
    if let Some(accepts) = Headers::value(request, "accept-encoding").map(Cow::into_owned) {
        visit.accepts().get_or_insert(accepts);
        if now(&config.response).is_some() && config.remove_accept_encoding {
            request.remove("accept-encoding");
        }
    }
    // Only responses tell who passed by here.
    *visit.state = State::Again;
    if let (Some(rule), false) = (now(&config.request), ends)
        && is_long_enough(rule, request) == Some(true)
        && is_wanted_type(rule, request)
        && is_plain(request)
    {
        start(config, request);
        visit
            .stream
            .request_body
            .push(Box::new(Compressing { coder: Coder::new(config.algorithm), group: None }));
    }
    Verdict::Continue
}

/// What is done in one direction while runtime has it switched on.
fn now(direction: &Option<Compression>) -> Option<&Compression> {
    direction.as_ref().filter(|rule| rule.enabled.is_on())
}

pub(super) fn on_response(
    visit: &mut Visit<'_>,
    config: &Compressor,
    response: &mut Outgoing<'_>,
    world: &World<'_>,
    bodies: &mut Pipeline,
) {
    let Some(rule) = now(&config.response) else { return };
    let group = world.stats.own(visit.place, || {
        let direction = if config.directions_in_names { "response." } else { "" };
        let (library, word) = (&config.library, config.algorithm.word());
        Counters::new(format!("compressor.{library}.{word}.{direction}"), NAMES)
    });
    let headers = &mut *response.headers;
    let long = is_long_enough(rule, headers);
    if long == Some(false) {
        group.inc(TOO_SMALL);
    }
    let etag = headers.value("etag").filter(|_| config.keep_etag).is_some();
    if etag {
        group.inc(ETAG);
    }
    let compressible = long == Some(true)
        && !etag
        && is_wanted_type(rule, headers)
        && is_plain(headers)
        && !config.not_codes.contains(&response.status);
    if compressible {
        vary(headers);
    }
    if !compressible || response.ends || !is_chosen(visit, config, headers) {
        return group.inc(NOT_COMPRESSED);
    }
    group.inc(COMPRESSED);
    start(config, headers);
    bodies.push(Box::new(Compressing { coder: Coder::new(config.algorithm), group: Some(group) }));
}

/// Whether this one, of all compressors of the chain that would do, is what the client likes best.
fn is_chosen(visit: &mut Visit<'_>, config: &Compressor, headers: &dyn Headers) -> bool {
    let chain = visit.chain;
    let Some(accepts) = visit.accepts().clone() else { return false };
    let mut offers = Vec::new();
    for (place, algorithm) in chain.compressors() {
        let Some(FilterConfig::Compressor(other)) = chain.rule(*place).map(|rule| &rule.config) else {
            continue;
        };
        let fits = now(&other.response).is_some_and(|rule| is_wanted_type(rule, headers));
        if fits && visit.stream.is_active(*place) {
            offers.push(encodings::Offer { coding: algorithm.coding(), first: other.choose_first });
        }
    }
    encodings::choose(&accepts, &offers) == Some(config.algorithm.coding())
}

fn start(config: &Compressor, headers: &mut (impl Headers + ?Sized)) {
    headers.remove("content-length");
    headers.set("content-encoding", config.algorithm.coding().as_bytes());
    let strong = headers.value("etag").is_some_and(|tag| !tag.starts_with(b"W/") && !tag.starts_with(b"w/"));
    if strong {
        headers.remove("etag");
    }
}

/// `None`: how long it is nobody knows.
fn is_long_enough(rule: &Compression, headers: &(impl Headers + ?Sized)) -> Option<bool> {
    match headers.value("content-length") {
        Some(length) => {
            let length =
                std::str::from_utf8(&length).ok().and_then(|length| length.trim().parse::<u64>().ok());
            Some(length.is_some_and(|length| length >= rule.least))
        }
        // A body whose length is not told is one that is made while it is sent.
        None => Some(true),
    }
}

fn is_wanted_type(rule: &Compression, headers: &(impl Headers + ?Sized)) -> bool {
    let Some(kind) = headers.value("content-type") else { return true };
    let media = kind.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii().to_ascii_lowercase();
    if rule.types.is_empty() {
        TYPES.contains(&media.as_slice())
    } else {
        rule.types.iter().any(|wanted| wanted.as_bytes() == media)
    }
}

/// Not coded already, and nobody forbids to.
fn is_plain(headers: &(impl Headers + ?Sized)) -> bool {
    let forbidden = headers
        .value("cache-control")
        .is_some_and(|value| tokens(&value).any(|token| token.eq_ignore_ascii_case(b"no-transform")));
    let coded = headers
        .value("transfer-encoding")
        .is_some_and(|value| tokens(&value).any(|token| !token.eq_ignore_ascii_case(b"chunked")));
    headers.value("content-encoding").is_none() && !forbidden && !coded
}

fn tokens(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii)
}

/// Caches must know on what the answer depends.
fn vary(headers: &mut dyn Headers) {
    match headers.value("vary").map(Cow::into_owned) {
        None => headers.set("vary", b"Accept-Encoding"),
        Some(held) if tokens(&held).any(|t| t.eq_ignore_ascii_case(b"accept-encoding")) => {}
        Some(held) => headers.set("vary", &[&held, &b", Accept-Encoding"[..]].concat()),
    }
}

struct Compressing {
    coder: Coder,
    group: Option<Group>,
}

impl Compressing {
    fn counted(&self, at: usize, bytes: usize) {
        if let Some(group) = &self.group {
            group.add(at, bytes as u64);
        }
    }
}

impl Body for Compressing {
    fn data(&mut self, data: Bytes) -> Result<Bytes, Failure> {
        self.counted(BEFORE, data.len());
        let out = self.coder.write(&data).map_err(|_| Failure::after(Reason::LocalReset))?;
        self.counted(AFTER, out.len());
        Ok(out)
    }

    fn end(&mut self, _: &mut dyn Headers) -> Result<Bytes, Failure> {
        let out = self.coder.finish().map_err(|_| Failure::after(Reason::LocalReset))?;
        self.counted(AFTER, out.len());
        Ok(out)
    }
}

#[cfg(test)]
mod tests;
