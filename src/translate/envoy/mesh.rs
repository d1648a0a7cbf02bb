//! Istio's extensions: who tells whom what, what is offered, what is counted.

use super::extension::Extension;
use super::values::{duration, enumeration};
use crate::model::{
    AlpnOverride, ChainMesh, ClusterMesh, Direction, Expr, FilterChain, FilterConfig, MESH_LABELS,
    MESH_METRICS, MeshReporter, MeshService, MeshStats, MetricOverride, NetworkFilter, PeerExchange,
    PeerMetadata,
};
use crate::proto::envoy::config::cluster::v3 as cluster;
use crate::proto::envoy::tcp::metadataexchange::config::MetadataExchange;
use crate::proto::io::istio::http::peer_metadata as peer;
use crate::proto::istio::envoy::config::filter::http::alpn::v2alpha1 as alpn;
use crate::proto::{message_name, stats as pb};
use crate::translate::finding::{Findings, Path};
use prost_types::value::Kind;
use prost_types::{Struct, Value};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// `tcp_reporting_duration` if absent.
const INTERVAL: Duration = Duration::from_secs(5);

/// Network filters that are passed over: they look at other protocols.
const PASSED: &[&str] = &[
    "envoy.extensions.filters.network.mongo_proxy.v3.MongoProxy",
    "envoy.extensions.filters.network.mysql_proxy.v3.MySQLProxy",
];

/// Takes a network filter before the last one into `mesh`; `false`: it is none of these.
pub(super) fn network(
    path: &Path<'_>,
    extension: &Extension<'_>,
    mesh: &mut ChainMesh,
    out: &mut Findings,
) -> bool {
    let name = message_name(&extension.type_url);
    if extension.is::<MetadataExchange>() {
        let config = extension.decode::<MetadataExchange>(path, out);
        mesh.exchange = config.and_then(|config| exchange(path, &config, out));
    } else if extension.is::<pb::PluginConfig>() {
        let config = extension.decode::<pb::PluginConfig>(path, out);
        mesh.stats.extend(config.and_then(|config| stats(path, &config, out)).map(Arc::new));
    } else if PASSED.contains(&name) {
        mesh.passed.push(name.rsplit('.').next().unwrap_or_default().to_owned());
        out.note(path);
    } else {
        return false;
    }
    true
}

fn exchange(path: &Path<'_>, config: &MetadataExchange, out: &mut Findings) -> Option<PeerExchange> {
    if config.protocol.is_empty() {
        out.bad(&path.name("protocol"), "", "must not be empty (nearest valid: istio-peer-exchange)");
        return None;
    }
    Some(PeerExchange { protocol: config.protocol.clone(), labels: config.additional_labels.clone() })
}

/// What a cluster's upstream filters and its `istio` metadata say. Upstream filters other than the exchange are
/// findings.
pub(super) fn of_cluster(message: &cluster::Cluster, out: &mut Findings) -> Option<ClusterMesh> {
    let mut mesh = ClusterMesh::default();
    let root = Path::ROOT;
    let at = root.name("filters");
    for (i, filter) in message.filters.iter().enumerate() {
        let at = at.index(i);
        let at = at.name("typed_config");
        let Some(any) = &filter.typed_config else {
            out.bad(&at, &filter.name, "upstream network filters are known by type, but there is none");
            continue;
        };
        let Some(extension) = Extension::open(&at, any, out) else { continue };
        if extension.is::<MetadataExchange>() {
            let config = extension.decode::<MetadataExchange>(&at, out);
            mesh.exchange = config.and_then(|config| exchange(&at, &config, out));
            continue;
        }
        out.bad(&at, &extension.type_url, "this upstream network filter is not supported");
    }
    let metadata = message.metadata.as_ref().and_then(|metadata| metadata.filter_metadata.get("istio"));
    if let Some(istio) = metadata {
        let flag = |key: &str| matches!(kind(istio, key), Some(Kind::BoolValue(true)));
        mesh.keeps_alpn = text(istio, "alpn_override") == Some("false");
        mesh.external = flag("external");
        mesh.disable_exchange = flag("disable_mx");
        mesh.service = service(istio);
    }
    (mesh != ClusterMesh::default()).then_some(mesh)
}

fn service(istio: &Struct) -> Option<MeshService> {
    let Some(Kind::ListValue(list)) = kind(istio, "services") else { return None };
    let Some(Value { kind: Some(Kind::StructValue(first)) }) = list.values.first() else { return None };
    let field = |key: &str| text(first, key).unwrap_or_default().to_owned();
    let host = field("host");
    // As Istio calls a service whose name it does not say: by the first label of its host.
    let name = match text(first, "name") {
        Some(name) => name.to_owned(),
        None => host.split('.').next().unwrap_or_default().to_owned(),
    };
    Some(MeshService { name, namespace: field("namespace"), host })
}

fn kind<'a>(of: &'a Struct, key: &str) -> Option<&'a Kind> {
    of.fields.get(key)?.kind.as_ref()
}

/// A text of a struct.
pub(super) fn text<'a>(of: &'a Struct, key: &str) -> Option<&'a str> {
    match kind(of, key)? {
        Kind::StringValue(text) => Some(text),
        _ => None,
    }
}

pub(super) fn peer_metadata(
    path: &Path<'_>,
    config: &peer::Config,
    out: &mut Findings,
) -> Option<FilterConfig> {
    use peer::config::discovery_method::MethodSpecifier as How;
    use peer::config::propagation_method::MethodSpecifier as Tell;
    let mut model = PeerMetadata { labels: config.additional_labels.clone(), ..PeerMetadata::default() };
    for (field, list, by_header) in [
        ("downstream_discovery", &config.downstream_discovery, &mut model.of_clients),
        ("upstream_discovery", &config.upstream_discovery, &mut model.of_servers),
    ] {
        let at = path.name(field);
        for (i, method) in list.iter().enumerate() {
            let at = at.index(i);
            match &method.method_specifier {
                Some(How::IstioHeaders(_)) => *by_header = true,
                // Nobody tells this process of other workloads: it finds none.
                Some(How::WorkloadDiscovery(_)) => {}
                Some(How::Baggage(_)) => out.note(&at.name("baggage")),
                None => out.bad(&at, "", "no method that is known"),
            }
        }
    }
    if config.shared_with_upstream {
        out.note(&path.name("shared_with_upstream"));
    }
    let tells = |list: &[peer::config::PropagationMethod]| {
        let told = list.iter().filter_map(|method| method.method_specifier.as_ref());
        told.map(|Tell::IstioHeaders(headers)| headers.skip_external_clusters).next()
    };
    model.tell_clients = tells(&config.downstream_propagation).is_some();
    model.tell_servers = tells(&config.upstream_propagation).is_some();
    model.skip_external = tells(&config.upstream_propagation).unwrap_or_default();
    Some(FilterConfig::PeerMetadata(model))
}

pub(super) fn alpn_override(
    path: &Path<'_>,
    config: &alpn::FilterConfig,
    out: &mut Findings,
) -> Option<FilterConfig> {
    use alpn::filter_config::Protocol;
    let mut model = AlpnOverride::default();
    let at = path.name("alpn_override");
    for (i, entry) in config.alpn_override.iter().enumerate() {
        let at = at.index(i);
        let (at_protocol, list) = (at.name("upstream_protocol"), at.name("alpn_override"));
        for (place, name) in entry.alpn_override.iter().enumerate() {
            if name.is_empty() || name.len() > 255 {
                out.bad(&list.index(place), name, "must have 1 to 255 bytes");
            }
        }
        let field = match enumeration(&at_protocol, entry.upstream_protocol, out)? {
            Protocol::Http10 => &mut model.http10,
            Protocol::Http11 => &mut model.http11,
            Protocol::Http2 => &mut model.http2,
        };
        // The first one stands, and an empty list says nothing.
        if field.is_none() && !entry.alpn_override.is_empty() {
            *field = Some(entry.alpn_override.clone().into());
        }
    }
    Some(FilterConfig::Alpn(model))
}

pub(super) fn http_stats(
    path: &Path<'_>,
    config: &pb::PluginConfig,
    out: &mut Findings,
) -> Option<FilterConfig> {
    stats(path, config, out).map(Arc::new).map(FilterConfig::MeshStats)
}

fn stats(path: &Path<'_>, config: &pb::PluginConfig, out: &mut Findings) -> Option<MeshStats> {
    let at = path.name("tcp_reporting_duration");
    let interval = config.tcp_reporting_duration.as_ref().map_or(INTERVAL, |time| duration(&at, time, out));
    let reporter = match enumeration(&path.name("reporter"), config.reporter, out)? {
        // Until it is known which way the listener looks.
        pb::Reporter::Unspecified => MeshReporter::Source,
        pb::Reporter::ServerGateway => MeshReporter::Waypoint,
    };
    let mut overrides: BTreeMap<usize, MetricOverride> = BTreeMap::new();
    let at = path.name("metrics");
    for (i, metric) in config.metrics.iter().enumerate() {
        one_override(&at.index(i), metric, &mut overrides, out);
    }
    if !config.definitions.is_empty() {
        out.note(&path.name("definitions"));
    }
    Some(MeshStats {
        reporter,
        host_fallback: !config.disable_host_header_fallback,
        interval: Some(interval).filter(|time| !time.is_zero()),
        overrides: overrides.into_values().collect(),
    })
}

fn one_override(
    path: &Path<'_>,
    config: &pb::MetricConfig,
    overrides: &mut BTreeMap<usize, MetricOverride>,
    out: &mut Findings,
) {
    if !config.r#match.is_empty() {
        out.note(&path.name("match"));
    }
    let mut labels = Vec::with_capacity(config.dimensions.len());
    let at = path.name("dimensions");
    for (name, text) in &config.dimensions {
        match Expr::parse(text) {
            Ok(expr) => labels.push((name.clone(), Arc::new(expr))),
            Err(why) => out.bad(&at.key(name), text, why),
        }
    }
    for name in &config.tags_to_remove {
        // As Istio does: a label that is no standard one is not there to be removed.
        if !MESH_LABELS.contains(&name.as_str()) {
            out.note(&path.name("tags_to_remove").key(name));
        }
    }
    let named = MESH_METRICS
        .iter()
        .enumerate()
        .filter(|(_, metric)| config.name.is_empty() || config.name == **metric);
    let mut any = false;
    for (at, metric) in named {
        any = true;
        let held =
            overrides.entry(at).or_insert_with(|| MetricOverride { metric, ..MetricOverride::default() });
        if config.drop {
            held.dropped = true;
            continue;
        }
        held.removed.extend(config.tags_to_remove.iter().cloned());
        for (name, expr) in &labels {
            held.removed.retain(|removed| removed != name);
            held.labels.retain(|(label, _)| label != name);
            held.labels.push((name.clone(), expr.clone()));
        }
    }
    if !any {
        out.note(&path.name("name"));
    }
}

/// From now on it is known which way the listener of `chain` looks.
pub(super) fn look(chain: &mut FilterChain, direction: Direction) {
    if direction != Direction::Inbound {
        return;
    }
    let turn = |stats: &mut Arc<MeshStats>| {
        let stats = Arc::make_mut(stats);
        if stats.reporter == MeshReporter::Source {
            stats.reporter = MeshReporter::Destination;
        }
    };
    chain.mesh.iter_mut().filter_map(Arc::get_mut).for_each(|mesh| mesh.stats.iter_mut().for_each(turn));
    let NetworkFilter::Http(manager) = &mut chain.filter else { return };
    // Nobody else has them yet.
    for rule in manager.filters.iter_mut().filter_map(|filter| Arc::get_mut(&mut filter.rule)) {
        if let FilterConfig::MeshStats(stats) = &mut rule.config {
            turn(stats);
        }
    }
}
