//! The clusters a worker uses.

use super::{Cluster, ClusterSlot, Env};
use crate::message::Reason;
use crate::model::ClusterId;
use std::cell::RefCell;
use std::rc::Rc;

/// Clusters by id, made at first use: one that gets no traffic costs nothing here.
pub struct Table {
    used: RefCell<Vec<Option<Rc<Cluster>>>>,
    env: Rc<Env>,
}

impl Table {
    /// An empty table.
    pub fn new(env: Rc<Env>) -> Self {
        Table { used: RefCell::default(), env }
    }

    /// The cluster of `id`; `slot` is what the current snapshot holds for it.
    ///
    /// # Errors
    /// It is not configured, or still warming.
    pub fn get(&self, id: ClusterId, slot: &ClusterSlot) -> Result<Rc<Cluster>, Reason> {
        if let Some(Some(cluster)) = self.used.borrow().get(id.index()) {
            return Ok(cluster.clone());
        }
        match slot {
            ClusterSlot::Absent => Err(Reason::UnknownCluster),
            ClusterSlot::Warming => Err(Reason::Warming),
            ClusterSlot::Ready(entry) => {
                let cluster = Cluster::new(entry, self.env.clone());
                let mut used = self.used.borrow_mut();
                if used.len() <= id.index() {
                    used.resize(id.index() + 1, None);
                }
                if let Some(place) = used.get_mut(id.index()) {
                    *place = Some(cluster.clone());
                }
                Ok(cluster)
            }
        }
    }

    /// Follows a new snapshot. Costs only for the clusters in use.
    pub fn sync<'a>(&self, slot_of: impl Fn(ClusterId) -> &'a ClusterSlot) {
        let mut gone = Vec::new();
        for (index, place) in self.used.borrow_mut().iter_mut().enumerate() {
            let Some(cluster) = place else { continue };
            match slot_of(ClusterId(index as u32)) {
                // A freed id may stand for another name by now.
                ClusterSlot::Ready(entry) if entry.spec.model.name == cluster.name => cluster.update(entry),
                _ => gone.extend(place.take()),
            }
        }
        // Outside the borrow: retiring wakes connection tasks.
        for cluster in gone {
            cluster.retire();
        }
    }

    /// Clusters in use.
    pub fn iter(&self) -> Vec<Rc<Cluster>> {
        self.used.borrow().iter().flatten().cloned().collect()
    }
}
