//! Listeners: waiting, opening, changing, leaving.
//!
//! A listener's accepted version becomes active when its sockets, route tables and clusters are there.
//! Listeners that pass addresses to each other in one change (a rename, a swap) switch together, so that no
//! address is without a server in between.

use super::Builder;
use super::addresses::claims_of;
use super::chains::Chain;
use super::change::{Event, Origin, Owned, Why};
use super::clusters::{Readiness, Waiter};
use super::timers::Key;
use crate::model::{
    ClusterId, FilterChain, Listener, NetworkFilter, RouteConfig, RouteSource, ScopeSource, ScopeTable,
    ScopedRoute,
};
use crate::snapshot::ListenerSpec;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// One listener name.
#[derive(Default)]
pub(super) struct ListenerState {
    /// Accepted versions.
    pub(super) model: Owned<Arc<Listener>>,
    /// A newer version that lost its address to another listener; tried again when that one goes.
    pub(super) blocked: Option<(Origin, Arc<Listener>, Why)>,
    pub(super) active: Option<Active>,
    pub(super) pending: Option<Pending>,
}

/// The version that serves.
pub(super) struct Active {
    pub(super) spec: Arc<ListenerSpec>,
    /// As in the model, the default chain last.
    pub(super) chains: Vec<Arc<Chain>>,
}

/// An accepted version that does not serve yet.
pub(super) struct Pending {
    pub(super) model: Arc<Listener>,
    pub(super) since: Instant,
    pub(super) rds: Vec<RdsWait>,
    /// It looks at the scopes of SRDS: since when, and how long it waits for their first answer.
    pub(super) srds: Option<(Instant, Option<Duration>)>,
    /// Clusters it names that did not serve, and since when.
    pub(super) waits: BTreeMap<ClusterId, Instant>,
    watching: Option<ClusterId>,
    pub(super) ready: bool,
    /// Removals of clusters before `waits` was made.
    removals: u64,
}

/// A route table a listener needs.
pub(super) struct RdsWait {
    pub(super) name: Arc<str>,
    pub(super) since: Instant,
    timeout: Option<Duration>,
}

impl RdsWait {
    fn until(&self) -> Option<Instant> {
        self.timeout.and_then(|timeout| self.since.checked_add(timeout))
    }
}

/// All of them.
#[derive(Default)]
pub(super) struct Listeners {
    pub(super) states: BTreeMap<Arc<str>, ListenerState>,
    /// Names with a blocked version.
    pub(super) blocked: BTreeSet<Arc<str>>,
    /// To be looked at; `true`: what they need may have changed.
    pub(super) dirty: BTreeMap<Arc<str>, bool>,
    pub(super) configured: usize,
    /// How many have a version that waits.
    pub(super) warming: u64,
}

impl Listeners {
    /// The accepted version.
    pub(super) fn accepted(&self, name: &str) -> Option<Arc<Listener>> {
        self.states.get(name)?.model.current().cloned()
    }

    /// The active version.
    pub(super) fn active(&self, name: &str) -> Option<&Arc<Listener>> {
        Some(&self.states.get(name)?.active.as_ref()?.spec.model)
    }

    /// Marks for a full look.
    pub(super) fn touch(&mut self, name: &Arc<str>) {
        self.dirty.insert(name.clone(), true);
    }
}

/// The chains of `listener`, the default one last.
pub(super) fn all_chains(listener: &Listener) -> impl Iterator<Item = &FilterChain> {
    listener.filter_chains.iter().chain(&listener.default_filter_chain)
}

/// Where the filter of `chain` finds its routes; `None` for TCP.
pub(super) fn route_source(chain: &FilterChain) -> Option<&RouteSource> {
    match &chain.filter {
        NetworkFilter::Tcp(_) => None,
        NetworkFilter::Http(http) => Some(&http.routes),
        NetworkFilter::Rpc(rpc) => Some(&rpc.routes),
    }
}

/// How long the first answer of SRDS is waited for, if `listener` looks at its scopes; the inner `None`: for ever.
fn srds_timeout(listener: &Listener) -> Option<Option<Duration>> {
    let mut sources = all_chains(listener).filter_map(route_source);
    sources.find_map(|source| match source {
        RouteSource::Scoped(scoped) => match &scoped.scopes {
            ScopeSource::Srds { initial_fetch_timeout } => Some(*initial_fetch_timeout),
            ScopeSource::Inline(_) => None,
        },
        RouteSource::Inline(_) | RouteSource::Rds { .. } => None,
    })
}

/// Whether the tables of `chain` are those of SRDS.
fn uses_srds(chain: &FilterChain) -> bool {
    let scoped = |source: &RouteSource| match source {
        RouteSource::Scoped(scoped) => matches!(scoped.scopes, ScopeSource::Srds { .. }),
        _ => false,
    };
    route_source(chain).is_some_and(scoped)
}

impl Builder {
    /// Whether no version of a listener serves, or will as soon as what it waits for has come.
    pub fn lacks_listener(&self, name: &str) -> bool {
        let Some(state) = self.listeners.states.get(name) else { return true };
        let failed =
            |model: &Arc<Listener>| claims_of(model).any(|claim| self.addresses.failed.contains_key(&claim));
        state.active.is_none() && state.model.current().is_none_or(failed)
    }

    /// Finds out what one listener waits for. Without `full` only that may have changed.
    pub(super) fn prepare_listener(&mut self, name: &Arc<str>, full: bool, now: Instant) {
        let Some(state) = self.listeners.states.get(name) else { return };
        match state.model.current().cloned() {
            Some(model) if self.listeners.active(name) == Some(&model) => self.clear_pending(name),
            Some(model) => {
                let removals = self.clusters.removals;
                if full || state.pending.as_ref().is_none_or(|pending| pending.removals != removals) {
                    self.refresh_pending(name, model, now);
                }
                self.check_pending(name, now);
            }
            None => self.clear_pending(name),
        }
    }

    /// Lets a prepared listener switch, with all that must switch at the same time, if all of them can.
    pub(super) fn try_switch(&mut self, name: &Arc<str>, now: Instant) {
        let Some(state) = self.listeners.states.get(name) else { return };
        let active = state.active.as_ref().map(|active| &active.spec.model);
        if active == state.model.current() {
            if active.is_none() && state.blocked.is_none() {
                self.listeners.states.remove(name);
            }
            return;
        }
        let group = self.linked(name);
        // A cluster it counted on may have been removed since it was prepared.
        for member in &group {
            self.prepare_listener(member, false, now);
        }
        let ready = |name: &Arc<str>| {
            let state = self.listeners.states.get(name);
            state.is_none_or(|state| {
                state.model.current().is_none() || state.pending.as_ref().is_some_and(|p| p.ready)
            })
        };
        if group.iter().all(ready) {
            self.switch(&group);
        }
    }

    /// `name` and every listener that must switch with it, because one takes over an address of another.
    fn linked(&self, name: &Arc<str>) -> BTreeSet<Arc<str>> {
        let (claims, open) = (&self.addresses.claims, &self.addresses.open);
        let mut group = BTreeSet::from([name.clone()]);
        let mut todo = vec![name.clone()];
        while let Some(name) = todo.pop() {
            let accepted = self.listeners.accepted(&name);
            let wants = accepted.iter().flat_map(|model| claims_of(model));
            let holders = wants.filter_map(|claim| open.get(&claim));
            let active = self.listeners.active(&name);
            let has = active.into_iter().flat_map(|model| claims_of(model));
            let heirs = has.filter_map(|claim| claims.get(&claim));
            for other in holders.chain(heirs) {
                if group.insert(other.clone()) {
                    todo.push(other.clone());
                }
            }
        }
        group
    }

    /// Ids of clusters that what serves on the addresses of `name` (its own old version, or the listener
    /// whose address it takes) names; `None` if nothing does.
    fn named_before(&self, name: &Arc<str>, model: &Listener) -> Option<BTreeSet<ClusterId>> {
        let mut before: BTreeSet<&Arc<str>> =
            claims_of(model).filter_map(|claim| self.addresses.open.get(&claim)).collect();
        before.insert(name);
        let active = before.iter().filter_map(|name| self.listeners.states.get(*name)?.active.as_ref());
        let mut chains = active.flat_map(|active| &active.chains).peekable();
        chains.peek()?;
        let mut ids = BTreeSet::new();
        for chain in chains {
            ids.extend(&chain.tcp);
            let own = chain.tables.iter().map(|held| held.table);
            let shared = uses_srds(&chain.spec.model).then(|| self.scopes.tables()).into_iter().flatten();
            let tables = own.chain(shared).filter_map(|id| self.tables.get(id)?.applied.as_ref());
            ids.extend(tables.flat_map(|applied| &applied.bodies).flat_map(|b| b.0.clusters()));
        }
        Some(ids)
    }

    /// Writes down what the accepted version needs.
    fn refresh_pending(&mut self, name: &Arc<str>, model: Arc<Listener>, now: Instant) {
        let old = self.listeners.states.get_mut(name).and_then(|state| state.pending.take());
        let since = old.as_ref().map_or(now, |old| old.since);
        self.listeners.warming += u64::from(old.is_none());
        let srds_since = old.as_ref().and_then(|old| old.srds).map_or(now, |(since, _)| since);
        let srds = srds_timeout(&model).map(|timeout| (srds_since, timeout));
        if srds.is_some() {
            self.want_scopes();
        }
        let mut rds: Vec<RdsWait> = Vec::new();
        let mut known = BTreeSet::new();
        for (table, timeout) in self.rds_names(&model) {
            if known.insert(table.clone()) {
                let before = old.iter().flat_map(|old| &old.rds).find(|wait| *wait.name == *table);
                let since = before.map_or(now, |wait| wait.since);
                rds.push(RdsWait { name: table, since, timeout });
            }
        }
        for wait in &rds {
            self.tables.add_rds_ref(&wait.name);
            if let Some(entry) = self.tables.rds.get_mut(&wait.name) {
                entry.waiting.insert(name.clone());
            }
        }
        let waits = self.cluster_waits(name, &model, old.as_ref(), now);
        for id in waits.keys() {
            self.clusters.pin(*id);
        }
        if let Some(old) = old {
            self.release_pending(name, &old, &rds);
        }
        if srds.is_some() {
            self.scopes.waiting.insert(name.clone());
        }
        let removals = self.clusters.removals;
        if let Some(state) = self.listeners.states.get_mut(name) {
            state.pending =
                Some(Pending { model, since, rds, srds, waits, watching: None, ready: false, removals });
        }
    }

    /// The tables that `model` needs by RDS, those of its scopes included, and how long each is waited for.
    fn rds_names(&self, model: &Listener) -> Vec<(Arc<str>, Option<Duration>)> {
        let mut names = Vec::new();
        for source in all_chains(model).filter_map(route_source) {
            match source {
                RouteSource::Inline(_) => {}
                RouteSource::Rds { name, initial_fetch_timeout } => {
                    names.push((name.as_str().into(), *initial_fetch_timeout));
                }
                RouteSource::Scoped(scoped) => match &scoped.scopes {
                    ScopeSource::Srds { .. } => {
                        let of_scopes = self.scopes.rds_names();
                        names.extend(of_scopes.map(|name| (name.into(), scoped.rds_timeout)));
                    }
                    ScopeSource::Inline(scopes) => {
                        let of_scopes = scopes.iter().filter_map(|scope| match &scope.routes {
                            ScopeTable::Rds(name) => Some((name.as_str().into(), scoped.rds_timeout)),
                            ScopeTable::Inline(_) => None,
                        });
                        names.extend(of_scopes);
                    }
                },
            }
        }
        names
    }

    /// The tables that are written in `model` or in its scopes.
    fn inline_tables(&self, model: &Listener) -> Vec<Arc<RouteConfig>> {
        fn written(scope: &Arc<ScopedRoute>) -> Option<Arc<RouteConfig>> {
            match &scope.routes {
                ScopeTable::Inline(config) => Some(config.clone()),
                ScopeTable::Rds(_) => None,
            }
        }
        let mut tables = Vec::new();
        for source in all_chains(model).filter_map(route_source) {
            match source {
                RouteSource::Inline(config) => tables.push(config.clone()),
                RouteSource::Rds { .. } => {}
                RouteSource::Scoped(scoped) => match &scoped.scopes {
                    ScopeSource::Srds { .. } => tables.extend(self.scopes.models().filter_map(written)),
                    ScopeSource::Inline(scopes) => tables.extend(scopes.iter().filter_map(written)),
                },
            }
        }
        tables
    }

    /// Clusters that `model` names, that do not serve and that were not named before. Static listeners wait
    /// for none: they serve at once.
    fn cluster_waits(
        &mut self,
        name: &Arc<str>,
        model: &Listener,
        old: Option<&Pending>,
        now: Instant,
    ) -> BTreeMap<ClusterId, Instant> {
        let mut waits = BTreeMap::new();
        let origin = self.listeners.states.get(name).map(|state| state.model.origin());
        if origin == Some(Origin::Static) {
            return waits;
        }
        let named = self.rds_names(model).into_iter();
        let named = named.filter_map(|(name, _)| self.tables.rds.get(&name)?.model.current().cloned());
        let tables: Vec<Arc<RouteConfig>> = named.chain(self.inline_tables(model)).collect();
        let mut names: BTreeSet<&str> =
            tables.iter().flat_map(|table| &table.virtual_hosts).flat_map(|host| host.clusters()).collect();
        for chain in all_chains(model) {
            if let NetworkFilter::Tcp(tcp) = &chain.filter {
                names.extend(tcp.clusters.iter().map(|share| share.name.as_str()));
            }
        }
        let clusters = &self.clusters;
        names.retain(|name| clusters.find(name).is_none_or(|id| clusters.readiness(id) != Readiness::Ready));
        if names.is_empty() {
            return waits;
        }
        let before = self.named_before(name, model).unwrap_or_default();
        for name in names {
            let id = self.clusters.intern(name);
            if !before.contains(&id) {
                waits.insert(id, old.and_then(|old| old.waits.get(&id)).copied().unwrap_or(now));
            }
        }
        waits
    }

    /// Finds out whether the waiting version may switch, and when to look again.
    fn check_pending(&mut self, name: &Arc<str>, now: Instant) {
        let Some(state) = self.listeners.states.get_mut(name) else { return };
        let Some(pending) = &mut state.pending else { return };
        if let Some(id) = pending.watching.take() {
            self.clusters.unwatch(id, &Waiter::Listener(name.clone()));
        }
        let taken = claims_of(&pending.model).any(|claim| self.addresses.open.contains_key(&claim));
        // Something serves meanwhile: then there is no hurry.
        let patience = if state.active.is_some() || taken {
            self.options.route_hold
        } else {
            self.options.listener_cluster_wait
        };
        let mut timer = None;
        let bound = &self.addresses.bound;
        let mut ready = !self.options.wait_for_sockets
            || claims_of(&pending.model).all(|claim| !claim.bind || bound.contains(&claim));
        for wait in &pending.rds {
            let here = self.tables.rds.get(&wait.name).is_some_and(|rds| rds.model.current().is_some());
            if !here && wait.until().is_none_or(|until| now < until) {
                ready = false;
                timer = timer.into_iter().chain(wait.until()).min();
            }
        }
        if let Some((since, timeout)) = pending.srds
            && !self.scopes.answered
        {
            let until = timeout.and_then(|timeout| since.checked_add(timeout));
            if until.is_none_or(|until| now < until) {
                ready = false;
                timer = timer.into_iter().chain(until).min();
            }
        }
        let blocker = pending.waits.iter().find_map(|(id, since)| {
            let bound = match self.clusters.readiness(*id) {
                Readiness::Ready => return None,
                Readiness::Warming => patience,
                Readiness::Missing => patience.min(self.options.missing_cluster_hold),
            };
            let until = since.checked_add(bound);
            until.is_none_or(|until| now < until).then_some((*id, until))
        });
        if let Some((id, until)) = blocker {
            ready = false;
            pending.watching = Some(id);
            timer = timer.into_iter().chain(until).min();
            self.clusters.watch(id, Waiter::Listener(name.clone()));
        }
        pending.ready = ready;
        self.timers.set(Key::Listener(name.clone()), timer);
    }

    fn clear_pending(&mut self, name: &Arc<str>) {
        let Some(state) = self.listeners.states.get_mut(name) else { return };
        if let Some(pending) = state.pending.take() {
            self.listeners.warming -= 1;
            self.release_pending(name, &pending, &[]);
            self.timers.set(Key::Listener(name.clone()), None);
        }
    }

    /// Gives back what `pending` held; `still` are the tables its successor goes on waiting for.
    pub(super) fn release_pending(&mut self, name: &Arc<str>, pending: &Pending, still: &[RdsWait]) {
        if let Some(id) = pending.watching {
            self.clusters.unwatch(id, &Waiter::Listener(name.clone()));
        }
        for id in pending.waits.keys() {
            self.clusters.unpin(*id);
        }
        self.scopes.waiting.remove(name);
        for wait in &pending.rds {
            if let Some(entry) = self.tables.rds.get_mut(&wait.name)
                && !still.iter().any(|other| other.name == wait.name)
            {
                entry.waiting.remove(name);
            }
            self.tables.drop_rds_ref(&wait.name);
        }
    }

    /// Lets a group of listeners switch in one publication: everything that leaves goes first.
    fn switch(&mut self, group: &BTreeSet<Arc<str>>) {
        for name in group {
            let Some(active) = self.listeners.active(name).cloned() else { continue };
            for claim in claims_of(&active) {
                self.addresses.open.remove(&claim);
            }
        }
        for name in group {
            self.timers.set(Key::Listener(name.clone()), None);
            let Some(state) = self.listeners.states.get_mut(name) else { continue };
            let old = state.active.take();
            match state.pending.take() {
                Some(pending) => {
                    self.listeners.warming -= 1;
                    self.note_cold(name, &pending);
                    self.activate(name, &pending, old);
                    self.release_pending(name, &pending, &[]);
                }
                None => {
                    self.next.set_listener(name, None);
                    self.retire(old);
                    let state = self.listeners.states.get(name);
                    if state.is_some_and(|state| state.blocked.is_none()) {
                        self.listeners.states.remove(name);
                    }
                }
            }
        }
        self.addresses.version += 1;
    }

    fn note_cold(&mut self, name: &Arc<str>, pending: &Pending) {
        let cold = pending.waits.keys().filter(|id| self.clusters.readiness(**id) != Readiness::Ready);
        let clusters: Vec<_> = cold.map(|id| self.clusters.name(*id)).collect();
        if !clusters.is_empty() {
            self.counts.listener_cold += 1;
            self.event(Event::ListenerCold { listener: name.clone(), clusters });
        }
        for wait in &pending.rds {
            if self.tables.rds.get(&wait.name).is_none_or(|rds| rds.model.current().is_none()) {
                self.counts.routes_fetch_timeout += 1;
                *self.counts.route_timeouts.entry(wait.name.clone()).or_default() += 1;
                self.event(Event::RouteFetchTimeout { listener: name.clone(), table: wait.name.clone() });
            }
        }
    }
}
