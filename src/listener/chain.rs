//! Which filter chain takes a connection.

use crate::model::{ChainMatch, Cidr, SourceType};
use crate::snapshot::{ChainSpec, ListenerSpec};
use crate::stream::Seen;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// What is known of a connection when its chain is chosen; kept so that it can be matched again later.
#[derive(Clone, Debug)]
pub struct Inputs {
    /// The address the client connected to; `None` on Unix sockets.
    pub destination: Option<SocketAddr>,
    /// The client's address; `None` on Unix sockets.
    pub source: Option<SocketAddr>,
    /// What the first bytes told.
    pub seen: Seen,
}

/// What `http_inspector` may find.
const HTTP: [&str; 3] = ["http/1.0", "http/1.1", "h2c"];

/// A level of the choice: how specifically a condition matches, `None` not at all, 0 because it is not set.
type Level = fn(&ChainMatch, &Inputs) -> Option<u32>;

/// Those that are known before the first byte.
const FIRST: [Level; 2] = [destination_port, |m, i| prefix(&m.prefix_ranges, i.destination)];
/// Those the first bytes decide.
const SEEN: [Level; 3] = [server_name, transport, application_protocol];
/// The rest.
const LAST: [Level; 4] = [
    |m, i| prefix(&m.direct_source_prefix_ranges, i.source),
    source_type,
    |m, i| prefix(&m.source_prefix_ranges, i.source),
    source_port,
];

/// Whether it must be known if the client speaks TLS, and what it asks for: some chain that can still match
/// depends on it. Without a configured inspector only conditions that nothing else could meet count, so that
/// `raw_buffer` alone needs none.
pub fn wants_tls(spec: &ListenerSpec, inputs: &Inputs) -> bool {
    let port = inputs.destination.map(|to| to.port());
    let left = narrowed(spec, inputs, &FIRST);
    let mut matchers = left.iter().map(|chain| &chain.model.matcher);
    match &spec.model.inspectors.tls {
        Some(inspector) => inspector.applies(port) && matchers.any(depends),
        None => matchers.any(|m| match m.transport_protocol.as_str() {
            "tls" => true,
            "" => !m.server_names.is_empty() || m.application_protocols.iter().any(|p| !is_http(p)),
            _ => false,
        }),
    }
}

/// Whether it must be known which HTTP the client of a plain connection speaks.
pub fn wants_http(spec: &ListenerSpec, inputs: &Inputs) -> bool {
    let port = inputs.destination.map(|to| to.port());
    let Some(inspector) = &spec.model.inspectors.http else { return false };
    if inputs.seen.tls || !inspector.applies(port) {
        return false;
    }
    let left = narrowed(spec, inputs, &FIRST);
    let can_match = left.iter().map(|chain| &chain.model.matcher);
    let mut can_match = can_match.filter(|m| transport(m, inputs).is_some() && m.server_names.is_empty());
    can_match.any(|m| m.application_protocols.iter().any(|p| is_http(p)))
}

fn is_http(protocol: &str) -> bool {
    HTTP.contains(&protocol)
}

fn depends(matcher: &ChainMatch) -> bool {
    !matcher.transport_protocol.is_empty()
        || !matcher.server_names.is_empty()
        || !matcher.application_protocols.is_empty()
}

/// The chains that are left after some levels; none where a level has no hit.
fn narrowed<'a>(spec: &'a ListenerSpec, inputs: &Inputs, levels: &[Level]) -> Vec<&'a Arc<ChainSpec>> {
    let mut left: Vec<&Arc<ChainSpec>> = spec.chains.iter().collect();
    for level in levels {
        let best = left.iter().filter_map(|chain| level(&chain.model.matcher, inputs)).max();
        left.retain(|chain| best.is_some() && level(&chain.model.matcher, inputs) == best);
    }
    left
}

/// The chain for `inputs`, by Envoy's precedence. Each level keeps only the chains with the most specific
/// value that matches; a level that hits is never taken back.
pub fn find<'a>(spec: &'a ListenerSpec, inputs: &Inputs) -> Option<&'a Arc<ChainSpec>> {
    let levels = [&FIRST[..], &SEEN, &LAST].concat();
    narrowed(spec, inputs, &levels).first().copied().or(spec.default_chain.as_ref())
}

fn destination_port(matcher: &ChainMatch, inputs: &Inputs) -> Option<u32> {
    match (matcher.destination_port, inputs.destination) {
        (None, _) => Some(0),
        (Some(port), Some(destination)) if destination.port() == port => Some(1),
        _ => None,
    }
}

fn prefix(ranges: &[Cidr], address: Option<SocketAddr>) -> Option<u32> {
    if ranges.is_empty() {
        return Some(0);
    }
    let address = address?.ip();
    ranges.iter().filter(|range| range.contains(address)).map(|range| u32::from(range.prefix_len()) + 1).max()
}

/// The exact name first, then the wildcard with the most labels.
fn server_name(matcher: &ChainMatch, inputs: &Inputs) -> Option<u32> {
    if matcher.server_names.is_empty() {
        return Some(0);
    }
    let asked = inputs.seen.server_name.as_deref()?;
    let rank = |name: &String| match name.strip_prefix('*') {
        None => (name == asked).then_some(u32::MAX),
        Some(suffix) => {
            let covers = asked.len() > suffix.len() && asked.ends_with(suffix);
            covers.then(|| u32::try_from(suffix.len()).unwrap_or(u32::MAX - 1))
        }
    };
    matcher.server_names.iter().filter_map(rank).max()
}

/// Without a TLS inspector every connection is `raw_buffer`.
fn transport(matcher: &ChainMatch, inputs: &Inputs) -> Option<u32> {
    match (matcher.transport_protocol.as_str(), inputs.seen.tls) {
        ("", _) => Some(0),
        ("raw_buffer", false) | ("tls", true) => Some(1),
        _ => None,
    }
}

/// The client's first wish that any chain has counts.
fn application_protocol(matcher: &ChainMatch, inputs: &Inputs) -> Option<u32> {
    if matcher.application_protocols.is_empty() {
        return Some(0);
    }
    let offered = &inputs.seen.protocols;
    let first = offered.iter().position(|name| matcher.application_protocols.contains(name))?;
    Some(u32::try_from(offered.len() - first).unwrap_or(u32::MAX))
}

fn source_type(matcher: &ChainMatch, inputs: &Inputs) -> Option<u32> {
    let near = match (inputs.source, inputs.destination) {
        (Some(source), Some(destination)) => is_loopback(source.ip()) || source.ip() == destination.ip(),
        _ => true,
    };
    match (matcher.source_type, near) {
        (SourceType::Any, _) => Some(0),
        (SourceType::SameIpOrLoopback, true) | (SourceType::External, false) => Some(1),
        _ => None,
    }
}

fn is_loopback(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_loopback(),
        IpAddr::V6(v6) => v6.is_loopback() || v6.to_ipv4_mapped().is_some_and(|v4| v4.is_loopback()),
    }
}

fn source_port(matcher: &ChainMatch, inputs: &Inputs) -> Option<u32> {
    if matcher.source_ports.is_empty() {
        return Some(0);
    }
    inputs.source.filter(|source| matcher.source_ports.contains(&source.port())).map(|_| 1)
}

#[cfg(test)]
pub(super) mod tests;
