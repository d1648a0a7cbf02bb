//! ClusterLoadAssignment.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::extension::value_to_json;
use super::mesh;
use super::values::{Accept, address, enumeration, fraction, port, within};
use crate::model::{Address, CheckTarget, Endpoint, Endpoints, Health, Locality};
use crate::proto::envoy::config::core::v3::{self as core, HealthStatus, Metadata};
use crate::proto::envoy::config::endpoint::v3 as pb;
use crate::translate::finding::{Findings, Path};
use prost_types::Struct;

/// What a host says of its transport socket.
const SOCKET_MATCH: &str = "envoy.transport_socket_match";
/// Highest priority value.
const MAX_PRIORITY: u32 = 128;

/// What the hosts of an assignment may be.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Hosts {
    /// IP addresses and Unix sockets.
    Addresses,
    /// Host names too, for DNS clusters.
    Names,
}

/// Reads an assignment; what is wrong with it is in `out`.
pub(super) fn endpoints(
    path: &Path<'_>,
    cla: &pb::ClusterLoadAssignment,
    hosts: Hosts,
    out: &mut Findings,
) -> Endpoints {
    let at = path.name("endpoints");
    let localities: Vec<Locality> =
        cla.endpoints.iter().enumerate().map(|(i, l)| locality(&at.index(i), l, hosts, out)).collect();
    check_locality_weights(&at, &localities, out);
    let mut model =
        Endpoints { name: cla.cluster_name.clone(), localities, drop_millionths: 0, overprovisioning: 140 };
    if let Some(policy) = &cla.policy {
        let at = path.name("policy");
        if policy.weighted_priority_health {
            out.bad(&at.name("weighted_priority_health"), true, "not supported (nearest valid false)");
        }
        if let Some(factor) = policy.overprovisioning_factor {
            model.overprovisioning = within(&at.name("overprovisioning_factor"), factor, 1, u32::MAX, out);
        }
        let at = at.name("drop_overloads");
        for (i, drop) in policy.drop_overloads.iter().enumerate() {
            let at = at.index(i);
            let share = drop.drop_percentage.as_ref();
            let share = share.map_or(0, |p| fraction(&at.name("drop_percentage"), p, out));
            model.drop_millionths = model.drop_millionths.saturating_add(share).min(1_000_000);
        }
    }
    model
}

fn locality(path: &Path<'_>, group: &pb::LocalityLbEndpoints, hosts: Hosts, out: &mut Findings) -> Locality {
    if group.lb_config.is_some() {
        out.bad(&path.name("leds_cluster_locality_config"), "", "not supported (list the endpoints)");
    }
    let at = path.name("lb_endpoints");
    // As many as there are: grown by and by, most would hold room for twice their number.
    let mut endpoints: Vec<Endpoint> = Vec::with_capacity(group.lb_endpoints.len());
    for (i, host) in group.lb_endpoints.iter().enumerate() {
        let workload = endpoints.last().and_then(|last| last.workload.clone());
        endpoints.extend(endpoint(&at.index(i), host, hosts, workload, out));
    }
    if endpoints.iter().try_fold(0u32, |sum, e| sum.checked_add(e.weight)).is_none() {
        out.bad(&at, "", format_args!("the weights of a locality add up to more than {}", u32::MAX));
    }
    let place = group.locality.clone().unwrap_or_default();
    let weight = group.load_balancing_weight;
    Locality {
        region: place.region,
        zone: place.zone,
        sub_zone: place.sub_zone,
        priority: within(&path.name("priority"), group.priority, 0, MAX_PRIORITY, out),
        weight: weight.map_or(0, |w| within(&path.name("load_balancing_weight"), w, 1, u32::MAX, out)),
        endpoints,
    }
}

fn check_locality_weights(path: &Path<'_>, localities: &[Locality], out: &mut Findings) {
    let mut sums = BTreeMap::<u32, u64>::new();
    for locality in localities {
        *sums.entry(locality.priority).or_default() += u64::from(locality.weight);
    }
    for (priority, sum) in sums {
        if sum > u64::from(u32::MAX) {
            let why = format!("the locality weights of priority {priority} add up to more than {}", u32::MAX);
            out.bad(path, sum, why);
        }
    }
}

/// `neighbour`: the workload of the endpoint before, which most share.
fn endpoint(
    path: &Path<'_>,
    host: &pb::LbEndpoint,
    hosts: Hosts,
    neighbour: Option<Arc<str>>,
    out: &mut Findings,
) -> Option<Endpoint> {
    use pb::lb_endpoint::HostIdentifier as Id;
    let weight = host.load_balancing_weight.unwrap_or(1);
    let weight = within(&path.name("load_balancing_weight"), weight, 1, u32::MAX, out);
    let health = health(&path.name("health_status"), host.health_status, out);
    let inner = match &host.host_identifier {
        Some(Id::Endpoint(inner)) => inner,
        Some(Id::EndpointName(name)) => {
            out.bad(&path.name("endpoint_name"), name, "not supported (write the endpoint in place)");
            return None;
        }
        None => {
            out.bad(&path.name("endpoint"), "", "no endpoint");
            return None;
        }
    };
    let accept = if hosts == Hosts::Names { Accept::Names } else { Accept::Sockets };
    let at = path.name("endpoint");
    // Nothing listens there: such a host is known, and never healthy.
    let internal = internal(inner.address.as_ref());
    let health = if internal.is_some() { Some(Health::Unhealthy) } else { health };
    let address = match internal {
        Some(name) => Address::Internal(name),
        None => address(&at.name("address"), inner.address.as_ref(), accept, out)?,
    };
    let metadata = host.metadata.as_ref().map(lb_metadata).unwrap_or_default();
    let check = inner.health_check_config.as_ref().map(|config| {
        let at = at.name("health_check_config");
        let special = config.address.as_ref();
        let special = special.and_then(|a| self::address(&at.name("address"), Some(a), Accept::Sockets, out));
        Box::new(CheckTarget {
            address: special,
            port: port(&at.name("port_value"), config.port_value, out),
            hostname: config.hostname.clone(),
            disabled: config.disable_active_health_check,
        })
    });
    let socket_match = host.metadata.as_ref().and_then(|m| m.filter_metadata.get(SOCKET_MATCH));
    let socket_match = socket_match.map(lb_texts).unwrap_or_default();
    let istio = host.metadata.as_ref().and_then(|m| m.filter_metadata.get("istio"));
    let workload = istio.and_then(|istio| mesh::text(istio, "workload"));
    let workload = match (workload, neighbour) {
        (Some(text), Some(same)) if *text == *same => Some(same),
        (text, _) => text.map(Arc::from),
    };
    let hostname = inner.hostname.clone();
    Some(Endpoint { address, hostname, health: health?, weight, metadata, socket_match, workload, check })
}

/// The listener inside this process that an address names.
fn internal(address: Option<&core::Address>) -> Option<String> {
    use core::envoy_internal_address::AddressNameSpecifier::ServerListenerName;
    let Some(core::address::Address::EnvoyInternalAddress(inner)) = &address?.address else { return None };
    match &inner.address_name_specifier {
        Some(ServerListenerName(name)) if !name.is_empty() => Some(name.clone()),
        _ => None,
    }
}

fn health(path: &Path<'_>, status: i32, out: &mut Findings) -> Option<Health> {
    Some(match enumeration::<HealthStatus>(path, status, out)? {
        HealthStatus::Unknown | HealthStatus::Healthy => Health::Healthy,
        HealthStatus::Degraded => Health::Degraded,
        HealthStatus::Unhealthy | HealthStatus::Timeout => Health::Unhealthy,
        HealthStatus::Draining => Health::Draining,
    })
}

/// What hosts say of themselves, or what a route wants them to.
pub(super) fn lb_metadata(metadata: &Metadata) -> BTreeMap<String, String> {
    metadata.filter_metadata.get("envoy.lb").map(lb_texts).unwrap_or_default()
}

/// Metadata that hosts are compared by: texts as they are; other values as a NUL and their JSON, so that the
/// number 1 is not the text "1".
pub(super) fn lb_texts(metadata: &Struct) -> BTreeMap<String, String> {
    use prost_types::value::Kind;
    let text = |value: &prost_types::Value| match &value.kind {
        Some(Kind::StringValue(text)) => text.clone(),
        _ => format!("\0{}", value_to_json(value)),
    };
    metadata.fields.iter().map(|(key, value)| (key.clone(), text(value))).collect()
}

/// Whether the assignment is one host, as LOGICAL_DNS wants.
pub(super) fn is_single(endpoints: &Endpoints) -> bool {
    endpoints.iter().count() == 1
}

/// Paths of hosts that are host names where DNS is not in use are found by `address`; this one finds hosts
/// that DNS cannot serve.
pub(super) fn check_dns_hosts(path: &Path<'_>, endpoints: &Endpoints, out: &mut Findings) {
    for host in endpoints.iter() {
        if let Address::Unix(socket) = &host.address {
            out.bad(path, socket.display(), "a DNS cluster cannot have Unix sockets (nearest valid: STATIC)");
        }
    }
}
