//! Route tables.

use super::runtime::fraction_now;
use super::{
    Criteria, Format, HeaderEdits, HeaderMatch, RateLimit, Regex, RetryPolicy, RouteFilters, RouteOptions,
    Sampling, StringMatch, UriTemplate,
};
use serde::Serialize;
use std::sync::Arc;
use std::time::Duration;

/// One RouteConfiguration.
#[derive(Clone, Debug, Default, Serialize)]
pub struct RouteConfig {
    pub name: String,
    pub virtual_hosts: Vec<Arc<VirtualHost>>,
    pub request_headers: HeaderEdits,
    pub response_headers: HeaderEdits,
    /// Compare hosts without their port.
    pub ignore_port: bool,
    /// Apply the most specific header edits last instead of first.
    pub most_specific_header_mutations_wins: bool,
    /// Compare paths up to their first `;`.
    pub ignore_path_parameters: bool,
    /// Headers to remove from requests that come from outside, lower case.
    pub internal_only_headers: Vec<String>,
    /// For virtual hosts that have none.
    pub mirrors: Vec<Mirror>,
    pub filters: RouteFilters,
}

impl PartialEq for RouteConfig {
    /// A virtual host that both share is not looked into: versions of a large table differ in little.
    fn eq(&self, other: &Self) -> bool {
        let same = |(a, b): (&Arc<VirtualHost>, &Arc<VirtualHost>)| Arc::ptr_eq(a, b) || a == b;
        self.same_frame(other)
            && self.virtual_hosts.len() == other.virtual_hosts.len()
            && self.virtual_hosts.iter().zip(&other.virtual_hosts).all(same)
    }
}

impl RouteConfig {
    /// Whether everything but the virtual hosts is equal.
    pub fn same_frame(&self, other: &Self) -> bool {
        let RouteConfig {
            name,
            virtual_hosts: _,
            request_headers,
            response_headers,
            ignore_port,
            most_specific_header_mutations_wins,
            ignore_path_parameters,
            internal_only_headers,
            mirrors,
            filters,
        } = self;
        *name == other.name
            && *request_headers == other.request_headers
            && *response_headers == other.response_headers
            && *ignore_port == other.ignore_port
            && *most_specific_header_mutations_wins == other.most_specific_header_mutations_wins
            && *ignore_path_parameters == other.ignore_path_parameters
            && *internal_only_headers == other.internal_only_headers
            && *mirrors == other.mirrors
            && *filters == other.filters
    }
}

/// One virtual host.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct VirtualHost {
    pub name: String,
    /// Lower-cased: exact, `*.suffix`, `prefix.*`, `*`. Unique over the table.
    pub domains: Vec<String>,
    /// First match wins.
    pub routes: Vec<Arc<Route>>,
    pub request_headers: HeaderEdits,
    pub response_headers: HeaderEdits,
    /// Default for routes that have none.
    pub retry: Option<Arc<RetryPolicy>>,
    pub require_tls: RequireTls,
    /// Send `x-envoy-attempt-count` upstream.
    pub attempt_count_in_request: bool,
    /// Send it with the response.
    pub attempt_count_in_response: bool,
    /// Bytes of a request that are kept for a retry or a mirror; `None` as the listener says.
    pub buffer_limit: Option<u64>,
    /// For routes that have none.
    pub mirrors: Vec<Mirror>,
    pub filters: RouteFilters,
    /// What local rate limits sort its requests by.
    pub rate_limits: Arc<[RateLimit]>,
}

impl VirtualHost {
    /// Names of the clusters its routes go to, with repetitions; mirrors not counted.
    pub fn clusters(&self) -> impl Iterator<Item = &str> {
        self.routes.iter().flat_map(|route| match &route.action {
            Action::Route(action) => action.cluster.names(),
            _ => Vec::new(),
        })
    }
}

/// Whether requests that came without TLS are sent back for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub enum RequireTls {
    #[default]
    No,
    /// Those from outside only.
    External,
    All,
}

/// Match and action.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Route {
    pub name: String,
    pub matcher: RouteMatch,
    pub action: Action,
    pub request_headers: HeaderEdits,
    pub response_headers: HeaderEdits,
    /// As [`VirtualHost::buffer_limit`].
    pub buffer_limit: Option<u64>,
    pub filters: RouteFilters,
    /// What local rate limits sort its requests by.
    pub rate_limits: Arc<[RateLimit]>,
    /// Which of its requests are traced, where the manager traces.
    pub tracing: Option<Box<Sampling>>,
}

impl Route {
    /// A route without anything beside match and action.
    pub fn new(name: &str, matcher: RouteMatch, action: Action) -> Route {
        Route {
            name: name.to_owned(),
            matcher,
            action,
            request_headers: HeaderEdits::default(),
            response_headers: HeaderEdits::default(),
            buffer_limit: None,
            filters: RouteFilters::new(),
            rate_limits: Arc::default(),
            tracing: None,
        }
    }
}

/// All parts must hold.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct RouteMatch {
    pub path: PathMatch,
    pub headers: Vec<HeaderMatch>,
    pub query: Vec<QueryMatch>,
    /// Only gRPC requests (`content-type: application/grpc…`).
    pub grpc: bool,
    /// Share of requests; `None` all.
    pub fraction: Option<Box<Fraction>>,
}

/// A share of requests, that runtime may override.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Fraction {
    pub numerator: u32,
    /// 100, 10,000 or 1,000,000.
    pub denominator: u32,
    /// What runtime says for this key holds instead; empty: none.
    pub runtime_key: String,
}

impl Fraction {
    /// Whether the request with `random` (uniform over `u64`) belongs to it.
    pub fn holds(&self, random: u64) -> bool {
        let own = (self.numerator, self.denominator);
        let (numerator, denominator) = match self.runtime_key.as_str() {
            "" => own,
            key => fraction_now(key).unwrap_or(own),
        };
        random % u64::from(denominator.max(1)) < u64::from(numerator)
    }
}

/// Condition on the path without query. Requests without a path (bolt) match `Any` and the prefix `/` only;
/// those with the method CONNECT and no path match `Connect` only.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub enum PathMatch {
    /// MOSN's rule with headers only.
    #[default]
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
    Template(UriTemplate),
    /// CONNECT requests, with a path or without.
    Connect,
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
    /// Rare and large.
    Redirect(Box<Redirect>),
}

/// A fixed answer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DirectResponse {
    pub status: u16,
    pub body: Arc<[u8]>,
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
    /// Pattern and substitution for the path without query.
    pub regex_rewrite: Option<(Regex, String)>,
    pub strip_query: bool,
}

/// Forwarding.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct RouteAction {
    pub cluster: ClusterChoice,
    /// Whole request, all tries; `None` off. Envoy default 15 s, MOSN 60 s.
    pub timeout: Option<Duration>,
    /// No progress this long ends the stream; `None` inherits the filter's.
    pub idle_timeout: Option<Duration>,
    /// For gRPC requests, `grpc-timeout` in place of `timeout`, up to this; zero is no cap.
    pub max_grpc_timeout: Option<Duration>,
    pub retry: Option<Arc<RetryPolicy>>,
    pub path_rewrite: Option<Box<PathRewrite>>,
    pub host_rewrite: Option<Box<HostRewrite>>,
    /// What few routes have.
    pub options: Option<Box<RouteOptions>>,
}

/// A change of the path; the query stays.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub enum PathRewrite {
    /// Replaces what the route matched.
    Prefix(String),
    /// Replaces every hit; `\0` to `\9` in the text name its groups.
    Regex(Regex, String),
    /// Builds a path from the variables of the route's template.
    Template(Vec<TemplatePart>),
    /// A format string, whole path.
    Format(Format),
}

/// A part of a templated path.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub enum TemplatePart {
    Text(String),
    /// A variable by its number.
    Variable(usize),
}

/// A change of the authority.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub enum HostRewrite {
    Literal(String),
    /// The picked host's name.
    Auto,
    /// The value of a request header, if it is there.
    Header(String),
    /// What the substitution makes of the path without query.
    PathRegex(Regex, String),
    Format(Format),
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

impl Default for ClusterChoice {
    fn default() -> Self {
        ClusterChoice::Single(String::new())
    }
}

impl ClusterChoice {
    /// Names known from configuration.
    pub fn names(&self) -> Vec<&str> {
        match self {
            ClusterChoice::Single(name) => vec![name],
            ClusterChoice::Weighted(list) => {
                list.iter().filter(|w| w.header.is_none()).map(|w| w.name.as_str()).collect()
            }
            ClusterChoice::Header(_) => Vec::new(),
        }
    }
}

/// A cluster and its share.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct WeightedCluster {
    /// Empty where `header` names it.
    pub name: String,
    pub weight: u32,
    /// What runtime says for this key is its weight instead.
    pub runtime_key: Option<Box<str>>,
    pub request_headers: HeaderEdits,
    pub response_headers: HeaderEdits,
    /// The cluster is named by this request header.
    pub header: Option<String>,
    pub host_rewrite: Option<String>,
    /// For clusters with subsets; these come before the route's of the same keys.
    pub criteria: Criteria,
    pub filters: RouteFilters,
}

/// A copy of requests for another cluster, whose answers nobody sees.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Mirror {
    /// Its name, or the request header that names it.
    pub cluster: ClusterChoice,
    /// `None` all.
    pub fraction: Option<Fraction>,
    /// `None` as the request.
    pub trace_sampled: Option<bool>,
    /// Leave `-shadow` off the host.
    pub keep_host: bool,
    pub host_rewrite: Option<String>,
}
