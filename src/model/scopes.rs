//! Scoped routes: which table a request's route is looked up in, by a key made of its headers.

use super::RouteConfig;
use serde::Serialize;
use std::sync::Arc;
use std::time::Duration;

/// `ScopedRoutes` of a connection manager.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ScopedRoutes {
    pub name: String,
    /// The key's parts; a request that lacks one has no scope. Never empty.
    pub key: Vec<KeyFragment>,
    pub scopes: ScopeSource,
    /// How long the tables that scopes name are waited for; `None` for ever.
    pub rds_timeout: Option<Duration>,
}

/// One part of a key, taken from the first value of a request header.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KeyFragment {
    pub header: String,
    /// What the value is split at; empty: it is one element.
    pub separator: String,
    pub extract: Extract,
}

/// Which element counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Extract {
    /// Its place, from 0.
    Index(u32),
    /// The first one that is `key`, then `separator`; what follows is the part.
    Element { separator: String, key: String },
}

/// Where scopes come from.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub enum ScopeSource {
    Inline(Vec<Arc<ScopedRoute>>),
    /// All of SRDS. `initial_fetch_timeout` `None` waits for ever; Envoy's default is 15 s.
    Srds {
        initial_fetch_timeout: Option<Duration>,
    },
}

/// One scope.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ScopedRoute {
    pub name: String,
    /// As many parts as the keys that are to meet it.
    pub key: Vec<String>,
    pub routes: ScopeTable,
}

/// The table of a scope.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub enum ScopeTable {
    Inline(Arc<RouteConfig>),
    /// By RDS.
    Rds(String),
}
