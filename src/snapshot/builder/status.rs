//! What the admin shows of warming and waiting.

use super::Builder;
use super::change::Origin;
use super::clusters::Readiness;
use super::listeners::{ListenerState, Pending};
use super::tables::Hold;
use crate::model::{ClusterId, Discovery};
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

/// Counters and gauges.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    pub cluster_added: u64,
    pub cluster_modified: u64,
    pub cluster_removed: u64,
    pub listener_added: u64,
    pub listener_modified: u64,
    pub listener_removed: u64,
    /// Listener versions that began to serve, and of them those that took over the sockets of their last one.
    pub listener_applied: u64,
    pub listener_in_place_updated: u64,
    /// New sets of hosts for clusters that serve.
    pub cluster_updated: u64,
    /// ADS resources that arrived under a static name.
    pub shadowed_by_static: u64,
    /// Clusters that serve without the assignment they waited for.
    pub endpoints_fetch_timeout: u64,
    /// Listeners that opened without a route table they waited for.
    pub routes_fetch_timeout: u64,
    /// The same by table.
    pub route_timeouts: BTreeMap<Arc<str>, u64>,
    /// Virtual hosts applied although their clusters did not serve.
    pub hold_expired: u64,
    /// Listeners applied although clusters they name did not serve.
    pub listener_cold: u64,
    /// Removed clusters that ended while tables named them.
    pub linger_expired: u64,
    /// Gauges, as of [`Builder::counts`].
    pub total_clusters_active: u64,
    pub total_clusters_warming: u64,
    pub total_listeners_active: u64,
    pub total_listeners_warming: u64,
    pub total_routes: u64,
    pub held_virtual_hosts: u64,
    /// Old snapshots, and old listener versions and chains, that something still holds.
    pub kept_snapshots: u64,
    pub kept_versions: u64,
    /// Published last.
    pub generation: u64,
}

/// Sums over clusters and tables. Each look at one takes its part out and puts the new one in, so that a push
/// of one resource does not cost a look at all the others.
#[derive(Default)]
pub(super) struct Gauges {
    clusters_active: u64,
    clusters_warming: u64,
    tables: u64,
    held_hosts: u64,
}

impl Gauges {
    /// The tally of one cluster went from `before` to `after`.
    pub(super) fn clusters(&mut self, before: (u64, u64), after: (u64, u64)) {
        self.clusters_active = self.clusters_active + after.0 - before.0;
        self.clusters_warming = self.clusters_warming + after.1 - before.1;
    }

    /// The tally of one table went from `before` to `after`.
    pub(super) fn tables(&mut self, before: (u64, u64), after: (u64, u64)) {
        self.tables = self.tables + after.0 - before.0;
        self.held_hosts = self.held_hosts + after.1 - before.1;
    }
}

/// Everything, by name.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Status {
    pub clusters: Vec<ClusterStatus>,
    pub tables: Vec<TableStatus>,
    pub listeners: Vec<ListenerStatus>,
}

/// Where a resource stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum State {
    /// The newest accepted version serves.
    Active,
    /// The newest version waits; nothing serves.
    Warming,
    /// The newest version waits; the one before serves.
    Updating,
    /// Removed, but serves until nothing names it, its successor is ready, or its time is over.
    Leaving,
    /// Refused; nothing serves.
    Rejected,
}

/// One cluster.
#[derive(Clone, Debug, Serialize)]
pub struct ClusterStatus {
    pub name: Arc<str>,
    pub origin: Origin,
    pub state: State,
    /// An ADS version is ignored because the name is static.
    pub shadowed: bool,
    /// In words, each with its age: `endpoints e, 3 s`.
    pub blocked_by: Vec<String>,
}

/// One route table in use.
#[derive(Clone, Debug, Serialize)]
pub struct TableStatus {
    pub name: String,
    pub state: State,
    pub shadowed: bool,
    /// The control plane took it back, but listeners refer to it.
    pub withdrawn: bool,
    pub held: Vec<HeldHost>,
}

/// A virtual host that keeps its old body.
#[derive(Clone, Debug, Serialize)]
pub struct HeldHost {
    pub name: String,
    pub blocked_by: Vec<String>,
}

/// One listener.
#[derive(Clone, Debug, Serialize)]
pub struct ListenerStatus {
    pub name: Arc<str>,
    pub origin: Origin,
    pub state: State,
    pub shadowed: bool,
    pub blocked_by: Vec<String>,
    /// Why the newest version was refused, if it was.
    pub rejected: Option<String>,
}

fn state_of(serves: bool, waits: bool, configured: bool) -> State {
    match (serves, waits, configured) {
        (true, _, false) => State::Leaving,
        (true, true, _) => State::Updating,
        (true, false, _) => State::Active,
        (false, _, true) => State::Warming,
        (false, _, false) => State::Rejected,
    }
}

fn age(what: impl std::fmt::Display, since: Instant, now: Instant) -> String {
    format!("{what}, {} s", now.saturating_duration_since(since).as_secs())
}

impl Builder {
    /// Counters and gauges. Cheap: gauges are kept, not counted.
    pub fn counts(&self) -> Counts {
        let gauges = &self.gauges;
        Counts {
            total_clusters_active: gauges.clusters_active,
            total_clusters_warming: gauges.clusters_warming,
            total_listeners_active: self.next.get().listeners.len() as u64,
            total_listeners_warming: self.listeners.warming,
            total_routes: gauges.tables,
            held_virtual_hosts: gauges.held_hosts,
            kept_snapshots: self.kept_snapshots() as u64,
            kept_versions: self.graveyard.len() as u64,
            generation: self.next.generation(),
            ..self.counts.clone()
        }
    }

    /// Old snapshots that something still holds.
    pub fn kept_snapshots(&self) -> usize {
        self.kept.len().saturating_sub(1)
    }

    /// Everything and what it waits for. Cost: the size of the configuration.
    pub fn status(&self, now: Instant) -> Status {
        Status {
            clusters: self.cluster_status(now),
            tables: self.table_status(now),
            listeners: self.listeners.states.iter().map(|(n, s)| self.listener_status(n, s, now)).collect(),
        }
    }

    fn cluster_status(&self, now: Instant) -> Vec<ClusterStatus> {
        let known = self.clusters.iter().filter(|(_, s)| s.model.current().is_some() || s.active.is_some());
        let mut list: Vec<_> = known
            .map(|(_, state)| {
                let waits = state.pending.iter().filter_map(|(model, since)| match &model.discovery {
                    Discovery::Eds { service_name, .. } => {
                        let service = if service_name.is_empty() { &model.name } else { service_name };
                        Some(age(format_args!("endpoints {service}"), *since, now))
                    }
                    _ => None,
                });
                let named = state.removed_at.map(|at| age("routes that name it", at, now));
                let configured = state.model.current().is_some();
                ClusterStatus {
                    name: state.name.clone(),
                    origin: state.model.origin(),
                    state: state_of(state.active.is_some(), state.pending.is_some(), configured),
                    shadowed: state.model.shadowed(),
                    blocked_by: waits.chain(named).collect(),
                }
            })
            .collect();
        list.sort_by(|a, b| a.name.cmp(&b.name));
        list
    }

    fn table_status(&self, now: Instant) -> Vec<TableStatus> {
        let mut list: Vec<_> = self
            .tables
            .iter()
            .map(|(_, table)| {
                let rds = match &table.key {
                    super::tables::TableKey::Rds(name) => self.tables.rds.get(name),
                    super::tables::TableKey::Scope(_) | super::tables::TableKey::Inline { .. } => None,
                };
                let held: Vec<_> =
                    table.holds.iter().map(|(key, hold)| self.held(&key.0, hold, now)).collect();
                TableStatus {
                    name: table.key.to_string(),
                    state: state_of(table.applied.is_some(), !held.is_empty(), true),
                    shadowed: rds.is_some_and(|rds| rds.model.shadowed()),
                    withdrawn: rds.is_some_and(|rds| rds.withdrawn),
                    held,
                }
            })
            .collect();
        list.sort_by(|a, b| a.name.cmp(&b.name));
        list
    }

    fn held(&self, name: &str, hold: &Hold, now: Instant) -> HeldHost {
        debug_assert_eq!(name, hold.model.name);
        let waits = hold.waits.iter().filter_map(|(id, since)| self.cluster_wait(*id, *since, now));
        HeldHost { name: name.to_owned(), blocked_by: waits.collect() }
    }

    fn cluster_wait(&self, id: ClusterId, since: Instant, now: Instant) -> Option<String> {
        let name = self.clusters.name(id);
        match self.clusters.readiness(id) {
            Readiness::Ready => None,
            Readiness::Warming => Some(age(format_args!("cluster {name} warming"), since, now)),
            Readiness::Missing => Some(age(format_args!("cluster {name} not configured"), since, now)),
        }
    }

    fn listener_status(&self, name: &Arc<str>, state: &ListenerState, now: Instant) -> ListenerStatus {
        let mut blocked_by: Vec<String> =
            state.pending.iter().flat_map(|pending| self.listener_waits(pending, now)).collect();
        let heirs = state.active.iter().filter(|_| state.model.current().is_none());
        let heirs = heirs.flat_map(|active| super::addresses::claims_of(&active.spec.model));
        let heirs = heirs.filter_map(|claim| self.addresses.claims.get(&claim));
        blocked_by.extend(heirs.map(|heir| format!("listener {heir} to take its address")));
        let configured = state.model.current().is_some();
        ListenerStatus {
            name: name.clone(),
            origin: state.blocked.as_ref().map_or(state.model.origin(), |blocked| blocked.0),
            state: state_of(state.active.is_some(), state.pending.is_some(), configured),
            shadowed: state.model.shadowed(),
            blocked_by,
            rejected: state.blocked.as_ref().map(|(_, _, why)| why.to_string()),
        }
    }

    fn listener_waits(&self, pending: &Pending, now: Instant) -> Vec<String> {
        let mut list = Vec::new();
        if self.options.wait_for_sockets {
            for claim in super::addresses::claims_of(&pending.model).filter(|claim| claim.bind) {
                match self.addresses.failed.get(&claim) {
                    Some(reason) => list.push(format!("address {}: {reason}", claim.address)),
                    None if !self.addresses.bound.contains(&claim) => {
                        list.push(age(format_args!("socket {}", claim.address), pending.since, now));
                    }
                    None => {}
                }
            }
        }
        if let Some((since, _)) = pending.srds
            && !self.scopes.answered
        {
            list.push(age(format_args!("scopes"), since, now));
        }
        for wait in &pending.rds {
            if self.tables.rds.get(&wait.name).is_none_or(|rds| rds.model.current().is_none()) {
                list.push(age(format_args!("route table {}", wait.name), wait.since, now));
            }
        }
        list.extend(pending.waits.iter().filter_map(|(id, since)| self.cluster_wait(*id, *since, now)));
        list
    }
}
