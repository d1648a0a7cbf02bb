//! Clusters and assignments: names to ids, warming, serving, lingering.
//!
//! A cluster is *ready* when some version of it serves, *warming* when it is configured and waits for its
//! assignment, *missing* when nobody configured it. Assignments are held by EDS name, apart from clusters.

use super::change::{Event, Origin, Owned, Why};
use super::ids::Ids;
use super::timers::Key;
use super::{Builder, FastMap};
use crate::cluster::{BreakerState, ClusterSpec};
use crate::model::{Cluster, ClusterId, Discovery, Endpoints, RouteId};
use crate::snapshot::{ClusterEntry, ClusterSlot};
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
    breakers: Option<Arc<BreakerState>>,
    /// EDS names its versions refer to.
    assignments: SmallVec<[Arc<str>; 1]>,
    /// Applied virtual hosts and open TCP chains that name it: they keep a removed cluster serving.
    pub(super) refs: u32,
    /// Whatever else holds the id.
    pins: u32,
    pub(super) waiters: BTreeSet<Waiter>,
}

/// One EDS name.
#[derive(Default)]
pub(super) struct Assignment {
    pub(super) hosts: Option<Arc<Endpoints>>,
    pub(super) withdrawn: bool,
    pub(super) users: BTreeSet<ClusterId>,
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
    /// Waiters of clusters whose readiness changed.
    pub(super) woken: BTreeSet<Waiter>,
    pub(super) interest_changed: bool,
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

    pub(super) fn readiness(&self, id: ClusterId) -> Readiness {
        match self.get(id) {
            Some(state) if state.active.is_some() => Readiness::Ready,
            Some(state) if state.model.current().is_some() => Readiness::Warming,
            _ => Readiness::Missing,
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

    fn wake(&mut self, id: ClusterId) {
        if let Some(state) = self.get_mut(id) {
            let waiters = std::mem::take(&mut state.waiters);
            self.woken.extend(waiters);
        }
    }

    /// Hosts for `model`, if they are here.
    fn hosts_of(&self, model: &Cluster) -> Option<Arc<Endpoints>> {
        match &model.discovery {
            Discovery::Static(hosts) | Discovery::Dns { endpoints: hosts, .. } => Some(hosts.clone()),
            Discovery::Eds { .. } => self.assignments.get(assignment_name(model)?)?.hosts.clone(),
        }
    }

    /// Registers `id` with the assignments its versions refer to, and nowhere else.
    fn link_assignments(&mut self, id: ClusterId) {
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
            entry.users.insert(id);
        }
        let old = std::mem::replace(&mut state.assignments, new);
        for name in old.iter().filter(|name| !state.assignments.contains(name)) {
            let Some(entry) = self.assignments.get_mut(name) else { continue };
            entry.users.remove(&id);
            self.interest_changed |= entry.users.is_empty();
            if entry.users.is_empty() && (entry.withdrawn || entry.hosts.is_none()) {
                self.assignments.remove(name);
            }
        }
    }
}

/// The EDS name of `model`: its own name where none is given.
fn assignment_name(model: &Cluster) -> Option<&str> {
    match &model.discovery {
        Discovery::Eds { service_name, .. } if service_name.is_empty() => Some(&model.name),
        Discovery::Eds { service_name, .. } => Some(service_name),
        _ => None,
    }
}

/// Hosts of a cluster whose assignment did not come.
fn no_hosts(name: &str) -> Arc<Endpoints> {
    Arc::new(Endpoints::of(name, []))
}

impl Builder {
    pub(super) fn change_cluster(
        &mut self,
        origin: Origin,
        name: &str,
        model: Option<Arc<Cluster>>,
    ) -> Result<(), Why> {
        if model.is_none() && self.clusters.find(name).is_none() {
            return Ok(());
        }
        let id = self.clusters.intern(name);
        let (limit, configured) = (self.options.max_resources, self.clusters.configured);
        let Some(state) = self.clusters.get_mut(id) else { return Ok(()) };
        if *state.model.slot(origin) == model {
            return Ok(());
        }
        let before = state.model.current().cloned();
        if before.is_none() && model.is_some() && configured >= limit {
            return Err(Why::TooMany { limit });
        }
        let arrived = model.is_some();
        *state.model.slot(origin) = model;
        if arrived && origin == Origin::Ads && state.model.shadowed() {
            self.counts.shadowed_by_static += 1;
        }
        match (&before, state.model.current()) {
            (None, Some(_)) => {
                self.counts.cluster_added += 1;
                self.clusters.configured += 1;
            }
            (Some(_), None) => {
                self.counts.cluster_removed += 1;
                self.clusters.configured -= 1;
            }
            (Some(old), Some(new)) if old != new => self.counts.cluster_modified += 1,
            _ => return Ok(()),
        }
        self.clusters.dirty.insert(id);
        Ok(())
    }

    pub(super) fn change_endpoints(&mut self, model: Arc<Endpoints>) -> Result<(), Why> {
        let limit = self.options.max_resources;
        let held = self.clusters.assignments.len();
        let clusters = &mut self.clusters;
        let entry = match clusters.assignments.get_mut(model.name.as_str()) {
            Some(entry) => entry,
            None if held >= limit.saturating_mul(2) => return Err(Why::TooMany { limit }),
            None => clusters.assignments.entry(model.name.as_str().into()).or_default(),
        };
        entry.withdrawn = false;
        if entry.hosts.as_ref() != Some(&model) {
            entry.hosts = Some(model);
            clusters.dirty.extend(entry.users.iter().copied());
        }
        Ok(())
    }

    pub(super) fn withdraw_endpoints(&mut self, name: &str) {
        let Some(entry) = self.clusters.assignments.get_mut(name) else { return };
        entry.withdrawn = true;
        if entry.users.is_empty() {
            self.clusters.assignments.remove(name);
        }
    }

    /// Brings one cluster up to date with its configuration and assignment.
    pub(super) fn settle_cluster(&mut self, id: ClusterId, now: Instant) {
        let Some(state) = self.clusters.get_mut(id) else { return };
        let Some(model) = state.model.current().cloned() else {
            state.pending = None;
            if state.active.is_some() {
                state.removed_at.get_or_insert(now);
            }
            self.clusters.going.insert(id);
            return;
        };
        state.removed_at = None;
        let serves = state.active.as_ref().is_some_and(|spec| spec.model == model);
        let since = state.pending.as_ref().map_or(now, |(_, since)| *since);
        state.pending = (!serves).then(|| (model.clone(), since));
        // Before looking for hosts, so that the assignment is asked for even when it is not here.
        self.clusters.link_assignments(id);
        let hosts = self.clusters.hosts_of(&model);
        if serves {
            self.timers.set(Key::Cluster(id), None);
            if let Some(hosts) = hosts {
                self.serve(id, None, hosts);
            }
        } else {
            self.warm(id, &model, hosts, since, now);
        }
        self.clusters.link_assignments(id);
    }

    /// Activates a version whose hosts are here or overdue; else arranges to wait.
    fn warm(
        &mut self,
        id: ClusterId,
        model: &Arc<Cluster>,
        hosts: Option<Arc<Endpoints>>,
        since: Instant,
        now: Instant,
    ) {
        let timeout = match &model.discovery {
            Discovery::Eds { initial_fetch_timeout, .. } => *initial_fetch_timeout,
            _ => None,
        };
        let until = timeout.and_then(|timeout| since.checked_add(timeout));
        let hosts = match hosts {
            Some(hosts) => hosts,
            None if until.is_some_and(|until| until <= now) => {
                self.counts.endpoints_fetch_timeout += 1;
                let service: Arc<str> = assignment_name(model).unwrap_or_default().into();
                let hosts = no_hosts(&service);
                self.event(Event::EndpointsFetchTimeout { cluster: model.name.as_str().into(), service });
                hosts
            }
            None => {
                self.timers.set(Key::Cluster(id), until);
                let Some(state) = self.clusters.get(id) else { return };
                match (&state.active, &state.hosts) {
                    // The old version goes on, and with it changes of the old assignment.
                    (Some(spec), _) => {
                        if let Some(hosts) = self.clusters.hosts_of(&spec.model) {
                            self.serve(id, None, hosts);
                        }
                    }
                    _ => {
                        let name = state.name.clone();
                        self.next.set_cluster(id, &name, ClusterSlot::Warming);
                        self.clusters.wake(id);
                    }
                }
                return;
            }
        };
        self.timers.set(Key::Cluster(id), None);
        let Some(state) = self.clusters.get_mut(id) else { return };
        state.pending = None;
        let breakers = state.breakers.get_or_insert_default().clone();
        let spec = Arc::new(ClusterSpec { id, model: model.clone(), breakers });
        self.serve(id, Some(spec), hosts);
    }

    /// Publishes `spec` (or the one that serves) with `hosts`; equal hosts keep their `Arc`.
    fn serve(&mut self, id: ClusterId, spec: Option<Arc<ClusterSpec>>, hosts: Arc<Endpoints>) {
        let Some(state) = self.clusters.get_mut(id) else { return };
        let hosts = match &state.hosts {
            Some(old) if Arc::ptr_eq(old, &hosts) || **old == *hosts => {
                if spec.is_none() {
                    return;
                }
                old.clone()
            }
            _ => hosts,
        };
        let was_ready = state.active.is_some();
        let Some(spec) = spec.or_else(|| state.active.clone()) else { return };
        state.active = Some(spec.clone());
        state.hosts = Some(hosts.clone());
        let name = state.name.clone();
        self.next.set_cluster(id, &name, ClusterSlot::Ready(ClusterEntry { spec, endpoints: hosts }));
        if !was_ready {
            self.clusters.wake(id);
        }
    }

    /// Ends a removed cluster that nothing names any more or that lingered long enough, and forgets a name
    /// that nothing holds.
    pub(super) fn settle_going(&mut self, id: ClusterId, now: Instant) {
        let linger = self.options.removed_cluster_linger;
        let Some(state) = self.clusters.get_mut(id) else { return };
        if state.model.current().is_some() {
            return;
        }
        let name = state.name.clone();
        if let (Some(_), Some(removed)) = (&state.active, state.removed_at) {
            let until = removed.checked_add(linger);
            if state.refs > 0 && until.is_none_or(|until| now < until) {
                self.timers.set(Key::Cluster(id), until);
                self.clusters.link_assignments(id);
                return;
            }
            if state.refs > 0 && !linger.is_zero() {
                self.counts.linger_expired += 1;
                self.event(Event::LingerExpired { cluster: name.clone() });
            }
        }
        let Some(state) = self.clusters.get_mut(id) else { return };
        (state.active, state.hosts, state.removed_at, state.breakers) = (None, None, None, None);
        self.timers.set(Key::Cluster(id), None);
        self.clusters.link_assignments(id);
        if self.next.clear_cluster(id, &name) {
            self.clusters.wake(id);
        }
        let Some(state) = self.clusters.get(id) else { return };
        if state.refs == 0 && state.pins == 0 {
            self.clusters.by_name.remove(&name);
            if let Some(place) = self.clusters.states.get_mut(id.index()) {
                *place = None;
            }
            self.clusters.ids.retire(id.0);
        }
    }
}
