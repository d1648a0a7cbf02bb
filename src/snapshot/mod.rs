//! The immutable picture of configuration that workers serve from.
//!
//! Owns [`Snapshot`], the [`Store`] that publishes it, the worker's pinned [`View`], and the builder, the
//! single writer. Takes in models; gives out generations.

pub mod builder;
mod spec;
mod store;
mod view;

pub use builder::Builder;
pub use spec::{ChainSpec, FilterSpec, Leftover, ListenerSpec};
pub use store::Store;
pub use view::View;

pub use crate::cluster::{ClusterEntry, ClusterSlot};

use crate::model::{ClusterId, Layer, RouteId, Runtime};
use crate::router::{RouteTable, Scopes};
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
    /// Clusters by [`ClusterId`]. An id that nothing names any more may stand for another name in a later
    /// generation: whoever keeps things by id over generations compares the name.
    pub clusters: imbl::Vector<ClusterSlot>,
    /// Ids of the clusters that are not [`ClusterSlot::Absent`], for routes that take the name from a header.
    pub names: imbl::OrdMap<Arc<str>, ClusterId>,
    /// The node as this proxy introduces itself: id and cluster.
    pub node_name: Arc<(String, String)>,
    /// The scopes of SRDS.
    pub scopes: Arc<Scopes>,
    /// What holds of runtime, all layers in one.
    pub runtime: Arc<Runtime>,
    /// Its layers, later ones over earlier ones.
    pub layers: Arc<[Layer]>,
}

impl Snapshot {
    /// The route table of `id`, if it has come.
    pub fn route_table(&self, id: RouteId) -> Option<&Arc<RouteTable>> {
        self.routes.get(id.index()).and_then(Option::as_ref)
    }

    /// The id of a cluster name, if it is interned.
    pub fn cluster_id(&self, name: &[u8]) -> Option<ClusterId> {
        std::str::from_utf8(name).ok().and_then(|name| self.names.get(name).copied())
    }

    /// The cluster of `id`.
    pub fn cluster(&self, id: ClusterId) -> &ClusterSlot {
        static ABSENT: ClusterSlot = ClusterSlot::Absent;
        self.clusters.get(id.index()).unwrap_or(&ABSENT)
    }
}
