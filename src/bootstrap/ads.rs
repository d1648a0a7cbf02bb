//! The control plane a bootstrap names.

use super::Finding;
use crate::model::{Cluster, Discovery};
use crate::proto::envoy::config::bootstrap::v3::bootstrap::DynamicResources;
use crate::proto::envoy::config::bootstrap::v3::runtime_layer::LayerSpecifier;
use crate::proto::envoy::config::bootstrap::v3::{LayeredRuntime, RuntimeLayer};
use crate::proto::envoy::config::core::v3::api_config_source::ApiType;
use crate::proto::envoy::config::core::v3::config_source::ConfigSourceSpecifier;
use crate::proto::envoy::config::core::v3::grpc_service::TargetSpecifier;
use crate::proto::envoy::config::core::v3::{ApiConfigSource, ConfigSource};
use std::time::Duration;

/// How to reach the control plane, and what to ask it for.
#[derive(Clone, Debug, PartialEq)]
pub struct Ads {
    /// Delta instead of state of the world.
    pub delta: bool,
    /// A stream per type instead of ADS.
    pub split: bool,
    /// A static cluster: STATIC (IP or Unix socket), STRICT_DNS or LOGICAL_DNS.
    pub cluster: Cluster,
    /// `:authority` of the stream; `None`: the cluster's name.
    pub authority: Option<String>,
    /// gRPC metadata of the stream.
    pub metadata: Vec<(String, String)>,
    /// `set_node_on_first_message_only`; the node goes with the first request of a stream only either way.
    pub node_on_first_only: bool,
    /// Clusters come by ADS; how long their first answer is waited for.
    pub clusters: Option<Fetch>,
    /// Listeners come by ADS.
    pub listeners: Option<Fetch>,
}

/// A subscription of the bootstrap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fetch {
    /// `initial_fetch_timeout`; `None` (0 in the file) waits for ever. Default 15 s.
    pub initial_timeout: Option<Duration>,
}

const AT: &str = "dynamic_resources";

/// Reads `dynamic_resources`; `None` when it asks for nothing, or for what cannot be done (see `findings`).
pub(super) fn read(
    dynamic: &DynamicResources,
    runtime: &[(String, ConfigSource)],
    clusters: &[Cluster],
    findings: &mut Vec<Finding>,
) -> Option<Ads> {
    for (locator, name) in [
        (&dynamic.lds_resources_locator, "lds_resources_locator"),
        (&dynamic.cds_resources_locator, "cds_resources_locator"),
    ] {
        if !locator.is_empty() {
            findings.push(Finding::error(
                format!("{AT}.{name}"),
                locator,
                "not supported; use lds_config and cds_config with ads",
            ));
        }
    }
    let cds = fetch(dynamic.cds_config.as_ref(), "cds_config", findings);
    let lds = fetch(dynamic.lds_config.as_ref(), "lds_config", findings);
    let rtds: Option<Vec<_>> =
        runtime.iter().map(|(at, source)| fetch_at(Some(source), at, findings)).collect();
    let (mut cds, mut lds, mut rtds) = (cds?, lds?, rtds?);
    let asked = cds.iter().chain(&lds).chain(rtds.iter().flatten()).count();
    let all = cds.iter_mut().chain(&mut lds).chain(rtds.iter_mut().flatten());
    let asked_own = all.filter_map(|asked| asked.own.take());
    let own: Vec<_> = asked_own.collect();
    let (at, source) = match (own.first(), dynamic.ads_config.as_ref()) {
        (None, Some(source)) => (format!("{AT}.ads_config"), source.clone()),
        (None, None) => {
            if asked > 0 {
                let why = "missing, but cds_config, lds_config or an rtds_layer asks for ads";
                findings.push(Finding::error(format!("{AT}.ads_config"), "", why));
            }
            return None;
        }
        (Some((at, source)), _) if own.len() == asked => (at.clone(), source.clone()),
        (Some((at, _)), _) => {
            let why = "expected one kind of source for all, ads or api_config_source";
            findings.push(Finding::error(at, "", why));
            return None;
        }
    };
    let delta = variant(&at, &source, findings)?;
    let (name, authority, metadata) = target(&at, &source, findings)?;
    for (other_at, other) in own.iter().skip(1) {
        let (same, other) = (variant(other_at, other, findings)?, target(other_at, other, findings)?.0);
        if (same, &other) != (delta, &name) {
            let why = format!("expected the same cluster and api_type as {at}");
            findings.push(Finding::error(other_at, other, why));
            return None;
        }
    }
    let cluster = find_cluster(&at, &name, clusters, findings)?;
    Some(Ads {
        delta,
        split: !own.is_empty(),
        cluster,
        authority,
        metadata,
        node_on_first_only: source.set_node_on_first_message_only,
        clusters: cds.map(|asked| asked.fetch),
        listeners: lds.map(|asked| asked.fetch),
    })
}

/// One of the subscriptions of a bootstrap.
struct Asked {
    fetch: Fetch,
    /// The source it names, and where, if that is not ADS.
    own: Option<(String, ApiConfigSource)>,
}

/// The sources of RTDS layers, and where they stand.
pub(super) fn runtime_sources(layered: Option<&LayeredRuntime>) -> Vec<(String, ConfigSource)> {
    let layers = layered.into_iter().flat_map(|layered| &layered.layers).enumerate();
    let of = |(index, layer): (usize, &RuntimeLayer)| match &layer.layer_specifier {
        Some(LayerSpecifier::RtdsLayer(rtds)) => {
            let at = format!("layered_runtime.layers[{index}].rtds_layer.rtds_config");
            Some((at, rtds.rtds_config.clone().unwrap_or_default()))
        }
        _ => None,
    };
    layers.filter_map(of).collect()
}

fn fetch(source: Option<&ConfigSource>, key: &str, findings: &mut Vec<Finding>) -> Option<Option<Asked>> {
    fetch_at(source, &format!("{AT}.{key}"), findings)
}

/// `None`: what is there is faulty. `Some(None)`: there is none.
fn fetch_at(source: Option<&ConfigSource>, at: &str, findings: &mut Vec<Finding>) -> Option<Option<Asked>> {
    let Some(source) = source else { return Some(None) };
    let own = match &source.config_source_specifier {
        Some(ConfigSourceSpecifier::Ads(_)) => None,
        Some(ConfigSourceSpecifier::ApiConfigSource(api)) => {
            Some((format!("{at}.api_config_source"), api.clone()))
        }
        _ => {
            let why = "expected \"ads\": {} or \"api_config_source\": other sources are not supported";
            findings.push(Finding::error(at, "", why));
            return None;
        }
    };
    let initial_timeout = match &source.initial_fetch_timeout {
        None => Some(Duration::from_secs(15)),
        Some(given) => match Duration::try_from(*given) {
            Ok(limit) => (!limit.is_zero()).then_some(limit),
            Err(_) => {
                let path = format!("{at}.initial_fetch_timeout");
                findings.push(Finding::error(path, format!("{}s", given.seconds), "expected zero or more"));
                None
            }
        },
    };
    Some(Some(Asked { fetch: Fetch { initial_timeout }, own }))
}

fn variant(at: &str, source: &ApiConfigSource, findings: &mut Vec<Finding>) -> Option<bool> {
    match source.api_type() {
        ApiType::Grpc | ApiType::AggregatedGrpc => Some(false),
        ApiType::DeltaGrpc | ApiType::AggregatedDeltaGrpc => Some(true),
        other => {
            let path = format!("{at}.api_type");
            findings.push(Finding::error(path, other.as_str_name(), "expected GRPC or DELTA_GRPC"));
            None
        }
    }
}

type Target = (String, Option<String>, Vec<(String, String)>);

fn target(at: &str, source: &ApiConfigSource, findings: &mut Vec<Finding>) -> Option<Target> {
    let path = format!("{at}.grpc_services");
    let Some(service) = source.grpc_services.first() else {
        findings.push(Finding::error(path, "", "missing; expected one envoy_grpc with a cluster_name"));
        return None;
    };
    if source.grpc_services.len() > 1 {
        findings.push(Finding::warning(
            path.as_str(),
            source.grpc_services.len(),
            "only the first one is used",
        ));
    }
    let Some(TargetSpecifier::EnvoyGrpc(grpc)) = &service.target_specifier else {
        findings.push(Finding::error(
            format!("{path}[0]"),
            "",
            "expected envoy_grpc: other clients are not supported",
        ));
        return None;
    };
    let metadata = service.initial_metadata.iter().map(|h| (h.key.clone(), h.value.clone())).collect();
    let authority = (!grpc.authority.is_empty()).then(|| grpc.authority.clone());
    Some((grpc.cluster_name.clone(), authority, metadata))
}

fn find_cluster(at: &str, name: &str, clusters: &[Cluster], findings: &mut Vec<Finding>) -> Option<Cluster> {
    let path = format!("{at}.grpc_services[0].envoy_grpc.cluster_name");
    let Some(cluster) = clusters.iter().find(|cluster| cluster.name == name) else {
        findings.push(Finding::error(path, format!("{name:?}"), "no static cluster has this name"));
        return None;
    };
    let hosts = match &cluster.discovery {
        Discovery::Static(endpoints) | Discovery::Dns { endpoints, .. } => endpoints.iter().count(),
        Discovery::Eds { .. } | Discovery::OriginalDst(_) => {
            let why =
                "such a cluster cannot lead to the control plane; expected STATIC, STRICT_DNS or LOGICAL_DNS";
            findings.push(Finding::error(path, name, why));
            return None;
        }
    };
    if hosts == 0 {
        findings.push(Finding::error(path, name, "this cluster has no endpoint"));
        return None;
    }
    if !cluster.sockets.matches.is_empty() {
        let why = "the control plane's cluster has one transport_socket, no transport_socket_matches";
        findings.push(Finding::error(path, name, why));
        return None;
    }
    Some(cluster.clone())
}
