//! Clusters.

mod balancing;
mod overlay;
mod resilience;

pub use balancing::{Fallback, HashFunction, LbPolicy, OriginalDst, Selector, SlowStart, Subsets};
pub use overlay::LbKeys;
pub use resilience::{
    BindConfig, Check, CheckTarget, HealthCheck, HttpCheck, OutlierDetection, SocketOption, SocketState,
    StatusRange,
};

use super::{Endpoints, Priority, TransportSockets};
use serde::Serialize;
use std::sync::Arc;
use std::time::Duration;

/// One cluster resource.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Cluster {
    pub name: String,
    /// Name used in metrics when set.
    pub alt_stat_name: Option<String>,
    pub discovery: Discovery,
    pub lb: LbPolicy,
    /// Envoy default 5 s, MOSN 10 s.
    pub connect_timeout: Duration,
    pub breakers: Breakers,
    /// HTTP protocol towards hosts; bolt clusters ignore it (the listener's filter decides).
    pub protocol: UpstreamProtocol,
    pub http2: Http2Options,
    /// Bytes of an HTTP/1 response's head. Default 60 KiB.
    pub response_head_bytes: usize,
    /// Fields of a response. Default 100.
    pub response_headers: usize,
    /// Boxed, as other things that few clusters have: there may be 100,000 of them.
    pub tcp_keepalive: Option<Box<TcpKeepalive>>,
    /// Bytes that may wait towards a host before its downstream is not read. Default 1 MiB.
    pub buffer_limit: usize,
    /// Multiplexed connections per host and worker. Default 1.
    pub connections_per_host: u32,
    /// Closes an upstream connection without streams this long; `None` never. Envoy default 1 h.
    pub idle_timeout: Option<Duration>,
    /// bolt heartbeat: interval and how long an answer may take. `None` turns detection off.
    pub heartbeat: Option<(Duration, Duration)>,
    /// Requests after which a connection is retired; 0 never.
    pub max_requests_per_connection: u32,
    /// Healthy share, in percent, below which health is ignored; 0 never. Default 50.
    pub panic_threshold: u32,
    /// `panic_threshold` is the default: RPC calls, which are to fail at once, do not follow it.
    pub panic_by_default: bool,
    /// Percent of the requests that are refused at once.
    pub maintenance: u32,
    /// In panic no host is taken at all.
    pub fail_on_panic: bool,
    /// Localities share the load by their weights.
    pub locality_weighted: bool,
    /// Ring and table keys are host names instead of addresses.
    pub hash_by_hostname: bool,
    /// Hosts without a first check count neither as healthy nor as missing.
    pub ignore_unchecked: bool,
    /// Runtime keys of the load balancer's numbers.
    pub lb_keys: Option<Arc<LbKeys>>,
    /// New hosts get their share little by little.
    pub slow_start: Option<Box<SlowStart>>,
    /// Requests with metadata go to hosts with the same.
    pub subsets: Option<Arc<Subsets>>,
    /// Passive health.
    pub outlier: Option<Arc<OutlierDetection>>,
    /// Active health.
    pub health_checks: Vec<Arc<HealthCheck>>,
    /// Source address and socket options.
    pub bind: Option<Arc<BindConfig>>,
    /// Plaintext or TLS, by host.
    pub sockets: Arc<TransportSockets>,
    /// What its mesh says of it, if anything.
    pub mesh: Option<Arc<super::ClusterMesh>>,
    /// What the TLS connections of HTTP requests take from the requests.
    pub auto_names: Option<Arc<AutoNames>>,
}

/// What the TLS connections of an HTTP request take from it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct AutoNames {
    /// The server name that is sent.
    pub sni: bool,
    /// What the certificate must be for, beside what the transport socket asks for.
    pub san: bool,
    /// The header that names it, where a request has it, in place of the authority; lower case.
    pub header: Option<String>,
}

/// Where the hosts come from.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub enum Discovery {
    /// Written in the resource.
    Static(Arc<Endpoints>),
    /// By EDS under `service_name`. `initial_fetch_timeout` `None` waits for ever; Envoy's default is 15 s.
    Eds { service_name: String, initial_fetch_timeout: Option<Duration> },
    /// Host names, resolved again and again: `logical` keeps one address of one name.
    Dns { endpoints: Arc<Endpoints>, logical: bool, refresh: Duration, family: DnsFamily, pace: DnsPace },
    /// Wherever the client meant to go.
    OriginalDst(OriginalDst),
}

/// When names are asked for again, beside the refresh rate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DnsPace {
    /// The answer's time to live counts in place of the refresh rate.
    pub respect_ttl: bool,
    /// Added at random, up to this.
    pub jitter: Duration,
    /// Back-off after a failure: base and ceiling; `None`: the refresh rate.
    pub failure: Option<(Duration, Duration)>,
}

/// Which addresses a DNS answer gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum DnsFamily {
    /// IPv6 if any, else IPv4.
    Auto,
    V4Only,
    V6Only,
    /// IPv4 if any, else IPv6.
    V4Preferred,
    All,
}

/// HTTP version towards hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum UpstreamProtocol {
    Http1,
    Http2,
    /// As the client does.
    Downstream,
    /// As each connection's handshake says; HTTP/1 without TLS.
    Auto,
}

/// When the peer of an HTTP/2 connection is asked by PING whether it lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Keepalive {
    /// This often; `None`: not at times of its own.
    pub interval: Option<Duration>,
    /// How long an answer may take.
    pub timeout: Duration,
    /// Longest time added to each interval, in percent of it. Default 15.
    pub jitter: u32,
    /// Also with the first stream after this time without any. Upstream only.
    pub idle: Option<Duration>,
}

/// HTTP/2 settings; `None` keeps Mizzen's defaults (`net::h2`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Http2Options {
    pub max_concurrent_streams: Option<u32>,
    pub initial_stream_window: Option<u32>,
    pub initial_connection_window: Option<u32>,
    /// PINGs.
    pub keepalive: Option<Box<Keepalive>>,
    /// Bytes of a head, counted as RFC 9113 6.5.2 does.
    pub header_list: Option<u32>,
}

/// SO_KEEPALIVE parameters; `None` fields keep the system's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TcpKeepalive {
    pub probes: Option<u32>,
    pub time: Option<Duration>,
    pub interval: Option<Duration>,
}

/// Limits per priority.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Breakers {
    pub default: Thresholds,
    pub high: Thresholds,
}

/// Limits of one priority, over all workers; `u32::MAX` is unlimited. Envoy defaults 1024, 1024, 1024, 3.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Thresholds {
    pub max_connections: u32,
    pub max_pending_requests: u32,
    pub max_requests: u32,
    /// Ignored where there is a budget.
    pub max_retries: u32,
    pub retry_budget: Option<RetryBudget>,
    /// The `remaining_*` gauges are shown.
    pub track_remaining: bool,
}

/// Retries as a share of the requests in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct RetryBudget {
    /// Hundredths of a percent of active and pending requests. Default 2,000.
    pub budget_permyriad: u32,
    /// Retries that are always allowed. Default 3.
    pub min_concurrency: u32,
}

impl Default for Thresholds {
    fn default() -> Self {
        Thresholds {
            max_connections: 1024,
            max_pending_requests: 1024,
            max_requests: 1024,
            max_retries: 3,
            retry_budget: None,
            track_remaining: false,
        }
    }
}

impl Breakers {
    /// Those that count for `priority`.
    pub fn of(&self, priority: Priority) -> &Thresholds {
        match priority {
            Priority::Default => &self.default,
            Priority::High => &self.high,
        }
    }
}

impl Cluster {
    /// Default of `response_head_bytes`.
    pub const DEFAULT_RESPONSE_HEAD: usize = 60 * 1024;

    /// A cluster with Envoy's defaults.
    pub fn new(name: impl Into<String>, discovery: Discovery) -> Self {
        Cluster {
            name: name.into(),
            alt_stat_name: None,
            discovery,
            lb: LbPolicy::RoundRobin,
            connect_timeout: Duration::from_secs(5),
            breakers: Breakers::default(),
            protocol: UpstreamProtocol::Http1,
            http2: Http2Options::default(),
            response_head_bytes: Self::DEFAULT_RESPONSE_HEAD,
            response_headers: 100,
            tcp_keepalive: None,
            buffer_limit: 1 << 20,
            connections_per_host: 1,
            idle_timeout: Some(Duration::from_secs(3600)),
            heartbeat: Some((Duration::from_secs(5), Duration::from_secs(3))),
            max_requests_per_connection: 0,
            panic_threshold: 50,
            panic_by_default: true,
            maintenance: 0,
            fail_on_panic: false,
            locality_weighted: false,
            hash_by_hostname: false,
            ignore_unchecked: false,
            lb_keys: None,
            slow_start: None,
            subsets: None,
            outlier: None,
            health_checks: Vec::new(),
            bind: None,
            sockets: TransportSockets::plain(),
            mesh: None,
            auto_names: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Endpoint, Route, VirtualHost};
    use super::*;

    /// With the two counts of an `Arc` each fills a size of the allocator; the next one is an eighth to a quarter
    /// more, of which a mesh has 10,000.
    #[test]
    fn what_there_are_many_of_is_small() {
        let sizes = [
            ("cluster", size_of::<Cluster>(), 512 - 16),
            ("endpoint", size_of::<Endpoint>(), 152),
            ("virtual host", size_of::<VirtualHost>(), 256 - 16),
            ("route", size_of::<Route>(), 448 - 16),
        ];
        let large: Vec<_> = sizes.iter().filter(|(_, size, most)| size > most).collect();
        assert!(large.is_empty(), "{large:?}");
    }
}
