//! The upstream side.
//!
//! Owns compiled cluster settings, shared breaker counts, and per worker: hosts, load balancing, connection
//! pools. Takes in snapshots; gives out connections and streams to hosts.

mod breaker;

pub use breaker::{BreakerState, Level, Permit};

use crate::model::{Cluster, ClusterId};
use std::sync::Arc;

/// Compiled settings of a cluster.
pub struct ClusterSpec {
    /// The id of its name.
    pub id: ClusterId,
    /// As configured.
    pub model: Arc<Cluster>,
    /// Counts shared by all workers; survives changes of the cluster.
    pub breakers: Arc<BreakerState>,
}
