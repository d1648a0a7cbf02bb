//! How a table's next version is put together from new, unchanged and held bodies.

use super::Options;
use super::clusters::{Clusters, Readiness};
use super::tables::{Applied, Body, Hold, HostKey};
use crate::model::{ClusterId, RouteConfig, VirtualHost};
use crate::router::CompiledHost;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Instant;

/// One table's change in the making.
pub(super) struct Plan<'a> {
    clusters: &'a mut Clusters,
    options: &'a Options,
    wanted: &'a Arc<RouteConfig>,
    old: Option<&'a Applied>,
    old_holds: BTreeMap<HostKey, Hold>,
    now: Instant,
    since: Instant,
    /// Old bodies by name. Their compiled form holds the table's header edits.
    by_name: HashMap<&'a str, Vec<usize>, foldhash::fast::RandomState>,
    same_edits: bool,
    /// Old bodies by domain, made when the first virtual host may have to be held.
    by_domain: Option<HashMap<&'a str, usize, foldhash::fast::RandomState>>,
    bodies: Vec<Arc<Body>>,
    holds: BTreeMap<HostKey, Hold>,
    expired: Vec<(String, Vec<Arc<str>>)>,
    /// The virtual hosts of `wanted`, with the `Arc`s of equal ones that are compiled already.
    shared: Vec<Arc<VirtualHost>>,
}

/// Bodies, holds, what was applied although it should have waited, and the configuration with shared parts.
pub(super) type Planned =
    (Vec<Arc<Body>>, BTreeMap<HostKey, Hold>, Vec<(String, Vec<Arc<str>>)>, Arc<RouteConfig>);

impl<'a> Plan<'a> {
    pub(super) fn new(
        clusters: &'a mut Clusters,
        options: &'a Options,
        wanted: &'a Arc<RouteConfig>,
        old: Option<&'a Applied>,
        old_holds: BTreeMap<HostKey, Hold>,
        now: Instant,
        since: Instant,
    ) -> Self {
        let mut by_name: HashMap<&str, Vec<usize>, _> = HashMap::default();
        for (at, body) in old.iter().flat_map(|old| &old.bodies).enumerate() {
            by_name.entry(&body.0.model.name).or_default().push(at);
        }
        Plan {
            clusters,
            options,
            wanted,
            old,
            old_holds,
            now,
            since,
            by_name,
            same_edits: old.is_some_and(|old| same_edits(&old.config, wanted)),
            by_domain: None,
            bodies: Vec::with_capacity(wanted.virtual_hosts.len()),
            holds: BTreeMap::new(),
            expired: Vec::new(),
            shared: Vec::with_capacity(wanted.virtual_hosts.len()),
        }
    }

    /// Decides about every virtual host.
    pub(super) fn run(&mut self) {
        let mut seen: HashMap<&str, usize, foldhash::fast::RandomState> = HashMap::default();
        for host in &self.wanted.virtual_hosts {
            let nth = seen.entry(&host.name).or_default();
            let key = (host.name.clone(), *nth);
            *nth += 1;
            self.one(key, host);
        }
        // Only now may ids that nothing waits for go: a hold that went on has pinned its own again.
        for cluster in self.old_holds.values().flat_map(|hold| hold.waits.keys()) {
            self.clusters.unpin(*cluster);
        }
    }

    /// The result. [`Plan::run`] comes first.
    pub(super) fn finish(self) -> Planned {
        let same = self.shared.iter().zip(&self.wanted.virtual_hosts).all(|(a, b)| Arc::ptr_eq(a, b));
        let wanted = if same {
            self.wanted.clone()
        } else {
            Arc::new(RouteConfig { virtual_hosts: self.shared, ..RouteConfig::clone(self.wanted) })
        };
        (self.bodies, self.holds, self.expired, wanted)
    }

    fn one(&mut self, key: HostKey, host: &Arc<VirtualHost>) {
        if let Some(body) = self.unchanged(host) {
            self.shared.push(body.0.model.clone());
            self.bodies.push(body);
            return;
        }
        self.shared.push(host.clone());
        let unready = if self.old.is_some() { self.unready(host) } else { Vec::new() };
        if unready.is_empty() {
            self.compile(host);
            return;
        }
        let (kept, fresh) = self.by_old_body(host);
        let waits = self.waits(&key, &unready);
        let since = self.old_holds.get(&key).map_or(self.since, |hold| hold.since);
        let (mut blocking, mut overdue) = (BTreeMap::new(), BTreeSet::new());
        let mut domains = fresh;
        for (at, part) in kept {
            let Some(body) = self.old.and_then(|old| old.bodies.get(at)).cloned() else { continue };
            // What the old body names already is no reason to keep it.
            let named: BTreeSet<ClusterId> = body.0.clusters().collect();
            let blockers = waits.iter().filter(|(cluster, _)| !named.contains(cluster));
            if self.blocked(blockers.clone(), since) {
                blocking.extend(blockers.map(|(cluster, at)| (*cluster, *at)));
                self.keep(&body, part);
            } else {
                overdue.extend(blockers.map(|(cluster, _)| *cluster));
                domains.extend(part);
            }
        }
        self.rest(host, domains);
        if !overdue.is_empty() {
            let names = overdue.iter().map(|id| self.clusters.name(*id)).collect();
            self.expired.push((host.name.clone(), names));
        }
        if !blocking.is_empty() {
            for cluster in blocking.keys() {
                self.clusters.pin(*cluster);
            }
            self.holds.insert(key, Hold { since, waits: blocking, model: host.clone() });
        }
    }

    /// The body made of an equal virtual host, if the old table has it.
    fn unchanged(&self, host: &Arc<VirtualHost>) -> Option<Arc<Body>> {
        let old = self.old.filter(|_| self.same_edits)?;
        let candidates = self.by_name.get(host.name.as_str())?;
        let mut bodies = candidates.iter().filter_map(|at| old.bodies.get(*at));
        bodies.find(|body| Arc::ptr_eq(&body.0.model, host) || body.0.model == *host).cloned()
    }

    /// Clusters of `host` that no version of serves.
    fn unready(&mut self, host: &VirtualHost) -> Vec<ClusterId> {
        let names: BTreeSet<&str> = host.clusters().collect();
        let mut unready = Vec::new();
        for name in names {
            let known = self.clusters.find(name);
            if known.is_none_or(|id| self.clusters.readiness(id) != Readiness::Ready) {
                unready.push(self.clusters.intern(name));
            }
        }
        unready
    }

    /// Since when each of `unready` is waited for.
    fn waits(&self, key: &HostKey, unready: &[ClusterId]) -> BTreeMap<ClusterId, Instant> {
        let before = self.old_holds.get(key);
        unready
            .iter()
            .map(|id| (*id, before.and_then(|hold| hold.waits.get(id)).copied().unwrap_or(self.since)))
            .collect()
    }

    fn blocked<'b>(
        &self,
        mut waits: impl Iterator<Item = (&'b ClusterId, &'b Instant)>,
        hold_since: Instant,
    ) -> bool {
        waits.any(|(cluster, since)| {
            let readiness = self.clusters.readiness(*cluster);
            let until = self.options.held_until(readiness, *since, hold_since);
            until.is_some_and(|until| until.is_none_or(|until| self.now < until))
        })
    }

    /// The domains of `host` by the old body that listed them, and those that no old body did.
    fn by_old_body(&mut self, host: &VirtualHost) -> (BTreeMap<usize, Vec<String>>, Vec<String>) {
        let old = self.old;
        let by_domain = self.by_domain.get_or_insert_with(|| {
            let mut map = HashMap::default();
            for (at, body) in old.iter().flat_map(|old| &old.bodies).enumerate() {
                for domain in &body.0.model.domains {
                    map.entry(domain.as_str()).or_insert(at);
                }
            }
            map
        });
        let (mut kept, mut fresh) = (BTreeMap::<usize, Vec<String>>::new(), Vec::new());
        for domain in &host.domains {
            match by_domain.get(domain.as_str()) {
                Some(at) => kept.entry(*at).or_default().push(domain.clone()),
                None => fresh.push(domain.clone()),
            }
        }
        (kept, fresh)
    }

    /// Keeps an old body for `domains`.
    fn keep(&mut self, body: &Arc<Body>, domains: Vec<String>) {
        let has: BTreeSet<&String> = body.0.model.domains.iter().collect();
        if has.len() == domains.len() && domains.iter().all(|domain| has.contains(domain)) {
            self.bodies.push(body.clone());
        } else {
            self.compile(&Arc::new(VirtualHost { domains, ..VirtualHost::clone(&body.0.model) }));
        }
    }

    /// The new body for those of its domains that need not wait.
    fn rest(&mut self, host: &Arc<VirtualHost>, domains: Vec<String>) {
        if domains.len() == host.domains.len() {
            self.compile(host);
        } else if !domains.is_empty() {
            let part = Arc::new(VirtualHost { domains, ..VirtualHost::clone(host) });
            match self.unchanged(&part) {
                Some(body) => self.bodies.push(body),
                None => self.compile(&part),
            }
        }
    }

    fn compile(&mut self, host: &Arc<VirtualHost>) {
        let clusters = &mut *self.clusters;
        let compiled = CompiledHost::compile(host, self.wanted, &mut |name| clusters.intern(name));
        for cluster in compiled.clusters() {
            clusters.add_ref(cluster);
        }
        self.bodies.push(Arc::new(Body(compiled)));
    }
}

/// Whether the parts of a table that its compiled virtual hosts take in are equal.
fn same_edits(a: &RouteConfig, b: &RouteConfig) -> bool {
    a.request_headers == b.request_headers
        && a.response_headers == b.response_headers
        && a.most_specific_header_mutations_wins == b.most_specific_header_mutations_wins
        && a.mirrors == b.mirrors
        && a.filters == b.filters
}
