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
pub(super) mod tests {
    use super::*;
    use crate::model::{FilterChain, Listener, NetworkFilter, TcpProxy};
    use crate::router::WeightedPick;
    use crate::snapshot::FilterSpec;

    pub(in crate::listener) fn chain(name: &str, matcher: ChainMatch) -> Arc<ChainSpec> {
        let tcp = TcpProxy {
            stat_prefix: String::new(),
            clusters: vec![],
            idle_timeout: None,
            max_connect_attempts: 1,
            access_log: Default::default(),
            max_connection_duration: None,
            hash_source_ip: false,
            criteria: Default::default(),
        };
        let filter = NetworkFilter::Tcp(tcp.clone());
        let model = FilterChain { name: name.into(), matcher, tls: None, guards: Vec::new(), filter };
        Arc::new(ChainSpec {
            model,
            tls: None,
            filter: FilterSpec::Tcp { config: tcp, clusters: WeightedPick::default() },
            filters: None,
            leftover: Default::default(),
        })
    }

    fn cidr(text: &str, len: u8) -> Cidr {
        Cidr::new(text.parse().unwrap(), len).unwrap()
    }

    pub(in crate::listener) fn model() -> Arc<Listener> {
        Arc::new(Listener {
            name: "l".into(),
            addresses: vec![],
            bind_to_port: true,
            direction: Default::default(),
            stat_prefix: String::new(),
            filter_chains: vec![],
            default_filter_chain: None,
            buffer_limit: 0,
            backlog: 0,
            use_original_dst: false,
            internal: false,
            unlimited: false,
            exact_balance: false,
            access_log: Default::default(),
            inspectors: Default::default(),
        })
    }

    pub(in crate::listener) fn bare() -> ListenerSpec {
        let (leftover, open) = Default::default();
        ListenerSpec {
            model: model(),
            chains: Vec::new(),
            default_chain: None,
            generation: 1,
            leftover,
            open,
        }
    }

    fn pick(chains: Vec<Arc<ChainSpec>>, default: bool, destination: &str, source: &str) -> Option<String> {
        let default_chain = default.then(|| chain("default", ChainMatch::default()));
        let spec = ListenerSpec { chains, default_chain, ..bare() };
        let inputs = Inputs {
            destination: destination.parse().ok(),
            source: source.parse().ok(),
            seen: Seen::default(),
        };
        find(&spec, &inputs).map(|chain| chain.model.name.clone())
    }

    #[test]
    fn the_most_specific_value_wins_and_a_hit_is_not_taken_back() {
        let chains = || {
            vec![
                chain("any", ChainMatch::default()),
                chain("net", ChainMatch { prefix_ranges: vec![cidr("10.0.0.0", 8)], ..Default::default() }),
                chain("host", ChainMatch { prefix_ranges: vec![cidr("10.0.0.1", 32)], ..Default::default() }),
                chain(
                    "port",
                    ChainMatch {
                        destination_port: Some(80),
                        prefix_ranges: vec![cidr("10.1.0.0", 16)],
                        ..Default::default()
                    },
                ),
            ]
        };
        assert_eq!(pick(chains(), true, "10.0.0.1:9", "1.1.1.1:1").as_deref(), Some("host"));
        assert_eq!(pick(chains(), true, "10.0.0.2:9", "1.1.1.1:1").as_deref(), Some("net"));
        assert_eq!(pick(chains(), true, "11.0.0.2:9", "1.1.1.1:1").as_deref(), Some("any"));
        // Port 80 hits `port`; that its prefix then fails does not bring `any` back.
        assert_eq!(pick(chains(), true, "11.0.0.2:80", "1.1.1.1:1").as_deref(), Some("default"));
        assert_eq!(pick(chains(), false, "11.0.0.2:80", "1.1.1.1:1"), None);
    }

    #[test]
    fn sources_and_transport() {
        let near = ChainMatch { source_type: SourceType::SameIpOrLoopback, ..Default::default() };
        let raw = ChainMatch { transport_protocol: "raw_buffer".into(), ..Default::default() };
        let tls = ChainMatch { transport_protocol: "tls".into(), ..Default::default() };
        let port = ChainMatch { source_ports: vec![7], ..Default::default() };
        let near = || vec![chain("near", near.clone()), chain("any", ChainMatch::default())];
        assert_eq!(pick(near(), false, "10.0.0.1:9", "127.0.0.1:1").as_deref(), Some("near"));
        assert_eq!(pick(near(), false, "10.0.0.1:9", "10.0.0.1:1").as_deref(), Some("near"));
        assert_eq!(pick(near(), false, "10.0.0.1:9", "10.0.0.9:1").as_deref(), Some("any"));
        let raw = vec![chain("tls", tls), chain("raw", raw)];
        assert_eq!(pick(raw, false, "10.0.0.1:9", "10.0.0.9:1").as_deref(), Some("raw"));
        assert_eq!(pick(vec![chain("p", port)], false, "10.0.0.1:9", "10.0.0.9:7").as_deref(), Some("p"));
    }

    #[test]
    fn what_the_first_bytes_tell() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let of = |name: &str, server_names: &[&str], transport: &str, protocols: &[&str]| {
            let matcher = ChainMatch {
                server_names: names(server_names),
                transport_protocol: transport.into(),
                application_protocols: names(protocols),
                ..Default::default()
            };
            chain(name, matcher)
        };
        let spec = ListenerSpec {
            chains: vec![
                of("exact", &["a.test"], "tls", &[]),
                of("wild", &["*.test"], "tls", &[]),
                of("wilder", &["*.b.test"], "tls", &[]),
                of("istio", &[], "tls", &["istio", "istio-h2"]),
                of("http", &[], "raw_buffer", &["http/1.1", "h2c"]),
                of("tls", &[], "tls", &[]),
            ],
            ..bare()
        };
        let pick = |name: Option<&str>, tls: bool, protocols: &[&str]| {
            let (server_name, protocols) = (name.map(Into::into), names(protocols).into());
            let seen = Seen { tls, server_name, protocols, ..Seen::default() };
            let inputs = Inputs { destination: None, source: None, seen };
            find(&spec, &inputs).map(|chain| chain.model.name.clone()).unwrap_or_default()
        };
        assert_eq!(pick(Some("a.test"), true, &["istio"]), "exact");
        assert_eq!(pick(Some("x.test"), true, &[]), "wild");
        assert_eq!(pick(Some("x.b.test"), true, &[]), "wilder");
        assert_eq!(pick(Some("test"), true, &["h2", "istio"]), "istio");
        assert_eq!(pick(None, true, &["h2"]), "tls");
        assert_eq!(pick(None, false, &["h2c"]), "http");
        // A name hits the exact chain; that its transport then fails does not bring another back.
        assert_eq!(pick(Some("a.test"), false, &["h2c"]), "");
        let blank = Inputs { destination: None, source: None, seen: Seen::default() };
        assert!(wants_tls(&spec, &blank) && !wants_http(&spec, &blank));
        let plain = ListenerSpec { chains: vec![of("http", &[], "raw_buffer", &["http/1.1"])], ..bare() };
        assert!(!wants_tls(&plain, &blank), "raw_buffer needs no inspector");
    }
}
