//! What few routes have: hashing, mirrors, upgrades, further limits, and retry policies.

use super::{HeaderMatch, Mirror, Regex};
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Duration;

/// The rare settings of a forwarding route.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct RouteOptions {
    /// What the load balancers that hash get, in order.
    pub hash: Vec<HashPolicy>,
    pub mirrors: Vec<Mirror>,
    /// Protocols a client may change to, by lower-case name; `false` forbids one that the filter allows.
    pub upgrades: Vec<Upgrade>,
    /// Present: the route timeout is off, and this bounds the stream.
    pub max_stream: Option<MaxStream>,
    /// Taken off `grpc-timeout` where `max_grpc_timeout` has it used.
    pub grpc_timeout_offset: Option<Duration>,
    /// Append the old authority to `x-forwarded-host` when it is rewritten.
    pub append_x_forwarded_host: bool,
    /// Where the number of a weighted draw comes from.
    pub draw: DrawBy,
    /// For clusters with subsets.
    pub criteria: Criteria,
    /// Whose limits count.
    pub priority: Priority,
}

/// What the metadata of a host must say, by key; values as in [`super::Endpoint::metadata`].
pub type Criteria = BTreeMap<String, String>;

/// Which of a cluster's two sets of limits counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub enum Priority {
    #[default]
    Default,
    High,
}

/// Where the number of a weighted draw comes from.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub enum DrawBy {
    #[default]
    Random,
    /// A request header with one decimal number; anything else falls back to a random one.
    Header(String),
    /// The hash policies; random where they give nothing.
    Hash,
}

/// Limits of a stream's life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct MaxStream {
    /// `None` inherits the filter's; zero is off.
    pub limit: Option<Duration>,
    /// Use `grpc-timeout` instead, up to this; zero is no cap.
    pub grpc_header_max: Option<Duration>,
    /// Taken off `grpc-timeout`.
    pub grpc_header_offset: Option<Duration>,
}

/// One source of a request's hash.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HashPolicy {
    pub source: HashSource,
    /// With a hash at hand after this one, the rest is passed over.
    pub terminal: bool,
}

/// What is hashed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub enum HashSource {
    /// A request header, after a substitution.
    Header {
        name: String,
        rewrite: Option<(Regex, String)>,
    },
    /// A cookie; one that is absent is made up if `ttl` is set (zero: for the session).
    Cookie {
        name: String,
        ttl: Option<Duration>,
        path: String,
        /// Further attributes, a value may be empty.
        attributes: Vec<(String, String)>,
    },
    /// The client's IP address.
    SourceIp,
    QueryParameter(String),
}

/// Permission to change protocols.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Upgrade {
    /// `websocket`, `connect` …, lower case.
    pub kind: String,
    pub enabled: bool,
    /// The payload is forwarded as raw TCP; `Some(true)` that of POST as well.
    pub raw: Option<bool>,
}

/// When and how often to try again.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RetryPolicy {
    pub on: RetryOn,
    /// Tries after the first. Default 1.
    pub retries: u32,
    /// Limit of one try; `None` the route's timeout.
    pub per_try_timeout: Option<Duration>,
    /// A try without progress this long ends; `None` off.
    pub per_try_idle_timeout: Option<Duration>,
    /// Nothing is said of the back-off: runtime may have another base.
    pub default_back_off: bool,
    /// Base of the exponential back-off (full jitter). Default 25 ms.
    pub base_interval: Duration,
    /// Cap of the back-off. Default 10 × base.
    pub max_interval: Duration,
    /// Extra HTTP-like status codes to retry (`retriable-status-codes`).
    pub status_codes: Vec<u16>,
    /// Responses with one of these are retried (`retriable-headers`).
    pub headers: Vec<HeaderMatch>,
    /// Only requests with one of these are retried; empty: all.
    pub request_headers: Vec<HeaderMatch>,
    /// Do not pick a host that was tried before, up to this many re-picks.
    pub previous_hosts_attempts: u32,
    /// The server says when to come again.
    pub rate_limited: Option<RateLimitedBackOff>,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        RetryPolicy {
            on: RetryOn::default(),
            retries: 1,
            per_try_timeout: None,
            per_try_idle_timeout: None,
            default_back_off: true,
            base_interval: Duration::from_millis(25),
            max_interval: Duration::from_millis(250),
            status_codes: Vec::new(),
            headers: Vec::new(),
            request_headers: Vec::new(),
            previous_hosts_attempts: 0,
            rate_limited: None,
        }
    }
}

/// Back-off by response headers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RateLimitedBackOff {
    /// Names, first match wins.
    pub headers: Vec<(String, ResetFormat)>,
    /// A longer wait than this falls back to the ordinary back-off. Default 300 s.
    pub max_interval: Duration,
}

/// What a reset header holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum ResetFormat {
    Seconds,
    UnixTimestamp,
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
    pub retriable_headers: bool,
    /// Responses marked `x-envoy-ratelimited`.
    pub envoy_ratelimited: bool,
    /// Set of gRPC codes, one bit each (`cancelled` = bit 1 …).
    pub grpc_codes: u32,
}

impl RetryOn {
    /// Takes in one word; `false` for one that is unknown.
    pub fn add(&mut self, word: &str) -> bool {
        match word {
            "5xx" => self.five_xx = true,
            "gateway-error" => self.gateway_error = true,
            "reset" => self.reset = true,
            "reset-before-request" => self.reset_before_request = true,
            "connect-failure" => self.connect_failure = true,
            "refused-stream" => self.refused_stream = true,
            "retriable-4xx" => self.retriable_4xx = true,
            "retriable-status-codes" => self.retriable_status_codes = true,
            "retriable-headers" => self.retriable_headers = true,
            "envoy-ratelimited" => self.envoy_ratelimited = true,
            _ => return self.add_grpc(word),
        }
        true
    }

    /// Takes in one word about gRPC statuses; `false` for one that is unknown.
    pub fn add_grpc(&mut self, word: &str) -> bool {
        self.grpc_codes |= match word {
            "cancelled" => 1 << 1,
            "deadline-exceeded" => 1 << 4,
            "resource-exhausted" => 1 << 8,
            "internal" => 1 << 13,
            "unavailable" => 1 << 14,
            _ => return false,
        };
        true
    }
}
