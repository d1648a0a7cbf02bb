//! Route tables: RDS tables and the inline tables of filter chains, through one mechanism.
//!
//! A table is compiled while a chain uses it. A later version switches at once, except the virtual hosts that
//! name a cluster which does not serve yet and which their old body did not name: their domains keep the old
//! body ([`Hold`]). Bodies belong to domains: a domain that no old virtual host listed takes its new body at
//! once, because it has nothing to keep and neither a neighbour nor `*` should answer for it meanwhile.

use super::change::{Origin, Owned, Why};
use super::holds::Watches;
use super::ids::Ids;
use super::plan::{Plan, Planned};
use super::timers::Key;
use super::{Builder, FastMap};
use crate::model::{ClusterId, RouteConfig, RouteId, VirtualHost};
use crate::router::CompiledHost;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

/// What names a table.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum TableKey {
    Rds(Arc<str>),
    /// Written in this scope of SRDS.
    Scope(Arc<str>),
    /// `slot` names the chain within its listener. `speaks` is part of the key so that connections of a
    /// protocol that the chain left keep the table that was made for them.
    Inline {
        listener: Arc<str>,
        slot: Arc<str>,
        speaks: &'static str,
    },
}

impl std::fmt::Display for TableKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            TableKey::Rds(name) => f.write_str(name),
            TableKey::Scope(name) => write!(f, "scope {name}"),
            TableKey::Inline { listener, slot, .. } if slot.is_empty() => {
                write!(f, "{listener} (default chain)")
            }
            TableKey::Inline { listener, slot, .. } => write!(f, "{listener} (chain {slot})"),
        }
    }
}

/// A virtual host by name, and which one of that name.
pub(super) type HostKey = (String, usize);

/// A compiled virtual host as a table holds it. The builder's count on this, not on the compiled host that
/// snapshots share, says whether a table still uses it.
pub(super) struct Body(pub(super) Arc<CompiledHost>);

/// A virtual host whose old body is kept.
pub(super) struct Hold {
    pub(super) since: Instant,
    /// Clusters it waits for, and since when.
    pub(super) waits: BTreeMap<ClusterId, Instant>,
    /// What it will become.
    pub(super) model: Arc<VirtualHost>,
    /// Its place among the virtual hosts, and those of the bodies that stand for it.
    pub(super) at: usize,
    pub(super) bodies: Range<usize>,
}

/// One table in use.
pub(super) struct Table {
    pub(super) key: TableKey,
    /// Chains, open or retired.
    pub(super) users: usize,
    pub(super) wanted: Option<Arc<RouteConfig>>,
    /// When the wait for this version began, if that was earlier than now (its listener waited first).
    pub(super) since: Option<Instant>,
    pub(super) applied: Option<Applied>,
    pub(super) holds: BTreeMap<HostKey, Hold>,
    pub(super) watches: Watches,
}

/// What a table's compiled form was made of.
pub(super) struct Applied {
    pub(super) config: Arc<RouteConfig>,
    pub(super) bodies: Vec<Arc<Body>>,
}

/// One RDS name.
#[derive(Default)]
pub(super) struct Rds {
    pub(super) model: Owned<Arc<RouteConfig>>,
    pub(super) withdrawn: bool,
    /// Chains and waiting listeners that name it.
    pub(super) refs: usize,
    /// Listeners that are not open yet.
    pub(super) waiting: BTreeSet<Arc<str>>,
}

/// All of them.
#[derive(Default)]
pub(super) struct Tables {
    by_key: FastMap<TableKey, RouteId>,
    states: Vec<Option<Table>>,
    pub(super) ids: Ids,
    pub(super) rds: BTreeMap<Arc<str>, Rds>,
    /// To be looked at; `true`: from the start, `false`: only whether holds ended.
    pub(super) dirty: BTreeMap<RouteId, bool>,
    pub(super) interest_changed: bool,
}

impl Tables {
    pub(super) fn get(&self, id: RouteId) -> Option<&Table> {
        self.states.get(id.index())?.as_ref()
    }

    pub(super) fn get_mut(&mut self, id: RouteId) -> Option<&mut Table> {
        self.states.get_mut(id.index())?.as_mut()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (RouteId, &Table)> {
        (0u32..).map(RouteId).zip(&self.states).filter_map(|(id, state)| Some((id, state.as_ref()?)))
    }

    /// What the table of `id` adds to the gauges: tables in use, virtual hosts held.
    pub(super) fn tally(&self, id: RouteId) -> (u64, u64) {
        self.get(id).map_or((0, 0), |table| (table.applied.is_some().into(), table.holds.len() as u64))
    }

    /// A cluster that holds of the table wait for has changed.
    pub(super) fn wake(&mut self, id: RouteId, cluster: ClusterId) {
        if let Some(table) = self.get_mut(id) {
            table.watches.wake(cluster);
            self.dirty.entry(id).or_insert(false);
        }
    }

    /// Marks for a full look.
    pub(super) fn touch(&mut self, id: RouteId) {
        self.dirty.insert(id, true);
    }

    /// One more chain uses the table of `key`.
    pub(super) fn acquire(&mut self, key: TableKey) -> RouteId {
        let id = match self.by_key.get(&key) {
            Some(id) => *id,
            None => {
                let id = RouteId(self.ids.take());
                if self.states.len() <= id.index() {
                    self.states.resize_with(id.index() + 1, || None);
                }
                if let Some(place) = self.states.get_mut(id.index()) {
                    *place = Some(Table {
                        key: key.clone(),
                        users: 0,
                        wanted: None,
                        since: None,
                        applied: None,
                        holds: BTreeMap::new(),
                        watches: Watches::default(),
                    });
                }
                self.by_key.insert(key, id);
                self.touch(id);
                id
            }
        };
        if let Some(table) = self.get_mut(id) {
            table.users += 1;
        }
        id
    }

    /// The opposite of [`Tables::acquire`].
    pub(super) fn release(&mut self, id: RouteId) {
        if let Some(table) = self.get_mut(id) {
            table.users = table.users.saturating_sub(1);
            self.touch(id);
        }
    }

    /// One more chain or waiting listener names the RDS table `name`.
    pub(super) fn add_rds_ref(&mut self, name: &Arc<str>) {
        let entry = self.rds.entry(name.clone()).or_default();
        self.interest_changed |= entry.refs == 0;
        entry.refs += 1;
    }

    /// The opposite of [`Tables::add_rds_ref`].
    pub(super) fn drop_rds_ref(&mut self, name: &str) {
        let Some(entry) = self.rds.get_mut(name) else { return };
        entry.refs = entry.refs.saturating_sub(1);
        self.interest_changed |= entry.refs == 0;
        self.forget_rds(name);
    }

    /// Drops a withdrawn table that nothing names. A static one stays.
    fn forget_rds(&mut self, name: &str) {
        let Some(entry) = self.rds.get_mut(name).filter(|entry| entry.refs == 0) else { return };
        if entry.withdrawn {
            *entry.model.slot(Origin::Ads) = None;
        }
        if entry.model.current().is_none() {
            self.rds.remove(name);
        }
    }

    fn forget(&mut self, id: RouteId) {
        let Some(table) = self.states.get_mut(id.index()).and_then(Option::take) else { return };
        self.by_key.remove(&table.key);
        self.ids.retire(id.0);
    }
}

impl Builder {
    pub(super) fn change_routes(&mut self, origin: Origin, model: Arc<RouteConfig>) -> Result<(), Why> {
        let found = model.virtual_hosts.iter().map(|host| host.routes.len()).sum();
        if found > self.options.max_routes {
            return Err(Why::TooLarge {
                field: "virtual_hosts",
                parts: "routes",
                found,
                limit: self.options.max_routes,
            });
        }
        let limit = self.options.max_resources;
        let name = model.name.as_str();
        if !self.tables.rds.contains_key(name) && self.tables.rds.len() >= limit.saturating_mul(2) {
            return Err(Why::TooMany { field: "name", name: name.to_owned(), limit });
        }
        let entry = self.tables.rds.entry(name.into()).or_default();
        entry.withdrawn = false;
        if entry.model.slot(origin).as_ref() == Some(&model) {
            return Ok(());
        }
        let name = model.name.clone();
        *entry.model.slot(origin) = Some(model);
        if origin == Origin::Ads && entry.model.shadowed() {
            self.counts.shadowed_by_static += 1;
            return Ok(());
        }
        self.listeners.dirty.extend(entry.waiting.iter().map(|listener| (listener.clone(), true)));
        if let Some(id) = self.tables.by_key.get(&TableKey::Rds(name.as_str().into())).copied() {
            self.tables.touch(id);
        }
        Ok(())
    }

    pub(super) fn withdraw_routes(&mut self, name: &str) {
        let Some(entry) = self.tables.rds.get_mut(name) else { return };
        entry.withdrawn = true;
        self.tables.forget_rds(name);
    }

    /// Brings one table up to date. Without `full` only ended holds count.
    pub(super) fn settle_table(&mut self, id: RouteId, full: bool, now: Instant) {
        let Some(table) = self.tables.get(id) else { return };
        if !full && table.users > 0 && table.applied.is_some() {
            self.end_holds(id, now);
            return;
        }
        let unused = table.users == 0;
        self.unwatch_table(id);
        if unused {
            self.drop_table(id);
            return;
        }
        let Some(table) = self.tables.get_mut(id) else { return };
        if let TableKey::Rds(name) = &table.key {
            let name = name.clone();
            let current = self.tables.rds.get(&name).and_then(|rds| rds.model.current()).cloned();
            if let (Some(table), Some(current)) = (self.tables.get_mut(id), current) {
                table.wanted = Some(current);
            }
        }
        self.apply_table(id, now);
        self.watch_holds(id, now);
    }

    fn apply_table(&mut self, id: RouteId, now: Instant) {
        let Some(table) = self.tables.get_mut(id) else { return };
        let Some(wanted) = table.wanted.clone() else { return };
        let since = table.since.take().unwrap_or(now);
        let old = table.applied.take();
        let old_holds = std::mem::take(&mut table.holds);
        let key = table.key.clone();
        let plan = Plan::new(&mut self.clusters, &self.options, &wanted, old.as_ref(), old_holds, now, since);
        let Planned { bodies, holds, expired, hosts } = plan.run();
        self.note_expired(&key, expired);
        let wanted = with_hosts(wanted, hosts);
        let unchanged = old.as_ref().is_some_and(|old| {
            old.config.ignore_port == wanted.ignore_port
                && old.config.ignore_path_parameters == wanted.ignore_path_parameters
                && old.config.internal_only_headers == wanted.internal_only_headers
                && old.bodies.len() == bodies.len()
                && old.bodies.iter().zip(&bodies).all(|(a, b)| Arc::ptr_eq(a, b))
        });
        if !unchanged {
            self.set_bodies(id, &wanted, &bodies);
        }
        if let TableKey::Rds(name) = &key
            && let Some(rds) = self.tables.rds.get_mut(name)
        {
            // The equal version that shares its unchanged virtual hosts with the compiled table.
            let origin = rds.model.origin();
            *rds.model.slot(origin) = Some(wanted.clone());
        }
        if let Some(table) = self.tables.get_mut(id) {
            table.wanted = Some(wanted.clone());
            table.applied = Some(Applied { config: wanted, bodies });
            table.holds = holds;
        }
        self.release_bodies(old.into_iter().flat_map(|old| old.bodies));
    }

    fn drop_table(&mut self, id: RouteId) {
        let Some(table) = self.tables.get_mut(id) else { return };
        let applied = table.applied.take();
        let holds = std::mem::take(&mut table.holds);
        for cluster in holds.values().flat_map(|hold| hold.waits.keys()) {
            self.clusters.unpin(*cluster);
        }
        self.release_bodies(applied.into_iter().flat_map(|applied| applied.bodies));
        self.timers.set(Key::Table(id), None);
        self.next.set_table(id, None);
        self.tables.forget(id);
    }
}

/// `config` with those `Arc`s for its virtual hosts.
fn with_hosts(config: Arc<RouteConfig>, hosts: Vec<Arc<VirtualHost>>) -> Arc<RouteConfig> {
    if hosts.iter().zip(&config.virtual_hosts).all(|(a, b)| Arc::ptr_eq(a, b)) {
        return config;
    }
    Arc::new(RouteConfig { virtual_hosts: hosts, ..RouteConfig::clone(&config) })
}
