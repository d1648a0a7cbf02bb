//! What the control tasks are told, and what they say.
//!
//! Clusters with host names, active checks or outlier detection are watched: the tasks learn of every new
//! version and every new set of hosts. All others cost nothing here.

use super::Builder;
use crate::cluster::ClusterSpec;
use crate::model::{Cluster, ClusterId, Discovery, Endpoints};
use std::sync::Arc;

/// A watched cluster as it is, or as it will be when its first answers and checks are in.
#[derive(Clone)]
pub struct Watched {
    /// Its settings.
    pub spec: Arc<ClusterSpec>,
    /// Its hosts; empty until its names are resolved.
    pub endpoints: Arc<Endpoints>,
}

/// One cluster to watch, or (`None`) to watch no longer. At most one per cluster and applied set.
pub type Order = (ClusterId, Option<Watched>);

/// What a control task found out.
#[derive(Clone, Debug)]
pub enum Report {
    /// The names of `model` stand for `endpoints`; empty when the first answer was a failure.
    Resolved { cluster: ClusterId, model: Arc<Cluster>, endpoints: Arc<Endpoints> },
    /// Every host of `model` was checked once.
    Checked { cluster: ClusterId, model: Arc<Cluster> },
}

/// What the tasks said about one cluster.
#[derive(Default)]
pub(super) struct Findings {
    resolved: Option<(Arc<Cluster>, Arc<Endpoints>)>,
    checked: Option<Arc<Cluster>>,
    /// The tasks were told of it.
    told: bool,
}

impl Findings {
    /// The addresses of `model`'s names.
    pub(super) fn hosts(&self, model: &Cluster) -> Option<&Arc<Endpoints>> {
        let (of, endpoints) = self.resolved.as_ref()?;
        (of.discovery == model.discovery).then_some(endpoints)
    }

    fn checked(&self, model: &Cluster) -> bool {
        self.checked.as_ref().is_some_and(|of| of.health_checks == model.health_checks)
    }
}

fn is_watched(model: &Cluster) -> bool {
    model.outlier.is_some()
        || !model.health_checks.is_empty()
        || matches!(model.discovery, Discovery::Dns { .. })
}

impl Builder {
    /// What has to be told to the control tasks since the last call.
    pub fn take_orders(&mut self) -> Vec<Order> {
        std::mem::take(&mut self.orders).into_iter().collect()
    }

    /// Takes in what a control task found out; late words about versions that are gone change nothing.
    pub fn on_report(&mut self, now: std::time::Instant, report: Report) {
        let (Report::Resolved { cluster: id, model, .. } | Report::Checked { cluster: id, model }) = &report;
        let id = *id;
        let Some(state) = self.clusters.get_mut(id).filter(|state| *state.name == *model.name) else {
            return;
        };
        match report {
            Report::Resolved { model, endpoints, .. } => state.findings.resolved = Some((model, endpoints)),
            Report::Checked { model, .. } => state.findings.checked = Some(model),
        }
        self.clusters.dirty.insert(id);
        self.settle(now);
    }

    /// Whether the version `spec` has to be checked before it serves `hosts`.
    pub(super) fn must_check(&self, id: ClusterId, spec: &ClusterSpec, hosts: &Endpoints) -> bool {
        let model = &spec.model;
        if !self.options.control || model.health_checks.is_empty() || hosts.iter().next().is_none() {
            return false;
        }
        let Some(state) = self.clusters.get(id) else { return false };
        let serves = |active: &Arc<ClusterSpec>| active.model.health_checks == model.health_checks;
        !state.findings.checked(model) && !state.active.as_ref().is_some_and(serves)
    }

    /// Tells the tasks of a version whose names are not resolved yet.
    pub(super) fn order_names(&mut self, id: ClusterId, spec: &Arc<ClusterSpec>) {
        if self.options.control && matches!(spec.model.discovery, Discovery::Dns { .. }) {
            let none = Arc::new(Endpoints::of(spec.model.name.as_str(), []));
            self.order(id, spec, &none);
        }
    }

    /// Tells the tasks what serves now.
    pub(super) fn watch_served(&mut self, id: ClusterId, spec: &Arc<ClusterSpec>, hosts: &Arc<Endpoints>) {
        if !self.options.control {
            return;
        }
        if is_watched(&spec.model) {
            self.order(id, spec, hosts);
        } else {
            self.unwatch(id);
        }
    }

    /// The tasks forget `id`, if they know it.
    pub(super) fn unwatch(&mut self, id: ClusterId) {
        let Some(state) = self.clusters.get_mut(id) else { return };
        if std::mem::take(&mut state.findings).told {
            self.orders.insert(id, None);
        }
    }

    /// Tells the tasks to watch `spec` with `endpoints`.
    pub(super) fn order(&mut self, id: ClusterId, spec: &Arc<ClusterSpec>, endpoints: &Arc<Endpoints>) {
        if let Some(state) = self.clusters.get_mut(id) {
            state.findings.told = true;
            let watched = Watched { spec: spec.clone(), endpoints: endpoints.clone() };
            self.orders.insert(id, Some(watched));
        }
    }
}
