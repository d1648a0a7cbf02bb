//! The rare parts of a forwarding route: hash policies, mirrors, upgrades, limits of a stream's life.

use std::time::Duration;

use prost_types::Duration as ProtoDuration;

use super::endpoints::lb_metadata;
use super::route::runtime_fraction;
use super::route_rewrite::substitution;
use super::values::{duration, enumeration, not_empty};
use crate::model::{
    ClusterChoice, DrawBy, HashPolicy, HashSource, MaxStream, Mirror, Priority, RouteOptions, Upgrade,
};
use crate::proto::envoy::config::core::v3::RoutingPriority;
use crate::proto::envoy::config::route::v3 as pb;
use crate::translate::finding::{Findings, Path};

/// `None` where the route has none of them.
pub(super) fn options(
    path: &Path<'_>,
    route: &pb::RouteAction,
    out: &mut Findings,
) -> Option<Box<RouteOptions>> {
    let optional = |field: &str, value: Option<&ProtoDuration>, out: &mut Findings| {
        value.map(|value| duration(&path.name(field), value, out))
    };
    let at = path.name("hash_policy");
    let read = |(i, policy)| hash_policy(&at.index(i), policy, out);
    let hash = route.hash_policy.iter().enumerate().filter_map(read).collect();
    let options = RouteOptions {
        hash,
        mirrors: mirrors(path, &route.request_mirror_policies, out),
        upgrades: upgrades(&path.name("upgrade_configs"), &route.upgrade_configs, out),
        max_stream: route
            .max_stream_duration
            .as_ref()
            .map(|limits| max_stream(&path.name("max_stream_duration"), limits, out)),
        grpc_timeout_offset: optional("grpc_timeout_offset", route.grpc_timeout_offset.as_ref(), out),
        append_x_forwarded_host: route.append_x_forwarded_host,
        draw: draw_by(route),
        criteria: route.metadata_match.as_ref().map(lb_metadata).unwrap_or_default(),
        priority: match enumeration(&path.name("priority"), route.priority, out) {
            Some(RoutingPriority::High) => Priority::High,
            Some(RoutingPriority::Default) | None => Priority::Default,
        },
    };
    (options != RouteOptions::default()).then(|| Box::new(options))
}

fn draw_by(route: &pb::RouteAction) -> DrawBy {
    use pb::weighted_cluster::RandomValueSpecifier as Kind;
    let Some(pb::route_action::ClusterSpecifier::WeightedClusters(list)) = &route.cluster_specifier else {
        return DrawBy::Random;
    };
    match &list.random_value_specifier {
        Some(Kind::HeaderName(name)) if !name.is_empty() => DrawBy::Header(name.to_ascii_lowercase()),
        Some(Kind::UseHashPolicy(true)) => DrawBy::Hash,
        _ => DrawBy::Random,
    }
}

fn max_stream(
    path: &Path<'_>,
    limits: &pb::route_action::MaxStreamDuration,
    out: &mut Findings,
) -> MaxStream {
    let mut read = |field: &str, value: Option<&ProtoDuration>| -> Option<Duration> {
        value.map(|value| duration(&path.name(field), value, out))
    };
    MaxStream {
        limit: read("max_stream_duration", limits.max_stream_duration.as_ref()),
        grpc_header_max: read("grpc_timeout_header_max", limits.grpc_timeout_header_max.as_ref()),
        grpc_header_offset: read("grpc_timeout_header_offset", limits.grpc_timeout_header_offset.as_ref()),
    }
}

fn hash_policy(
    path: &Path<'_>,
    policy: &pb::route_action::HashPolicy,
    out: &mut Findings,
) -> Option<HashPolicy> {
    use pb::route_action::hash_policy::PolicySpecifier as Kind;
    let source = match &policy.policy_specifier {
        None => {
            let why = "no source (one of header, cookie, connection_properties, query_parameter)";
            out.bad(path, "", why);
            return None;
        }
        Some(Kind::Header(header)) => {
            let at = path.name("header");
            let name = not_empty(&at.name("header_name"), &header.header_name, out).to_ascii_lowercase();
            let rewrite = match &header.regex_rewrite {
                Some(rewrite) => Some(substitution(&at.name("regex_rewrite"), rewrite, out)?),
                None => None,
            };
            HashSource::Header { name, rewrite }
        }
        Some(Kind::Cookie(cookie)) => {
            let at = path.name("cookie");
            let attribute =
                |a: &pb::route_action::hash_policy::CookieAttribute| (a.name.clone(), a.value.clone());
            HashSource::Cookie {
                name: not_empty(&at.name("name"), &cookie.name, out),
                ttl: cookie.ttl.as_ref().map(|ttl| duration(&at.name("ttl"), ttl, out)),
                path: cookie.path.clone(),
                attributes: cookie.attributes.iter().map(attribute).collect(),
            }
        }
        // Without it there is nothing to hash, in Envoy neither.
        Some(Kind::ConnectionProperties(of)) if !of.source_ip => return None,
        Some(Kind::ConnectionProperties(_)) => HashSource::SourceIp,
        Some(Kind::QueryParameter(parameter)) => {
            let at = path.name("query_parameter");
            HashSource::QueryParameter(not_empty(&at.name("name"), &parameter.name, out))
        }
        Some(Kind::FilterState(_)) => {
            out.bad(&path.name("filter_state"), "", "not supported: there is no filter state to hash");
            return None;
        }
    };
    Some(HashPolicy { source, terminal: policy.terminal })
}

/// `request_mirror_policies` of a route, a virtual host or a table.
pub(super) fn mirrors(
    path: &Path<'_>,
    policies: &[pb::route_action::RequestMirrorPolicy],
    out: &mut Findings,
) -> Vec<Mirror> {
    let at = path.name("request_mirror_policies");
    policies.iter().enumerate().filter_map(|(i, policy)| mirror(&at.index(i), policy, out)).collect()
}

fn mirror(
    path: &Path<'_>,
    policy: &pb::route_action::RequestMirrorPolicy,
    out: &mut Findings,
) -> Option<Mirror> {
    let cluster = match (policy.cluster.as_str(), policy.cluster_header.as_str()) {
        ("", "") => {
            out.bad(path, "", "no cluster (one of cluster, cluster_header)");
            return None;
        }
        (name, "") => ClusterChoice::Single(name.to_owned()),
        ("", header) => ClusterChoice::Header(header.to_ascii_lowercase()),
        (name, _) => {
            out.bad(&path.name("cluster_header"), name, "cluster and cluster_header exclude each other");
            return None;
        }
    };
    let fraction = policy.runtime_fraction.as_ref();
    Some(Mirror {
        cluster,
        fraction: match fraction {
            Some(fraction) => Some(runtime_fraction(&path.name("runtime_fraction"), fraction, out)?),
            None => None,
        },
        trace_sampled: policy.trace_sampled,
        keep_host: policy.disable_shadow_host_suffix_append,
        host_rewrite: (!policy.host_rewrite_literal.is_empty()).then(|| policy.host_rewrite_literal.clone()),
    })
}

fn upgrades(
    path: &Path<'_>,
    configs: &[pb::route_action::UpgradeConfig],
    out: &mut Findings,
) -> Vec<Upgrade> {
    let mut upgrades: Vec<Upgrade> = Vec::with_capacity(configs.len());
    for (i, config) in configs.iter().enumerate() {
        let at = path.index(i);
        let kind = not_empty(&at.name("upgrade_type"), &config.upgrade_type, out).to_ascii_lowercase();
        if upgrades.iter().any(|other| other.kind == kind) {
            out.bad(&at.name("upgrade_type"), &kind, "given twice");
        }
        if config.connect_config.is_some() && !matches!(kind.as_str(), "connect" | "connect-udp") {
            out.bad(&at.name("connect_config"), &kind, "only for CONNECT and CONNECT-UDP");
        }
        let raw = config.connect_config.as_ref().map(|connect| connect.allow_post);
        upgrades.push(Upgrade { kind, enabled: config.enabled.unwrap_or(true), raw });
    }
    upgrades
}
