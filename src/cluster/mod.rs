//! The upstream side.
//!
//! Owns compiled cluster settings, shared breaker counts, and per worker: hosts, load balancing, connection
//! pools. Takes in snapshots; gives out connections and calls to hosts.

mod breaker;
mod host;
mod lb;
mod original;
pub mod pool;
mod shared;
mod sockets;
mod table;
mod upstream;
mod variant;

pub use breaker::{BreakerState, Level, Overflow, Permit};
pub use host::{ActiveGuard, Host};
pub use lb::PickContext;
pub use shared::{
    ACTIVE_TIMEOUT, DEGRADED_ACTIVE, EXCLUDED_IMMEDIATE, FAILED_ACTIVE, FAILED_OUTLIER, HostState,
    PENDING_ACTIVE, Shared, Sign, Streak, Suspicion, Tally,
};
pub use sockets::Sockets;
pub use table::Table;
pub use upstream::{Cluster, State};
pub use variant::Variant;

use crate::model::{self, ClusterId, Endpoint, Endpoints, Priority};
use crate::net::{ReadPool, Wheel};
use crate::telemetry::{ClusterStats, Registration, Registry, Scope, SslStats};
use crate::util::random::Random;
use std::rc::Rc;
use std::sync::Arc;

/// Compiled settings of a cluster.
pub struct ClusterSpec {
    /// The id of its name.
    pub id: ClusterId,
    /// As configured.
    pub model: Arc<model::Cluster>,
    /// Counts shared by all workers; survives changes of the cluster.
    pub breakers: Arc<BreakerState>,
    /// Health of its hosts, shared by all workers; survives changes of the cluster.
    pub shared: Arc<Shared>,
    /// Plaintext or TLS, by host.
    pub sockets: Sockets,
}

impl ClusterSpec {
    /// Takes one unit of `level` unless the limits of `priority` forbid it; see [`BreakerState::acquire`].
    ///
    /// # Errors
    /// The limit is reached.
    pub fn acquire(&self, level: Level, priority: Priority) -> Result<Option<Permit>, Overflow> {
        self.breakers.acquire(level, priority, &self.model.breakers)
    }

    /// Flags a host begins with.
    pub fn first_flags(&self, endpoint: &Endpoint) -> u32 {
        let checked = !self.model.health_checks.is_empty();
        if checked && !endpoint.check.as_ref().is_some_and(|check| check.disabled) {
            FAILED_ACTIVE | PENDING_ACTIVE
        } else {
            0
        }
    }
}

/// What a cluster id stands for in one generation.
#[derive(Clone, Default)]
pub enum ClusterSlot {
    /// Nothing of that name is configured.
    #[default]
    Absent,
    /// Configured, but its endpoints have not come.
    Warming,
    /// Serves.
    Ready(ClusterEntry),
}

/// A serving cluster: settings and hosts change independently.
#[derive(Clone)]
pub struct ClusterEntry {
    /// Compiled settings.
    pub spec: Arc<ClusterSpec>,
    /// The newest hosts.
    pub endpoints: Arc<Endpoints>,
    /// What happened to it so far.
    pub history: History,
}

/// Counts of one cluster name for as long as it serves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// How often hosts came or went.
    pub membership_changes: u32,
    /// How often it began to serve without an assignment because none had come in time.
    pub fetch_timeouts: u32,
}

/// What everything on a worker's upstream side needs.
pub struct Env {
    /// The worker's timers.
    pub wheel: Rc<Wheel>,
    /// The worker's random numbers.
    pub random: Random,
    /// The worker's read chunk.
    pub reads: Rc<ReadPool>,
    /// Where new metric groups are registered.
    pub registry: Registry,
}

impl Env {
    /// Handshakes with the hosts of one cluster on this worker.
    pub fn cluster_ssl_stats(&self, model: &model::Cluster) -> Registration<SslStats> {
        let name = model.alt_stat_name.as_deref().unwrap_or(&model.name);
        self.registry.register(Scope::cluster_ssl(name), SslStats::default())
    }

    /// Metrics of one cluster on this worker.
    pub fn cluster_stats(&self, model: &model::Cluster) -> Registration<ClusterStats> {
        let name = model.alt_stat_name.as_deref().unwrap_or(&model.name);
        self.registry.register(Scope::cluster(name), ClusterStats::default())
    }
}
