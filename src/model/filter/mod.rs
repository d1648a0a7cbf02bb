//! HTTP filters: what listeners and routes say about them.
//!
//! One list per filter chain, in the order requests pass; the router, which ends it, is not part of it. Routes
//! address a filter by its name. A rule may hold something that is shared by all who use it, such as a token
//! bucket: [`Compiled`] is the place for it.

mod authz;
mod compression;
mod connections;
mod faults;
mod jwt;
mod rate_limit;
mod rbac;
mod simple;

pub use authz::{AuthzBody, AuthzService, AuthzSettings, ExtAuthz, GrpcTarget, HttpAuthz, NetworkAuthz};
pub use compression::{Algorithm, Compression, Compressor, Decompressor};
pub use connections::{ConnectionLimit, ConnectionRate, Guard, SetFilterState, StateValue};
pub use faults::{AbortWith, Fault, FaultAbort, FaultDelay, FaultRate};
pub use jwt::{
    ClaimHeader, JwksSource, JwtAuthn, JwtCache, JwtProvider, JwtRequirement, JwtRule, RemoteJwks,
    TokenHeader,
};
pub use rate_limit::{
    BucketConfig, Descriptor, LocalRateLimit, RateLimit, RateLimitAction, VirtualHostLimits,
};
pub use rbac::{
    MetadataMatch, NetworkRbac, Permission, Policies, Policy, Principal, Rbac, RbacAction, RbacSet,
    ValueMatch,
};
pub use simple::{
    Cors, GrpcStats, HeaderMutation, HeaderRule, HeaderToMetadata, HealthCheckFilter, IpAccess,
    MetadataEntry, MetadataValue, Mutation, ParameterMutation, RuleSource, SetMetadata,
};

use crate::model::{AlpnOverride, MeshStats, PeerMetadata};
use serde::{Serialize, Serializer};
use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, OnceLock};

/// One filter of a chain.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HttpFilter {
    /// What routes address it by.
    pub name: String,
    /// Passed over unless a route enables it.
    pub disabled: bool,
    pub rule: Arc<FilterRule>,
}

/// A filter's configuration, with what its users share.
#[derive(Debug, PartialEq, Serialize)]
pub struct FilterRule {
    pub config: FilterConfig,
    pub compiled: Compiled,
}

impl FilterRule {
    /// A rule nobody has used yet.
    pub fn new(config: FilterConfig) -> Arc<Self> {
        Arc::new(FilterRule { config, compiled: Compiled::default() })
    }
}

/// What a filter keeps for a rule: made at first use, shared by all threads, and no part of the rule's value.
#[derive(Default)]
pub struct Compiled(OnceLock<Arc<dyn Any + Send + Sync>>);

impl Compiled {
    /// What is kept, made by `make` if nothing is. A rule has one kind of keeper only: `None` for another `T`.
    pub fn get<T: Send + Sync + 'static>(&self, make: impl FnOnce() -> T) -> Option<&T> {
        self.0.get_or_init(|| Arc::new(make())).downcast_ref()
    }

    /// Takes over what `other`, an equal rule, keeps.
    pub fn adopt(&self, other: &Compiled) {
        if let Some(kept) = other.0.get() {
            // Whoever was quicker has made its own.
            let _ = self.0.set(kept.clone());
        }
    }
}

impl fmt::Debug for Compiled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Compiled")
    }
}

impl PartialEq for Compiled {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Serialize for Compiled {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_unit()
    }
}

/// Every filter there is. Most can stand in a chain and, as an override, at a route.
#[derive(Debug, PartialEq, Serialize)]
pub enum FilterConfig {
    Fault(Fault),
    /// Without a policy in chains.
    Cors(Option<Cors>),
    HeaderMutation(HeaderMutation),
    /// Request bodies are complete before the next filter sees their head; longer ones get 413.
    Buffer(Option<u32>),
    LocalRateLimit(Box<LocalRateLimit>),
    HealthCheck(HealthCheckFilter),
    Rbac(Rbac),
    IpAccess(IpAccess),
    ExtAuthz(Box<ExtAuthz>),
    /// What a route says to the service.
    AuthzSettings(Box<AuthzSettings>),
    JwtAuthn(Box<JwtAuthn>),
    /// The requirement of this name holds at a route.
    JwtRequirement(String),
    HeaderToMetadata(HeaderToMetadata),
    SetMetadata(SetMetadata),
    SetFilterState(SetFilterState),
    GrpcWeb,
    GrpcStats(GrpcStats),
    Compressor(Compressor),
    Decompressor(Decompressor),
    /// Peers tell each other who they are.
    PeerMetadata(PeerMetadata),
    /// What hosts are offered in TLS.
    Alpn(AlpnOverride),
    /// Requests are counted by who sends them and who answers.
    MeshStats(Arc<MeshStats>),
    /// Known, in its place, and without anything to do.
    Idle(String),
}

/// Configuration of HTTP filters by the filter's name, at one level of a table.
pub type RouteFilters = BTreeMap<String, RouteFilter>;

/// What one level says about one filter.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub enum RouteFilter {
    /// The filter is passed over.
    Disabled,
    /// It is not, whatever its chain says.
    Enabled,
    /// Nor this, and it works by this rule.
    Rule(Arc<FilterRule>),
}
