//! Cluster.

use std::sync::Arc;
use std::time::Duration;

use super::endpoints::{self, Hosts};
use super::values::{FOREVER, ads_source, duration, enumeration, not_empty, port, positive};
use super::{cluster_health, cluster_http, cluster_lb, cluster_limits, mesh, tls};
use crate::model::{
    Cluster, Discovery, DnsFamily, DnsPace, Endpoints, OriginalDst, SocketMatch, TcpKeepalive,
    TransportSockets,
};
use crate::proto::envoy::config::cluster::v3 as pb;
use crate::translate::finding::{Findings, Path};

/// How long an unused original destination is kept if `cleanup_interval` is absent.
const CLEANUP: Duration = Duration::from_secs(5);
/// Names an original destination if `http_header_name` is absent.
const DESTINATION_HEADER: &str = "x-envoy-original-dst-host";
/// `dns_refresh_rate` if absent.
const DNS_REFRESH: Duration = Duration::from_secs(5);

pub(super) fn cluster(message: &pb::Cluster, out: &mut Findings) -> Option<Cluster> {
    let root = Path::ROOT;
    let name = not_empty(&root.name("name"), &message.name, out);
    refuse_unbuilt(message, out);
    // Read on without, so that the other faults are told too.
    let found = discovery(&name, message, out);
    let is_known = found.is_some();
    let mut model = Cluster::new(name, found.unwrap_or_else(|| Discovery::Static(Arc::default())));
    cluster_lb::apply(message, &mut model, out);
    cluster_health::apply(message, &mut model, out);
    model.alt_stat_name = Some(message.alt_stat_name.clone()).filter(|n| !n.is_empty());
    let timeout = message.connect_timeout.as_ref();
    model.connect_timeout = positive(&root.name("connect_timeout"), timeout, model.connect_timeout, out);
    if let Some(limit) = message.per_connection_buffer_limit_bytes {
        model.buffer_limit = usize::try_from(limit).unwrap_or(usize::MAX);
    }
    cluster_limits::apply(message, &mut model, out);
    let keepalive = message.upstream_connection_options.as_ref().and_then(|o| o.tcp_keepalive.as_ref());
    model.tcp_keepalive = keepalive.map(|k| {
        Box::new(TcpKeepalive {
            probes: k.keepalive_probes,
            time: k.keepalive_time.map(|s| Duration::from_secs(s.into())),
            interval: k.keepalive_interval.map(|s| Duration::from_secs(s.into())),
        })
    });
    cluster_http::apply(message, &mut model, out);
    model.mesh = mesh::of_cluster(message, out).map(Arc::new);
    if let Some(sockets) = sockets(message, out)
        && sockets != *model.sockets
    {
        model.sockets = Arc::new(sockets);
    }
    is_known.then_some(model)
}

/// Plaintext or TLS, by host.
fn sockets(message: &pb::Cluster, out: &mut Findings) -> Option<TransportSockets> {
    let root = Path::ROOT;
    let fallback = tls::upstream(&root, message.transport_socket.as_ref(), out)?;
    let at = root.name("transport_socket_matches");
    let mut matches = Vec::with_capacity(message.transport_socket_matches.len());
    for (i, item) in message.transport_socket_matches.iter().enumerate() {
        let at = at.index(i);
        if item.transport_socket.is_none() {
            out.bad(&at.name("transport_socket"), &item.name, "is required (nearest valid: raw_buffer)");
        }
        matches.push(SocketMatch {
            name: item.name.clone(),
            labels: item.r#match.as_ref().map(endpoints::lb_texts).unwrap_or_default(),
            socket: tls::upstream(&at, item.transport_socket.as_ref(), out)?,
        });
    }
    Some(TransportSockets { fallback, matches })
}

/// What encrypts, restricts or redirects, and is not built.
fn refuse_unbuilt(message: &pb::Cluster, out: &mut Findings) {
    let root = Path::ROOT;
    if message.transport_socket_matcher.is_some() {
        out.bad(&root.name("transport_socket_matcher"), "", "not supported");
    }
    if let Some(config) = &message.upstream_config {
        let url = config.typed_config.as_ref().map_or("", |any| &any.type_url);
        out.bad(&root.name("upstream_config").name("typed_config"), url, "not supported");
    }
}

fn discovery(name: &str, message: &pb::Cluster, out: &mut Findings) -> Option<Discovery> {
    use pb::cluster::{ClusterDiscoveryType as Kind, DiscoveryType as Type};
    let root = Path::ROOT;
    let at = root.name("type");
    let kind = match &message.cluster_discovery_type {
        None => Type::Static,
        Some(Kind::Type(number)) => enumeration(&at, *number, out)?,
        Some(Kind::ClusterType(custom)) => {
            let url = custom.typed_config.as_ref().map_or(custom.name.as_str(), |any| &any.type_url);
            out.bad(&root.name("cluster_type"), url, "not supported (nearest valid: type EDS or STRICT_DNS)");
            return None;
        }
    };
    match kind {
        Type::Static => Some(Discovery::Static(Arc::new(assignment(name, message, Hosts::Addresses, out)))),
        Type::Eds => eds(name, message, out),
        Type::StrictDns => dns(name, message, false, out),
        Type::LogicalDns => dns(name, message, true, out),
        Type::OriginalDst => Some(Discovery::OriginalDst(original_dst(message, out))),
    }
}

/// Hosts that clients name; the cluster itself must name none.
fn original_dst(message: &pb::Cluster, out: &mut Findings) -> OriginalDst {
    use pb::cluster::{LbConfig, LbPolicy};
    let root = Path::ROOT;
    if message.load_assignment.is_some() {
        out.bad(&root.name("load_assignment"), "", "an ORIGINAL_DST cluster has no hosts of its own");
    }
    if message.load_balancing_policy.is_none() && message.lb_policy != LbPolicy::ClusterProvided as i32 {
        let why = "must be CLUSTER_PROVIDED for ORIGINAL_DST";
        out.bad(&root.name("lb_policy"), message.lb_policy, why);
    }
    if message.lb_subset_config.is_some() {
        out.bad(&root.name("lb_subset_config"), "", "an ORIGINAL_DST cluster has no subsets");
    }
    let cleanup = positive(&root.name("cleanup_interval"), message.cleanup_interval.as_ref(), CLEANUP, out);
    let mut found =
        OriginalDst { header: None, port_override: None, default_port: None, loopback: false, cleanup };
    if let Some(LbConfig::OriginalDstLbConfig(config)) = &message.lb_config {
        let at = root.name("original_dst_lb_config");
        if config.metadata_key.is_some() {
            out.bad(&at.name("metadata_key"), "", "not supported (nearest valid: http_header_name)");
        }
        if config.use_http_header {
            let name = match config.http_header_name.as_str() {
                "" => DESTINATION_HEADER.to_owned(),
                name => name.to_ascii_lowercase(),
            };
            found.header = Some(name);
        } else if !config.http_header_name.is_empty() {
            out.bad(&at.name("http_header_name"), &config.http_header_name, "needs use_http_header");
        }
        let override_at = at.name("upstream_port_override");
        found.port_override = config.upstream_port_override.map(|number| port(&override_at, number, out));
    }
    found
}

/// The hosts written in the resource; none (a black hole) is fine.
fn assignment(name: &str, message: &pb::Cluster, hosts: Hosts, out: &mut Findings) -> Endpoints {
    let at = Path::ROOT.name("load_assignment");
    match &message.load_assignment {
        Some(cla) => Endpoints { name: name.to_owned(), ..endpoints::endpoints(&at, cla, hosts, out) },
        None => Endpoints { name: name.to_owned(), overprovisioning: 140, ..Endpoints::default() },
    }
}

fn eds(name: &str, message: &pb::Cluster, out: &mut Findings) -> Option<Discovery> {
    let root = Path::ROOT;
    let at = root.name("eds_cluster_config");
    let Some(config) = &message.eds_cluster_config else {
        out.bad(&at, "", "an EDS cluster needs it");
        return None;
    };
    let initial_fetch_timeout = ads_source(&at.name("eds_config"), config.eds_config.as_ref(), out);
    let service_name =
        if config.service_name.is_empty() { name.to_owned() } else { config.service_name.clone() };
    Some(Discovery::Eds { service_name, initial_fetch_timeout })
}

fn dns(name: &str, message: &pb::Cluster, logical: bool, out: &mut Findings) -> Option<Discovery> {
    use pb::cluster::DnsLookupFamily as Family;
    let root = Path::ROOT;
    let at = root.name("load_assignment");
    let hosts = assignment(name, message, Hosts::Names, out);
    endpoints::check_dns_hosts(&at, &hosts, out);
    if logical && !endpoints::is_single(&hosts) && out.is_clean() {
        let count = hosts.iter().count();
        out.bad(&at, format_args!("{count} endpoints"), "a LOGICAL_DNS cluster has exactly one endpoint");
    }
    let refresh = message.dns_refresh_rate.as_ref();
    let refresh = positive(&root.name("dns_refresh_rate"), refresh, DNS_REFRESH, out).min(FOREVER);
    let family = match enumeration(&root.name("dns_lookup_family"), message.dns_lookup_family, out)? {
        Family::Auto => DnsFamily::Auto,
        Family::V4Only => DnsFamily::V4Only,
        Family::V6Only => DnsFamily::V6Only,
        Family::V4Preferred => DnsFamily::V4Preferred,
        Family::All => DnsFamily::All,
    };
    Some(Discovery::Dns {
        endpoints: Arc::new(hosts),
        logical,
        refresh,
        family,
        pace: dns_pace(message, out),
    })
}

fn dns_pace(message: &pb::Cluster, out: &mut Findings) -> DnsPace {
    let root = Path::ROOT;
    let jitter = message.dns_jitter.as_ref().map(|jitter| duration(&root.name("dns_jitter"), jitter, out));
    let failure = message.dns_failure_refresh_rate.as_ref().map(|rate| {
        let at = root.name("dns_failure_refresh_rate");
        if rate.base_interval.is_none() {
            out.bad(&at.name("base_interval"), "", "is required");
        }
        let base = positive(&at.name("base_interval"), rate.base_interval.as_ref(), DNS_REFRESH, out);
        let max = rate.max_interval.as_ref();
        let max = positive(&at.name("max_interval"), max, base.saturating_mul(10), out);
        if max < base {
            out.bad(&at.name("max_interval"), "", "below base_interval");
        }
        (base, max)
    });
    if !message.dns_resolvers.is_empty() {
        let why = "the system's resolver is used (nearest valid: leave it out)";
        out.bad(&root.name("dns_resolvers"), "", why);
    }
    DnsPace { respect_ttl: message.respect_dns_ttl, jitter: jitter.unwrap_or_default(), failure }
}
