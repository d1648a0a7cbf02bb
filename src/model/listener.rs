//! Listeners and their filter chains.

use super::{AccessLog, AccessLogs, Address, ChainTls, Cidr, Inspectors, RouteConfig};
use serde::Serialize;
use std::sync::Arc;
use std::time::Duration;

/// One listener resource.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Listener {
    /// Resource name; never empty.
    pub name: String,
    /// Where it listens; further addresses follow the first.
    pub addresses: Vec<Address>,
    /// `false`: known by address only, a hand-off target without a socket.
    pub bind_to_port: bool,
    /// Redirected connections are handed to the listener of the address their clients meant, if there is one.
    pub use_original_dst: bool,
    /// Reached from inside the process only: it has no address, and is stored and shown without serving.
    pub internal: bool,
    /// Its connections neither count nor are refused under the limit of all listeners.
    pub unlimited: bool,
    /// Direction as declared; draining can be limited to `Inbound`.
    pub direction: Direction,
    /// First part of this listener's metric names; the address when empty.
    pub stat_prefix: String,
    /// Chains in configured order; the most specific match wins.
    pub filter_chains: Vec<FilterChain>,
    /// Serves what no chain matches.
    pub default_filter_chain: Option<FilterChain>,
    /// Bytes that may wait per connection and direction before its peer is not read any more. Default 1 MiB.
    pub buffer_limit: usize,
    /// Takes connections to addresses that are not the machine's, which rules of the system lead here.
    pub transparent: bool,
    /// Its addresses need not be the machine's.
    pub freebind: bool,
    /// Length of the accept queue. Default 1024.
    pub backlog: u32,
    /// One worker accepts and hands to the worker with the fewest connections.
    pub exact_balance: bool,
    /// One line per connection, those without a chain included.
    pub access_log: Arc<AccessLogs>,
    /// What looks at the first bytes.
    pub inspectors: Inspectors,
}

impl Listener {
    /// The logs of the listener and of its chains.
    pub fn access_logs(&self) -> impl Iterator<Item = &AccessLog> {
        let chains = self.filter_chains.iter().chain(&self.default_filter_chain);
        let of_chains = chains.flat_map(|chain| match &chain.filter {
            NetworkFilter::Tcp(proxy) => proxy.access_log.iter(),
            NetworkFilter::Http(manager) => manager.access_log.iter(),
            NetworkFilter::Rpc(proxy) => proxy.access_log.iter(),
        });
        self.access_log.iter().chain(of_chains)
    }

    /// The middle of its metrics' names: its stat prefix, else its first address.
    pub fn stat_name(&self) -> String {
        match (self.stat_prefix.as_str(), self.addresses.first()) {
            ("", Some(address)) => address.to_string(),
            (prefix, _) => prefix.to_owned(),
        }
    }
}

/// `traffic_direction`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub enum Direction {
    /// Not declared.
    #[default]
    Unspecified,
    /// Towards the local workload.
    Inbound,
    /// From the local workload.
    Outbound,
}

/// A match and the filter that serves the connection.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FilterChain {
    /// Name, may be empty.
    pub name: String,
    /// What connections it takes.
    pub matcher: ChainMatch,
    /// TLS towards its clients; `None`: plaintext.
    pub tls: Option<ChainTls>,
    /// Who may connect; all have to agree.
    pub guards: Vec<super::Guard>,
    /// What filters of a mesh do with its connections.
    pub mesh: Option<Arc<super::ChainMesh>>,
    /// Its terminal filter.
    pub filter: NetworkFilter,
}

/// Conditions of a chain. Empty lists match everything. Precedence is Envoy's: destination port, destination
/// prefix, server name, transport protocol, application protocol, direct source prefix, source type, source
/// prefix, source port; a level that hits never backtracks.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ChainMatch {
    pub destination_port: Option<u16>,
    pub prefix_ranges: Vec<Cidr>,
    pub server_names: Vec<String>,
    /// `""`, `raw_buffer` or `tls`.
    pub transport_protocol: String,
    pub application_protocols: Vec<String>,
    pub direct_source_prefix_ranges: Vec<Cidr>,
    pub source_type: SourceType,
    pub source_prefix_ranges: Vec<Cidr>,
    pub source_ports: Vec<u16>,
}

/// Where the peer is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub enum SourceType {
    /// Anywhere.
    #[default]
    Any,
    /// Loopback, or the connection's own local address.
    SameIpOrLoopback,
    /// Anything else.
    External,
}

/// Terminal network filters.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[expect(clippy::large_enum_variant, reason = "one per filter chain")]
pub enum NetworkFilter {
    /// Bytes to one cluster.
    Tcp(TcpProxy),
    /// Envoy's HttpConnectionManager.
    Http(HttpManager),
    /// `mizzen.v1.RpcProxy`, and MOSN's `proxy`.
    Rpc(RpcProxy),
}

/// `TcpProxy`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TcpProxy {
    pub stat_prefix: String,
    /// Never empty; drawn by weight per connection.
    pub clusters: Vec<super::WeightedCluster>,
    /// Closes a connection silent both ways this long; `None` never. Default 1 h.
    pub idle_timeout: Option<Duration>,
    /// Connect attempts, each to a fresh pick. Default 1.
    pub max_connect_attempts: u32,
    /// Ends the connection at this age.
    pub max_connection_duration: Option<Duration>,
    /// Load balancers that hash get the client's IP address.
    pub hash_source_ip: bool,
    /// For clusters with subsets.
    pub criteria: super::Criteria,
    /// One line per connection.
    pub access_log: Arc<AccessLogs>,
}

/// `HttpConnectionManager`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HttpManager {
    pub stat_prefix: String,
    pub codec: Codec,
    pub routes: RouteSource,
    /// Closes a connection without streams this long; `None` never. Default 1 h.
    pub idle_timeout: Option<Duration>,
    /// Ends a stream without progress this long; `None` never. Default 5 min.
    pub stream_idle_timeout: Option<Duration>,
    /// What clients may send.
    pub limits: super::RequestLimits,
    /// Age limit of connections.
    pub max_connection_duration: Option<Duration>,
    /// Age limit of streams.
    pub max_stream_duration: Option<Duration>,
    /// Concurrent streams a client may have. Default 2^31-1 in Envoy; Mizzen caps at 1024 unless set.
    pub max_concurrent_streams: u32,
    /// HTTP/2 windows; `None` = Mizzen's defaults in `net::h2`.
    pub http2: super::Http2Options,
    /// HTTP/1 towards clients.
    pub http1: super::Http1Options,
    /// What becomes of heads.
    pub edge: super::Edge,
    /// `server` header on responses; default `envoy`.
    pub server_name: String,
    /// How long a client may take to close its side after we closed ours; zero: the socket closes as soon as
    /// everything is written. Default 1 s.
    pub delayed_close: Duration,
    /// One line per stream.
    pub access_log: Arc<AccessLogs>,
    /// HTTP filters before the router, in the order requests pass them.
    pub filters: Vec<super::HttpFilter>,
    /// Its last HTTP filter.
    pub router: super::RouterOptions,
}

impl HttpManager {
    /// Default of `delayed_close`.
    pub const DELAYED_CLOSE: Duration = Duration::from_secs(1);
}

/// What HCM speaks to clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Codec {
    /// By the first bytes: HTTP/2 with prior knowledge, else HTTP/1.
    Auto,
    /// HTTP/1.
    Http1,
    /// HTTP/2 prior knowledge.
    Http2,
}

/// An L7 RPC listener.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RpcProxy {
    pub stat_prefix: String,
    pub downstream: Protocol,
    /// `None` keeps the downstream protocol; another one converts.
    pub upstream: Option<Protocol>,
    pub routes: RouteSource,
    /// Closes a connection without requests this long; `None` never.
    pub idle_timeout: Option<Duration>,
    /// Sends the bolt GoAway frame when draining (peers that do not know it raise an error).
    pub drain_goaway: bool,
    /// Largest bolt frame of a client in bytes, within [`RpcProxy::MAX_FRAME_RANGE`].
    pub max_frame: usize,
    /// One line per call.
    pub access_log: Arc<AccessLogs>,
    /// Stream filters, in the order requests pass them.
    pub filters: Vec<super::HttpFilter>,
    /// Errors that services tell of under success (`sofa_head_response_error`) count as errors for outlier
    /// detection and retries.
    pub application_errors: bool,
}

impl RpcProxy {
    /// Default of `max_frame`: 16 MiB.
    pub const MAX_FRAME: usize = 16 << 20;
    /// From the largest header that fits a small frame up to a quarter of what may be unfinished in all.
    pub const MAX_FRAME_RANGE: (u32, u32) = (1024, 64 << 20);
}

/// A protocol name in RPC configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub enum Protocol {
    /// By the first bytes. Downstream only.
    Auto,
    /// bolt v1.
    Bolt,
    /// HTTP/2 prior knowledge.
    Http2,
}

/// Where a filter's routes come from.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub enum RouteSource {
    /// Inside the listener (or MOSN's router table, by name resolved at load).
    Inline(Arc<RouteConfig>),
    /// By RDS. `initial_fetch_timeout` `None` waits for ever; Envoy's default is 15 s.
    Rds { name: String, initial_fetch_timeout: Option<Duration> },
    /// Each request has a scope, and each scope a table. HTTP only.
    Scoped(Arc<super::ScopedRoutes>),
}
