//! Route tables.

use super::{HeaderEdits, HeaderMatch, Regex, StringMatch};
use serde::Serialize;
use std::sync::Arc;
use std::time::Duration;

/// One RouteConfiguration.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct RouteConfig {
    pub name: String,
    pub virtual_hosts: Vec<Arc<VirtualHost>>,
    pub request_headers: HeaderEdits,
    pub response_headers: HeaderEdits,
    /// Compare hosts without their port.
    pub ignore_port: bool,
    /// Apply the most specific header edits last instead of first.
    pub most_specific_header_mutations_wins: bool,
}

/// One virtual host.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct VirtualHost {
    pub name: String,
    /// Lower-cased: exact, `*.suffix`, `prefix.*`, `*`. Unique over the table.
    pub domains: Vec<String>,
    /// First match wins.
    pub routes: Vec<Route>,
    pub request_headers: HeaderEdits,
    pub response_headers: HeaderEdits,
    /// Default for routes that have none.
    pub retry: Option<RetryPolicy>,
}

impl VirtualHost {
    /// Names of the clusters its routes name, with repetitions.
    pub fn clusters(&self) -> impl Iterator<Item = &str> {
        self.routes.iter().flat_map(|route| match &route.action {
            Action::Route(action) => action.cluster.names(),
            _ => Vec::new(),
        })
    }
}

/// Match and action.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Route {
    pub name: String,
    pub matcher: RouteMatch,
    pub action: Action,
    pub request_headers: HeaderEdits,
    pub response_headers: HeaderEdits,
}

/// All parts must hold.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RouteMatch {
    pub path: PathMatch,
    pub headers: Vec<HeaderMatch>,
    pub query: Vec<QueryMatch>,
    /// Only gRPC requests (`content-type: application/grpc…`).
    pub grpc: bool,
    /// Share of requests in millionths; `None` all.
    pub fraction: Option<u32>,
}

/// Condition on the path without query. Requests without a path (bolt) match `Any` and the prefix `/` only.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub enum PathMatch {
    /// MOSN's rule with headers only.
    Any,
    Prefix {
        value: String,
        ignore_case: bool,
    },
    Exact {
        value: String,
        ignore_case: bool,
    },
    /// The path itself or a child of it.
    SeparatedPrefix {
        value: String,
        ignore_case: bool,
    },
    Regex(Regex),
}

/// Condition on one query parameter.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct QueryMatch {
    pub name: String,
    /// `None`: presence as `present` says.
    pub value: Option<StringMatch>,
    pub present: bool,
}

/// What a matched request meets.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub enum Action {
    Route(RouteAction),
    Direct(DirectResponse),
    Redirect(Redirect),
}

/// A fixed answer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DirectResponse {
    pub status: u16,
    pub body: Vec<u8>,
}

/// An HTTP redirect; parts left `None` stay as requested.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Redirect {
    pub status: u16,
    pub scheme: Option<String>,
    pub host: Option<String>,
    pub port: Option<u16>,
    pub path: Option<String>,
    pub prefix_rewrite: Option<String>,
    pub strip_query: bool,
}

/// Forwarding.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RouteAction {
    pub cluster: ClusterChoice,
    /// Whole request, all tries; `None` off. Envoy default 15 s, MOSN 60 s.
    pub timeout: Option<Duration>,
    /// No progress this long ends the stream; `None` inherits the filter's.
    pub idle_timeout: Option<Duration>,
    pub retry: Option<RetryPolicy>,
    pub prefix_rewrite: Option<String>,
    pub regex_rewrite: Option<(Regex, String)>,
    pub host_rewrite: Option<String>,
    pub auto_host_rewrite: bool,
}

/// How the cluster is found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub enum ClusterChoice {
    Single(String),
    /// Drawn by weight, once per request.
    Weighted(Vec<WeightedCluster>),
    /// Named by a request header.
    Header(String),
}

impl ClusterChoice {
    /// Names known from configuration.
    pub fn names(&self) -> Vec<&str> {
        match self {
            ClusterChoice::Single(name) => vec![name],
            ClusterChoice::Weighted(list) => list.iter().map(|w| w.name.as_str()).collect(),
            ClusterChoice::Header(_) => Vec::new(),
        }
    }
}

/// A cluster and its share.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct WeightedCluster {
    pub name: String,
    pub weight: u32,
    pub request_headers: HeaderEdits,
    pub response_headers: HeaderEdits,
}

/// When and how often to try again.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RetryPolicy {
    pub on: RetryOn,
    /// Tries after the first. Default 1.
    pub retries: u32,
    /// Limit of one try; `None` the route's timeout.
    pub per_try_timeout: Option<Duration>,
    /// Base of the exponential back-off (full jitter). Default 25 ms.
    pub base_interval: Duration,
    /// Cap of the back-off. Default 10 × base.
    pub max_interval: Duration,
    /// Extra HTTP-like status codes to retry (`retriable-status-codes`).
    pub status_codes: Vec<u16>,
    /// Do not pick a host that was tried before, up to this many re-picks.
    pub previous_hosts_attempts: u32,
}

/// Conditions of `retry_on`; each as Envoy defines its word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RetryOn {
    pub connect_failure: bool,
    pub refused_stream: bool,
    pub reset: bool,
    pub reset_before_request: bool,
    pub five_xx: bool,
    pub gateway_error: bool,
    pub retriable_4xx: bool,
    pub retriable_status_codes: bool,
    /// Set of gRPC codes, one bit each (`cancelled` = bit 1 …).
    pub grpc_codes: u32,
}
