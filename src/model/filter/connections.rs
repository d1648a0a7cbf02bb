//! Filters of connections: how many there may be, how fast they may come, what is said of them.

use super::{BucketConfig, Compiled, NetworkAuthz, NetworkRbac};
use crate::model::{Format, Switch};
use serde::Serialize;
use std::sync::Arc;
use std::time::Duration;

/// What stands before the last filter of a chain, and decides about its connections or tells of them.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub enum Guard {
    Rbac(NetworkRbac),
    Authz(Box<NetworkAuthz>),
    Limit(Arc<ConnectionLimit>),
    Rate(Arc<ConnectionRate>),
    /// Raw connections go to the cluster that is called as the server name their client asks for.
    SniCluster,
    State(Arc<SetFilterState>),
}

/// `ConnectionLimit`.
#[derive(Debug, PartialEq, Serialize)]
pub struct ConnectionLimit {
    pub stat_prefix: String,
    /// Over all workers; at least 1.
    pub max: u64,
    /// How long a connection too many is kept before it is closed.
    pub delay: Duration,
    pub enabled: Switch,
    /// How many there are.
    pub compiled: Compiled,
}

/// `LocalRateLimit` of connections.
#[derive(Debug, PartialEq, Serialize)]
pub struct ConnectionRate {
    pub stat_prefix: String,
    pub bucket: BucketConfig,
    pub enabled: Switch,
    /// The bucket.
    pub compiled: Compiled,
}

/// `set_filter_state`, of connections and of streams.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct SetFilterState {
    /// In this order.
    pub values: Vec<StateValue>,
}

/// One key and what it is set to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StateValue {
    pub key: String,
    pub value: Format,
    /// What is not known is empty, and not `-`.
    pub omit_empty: bool,
    /// Nobody sets it again.
    pub locked: bool,
    /// An empty value leaves the key as it is.
    pub skip_if_empty: bool,
}

impl Guard {
    /// Takes over what an equal guard of the version before keeps.
    pub fn adopt(&self, before: &[Guard]) {
        match self {
            Guard::Limit(own) => before.iter().for_each(|guard| {
                if let Guard::Limit(old) = guard
                    && old == own
                {
                    own.compiled.adopt(&old.compiled);
                }
            }),
            Guard::Rate(own) => before.iter().for_each(|guard| {
                if let Guard::Rate(old) = guard
                    && old == own
                {
                    own.compiled.adopt(&old.compiled);
                }
            }),
            Guard::Rbac(_) | Guard::Authz(_) | Guard::SniCluster | Guard::State(_) => {}
        }
    }
}
