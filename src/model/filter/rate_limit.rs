//! Local rate limits: token buckets, and how requests are sorted into them.

use crate::model::{Fraction, HeaderEdits, HeaderMatch, QueryMatch};
use serde::Serialize;
use std::sync::Arc;
use std::time::Duration;

/// `LocalRateLimit`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LocalRateLimit {
    pub stat_prefix: String,
    /// Of refusals. Default 429.
    pub status: u16,
    /// For requests without a bucket of their own.
    pub bucket: BucketConfig,
    /// Requests that are counted; `None` none.
    pub enabled: Option<Fraction>,
    /// Counted requests that are refused when there is no token; `None` none.
    pub enforced: Option<Fraction>,
    pub descriptors: Vec<Descriptor>,
    /// Which rules of routes are meant.
    pub stage: u32,
    /// Rules of its own, in place of the routes'.
    pub rules: Arc<[RateLimit]>,
    pub virtual_host: VirtualHostLimits,
    /// Requests with a bucket of their own need a token of the default one as well. Default yes.
    pub always_default: bool,
    /// Refused gRPC requests are told RESOURCE_EXHAUSTED.
    pub resource_exhausted: bool,
    /// Responses say `x-ratelimit-*`.
    pub tell: bool,
    pub request_headers: HeaderEdits,
    pub response_headers: HeaderEdits,
}

/// `TokenBucket`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct BucketConfig {
    pub max: u32,
    pub per_fill: u32,
    /// At least 50 ms.
    pub interval: Duration,
}

/// A bucket for requests of which these entries, in this order, are told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Descriptor {
    pub entries: Vec<(String, String)>,
    pub bucket: BucketConfig,
}

/// Which rules of a virtual host count beside those of a route.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub enum VirtualHostLimits {
    /// Only where the route has none.
    #[default]
    Override,
    Include,
    Ignore,
}

/// One rule of a route: the entries that its actions give make one descriptor, if all of them give any.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RateLimit {
    pub stage: u32,
    pub actions: Vec<RateLimitAction>,
}

/// Where an entry comes from.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub enum RateLimitAction {
    DestinationCluster,
    RequestHeader { name: String, key: String, skip_if_absent: bool },
    QueryParameter { name: String, key: String, skip_if_absent: bool },
    RemoteAddress,
    MaskedRemoteAddress { v4: u8, v6: u8 },
    GenericKey { key: String, value: String },
    HeaderValueMatch { key: String, value: String, expect: bool, headers: Vec<HeaderMatch> },
    QueryValueMatch { key: String, value: String, expect: bool, query: Vec<QueryMatch> },
    Metadata { key: String, namespace: String, path: Vec<String>, default: String, skip_if_absent: bool },
}
