//! From what is known of a stream to the label set it counts in.

use super::{Mesh, Metrics, Peer, WAYS};
use crate::model::expr::Attributes;
use crate::model::{
    ClusterMesh, MESH_LABELS, MESH_METRICS, MeshReporter, MeshStats, MetricOverride, Workload,
};
use crate::telemetry::Scope;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

/// Bytes of a label's value at most: longer than any name in a mesh, and no more than memory can bear.
const LONGEST: usize = 512;

/// Clusters that stand for traffic to nowhere in particular.
const CATCH_ALL: &[&str] = &[
    "BlackHoleCluster",
    "PassthroughCluster",
    "InboundPassthroughCluster",
    "InboundPassthroughClusterIpv4",
    "InboundPassthroughClusterIpv6",
];

/// Which metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// Requests, their time and bytes.
    Requests,
    /// Messages of gRPC calls.
    Messages,
    /// Raw connections.
    Connections,
}

impl Which {
    /// A bit for each of [`MESH_METRICS`].
    fn mask(self) -> u16 {
        match self {
            Which::Requests => 0b1111,
            Which::Messages => 0b11 << 4,
            Which::Connections => 0b1111 << 6,
        }
    }
}

/// What is known of a stream or connection.
#[derive(Clone, Copy, Default)]
pub struct Seen<'a> {
    /// Who the client said it is, and the server.
    pub client: Option<&'a Rc<Peer>>,
    pub server: Option<&'a Rc<Peer>>,
    /// What the picked endpoint says of itself.
    pub endpoint: Option<&'a Arc<str>>,
    pub cluster: Option<(&'a str, &'a ClusterMesh)>,
    pub route: &'a str,
    /// The request's authority.
    pub host: &'a [u8],
    /// The first URI names of the client's certificate and of ours towards it.
    pub downstream: (&'a str, &'a str),
    /// Those of the server's and of ours towards it.
    pub upstream: (&'a str, &'a str),
    /// `http`, `grpc` or `tcp`.
    pub protocol: &'static str,
    pub code: u16,
    /// The status of a gRPC call.
    pub grpc: Option<u32>,
    /// Response flags.
    pub flags: &'a [u8],
}

type Labels = Vec<(Cow<'static, str>, String)>;

/// A destination as metrics name it.
#[derive(Clone, Copy, Default)]
struct Service<'a> {
    host: &'a str,
    name: &'a str,
    namespace: &'a str,
}

impl Mesh {
    /// Where a stream counts.
    pub fn metrics(
        &self,
        stats: &Arc<MeshStats>,
        which: Which,
        seen: &Seen<'_>,
        of: &dyn Attributes,
    ) -> Metrics {
        let mut key = Vec::with_capacity(256);
        key.extend_from_slice(&(Arc::as_ptr(stats) as usize).to_ne_bytes());
        key.push(which as u8);
        seen.write(stats, &mut key);
        let mut values = Vec::new();
        for change in &stats.overrides {
            for (_, expr) in &change.labels {
                let mut value = Vec::new();
                match expr.value(of) {
                    Some(found) => found.write(&mut value),
                    None => value.extend_from_slice(b"unknown"),
                }
                value.truncate(LONGEST);
                key.extend_from_slice(&value);
                key.push(0);
                values.push(String::from_utf8_lossy(&value).into_owned());
            }
        }
        if let Some(metrics) = self.ways.borrow().get(key.as_slice()) {
            return metrics.clone();
        }
        let metrics = self.found(stats, which, seen, &values);
        let mut ways = self.ways.borrow_mut();
        if ways.len() >= WAYS {
            ways.clear();
        }
        ways.insert(key.into(), metrics.clone());
        metrics
    }

    fn found(&self, stats: &MeshStats, which: Which, seen: &Seen<'_>, values: &[String]) -> Metrics {
        let labels = self.labels(stats.reporter, which, seen, stats.host_fallback);
        let mut values = values.iter();
        let mut sets: Vec<(u16, Labels)> = Vec::new();
        let changes = stats.overrides.iter().map(|change| {
            let own: Vec<&String> = values.by_ref().take(change.labels.len()).collect();
            (change.metric, (change, own))
        });
        let changes: BTreeMap<&str, (&MetricOverride, Vec<&String>)> = changes.collect();
        for (at, metric) in MESH_METRICS.iter().enumerate().filter(|(at, _)| which.mask() & (1 << at) != 0) {
            let changed = match changes.get(metric) {
                Some((change, _)) if change.dropped => continue,
                Some((change, own)) => changed(&labels, change, own),
                None => labels.clone(),
            };
            match sets.iter_mut().find(|(_, labels)| *labels == changed) {
                Some((mask, _)) => *mask |= 1 << at,
                None => sets.push((1 << at, changed)),
            }
        }
        let mut name = String::new();
        for (mask, labels) in &sets {
            name.push_str(&format!("\0{mask}"));
            labels.iter().for_each(|(label, value)| name.extend(["\0", label, "\0", value]));
        }
        if let Some(metrics) = self.groups.borrow().get(name.as_str()) {
            return metrics.clone();
        }
        let full = self.groups.borrow().len() >= self.label_sets;
        if full {
            // One set for all that find no room, whatever their metrics.
            name = format!("overflow\0{}", which.mask());
            sets = vec![(which.mask(), vec![("overflow".into(), "true".to_owned())])];
            if let Some(metrics) = self.groups.borrow().get(name.as_str()) {
                return metrics.clone();
            }
        }
        let register = |(mask, labels): (u16, Labels)| {
            self.registry.register(Scope::mesh(labels), crate::telemetry::MeshMetrics::new(mask))
        };
        let metrics: Metrics = sets.into_iter().map(register).collect();
        self.groups.borrow_mut().insert(name.into(), metrics.clone());
        metrics
    }

    /// The standard labels.
    fn labels(&self, reporter: MeshReporter, which: Which, seen: &Seen<'_>, host_fallback: bool) -> Labels {
        let node = &self.registry.node().workload;
        let at_endpoint = seen.endpoint.and_then(|text| self.at_endpoint(text));
        let (client, server) = (seen.client, seen.server.or(at_endpoint.as_ref()));
        let service = seen.service(host_fallback);
        let sides = match reporter {
            MeshReporter::Source => {
                let (their, our) = seen.upstream;
                let their = if their.is_empty() {
                    seen.server.map_or("", |peer| &peer.workload.identity)
                } else {
                    their
                };
                let namespace = namespace_of(their, server);
                let mut there = of_peer(server, their, namespace, "latest");
                there.extend(named(service, "unknown", or(service.namespace, or(namespace, "unknown"))));
                ("source", of_node(node, our), there)
            }
            MeshReporter::Destination => {
                let (their, our) = seen.downstream;
                let mut here = of_node(node, our);
                here.extend(named(service, &node.service, &node.namespace));
                ("destination", of_peer(client, their, namespace_of(their, client), "latest"), here)
            }
            MeshReporter::Waypoint => {
                let (their, _) = seen.downstream;
                let identity = server.map_or("", |peer| &peer.workload.identity);
                let namespace = server.map_or("", |peer| &peer.workload.namespace);
                let mut there = of_peer(server, identity, namespace, "unknown");
                there.extend(named(service, "unknown", or(service.namespace, "unknown")));
                ("waypoint", of_peer(client, their, namespace_of(their, client), "latest"), there)
            }
        };
        let (word, source, destination) = sides;
        let mut labels: Vec<(&'static str, String)> = vec![("reporter", word.to_owned())];
        labels.extend(source.into_iter().map(|(part, value)| (label("source_", part), value)));
        labels.extend(destination.into_iter().map(|(part, value)| (label("destination_", part), value)));
        self.end(reporter, which, seen, &mut labels);
        labels.sort_by_key(|(label, _)| MESH_LABELS.iter().position(|standard| standard == label));
        labels.into_iter().map(|(label, value)| (Cow::Borrowed(label), shortened(value))).collect()
    }

    /// Labels of how it went.
    fn end(
        &self,
        reporter: MeshReporter,
        which: Which,
        seen: &Seen<'_>,
        labels: &mut Vec<(&'static str, String)>,
    ) {
        if which == Which::Messages {
            return;
        }
        labels.push(("request_protocol", seen.protocol.to_owned()));
        if which == Which::Requests {
            labels.push(("response_code", seen.code.to_string()));
            labels.push((
                "grpc_response_status",
                seen.grpc.map(|status| status.to_string()).unwrap_or_default(),
            ));
        }
        labels.push(("response_flags", String::from_utf8_lossy(seen.flags).into_owned()));
        let (their, our) = seen.downstream;
        let security = match reporter {
            MeshReporter::Source => "unknown",
            _ if !their.is_empty() && !our.is_empty() => "mutual_tls",
            _ => "none",
        };
        labels.push(("connection_security_policy", security.to_owned()));
    }
}

/// The full name of a standard label; what is none cannot be asked for.
fn label(side: &str, part: &str) -> &'static str {
    let full = |label: &&&str| label.strip_prefix(side) == Some(part);
    MESH_LABELS.iter().find(full).copied().unwrap_or_default()
}

fn or<'a>(text: &'a str, other: &'a str) -> &'a str {
    if text.is_empty() { other } else { text }
}

fn shortened(mut value: String) -> String {
    if value.len() > LONGEST {
        let end = (0..=LONGEST).rev().find(|at| value.is_char_boundary(*at)).unwrap_or_default();
        value.truncate(end);
    }
    value
}

/// The namespace in a SPIFFE id; else the one the peer tells.
fn namespace_of<'a>(principal: &'a str, peer: Option<&'a Rc<Peer>>) -> &'a str {
    let named = principal.split_once("/ns/").map(|(_, rest)| rest.split('/').next().unwrap_or_default());
    or(named.unwrap_or_default(), peer.map_or("", |peer| &peer.workload.namespace))
}

type Parts = Vec<(&'static str, String)>;

fn parts(
    w: &Workload,
    principal: &str,
    namespace: &str,
    blank: impl Fn(&str, &'static str) -> String,
) -> Parts {
    vec![
        ("workload", blank(&w.name, "unknown")),
        ("canonical_service", blank(&w.service, "unknown")),
        ("canonical_revision", blank(&w.revision, "latest")),
        ("workload_namespace", blank(namespace, "unknown")),
        ("principal", or(principal, "unknown").to_owned()),
        ("app", blank(&w.app, "unknown")),
        ("version", blank(&w.version, "unknown")),
        ("cluster", blank(&w.cluster, "unknown")),
    ]
}

/// Labels of somebody else: what is not known is said to be so. `revision`: what an unknown one is called.
fn of_peer(peer: Option<&Rc<Peer>>, principal: &str, namespace: &str, revision: &'static str) -> Parts {
    let nobody = Workload::default();
    let workload = peer.map_or(&nobody, |peer| &peer.workload);
    parts(workload, principal, namespace, |text, unknown| {
        let unknown = if unknown == "latest" { revision } else { unknown };
        or(text, unknown).to_owned()
    })
}

/// Labels of this process: as its node says.
fn of_node(node: &Workload, principal: &str) -> Parts {
    parts(node, principal, &node.namespace, |text, _| text.to_owned())
}

fn named(service: Service<'_>, unknown: &str, namespace: &str) -> Parts {
    vec![
        ("service", or(service.host, unknown).to_owned()),
        ("service_name", or(service.name, unknown).to_owned()),
        ("service_namespace", namespace.to_owned()),
    ]
}

/// The labels as an override has them: some left out, some with other values, some more at the end.
fn changed(labels: &Labels, change: &MetricOverride, values: &[&String]) -> Labels {
    let own = |name: &str| {
        let at = change.labels.iter().position(|(label, _)| label == name)?;
        values.get(at).map(|value| (*value).clone())
    };
    let mut out: Labels = Vec::with_capacity(labels.len() + change.labels.len());
    for (label, value) in labels {
        match own(label) {
            Some(value) => out.push((label.clone(), value)),
            None if change.removed.iter().any(|removed| removed == label) => {}
            None => out.push((label.clone(), value.clone())),
        }
    }
    for ((label, _), value) in change.labels.iter().zip(values) {
        if !MESH_LABELS.contains(&label.as_str()) {
            out.push((Cow::Owned(label.clone()), (*value).clone()));
        }
    }
    out
}

impl<'a> Seen<'a> {
    /// Everything that labels depend on.
    fn write(&self, stats: &MeshStats, key: &mut Vec<u8>) {
        for peer in [self.client, self.server] {
            key.extend_from_slice(&peer.map_or(0, |peer| peer.id).to_ne_bytes());
        }
        key.extend_from_slice(&self.code.to_ne_bytes());
        key.extend_from_slice(&self.grpc.map_or(u32::MAX, |status| status).to_ne_bytes());
        let service = self.service(stats.host_fallback);
        let texts = [
            self.endpoint.map_or("", |text| text),
            service.host,
            service.name,
            service.namespace,
            self.downstream.0,
            self.downstream.1,
            self.upstream.0,
            self.upstream.1,
            self.protocol,
        ];
        for text in texts.iter().map(|text| text.as_bytes()).chain([self.flags]) {
            key.extend_from_slice(text);
            key.push(0);
        }
    }

    /// The service it went to: as its cluster says, else as the request calls it.
    fn service(&self, host_fallback: bool) -> Service<'a> {
        let host = std::str::from_utf8(self.host).unwrap_or_default();
        let host = if host_fallback { host } else { "" };
        let mut found = Service { host, name: host, namespace: "" };
        match (self.route, self.cluster) {
            ("block_all", _) => found.name = "BlackHoleCluster",
            ("allow_any", _) => found.name = "PassthroughCluster",
            (_, Some((name, _))) if CATCH_ALL.contains(&name) => found.name = name,
            (_, Some((_, ClusterMesh { service: Some(service), .. }))) => {
                found = Service {
                    host: or(&service.host, host),
                    name: &service.name,
                    namespace: &service.namespace,
                };
            }
            _ => {}
        }
        found
    }
}
