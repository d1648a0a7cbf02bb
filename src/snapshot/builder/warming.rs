//! How clusters change: configured, warming, serving, lingering, gone.

use super::Builder;
use super::change::{Event, Origin, Why};
use super::clusters::{ClusterState, assignment_name};
use super::timers::Key;
use crate::cluster::{ClusterSpec, History, Sockets};
use crate::model::{Address, Cluster, ClusterId, Discovery, Endpoints};
use crate::snapshot::{ClusterEntry, ClusterSlot};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

/// Hosts of a cluster whose assignment did not come.
fn no_hosts(name: &str) -> Arc<Endpoints> {
    Arc::new(Endpoints::of(name, []))
}

/// Whether both have the same addresses, in whatever order and with whatever health.
fn same_members(a: &Endpoints, b: &Endpoints) -> bool {
    let members = |endpoints: &Endpoints| -> BTreeSet<Address> {
        endpoints.iter().map(|endpoint| endpoint.address.clone()).collect()
    };
    members(a) == members(b)
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
            return Err(Why::TooMany { field: "name", name: name.to_owned(), limit });
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
            None if held >= limit.saturating_mul(2) => {
                return Err(Why::TooMany { field: "cluster_name", name: model.name.clone(), limit });
            }
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

    /// Clusters of which runtime says something else now are to be looked at.
    pub(super) fn on_runtime(&mut self) {
        let runtime = self.next.get().runtime.clone();
        let differs = |(id, state): (ClusterId, &ClusterState)| {
            let held = state.pending.as_ref().map(|(model, _)| model);
            let held = held.or(state.active.as_ref().map(|spec| &spec.model))?;
            (*held != state.model.current()?.under(&runtime)).then_some(id)
        };
        let changed: Vec<ClusterId> = self.clusters.iter().filter_map(differs).collect();
        self.clusters.dirty.extend(changed);
    }

    /// Brings one cluster up to date with its configuration and assignment.
    pub(super) fn settle_cluster(&mut self, id: ClusterId, now: Instant) {
        let Some(state) = self.clusters.get_mut(id) else { return };
        let Some(model) = state.model.current().cloned() else {
            state.pending = None;
            if state.active.is_some() && state.removed_at.is_none() {
                state.removed_at = Some(now);
                self.clusters.removals += 1;
            }
            self.clusters.going.insert(id);
            return;
        };
        let model = model.under(&self.next.get().runtime);
        let returns = state.removed_at.take().is_some();
        let serves = state.active.as_ref().is_some_and(|spec| spec.model == model);
        let since = state.pending.as_ref().map_or(now, |(_, since)| *since);
        state.pending = (!serves).then(|| (model.clone(), since));
        if returns {
            self.clusters.wake(id);
        }
        // Before looking for hosts, so that the assignment is asked for even when it is not here.
        self.clusters.link_assignments(id);
        let hosts = self.clusters.hosts_of(&model, self.options.control);
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
                if let Some(state) = self.clusters.get_mut(id) {
                    state.history.fetch_timeouts += 1;
                }
                let service: Arc<str> = assignment_name(model).unwrap_or_default().into();
                let hosts = no_hosts(&service);
                self.event(Event::EndpointsFetchTimeout { cluster: model.name.as_str().into(), service });
                hosts
            }
            None => {
                self.timers.set(Key::Cluster(id), until);
                self.hold(id);
                if let Some(spec) = self.spec_of(id, model) {
                    self.order_names(id, &spec);
                }
                return;
            }
        };
        self.timers.set(Key::Cluster(id), None);
        let Some(spec) = self.spec_of(id, model) else { return };
        if self.must_check(id, &spec, &hosts) {
            self.hold(id);
            self.order(id, &spec, &hosts);
            return;
        }
        if let Some(state) = self.clusters.get_mut(id) {
            state.pending = None;
        }
        self.serve(id, Some(spec), hosts);
    }

    /// The compiled form of `model`.
    fn spec_of(&mut self, id: ClusterId, model: &Arc<Cluster>) -> Option<Arc<ClusterSpec>> {
        let state = self.clusters.get_mut(id)?;
        let breakers = state.breakers.get_or_insert_default().clone();
        let shared = state.shared.get_or_insert_default().clone();
        let sockets = Sockets::new(&model.sockets, &self.options.secrets);
        Some(Arc::new(ClusterSpec { id, model: model.clone(), breakers, shared, sockets }))
    }

    /// Goes on with the old version of what cannot be activated yet, if there is one.
    fn hold(&mut self, id: ClusterId) {
        let Some(state) = self.clusters.get(id) else { return };
        match &state.active {
            // With it go on changes of the old assignment.
            Some(spec) => {
                if let Some(hosts) = self.clusters.hosts_of(&spec.model, self.options.control) {
                    self.serve(id, None, hosts);
                }
            }
            None => {
                let name = state.name.clone();
                self.next.set_cluster(id, &name, ClusterSlot::Warming);
                self.clusters.wake(id);
            }
        }
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
        self.counts.cluster_updated += u64::from(was_ready && spec.is_none());
        let moved =
            state.hosts.as_ref().is_none_or(|old| !Arc::ptr_eq(old, &hosts) && !same_members(old, &hosts));
        state.history.membership_changes += u32::from(moved);
        let Some(spec) = spec.or_else(|| state.active.clone()) else { return };
        state.active = Some(spec.clone());
        state.hosts = Some(hosts.clone());
        let name = state.name.clone();
        let history = state.history;
        self.watch_served(id, &spec, &hosts);
        let entry = ClusterEntry { spec, endpoints: hosts, history };
        self.next.set_cluster(id, &name, ClusterSlot::Ready(entry));
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
        self.unwatch(id);
        let Some(state) = self.clusters.get_mut(id) else { return };
        (state.active, state.hosts, state.removed_at) = (None, None, None);
        (state.breakers, state.shared) = (None, None);
        state.history = History::default();
        self.timers.set(Key::Cluster(id), None);
        self.clusters.link_assignments(id);
        if self.next.clear_cluster(id, &name) {
            self.clusters.wake(id);
        }
        let Some(state) = self.clusters.get(id) else { return };
        if state.refs == 0 && state.pins == 0 {
            self.clusters.forget(id, &name);
        }
    }
}
