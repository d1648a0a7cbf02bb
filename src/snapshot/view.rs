//! A worker's pinned snapshot.

use super::Snapshot;
use crate::cluster::{Cluster, ClusterSlot, Env};
use crate::model::ClusterId;
use std::cell::RefCell;
use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;

/// A snapshot pinned inside one worker: cloning touches only the worker's own count, never the shared one.
#[derive(Clone)]
pub struct View(Rc<Pinned>);

struct Pinned {
    snapshot: Arc<Snapshot>,
    /// Clusters that are gone from the current snapshot and that streams of this one still use. They keep
    /// their connections until the view goes.
    late: RefCell<Vec<(ClusterId, Rc<Cluster>)>>,
}

impl View {
    /// Pins `snapshot` for this worker.
    pub fn new(snapshot: Arc<Snapshot>) -> Self {
        View(Rc::new(Pinned { snapshot, late: RefCell::default() }))
    }

    /// The cluster of `id` as this snapshot has it, when the current one has it no more.
    pub fn late_cluster(&self, id: ClusterId, env: &Rc<Env>) -> Option<Rc<Cluster>> {
        let mut late = self.0.late.borrow_mut();
        if let Some((_, cluster)) = late.iter().find(|(other, _)| *other == id) {
            return Some(cluster.clone());
        }
        let ClusterSlot::Ready(entry) = self.cluster(id) else { return None };
        let cluster = Cluster::new(entry, env.clone());
        late.push((id, cluster.clone()));
        Some(cluster)
    }
}

impl Deref for View {
    type Target = Snapshot;
    fn deref(&self) -> &Snapshot {
        &self.0.snapshot
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        for (_, cluster) in self.late.take() {
            cluster.retire();
        }
    }
}
