//! What Istio's extensions say: who exchanges what with peers, how protocols are offered, what is counted.

use super::Expr;
use serde::Serialize;
use std::sync::Arc;
use std::time::Duration;

/// `istio.metadata_exchange` of connections: peers tell each other who they are in front of the stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PeerExchange {
    /// The negotiated protocol that turns it on.
    pub protocol: String,
    /// Labels that are told beside those every peer tells.
    pub labels: Vec<String>,
}

/// What network filters of a chain do for a mesh.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ChainMesh {
    pub exchange: Option<PeerExchange>,
    /// What is counted of raw connections.
    pub stats: Vec<Arc<MeshStats>>,
    /// Filters that are passed over; connections past them are counted.
    pub passed: Vec<String>,
}

/// What a cluster's `istio` metadata says, and the exchange with its hosts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ClusterMesh {
    pub exchange: Option<PeerExchange>,
    /// The first of its services.
    pub service: Option<MeshService>,
    /// The protocols offered are the configured ones, whatever filters say (`alpn_override: "false"`).
    pub keeps_alpn: bool,
    /// Outside the mesh.
    pub external: bool,
    /// Hosts are told nothing.
    pub disable_exchange: bool,
}

/// A service as metrics name it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct MeshService {
    pub host: String,
    pub name: String,
    pub namespace: String,
}

/// `istio.metadata_exchange` of HTTP chains.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PeerMetadata {
    /// Requests tell who sends them; what told it is taken away.
    pub of_clients: bool,
    /// Responses tell who sends them.
    pub of_servers: bool,
    /// Clients that told are told.
    pub tell_clients: bool,
    /// Servers are told; `skip_external`: not those outside the mesh.
    pub tell_servers: bool,
    pub skip_external: bool,
    /// Labels that are told, and kept of what is told, beside the usual ones.
    pub labels: Vec<String>,
}

/// `istio.alpn`: the protocols offered to hosts, by what they are spoken to in; `None`: the configured ones.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct AlpnOverride {
    pub http10: Option<Arc<[String]>>,
    pub http11: Option<Arc<[String]>>,
    pub http2: Option<Arc<[String]>>,
}

/// Whose side metrics are told from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum MeshReporter {
    /// The sidecar of a client.
    Source,
    /// The sidecar of a server.
    Destination,
    /// A gateway before servers.
    Waypoint,
}

/// `istio.stats`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MeshStats {
    pub reporter: MeshReporter,
    /// A service nobody names is called as requests call it.
    pub host_fallback: bool,
    /// How often open connections are told of; `None`: when they end.
    pub interval: Option<Duration>,
    /// What differs from the standard, by metric.
    pub overrides: Vec<MetricOverride>,
}

/// What differs from the standard in one metric.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct MetricOverride {
    /// Which one, without `istio_`.
    pub metric: &'static str,
    pub dropped: bool,
    /// Labels that are left out.
    pub removed: Vec<String>,
    /// Labels with values of their own; those that are no standard ones are added, in this order.
    pub labels: Vec<(String, Arc<Expr>)>,
}

/// The metrics there are, without `istio_`.
pub const MESH_METRICS: [&str; 10] = [
    "requests_total",
    "request_duration_milliseconds",
    "request_bytes",
    "response_bytes",
    "request_messages_total",
    "response_messages_total",
    "tcp_connections_opened_total",
    "tcp_connections_closed_total",
    "tcp_sent_bytes_total",
    "tcp_received_bytes_total",
];

/// The standard labels.
pub const MESH_LABELS: [&str; 25] = [
    "reporter",
    "source_workload",
    "source_canonical_service",
    "source_canonical_revision",
    "source_workload_namespace",
    "source_principal",
    "source_app",
    "source_version",
    "source_cluster",
    "destination_workload",
    "destination_workload_namespace",
    "destination_principal",
    "destination_app",
    "destination_version",
    "destination_service",
    "destination_canonical_service",
    "destination_canonical_revision",
    "destination_service_name",
    "destination_service_namespace",
    "destination_cluster",
    "request_protocol",
    "response_code",
    "grpc_response_status",
    "response_flags",
    "connection_security_policy",
];
