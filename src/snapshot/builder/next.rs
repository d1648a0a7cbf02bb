//! The snapshot in the making.

use crate::model::{ClusterId, Layer, RouteId, Runtime};
use crate::router::{RouteTable, Scopes};
use crate::snapshot::{ClusterSlot, ListenerSpec, Snapshot};
use std::sync::Arc;

/// A working copy that shares everything unchanged with the generations published before.
#[derive(Default)]
pub(super) struct Next {
    snapshot: Snapshot,
    changed: bool,
}

impl Next {
    /// Nothing but who this proxy is.
    pub(super) fn of(node: &(String, String)) -> Self {
        let snapshot = Snapshot { node_name: Arc::new(node.clone()), ..Snapshot::default() };
        Next { snapshot, changed: false }
    }

    /// The generation published last.
    pub(super) fn generation(&self) -> u64 {
        self.snapshot.generation
    }

    /// The working copy.
    pub(super) fn get(&self) -> &Snapshot {
        &self.snapshot
    }

    /// A new generation, if anything was set.
    pub(super) fn publish(&mut self) -> Option<Arc<Snapshot>> {
        if !std::mem::take(&mut self.changed) {
            return None;
        }
        self.snapshot.generation += 1;
        Some(Arc::new(self.snapshot.clone()))
    }

    pub(super) fn set_cluster(&mut self, id: ClusterId, name: &Arc<str>, slot: ClusterSlot) {
        let warming = |slot: &ClusterSlot| matches!(slot, ClusterSlot::Warming);
        if warming(&slot) && warming(self.snapshot.cluster(id)) {
            return;
        }
        let clusters = &mut self.snapshot.clusters;
        while clusters.len() <= id.index() {
            clusters.push_back(ClusterSlot::Absent);
        }
        clusters.set(id.index(), slot);
        if self.snapshot.names.get(name) != Some(&id) {
            self.snapshot.names.insert(name.clone(), id);
        }
        self.changed = true;
    }

    /// Whether the slot held anything.
    pub(super) fn clear_cluster(&mut self, id: ClusterId, name: &Arc<str>) -> bool {
        if matches!(self.snapshot.cluster(id), ClusterSlot::Absent) {
            return false;
        }
        self.snapshot.clusters.set(id.index(), ClusterSlot::Absent);
        self.snapshot.names.remove(name);
        self.changed = true;
        true
    }

    /// Whether that changed anything.
    pub(super) fn set_layers(&mut self, layers: Vec<Layer>) -> bool {
        let new = *self.snapshot.layers != *layers;
        if new {
            let all = Runtime::layered(layers.iter().map(|layer| &layer.values));
            self.snapshot.runtime = Arc::new(all);
            self.snapshot.layers = layers.into();
            self.changed = true;
        }
        new
    }

    pub(super) fn set_scopes(&mut self, scopes: Arc<Scopes>) {
        self.snapshot.scopes = scopes;
        self.changed = true;
    }

    pub(super) fn set_table(&mut self, id: RouteId, table: Option<Arc<RouteTable>>) {
        if table.is_none() && self.snapshot.route_table(id).is_none() {
            return;
        }
        let routes = &mut self.snapshot.routes;
        while routes.len() <= id.index() {
            routes.push_back(None);
        }
        routes.set(id.index(), table);
        self.changed = true;
    }

    pub(super) fn set_listener(&mut self, name: &Arc<str>, spec: Option<Arc<ListenerSpec>>) {
        match spec {
            Some(spec) => self.snapshot.listeners.insert(name.clone(), spec),
            None => self.snapshot.listeners.remove(name),
        };
        self.changed = true;
    }
}
