//! Network filters: tcp_proxy, http_connection_manager and RpcProxy, one per chain.

use std::sync::Arc;
use std::time::Duration;

use super::access_log;
use super::connections;
use super::discovered::discover;
use super::endpoints::lb_metadata;
use super::extension::{Extension, why_never};
use super::http_manager;
use super::mesh;
use super::route;
use super::route_action::check_sum;
use super::values::{ads_source, not_empty, positive, timeout, within};
use crate::model::{
    ChainMesh, Guard, NetworkFilter, Protocol, RouteSource, RpcProxy, TcpProxy, WeightedCluster,
};
use crate::proto::envoy::config::listener::v3 as pb;
use crate::proto::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use crate::proto::envoy::extensions::filters::network::tcp_proxy::v3 as tcp;
use crate::proto::mizzen::v1 as own;
use crate::translate::finding::{Findings, Path};

/// Idle timeouts if absent.
pub(super) const IDLE: Duration = Duration::from_secs(3600);

/// The one filter that ends a chain, and the guards before it; what a mesh wants goes into `mesh`, and every other
/// is a finding.
pub(super) fn terminal(
    path: &Path<'_>,
    filters: &[pb::Filter],
    mesh: &mut ChainMesh,
    out: &mut Findings,
) -> Option<(Vec<Guard>, NetworkFilter)> {
    let mut guards = Vec::new();
    let Some((last, before)) = filters.split_last() else {
        out.bad(path, "", "no filters (nearest valid: tcp_proxy, http_connection_manager or RpcProxy)");
        return None;
    };
    for (i, filter) in before.iter().enumerate() {
        let at = path.index(i);
        if let Some((at_config, extension)) = open(&at, filter, out) {
            let at_config = at.name(at_config);
            if let Some(guard) = connections::guard(&at_config, &extension, out) {
                guards.extend(guard);
                continue;
            }
            if mesh::network(&at_config, &extension, mesh, out) {
                continue;
            }
            let terminal = is_terminal(&extension);
            let why = if terminal { "must be the last filter" } else { "this filter is not supported" };
            out.bad(&at_config, &extension.type_url, why_never(&extension.type_url).unwrap_or(why));
        }
    }
    let at = path.index(before.len());
    let (field, extension) = open(&at, last, out)?;
    let at = at.name(field);
    let filter = if extension.is::<tcp::TcpProxy>() {
        tcp_proxy(&at, &extension.decode(&at, out)?, out).map(NetworkFilter::Tcp)
    } else if extension.is::<hcm::HttpConnectionManager>() {
        http_manager::manager(&at, &extension.decode(&at, out)?, out).map(NetworkFilter::Http)
    } else if extension.is::<own::RpcProxy>() {
        rpc_proxy(&at, &extension.decode(&at, out)?, out).map(NetworkFilter::Rpc)
    } else {
        let why = "this filter is not supported (nearest valid: TcpProxy, HttpConnectionManager, RpcProxy)";
        out.bad(&at, &extension.type_url, why);
        None
    };
    Some((guards, filter?))
}

fn is_terminal(extension: &Extension<'_>) -> bool {
    extension.is::<tcp::TcpProxy>()
        || extension.is::<hcm::HttpConnectionManager>()
        || extension.is::<own::RpcProxy>()
}

fn open<'a>(
    path: &Path<'_>,
    filter: &'a pb::Filter,
    out: &mut Findings,
) -> Option<(&'static str, Extension<'a>)> {
    use pb::filter::ConfigType;
    match &filter.config_type {
        Some(ConfigType::TypedConfig(any)) => {
            Extension::open(&path.name("typed_config"), any, out).map(|e| ("typed_config", e))
        }
        Some(ConfigType::ConfigDiscovery(source)) => {
            let check = |at: &Path<'_>, extension: &Extension<'_>, out: &mut Findings| {
                connections::guard(at, extension, out).is_some()
                    || mesh::network(at, extension, &mut ChainMesh::default(), out)
                    || is_terminal(extension)
            };
            discover(path, &filter.name, source, &check, out).map(|e| ("config_discovery", e))
        }
        None => {
            out.bad(&path.name("typed_config"), &filter.name, "filters are known by type, but there is none");
            None
        }
    }
}

fn tcp_proxy(path: &Path<'_>, proxy: &tcp::TcpProxy, out: &mut Findings) -> Option<TcpProxy> {
    if proxy.tunneling_config.is_some() {
        out.bad(&path.name("tunneling_config"), "", "not supported (leave it out)");
    }
    let idle = proxy.idle_timeout.as_ref();
    let age = proxy.max_downstream_connection_duration.as_ref();
    let at_age = path.name("max_downstream_connection_duration");
    let attempts = proxy.max_connect_attempts.unwrap_or(1);
    let clusters = tcp_clusters(path, proxy, out);
    Some(TcpProxy {
        stat_prefix: not_empty(&path.name("stat_prefix"), &proxy.stat_prefix, out),
        idle_timeout: timeout(&path.name("idle_timeout"), idle, Some(IDLE), out),
        max_connect_attempts: within(&path.name("max_connect_attempts"), attempts, 1, u32::MAX, out),
        max_connection_duration: age.map(|a| positive(&at_age, Some(a), IDLE, out)),
        hash_source_ip: hashes_source_ip(path, proxy, out),
        criteria: proxy.metadata_match.as_ref().map(lb_metadata).unwrap_or_default(),
        access_log: access_log::logs(&path.name("access_log"), &proxy.access_log, out),
        clusters: clusters?,
    })
}

/// Only the first policy counts, as in Envoy.
fn hashes_source_ip(path: &Path<'_>, proxy: &tcp::TcpProxy, out: &mut Findings) -> bool {
    use crate::proto::envoy::r#type::v3::hash_policy::PolicySpecifier as Kind;
    let at = path.name("hash_policy");
    match proxy.hash_policy.first().map(|policy| &policy.policy_specifier) {
        Some(Some(Kind::SourceIp(_))) => true,
        Some(Some(Kind::FilterState(_))) => {
            let why = "not supported: there is no filter state to hash (nearest valid: source_ip)";
            out.bad(&at.index(0).name("filter_state"), "", why);
            false
        }
        Some(None) | None => false,
    }
}

fn tcp_clusters(path: &Path<'_>, proxy: &tcp::TcpProxy, out: &mut Findings) -> Option<Vec<WeightedCluster>> {
    use tcp::tcp_proxy::ClusterSpecifier as Kind;
    let share = |name: String, weight: u32| WeightedCluster { name, weight, ..WeightedCluster::default() };
    match &proxy.cluster_specifier {
        Some(Kind::Cluster(name)) => Some(vec![share(not_empty(&path.name("cluster"), name, out), 1)]),
        Some(Kind::WeightedClusters(list)) => {
            let at = path.name("weighted_clusters");
            let at = at.name("clusters");
            let mut clusters = Vec::with_capacity(list.clusters.len());
            for (i, item) in list.clusters.iter().enumerate() {
                let at = at.index(i);
                let weight = within(&at.name("weight"), item.weight, 1, u32::MAX, out);
                let name = not_empty(&at.name("name"), &item.name, out);
                let criteria = item.metadata_match.as_ref().map(lb_metadata).unwrap_or_default();
                clusters.push(WeightedCluster { criteria, ..share(name, weight) });
            }
            check_sum(&at, clusters.iter().map(|c| u64::from(c.weight)).sum(), out);
            Some(clusters)
        }
        None => {
            out.bad(path, "", "no cluster (one of cluster, weighted_clusters)");
            None
        }
    }
}

fn rpc_proxy(path: &Path<'_>, proxy: &own::RpcProxy, out: &mut Findings) -> Option<RpcProxy> {
    use own::rpc_proxy::RouteSpecifier as Source;
    let stat_prefix = not_empty(&path.name("stat_prefix"), &proxy.stat_prefix, out);
    let at = path.name("downstream_protocol");
    let downstream = match proxy.downstream_protocol.as_str() {
        "auto" => Some(Protocol::Auto),
        other => protocol(&at, other, "bolt, http2, auto", out),
    };
    let at = path.name("upstream_protocol");
    let upstream = match proxy.upstream_protocol.as_str() {
        "" => Some(None),
        other => protocol(&at, other, "bolt, http2, or empty for the same", out).map(Some),
    };
    let routes = match &proxy.route_specifier {
        Some(Source::Rds(source)) => rds(&path.name("rds"), source, out),
        Some(Source::RouteConfig(table)) => inline_routes(&path.name("route_config"), table, out),
        None => {
            out.bad(path, "", "no routes (one of rds, route_config)");
            None
        }
    };
    let max_frame = match proxy.max_frame_bytes {
        0 => RpcProxy::MAX_FRAME,
        bytes => {
            let (least, most) = RpcProxy::MAX_FRAME_RANGE;
            within(&path.name("max_frame_bytes"), bytes, least, most, out) as usize
        }
    };
    let idle = proxy.idle_timeout.as_ref();
    Some(RpcProxy {
        stat_prefix,
        downstream: downstream?,
        upstream: upstream?,
        routes: routes?,
        idle_timeout: timeout(&path.name("idle_timeout"), idle, Some(IDLE), out),
        drain_goaway: proxy.drain_goaway,
        max_frame,
        access_log: access_log::logs(&path.name("access_log"), &proxy.access_log, out),
        filters: Vec::new(),
        application_errors: proxy.application_errors,
    })
}

fn protocol(path: &Path<'_>, name: &str, known: &str, out: &mut Findings) -> Option<Protocol> {
    match name {
        "bolt" => Some(Protocol::Bolt),
        "http2" => Some(Protocol::Http2),
        other => {
            out.bad(path, other, format_args!("no such protocol (nearest valid: {known})"));
            None
        }
    }
}

/// A table by name.
pub(super) fn rds(path: &Path<'_>, source: &hcm::Rds, out: &mut Findings) -> Option<RouteSource> {
    let name = not_empty(&path.name("route_config_name"), &source.route_config_name, out);
    let at = path.name("config_source");
    let initial_fetch_timeout = ads_source(&at, source.config_source.as_ref(), out);
    Some(RouteSource::Rds { name, initial_fetch_timeout })
}

/// A table written in the filter.
pub(super) fn inline_routes(
    path: &Path<'_>,
    table: &crate::proto::envoy::config::route::v3::RouteConfiguration,
    out: &mut Findings,
) -> Option<RouteSource> {
    route::table(path, table, out).map(|table| RouteSource::Inline(Arc::new(table)))
}
