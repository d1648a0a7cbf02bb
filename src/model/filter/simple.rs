//! Filters with little to configure.

use crate::message::Datum;
use crate::model::{Cidr, Fraction, HeaderEdit, HeaderMatch, Regex, StringMatch};
use serde::{Serialize, Serializer};
use std::collections::BTreeMap;
use std::time::Duration;

/// `CorsPolicy`; what is empty or `None` is left to the next level.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Cors {
    pub origins: Vec<StringMatch>,
    pub methods: String,
    pub headers: String,
    pub expose: String,
    pub max_age: String,
    pub credentials: Option<bool>,
    pub private_network: Option<bool>,
    /// Preflights of other origins go to the upstream. Default yes.
    pub forward_not_matching: Option<bool>,
    /// Share of requests; `None` all.
    pub enabled: Option<Fraction>,
    /// Share of requests that are judged and not touched; `None` none.
    pub shadow: Option<Fraction>,
}

/// `HeaderMutation`; each list is worked through in order.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct HeaderMutation {
    pub request: Vec<Mutation>,
    pub query: Vec<ParameterMutation>,
    pub response: Vec<Mutation>,
    pub response_trailers: Vec<Mutation>,
    pub request_trailers: Vec<Mutation>,
    /// Of several levels, the route's has the last word.
    pub most_specific_wins: bool,
}

/// One change of a header block.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub enum Mutation {
    Remove(String),
    RemoveMatching(StringMatch),
    Write(HeaderEdit),
}

/// One change of the query.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub enum ParameterMutation {
    Remove(String),
    Write(HeaderEdit),
}

/// `HealthCheck` of HTTP chains.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HealthCheckFilter {
    /// Checks go to the upstream.
    pub pass_through: bool,
    /// How long the upstream's answer is repeated; `None` not at all.
    pub cache: Option<Duration>,
    /// Least share of good hosts, in percent, by cluster.
    pub clusters: Vec<(String, f64)>,
    /// What makes a request a check; all must hold.
    pub headers: Vec<HeaderMatch>,
}

/// MOSN's `ip_access`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct IpAccess {
    pub allow_by_default: bool,
    /// The address is this header's; empty: the peer's.
    pub header: String,
    /// Whether these are admitted; the first list that has the address decides.
    pub lists: Vec<(bool, Vec<Cidr>)>,
}

/// Envoy's `header_to_metadata`, and MOSN's.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct HeaderToMetadata {
    pub request: Vec<HeaderRule>,
    pub response: Vec<HeaderRule>,
}

/// One header, or cookie, and what it becomes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HeaderRule {
    pub source: RuleSource,
    pub present: Option<MetadataValue>,
    pub missing: Option<MetadataValue>,
    /// Take the header away.
    pub remove: bool,
}

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum RuleSource {
    Header(String),
    Cookie(String),
}

/// Where a value goes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MetadataValue {
    pub namespace: String,
    pub key: String,
    /// Empty: the header's.
    pub value: String,
    pub rewrite: Option<(Regex, String)>,
    /// A number, not a text.
    pub number: bool,
    pub base64: bool,
}

/// `set_metadata`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct SetMetadata {
    pub entries: Vec<MetadataEntry>,
}

/// Values for one namespace.
#[derive(Clone, Debug, PartialEq)]
pub struct MetadataEntry {
    pub namespace: String,
    /// What is there already is joined with these; else it stays.
    pub overwrite: bool,
    pub values: BTreeMap<String, Datum>,
}

impl Serialize for MetadataEntry {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut json = Vec::new();
        Datum::Map(self.values.clone()).write_json(&mut json);
        (&self.namespace, self.overwrite, String::from_utf8_lossy(&json)).serialize(serializer)
    }
}

/// `grpc_stats`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct GrpcStats {
    /// Count by service and method: those listed, or all.
    pub methods: Option<Vec<(String, Vec<String>)>>,
    pub all_methods: bool,
    /// Other filters look at the numbers of messages.
    pub for_filters: bool,
    /// Time the upstream.
    pub upstream: bool,
    pub replace_dots: bool,
}
