//! Who may do what: policies of permissions and principals.

use crate::model::{Cidr, HeaderMatch, StringMatch, UriTemplate};
use serde::Serialize;

/// `RBAC` of HTTP chains.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Rbac {
    /// `None`: everything is admitted.
    pub rules: Option<RbacSet>,
    /// Judged and counted, without consequence.
    pub shadow: Option<RbacSet>,
    pub stat_prefix: String,
    pub shadow_stat_prefix: String,
    /// Count each policy.
    pub per_rule: bool,
}

/// `RBAC` of network chains.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NetworkRbac {
    /// First part of its metric names, used verbatim.
    pub stat_prefix: String,
    pub rbac: Rbac,
}

/// An action and the policies it depends on.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RbacSet {
    pub action: RbacAction,
    /// By name, in its order.
    pub policies: Policies,
}

/// Policies with their names.
pub type Policies = Vec<(String, Policy)>;

/// What a matching policy means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum RbacAction {
    /// Only what matches is admitted.
    Allow,
    /// What matches is not.
    Deny,
    /// Everything is; what matches is marked for logs.
    Log,
}

/// Any of the permissions, for any of the principals.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Policy {
    pub permissions: Vec<Permission>,
    pub principals: Vec<Principal>,
}

/// What is done.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub enum Permission {
    All(Vec<Permission>),
    Any(Vec<Permission>),
    Always,
    Not(Box<Permission>),
    Header(HeaderMatch),
    /// The path without its query.
    Path(StringMatch),
    Template(UriTemplate),
    DestinationIp(Cidr),
    /// `from..to`, the end not included.
    DestinationPorts(u32, u32),
    ServerName(StringMatch),
    Metadata(MetadataMatch),
}

/// Who does it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub enum Principal {
    All(Vec<Principal>),
    Any(Vec<Principal>),
    Always,
    Not(Box<Principal>),
    Header(HeaderMatch),
    Path(StringMatch),
    /// By its certificate; `None`: any that was verified.
    Authenticated(Option<StringMatch>),
    /// Who is connected.
    DirectIp(Cidr),
    /// On whose behalf, as far as trusted headers tell.
    RemoteIp(Cidr),
    Metadata(MetadataMatch),
}

/// A condition on dynamic metadata.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MetadataMatch {
    pub namespace: String,
    pub path: Vec<String>,
    pub value: ValueMatch,
    pub invert: bool,
}

/// A condition on one value.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub enum ValueMatch {
    Null,
    /// `start..end`, or equal.
    Range(f64, f64),
    Number(f64),
    Text(StringMatch),
    Bool(bool),
    Present(bool),
    /// A list of which one item matches.
    OneOf(Box<ValueMatch>),
    Or(Vec<ValueMatch>),
}
