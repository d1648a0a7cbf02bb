//! The immutable picture of configuration that workers serve from.
//!
//! Owns [`Snapshot`], the [`Store`] that publishes it, the worker's pinned [`View`], and the builder, the
//! single writer. Takes in models; gives out generations.

mod spec;
mod store;
mod view;

pub use spec::{ChainSpec, FilterSpec, ListenerSpec};
pub use store::Store;
pub use view::View;

use crate::cluster::ClusterSpec;
use crate::model::{ClusterId, Endpoints, RouteId};
use crate::router::RouteTable;
use std::sync::Arc;

/// One generation of configuration. Never changes once published; parts that did not change are shared with
/// the generation before.
#[derive(Clone, Default)]
pub struct Snapshot {
    /// Counts up by one per publication; 0 is the empty snapshot before the first.
    pub generation: u64,
    /// Open listeners by name. Those that wait for routes or clusters are not here yet.
    pub listeners: imbl::OrdMap<Arc<str>, Arc<ListenerSpec>>,
    /// Route tables by [`RouteId`]; `None` where the table has not come (or the id is free).
    pub routes: imbl::Vector<Option<Arc<RouteTable>>>,
    /// Clusters by [`ClusterId`].
    pub clusters: imbl::Vector<ClusterSlot>,
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
}

impl Snapshot {
    /// The route table of `id`, if it has come.
    pub fn route_table(&self, id: RouteId) -> Option<&Arc<RouteTable>> {
        self.routes.get(id.index()).and_then(Option::as_ref)
    }

    /// The cluster of `id`.
    pub fn cluster(&self, id: ClusterId) -> &ClusterSlot {
        static ABSENT: ClusterSlot = ClusterSlot::Absent;
        self.clusters.get(id.index()).unwrap_or(&ABSENT)
    }
}
