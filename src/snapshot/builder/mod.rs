//! The single writer of configuration.
//!
//! Owns every accepted resource, the names of clusters and route tables, and the next snapshot in the making.
//! Takes in sets of [`Change`]s and the time; gives out [`Snapshot`]s, rejections, what to subscribe to, what
//! sockets to hold. No I/O, no clock, no task: the caller drives it from the build thread:
//!
//! `apply` (or `tick` at `deadline`) → `sockets` → `publish` → from time to time `reap`, then `publish` again.
//!
//! Everything in one `apply` resolves together: clusters, then listeners, then tables, then what nobody needs
//! any more, until nothing is left to do. Costs follow what changed: every piece registers with what it waits
//! for, and snapshots share all parts that are equal.

mod addresses;
mod chains;
mod change;
mod clusters;
mod holds;
mod ids;
mod listeners;
mod next;
mod plan;
mod scopes;
mod status;
mod tables;
#[cfg(test)]
mod tests;
mod timers;
mod warming;
mod watch;

pub use addresses::Socket;
pub use change::{Change, Event, Kind, Options, Origin, Rejection, Why};
pub use status::{ClusterStatus, Counts, HeldHost, ListenerStatus, State, Status, TableStatus};

pub use watch::{Order, Report, Watched};

use super::Snapshot;
use crate::model::{ClusterId, Layer, LayerSource, Runtime, RuntimeValue};
use clusters::Waiter;
use next::Next;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;
use timers::Key;

type FastMap<K, V> = HashMap<K, V, foldhash::fast::RandomState>;

/// Events kept until [`Builder::take_events`]; older ones are dropped first.
const MAX_EVENTS: usize = 1_000;

/// See the module.
#[derive(Default)]
pub struct Builder {
    options: Options,
    next: Next,
    /// Published snapshots, ascending; the last one is the current.
    kept: VecDeque<Arc<Snapshot>>,
    clusters: clusters::Clusters,
    tables: tables::Tables,
    listeners: listeners::Listeners,
    addresses: addresses::Addresses,
    scopes: scopes::ScopeStates,
    graveyard: chains::Graveyard,
    timers: timers::Timers,
    counts: Counts,
    gauges: status::Gauges,
    events: VecDeque<Event>,
    orders: BTreeMap<ClusterId, Option<Watched>>,
    interest_version: u64,
}

/// Names to subscribe to, sorted, each once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interest {
    /// EDS names.
    pub endpoints: Vec<Arc<str>>,
    /// RDS names.
    pub routes: Vec<Arc<str>>,
    /// All of SRDS.
    pub scopes: bool,
}

impl Builder {
    /// An empty configuration.
    pub fn new(options: Options) -> Self {
        let next = Next::of(&options.node_name);
        Builder { options, next, ..Builder::default() }
    }

    /// Sets the layers of runtime, later ones over earlier ones.
    pub fn set_layers(&mut self, layers: Vec<Layer>) {
        if self.next.set_layers(layers) {
            self.on_runtime();
        }
    }

    /// Sets keys of the admin layer, or unsets those whose value is empty; `false` if there is no such layer. Takes
    /// effect with the next [`Builder::tick`].
    pub fn modify_runtime(&mut self, changes: Vec<(String, String)>) -> bool {
        self.change_layers(
            |source| *source == LayerSource::Admin,
            |values| {
                for (key, value) in &changes {
                    match value.as_str() {
                        "" => values.unset(key),
                        text => values.set(key, RuntimeValue::Text(text.to_owned())),
                    }
                }
            },
        )
    }

    /// Whether there is such a layer.
    fn change_layers(
        &mut self,
        is_meant: impl Fn(&LayerSource) -> bool,
        change: impl Fn(&mut Runtime),
    ) -> bool {
        let mut layers = self.next.get().layers.to_vec();
        let mut found = false;
        for layer in layers.iter_mut().filter(|layer| is_meant(&layer.source)) {
            change(&mut layer.values);
            found = true;
        }
        self.set_layers(layers);
        found
    }

    /// Applies one resolved set from `origin`. Where a set names a resource twice, the last change counts.
    ///
    /// Gives the resources that were refused because of their relation to others; they keep their last
    /// version, everything else applies.
    pub fn apply(&mut self, now: Instant, origin: Origin, changes: Vec<Change>) -> Vec<Rejection> {
        let mut rejections = Vec::new();
        let (mut listeners, mut scopes) = (BTreeMap::new(), Vec::new());
        for (at, change) in changes.into_iter().enumerate() {
            let (kind, name, result) = match change {
                Change::Cluster(model) => {
                    let result = self.change_cluster(origin, &model.name, Some(model.clone()));
                    (Kind::Cluster, model.name.clone(), result)
                }
                Change::ClusterRemoved(name) => {
                    let result = self.change_cluster(origin, &name, None);
                    (Kind::Cluster, name, result)
                }
                Change::Endpoints(model) => {
                    (Kind::Endpoints, model.name.clone(), self.change_endpoints(model))
                }
                Change::ScopedRoute(model) => {
                    scopes.push((Arc::<str>::from(model.name.as_str()), Some(model)));
                    continue;
                }
                Change::ScopedRouteRemoved(name) => {
                    scopes.push((name.into(), None));
                    continue;
                }
                Change::ScopesAnswered => {
                    self.scopes_answered();
                    continue;
                }
                Change::Runtime { resource, values } => {
                    let is_meant = |source: &LayerSource| *source == LayerSource::Rtds(resource.clone());
                    self.change_layers(is_meant, |now| now.clone_from(&values));
                    continue;
                }
                Change::EndpointsWithdrawn(name) => {
                    self.withdraw_endpoints(&name);
                    continue;
                }
                Change::Routes(model) => {
                    (Kind::Routes, model.name.clone(), self.change_routes(origin, model))
                }
                Change::RoutesWithdrawn(name) => {
                    self.withdraw_routes(&name);
                    continue;
                }
                Change::Listener(model) => {
                    listeners.insert(Arc::<str>::from(model.name.as_str()), (at, Some(model)));
                    continue;
                }
                Change::ListenerRemoved(name) => {
                    listeners.insert(name.into(), (at, None));
                    continue;
                }
            };
            if let Err(why) = result {
                rejections.push(Rejection { kind, name, why });
            }
        }
        rejections.extend(self.change_scopes(scopes));
        let mut set: Vec<_> = listeners.into_iter().collect();
        set.sort_by_key(|(_, (at, _))| *at);
        let set = set.into_iter().map(|(name, (_, model))| (origin, name, model)).collect();
        rejections.extend(self.change_listeners(set));
        self.settle(now);
        rejections
    }

    /// When [`Builder::tick`] has something to do; `None`: not before the next call.
    pub fn deadline(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// Lets holds, fetch timeouts and lingering that are over by `now` end.
    pub fn tick(&mut self, now: Instant) {
        while let Some(key) = self.timers.pop_due(now) {
            match key {
                Key::Cluster(id) => {
                    self.clusters.dirty.insert(id);
                }
                Key::Table(id) => {
                    self.tables.dirty.entry(id).or_insert(false);
                }
                Key::Listener(name) => {
                    self.listeners.dirty.entry(name).or_insert(false);
                }
            }
        }
        self.settle(now);
    }

    /// The next generation, if anything changed since the last. The builder keeps it until [`Builder::reap`]
    /// finds that nobody else does.
    pub fn publish(&mut self) -> Option<Arc<Snapshot>> {
        let snapshot = self.next.publish()?;
        self.clusters.ids.published(snapshot.generation);
        self.tables.ids.published(snapshot.generation);
        self.kept.push_back(snapshot.clone());
        Some(snapshot)
    }

    /// Drops old snapshots, listener versions and chains of which the builder is the only owner, and frees the
    /// ids that went with them. Gives the number of snapshots dropped. Tables and lingering clusters may end
    /// by it: call [`Builder::publish`] afterwards.
    pub fn reap(&mut self, now: Instant) -> usize {
        let before = self.kept.len();
        let current = self.next.generation();
        self.kept.retain(|snapshot| snapshot.generation == current || Arc::strong_count(snapshot) > 1);
        self.clear_graveyard();
        self.settle(now);
        self.clusters.ids.release(&self.kept);
        self.tables.ids.release(&self.kept);
        before - self.kept.len()
    }

    /// What to subscribe to. Cheap to watch through [`Builder::interest_version`].
    pub fn interest(&self) -> Interest {
        let used = self.clusters.assignments.iter().filter(|(_, entry)| !entry.users.is_empty());
        let mut endpoints: Vec<_> = used.map(|(name, _)| name.clone()).collect();
        endpoints.sort_unstable();
        let routes = self.tables.rds.iter().filter(|(_, rds)| rds.refs > 0).map(|(name, _)| name.clone());
        Interest { endpoints, routes: routes.collect(), scopes: self.scopes.wanted }
    }

    /// Changes whenever [`Builder::interest`] may.
    pub fn interest_version(&self) -> u64 {
        self.interest_version
    }

    /// What happened since the last call.
    pub fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events).into()
    }

    fn event(&mut self, event: Event) {
        if self.events.len() >= MAX_EVENTS {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }

    /// Works until nothing is marked.
    fn settle(&mut self, now: Instant) {
        loop {
            let mut idle = true;
            while let Some(id) = self.clusters.dirty.pop_first() {
                let before = self.clusters.tally(id);
                self.settle_cluster(id, now);
                self.gauges.clusters(before, self.clusters.tally(id));
                idle = false;
            }
            for (waiter, cluster) in std::mem::take(&mut self.clusters.woken) {
                match waiter {
                    Waiter::Table(id) => self.tables.wake(id, cluster),
                    Waiter::Listener(name) => drop(self.listeners.dirty.entry(name).or_insert(false)),
                }
            }
            let listeners = std::mem::take(&mut self.listeners.dirty);
            idle &= listeners.is_empty();
            // All are prepared before the first switches: they may have to switch together.
            for (name, full) in &listeners {
                self.prepare_listener(name, *full, now);
            }
            for name in listeners.keys() {
                self.try_switch(name, now);
            }
            while let Some((id, full)) = self.tables.dirty.pop_first() {
                let before = self.tables.tally(id);
                self.settle_table(id, full, now);
                self.gauges.tables(before, self.tables.tally(id));
                idle = false;
            }
            idle &= !self.settle_scopes();
            while let Some(id) = self.clusters.going.pop_first() {
                let before = self.clusters.tally(id);
                self.settle_going(id, now);
                self.gauges.clusters(before, self.clusters.tally(id));
                idle = false;
            }
            if idle {
                break;
            }
        }
        self.addresses.prune();
        let clusters = std::mem::take(&mut self.clusters.interest_changed);
        let tables = std::mem::take(&mut self.tables.interest_changed);
        self.interest_version += u64::from(clusters || tables);
    }
}
