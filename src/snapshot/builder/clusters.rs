//! Clusters and assignments: what is known of each name, and who holds it.
//!
//! A cluster is *ready* when some version of it serves, *warming* when it is configured and waits for its
//! assignment, *missing* when nobody configures it: a removed one that lingers for old routes is missing for
//! new ones. Assignments are held by EDS name, apart from clusters.

use super::FastMap;
use super::change::Owned;
use super::ids::Ids;
use super::watch::Findings;
use crate::cluster::{BreakerState, ClusterSpec, History, Shared};
use crate::model::{Cluster, ClusterId, Discovery, Endpoints, RouteId};
use smallvec::SmallVec;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

/// What a request to a cluster would meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Readiness {
    Ready,
    Warming,
    Missing,
}

/// Who is told when a cluster's readiness changes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Waiter {
    Table(RouteId),
    Listener(Arc<str>),
}

/// One cluster name: configured, named by a table, or both.
pub(super) struct ClusterState {
    pub(super) name: Arc<str>,
    pub(super) model: Owned<Arc<Cluster>>,
    /// The version that serves.
    pub(super) active: Option<Arc<ClusterSpec>>,
    /// Its hosts.
    pub(super) hosts: Option<Arc<Endpoints>>,
    /// The version that waits for its assignment, and since when.
    pub(super) pending: Option<(Arc<Cluster>, Instant)>,
    /// Set while it serves although it is not configured any more.
    pub(super) removed_at: Option<Instant>,
    pub(super) breakers: Option<Arc<BreakerState>>,
    pub(super) shared: Option<Arc<Shared>>,
    pub(super) history: History,
    /// Of the control tasks.
    pub(super) findings: Findings,
    /// EDS names its versions refer to.
    assignments: SmallVec<[Arc<str>; 1]>,
    /// Applied virtual hosts and open TCP chains that name it: they keep a removed cluster serving.
    pub(super) refs: u32,
    /// Whatever else holds the id.
    pub(super) pins: u32,
    pub(super) waiters: BTreeSet<Waiter>,
}

/// One EDS name.
#[derive(Default)]
pub(super) struct Assignment {
    pub(super) hosts: Option<Arc<Endpoints>>,
    pub(super) withdrawn: bool,
    /// Ascending; hardly ever more than one.
    pub(super) users: SmallVec<[ClusterId; 4]>,
}

/// All of them.
#[derive(Default)]
pub(super) struct Clusters {
    by_name: FastMap<Arc<str>, ClusterId>,
    states: Vec<Option<Box<ClusterState>>>,
    pub(super) ids: Ids,
    pub(super) assignments: FastMap<Arc<str>, Assignment>,
    pub(super) configured: usize,
    /// To be looked at because their configuration or assignment changed.
    pub(super) dirty: BTreeSet<ClusterId>,
    /// To be looked at because something that held them let go.
    pub(super) going: BTreeSet<ClusterId>,
    /// Waiters of clusters whose readiness changed, and the cluster.
    pub(super) woken: BTreeSet<(Waiter, ClusterId)>,
    pub(super) interest_changed: bool,
    /// How often a cluster that served was removed.
    pub(super) removals: u64,
}

impl Clusters {
    pub(super) fn find(&self, name: &str) -> Option<ClusterId> {
        self.by_name.get(name).copied()
    }

    pub(super) fn get(&self, id: ClusterId) -> Option<&ClusterState> {
        self.states.get(id.index())?.as_deref()
    }

    pub(super) fn get_mut(&mut self, id: ClusterId) -> Option<&mut ClusterState> {
        self.states.get_mut(id.index())?.as_deref_mut()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (ClusterId, &ClusterState)> {
        (0u32..).map(ClusterId).zip(&self.states).filter_map(|(id, state)| Some((id, state.as_deref()?)))
    }

    /// Gives up a name that nothing holds.
    pub(super) fn forget(&mut self, id: ClusterId, name: &str) {
        self.by_name.remove(name);
        if let Some(place) = self.states.get_mut(id.index()) {
            *place = None;
        }
        self.ids.retire(id.0);
    }

    /// The name of `id`.
    pub(super) fn name(&self, id: ClusterId) -> Arc<str> {
        self.get(id).map_or_else(|| Arc::from(""), |state| state.name.clone())
    }

    /// The id of `name`, made if there is none. The caller refers to it, pins it, or leaves it to be cleared
    /// at the end of the set.
    pub(super) fn intern(&mut self, name: &str) -> ClusterId {
        if let Some(id) = self.by_name.get(name) {
            return *id;
        }
        let id = ClusterId(self.ids.take());
        let name: Arc<str> = name.into();
        if self.states.len() <= id.index() {
            self.states.resize_with(id.index() + 1, || None);
        }
        if let Some(place) = self.states.get_mut(id.index()) {
            *place = Some(Box::new(ClusterState {
                name: name.clone(),
                model: Owned::default(),
                active: None,
                hosts: None,
                pending: None,
                removed_at: None,
                breakers: None,
                shared: None,
                history: History::default(),
                findings: Findings::default(),
                assignments: SmallVec::new(),
                refs: 0,
                pins: 0,
                waiters: BTreeSet::new(),
            }));
        }
        self.by_name.insert(name, id);
        self.going.insert(id);
        id
    }

    /// What the cluster of `id` adds to the gauges: serving, warming.
    pub(super) fn tally(&self, id: ClusterId) -> (u64, u64) {
        let count = |state: &ClusterState| (state.active.is_some().into(), state.pending.is_some().into());
        self.get(id).map_or((0, 0), count)
    }

    pub(super) fn readiness(&self, id: ClusterId) -> Readiness {
        match self.get(id) {
            Some(state) if state.model.current().is_none() => Readiness::Missing,
            Some(state) if state.active.is_some() => Readiness::Ready,
            Some(_) => Readiness::Warming,
            None => Readiness::Missing,
        }
    }

    /// An applied virtual host or open TCP chain names `id`.
    pub(super) fn add_ref(&mut self, id: ClusterId) {
        if let Some(state) = self.get_mut(id) {
            state.refs += 1;
        }
    }

    /// The opposite of [`Clusters::add_ref`].
    pub(super) fn drop_ref(&mut self, id: ClusterId) {
        if let Some(state) = self.get_mut(id) {
            state.refs = state.refs.saturating_sub(1);
            self.going.insert(id);
        }
    }

    /// Keeps the id from being given to another name.
    pub(super) fn pin(&mut self, id: ClusterId) {
        if let Some(state) = self.get_mut(id) {
            state.pins += 1;
        }
    }

    /// The opposite of [`Clusters::pin`].
    pub(super) fn unpin(&mut self, id: ClusterId) {
        if let Some(state) = self.get_mut(id) {
            state.pins = state.pins.saturating_sub(1);
            self.going.insert(id);
        }
    }

    /// `waiter` is told once when the readiness of `id` changes.
    pub(super) fn watch(&mut self, id: ClusterId, waiter: Waiter) {
        if let Some(state) = self.get_mut(id) {
            state.waiters.insert(waiter);
        }
    }

    /// The opposite of [`Clusters::watch`].
    pub(super) fn unwatch(&mut self, id: ClusterId, waiter: &Waiter) {
        if let Some(state) = self.get_mut(id) {
            state.waiters.remove(waiter);
        }
    }

    pub(super) fn wake(&mut self, id: ClusterId) {
        if let Some(state) = self.get_mut(id) {
            let waiters = std::mem::take(&mut state.waiters);
            self.woken.extend(waiters.into_iter().map(|waiter| (waiter, id)));
        }
    }

    /// Hosts for `model`, if they are here. `resolves`: names are not hosts.
    pub(super) fn hosts_of(&self, model: &Cluster, resolves: bool) -> Option<Arc<Endpoints>> {
        match &model.discovery {
            Discovery::Dns { .. } if resolves => {
                self.get(self.find(&model.name)?)?.findings.hosts(model).cloned()
            }
            Discovery::Static(hosts) | Discovery::Dns { endpoints: hosts, .. } => Some(hosts.clone()),
            Discovery::OriginalDst(_) => {
                Some(Arc::new(Endpoints { name: model.name.clone(), ..Endpoints::default() }))
            }
            Discovery::Eds { .. } => self.assignments.get(assignment_name(model)?)?.hosts.clone(),
        }
    }

    /// Registers `id` with the assignments its versions refer to, and nowhere else.
    pub(super) fn link_assignments(&mut self, id: ClusterId) {
        let Some(state) = self.states.get_mut(id.index()).and_then(Option::as_deref_mut) else { return };
        let wanted = [state.active.as_ref().map(|spec| &spec.model), state.pending.as_ref().map(|p| &p.0)];
        let mut wanted: SmallVec<[&str; 2]> =
            wanted.into_iter().flatten().filter_map(|model| assignment_name(model)).collect();
        wanted.dedup();
        if wanted.len() == state.assignments.len()
            && state.assignments.iter().zip(&wanted).all(|(a, b)| **a == **b)
        {
            return;
        }
        let new: SmallVec<[Arc<str>; 1]> = wanted.into_iter().map(Arc::from).collect();
        for name in &new {
            let entry = self.assignments.entry(name.clone()).or_default();
            self.interest_changed |= entry.users.is_empty();
            if let Err(place) = entry.users.binary_search(&id) {
                entry.users.insert(place, id);
            }
        }
        let old = std::mem::replace(&mut state.assignments, new);
        for name in old.iter().filter(|name| !state.assignments.contains(name)) {
            let Some(entry) = self.assignments.get_mut(name) else { continue };
            if let Ok(place) = entry.users.binary_search(&id) {
                entry.users.remove(place);
            }
            self.interest_changed |= entry.users.is_empty();
            if entry.users.is_empty() && (entry.withdrawn || entry.hosts.is_none()) {
                self.assignments.remove(name);
            }
        }
    }
}

/// The EDS name of `model`: its own name where none is given.
pub(super) fn assignment_name(model: &Cluster) -> Option<&str> {
    match &model.discovery {
        Discovery::Eds { service_name, .. } if service_name.is_empty() => Some(&model.name),
        Discovery::Eds { service_name, .. } => Some(service_name),
        _ => None,
    }
}
