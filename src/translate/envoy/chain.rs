//! Filter chains: what they match and the filter they end in.

use super::values::{cidr, enumeration, timeout, within};
use super::{filters, tls};
use crate::model::{ChainMatch, ChainMesh, ChainTls, Cidr, FilterChain, SourceType};
use crate::proto::envoy::config::core::v3::CidrRange;
use crate::proto::envoy::config::listener::v3 as pb;
use crate::translate::finding::{Findings, Path};
use std::sync::Arc;

pub(super) fn filter_chain(
    path: &Path<'_>,
    chain: &pb::FilterChain,
    out: &mut Findings,
) -> Option<FilterChain> {
    let context = tls::downstream(path, chain.transport_socket.as_ref(), out);
    let limit = chain.transport_socket_connect_timeout.as_ref();
    let limit = timeout(&path.name("transport_socket_connect_timeout"), limit, None, out);
    if chain.use_proxy_proto == Some(true) {
        out.bad(&path.name("use_proxy_proto"), true, "not supported (nearest valid false)");
    }
    let matcher = match &chain.filter_chain_match {
        Some(matcher) => chain_match(&path.name("filter_chain_match"), matcher, out),
        None => Some(ChainMatch::default()),
    };
    let mut mesh = ChainMesh::default();
    let filter = filters::terminal(&path.name("filters"), &chain.filters, &mut mesh, out);
    let mesh = (mesh != ChainMesh::default()).then(|| Arc::new(mesh));
    let tls = context.map(|context| ChainTls { context, timeout: limit });
    let (guards, filter) = filter?;
    Some(FilterChain { name: chain.name.clone(), matcher: matcher?, tls, guards, mesh, filter })
}

fn chain_match(path: &Path<'_>, matcher: &pb::FilterChainMatch, out: &mut Findings) -> Option<ChainMatch> {
    use pb::filter_chain_match::ConnectionSourceType as Source;
    for (field, set) in
        [("address_suffix", !matcher.address_suffix.is_empty()), ("suffix_len", matcher.suffix_len.is_some())]
    {
        if set {
            out.bad(&path.name(field), "", "not supported (leave it out)");
        }
    }
    let ranges = |field: &str, list: &[CidrRange], out: &mut Findings| -> Vec<Cidr> {
        let at = path.name(field);
        list.iter().enumerate().filter_map(|(i, range)| cidr(&at.index(i), range, out)).collect()
    };
    let port = |path: &Path<'_>, value: u32, out: &mut Findings| {
        u16::try_from(within(path, value, 1, 65_535, out)).unwrap_or(u16::MAX)
    };
    let at = path.name("source_ports");
    let mut source_ports = Vec::with_capacity(matcher.source_ports.len());
    for (i, value) in matcher.source_ports.iter().enumerate() {
        source_ports.push(port(&at.index(i), *value, out));
    }
    let source_type = match enumeration(&path.name("source_type"), matcher.source_type, out)? {
        Source::Any => SourceType::Any,
        Source::SameIpOrLoopback => SourceType::SameIpOrLoopback,
        Source::External => SourceType::External,
    };
    if !matches!(matcher.transport_protocol.as_str(), "" | "raw_buffer" | "tls") {
        let why = "no such transport protocol (nearest valid: raw_buffer, tls)";
        out.bad(&path.name("transport_protocol"), &matcher.transport_protocol, why);
    }
    let destination_port = matcher.destination_port;
    Some(ChainMatch {
        destination_port: destination_port.map(|p| port(&path.name("destination_port"), p, out)),
        prefix_ranges: ranges("prefix_ranges", &matcher.prefix_ranges, out),
        server_names: server_names(&path.name("server_names"), &matcher.server_names, out),
        transport_protocol: matcher.transport_protocol.clone(),
        application_protocols: matcher.application_protocols.clone(),
        direct_source_prefix_ranges: ranges(
            "direct_source_prefix_ranges",
            &matcher.direct_source_prefix_ranges,
            out,
        ),
        source_type,
        source_prefix_ranges: ranges("source_prefix_ranges", &matcher.source_prefix_ranges, out),
        source_ports,
    })
}

/// Lower-cased; `*` only as a whole first label.
fn server_names(path: &Path<'_>, names: &[String], out: &mut Findings) -> Vec<String> {
    let mut read = Vec::with_capacity(names.len());
    for (i, name) in names.iter().enumerate() {
        let rest = name.strip_prefix("*.").unwrap_or(name);
        if rest.contains('*') || rest.is_empty() {
            let why = "a wildcard is the whole first label (nearest valid: *.example.com)";
            out.bad(&path.index(i), name, why);
        }
        read.push(name.to_ascii_lowercase());
    }
    read
}

/// Whether some connection meets both with the same precision at every level.
pub(super) fn overlap(a: &ChainMatch, b: &ChainMatch) -> bool {
    fn shared<T: PartialEq>(a: &[T], b: &[T]) -> bool {
        (a.is_empty() && b.is_empty()) || a.iter().any(|item| b.contains(item))
    }
    a.destination_port == b.destination_port
        && a.transport_protocol == b.transport_protocol
        && a.source_type == b.source_type
        && shared(&a.prefix_ranges, &b.prefix_ranges)
        && shared(&a.server_names, &b.server_names)
        && shared(&a.application_protocols, &b.application_protocols)
        && shared(&a.direct_source_prefix_ranges, &b.direct_source_prefix_ranges)
        && shared(&a.source_prefix_ranges, &b.source_prefix_ranges)
        && shared(&a.source_ports, &b.source_ports)
}
