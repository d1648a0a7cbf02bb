//! How a table's next version is put together from new, unchanged and held bodies.

use super::Options;
use super::clusters::{Clusters, Readiness};
use super::tables::{Applied, Body, Hold, HostKey};
use crate::model::{Action, ClusterChoice, ClusterId, Route, RouteConfig, VirtualHost, WeightedCluster};
use crate::router::CompiledHost;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

type Index<'a, V> = HashMap<&'a str, V, foldhash::fast::RandomState>;

/// One table's change in the making, or that of one of its virtual hosts.
pub(super) struct Plan<'a> {
    clusters: &'a mut Clusters,
    options: &'a Options,
    wanted: &'a Arc<RouteConfig>,
    old: Option<&'a Applied>,
    /// The old bodies that are looked at.
    window: Range<usize>,
    old_holds: BTreeMap<HostKey, Hold>,
    now: Instant,
    since: Instant,
    same_edits: bool,
    /// The old body behind the one found last: the next one wanted, unless hosts came, went or moved.
    next: usize,
    /// Old bodies by name, made when the order does not find one. Their compiled form holds the table's edits.
    by_name: Option<Index<'a, Vec<usize>>>,
    /// Old bodies by domain, made when the first virtual host may have to be held.
    by_domain: Option<Index<'a, usize>>,
    /// How many virtual hosts before each have its name, made when the first may have to be held.
    earlier: Option<Vec<usize>>,
    /// What becomes of the window.
    bodies: Vec<Arc<Body>>,
    holds: BTreeMap<HostKey, Hold>,
    expired: Vec<(String, Vec<Arc<str>>)>,
    /// The virtual hosts of `wanted`, with the `Arc`s of equal ones that are compiled already.
    shared: Vec<Arc<VirtualHost>>,
}

/// What a plan comes to.
pub(super) struct Planned {
    pub(super) bodies: Vec<Arc<Body>>,
    pub(super) holds: BTreeMap<HostKey, Hold>,
    /// What was applied although it should have waited.
    pub(super) expired: Vec<(String, Vec<Arc<str>>)>,
    /// Virtual hosts that were decided about.
    pub(super) hosts: Vec<Arc<VirtualHost>>,
}

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
        Plan {
            clusters,
            options,
            wanted,
            old,
            window: 0..old.map_or(0, |old| old.bodies.len()),
            old_holds,
            now,
            since,
            same_edits: old.is_some_and(|old| same_edits(&old.config, wanted)),
            next: 0,
            by_name: None,
            by_domain: None,
            earlier: None,
            bodies: Vec::with_capacity(wanted.virtual_hosts.len()),
            holds: BTreeMap::new(),
            expired: Vec::new(),
            shared: Vec::with_capacity(wanted.virtual_hosts.len()),
        }
    }

    /// For the hold of one virtual host of `applied` alone, whose configuration goes on.
    pub(super) fn of_hold(
        clusters: &'a mut Clusters,
        options: &'a Options,
        applied: &'a Applied,
        key: HostKey,
        hold: Hold,
        now: Instant,
    ) -> Self {
        let (window, since) = (hold.bodies.clone(), hold.since);
        let holds = BTreeMap::from([(key, hold)]);
        let plan = Plan::new(clusters, options, &applied.config, Some(applied), holds, now, since);
        Plan { next: window.start, window, bodies: Vec::new(), shared: Vec::new(), ..plan }
    }

    /// Decides about every virtual host.
    pub(super) fn run(mut self) -> Planned {
        let wanted = self.wanted;
        for (at, host) in wanted.virtual_hosts.iter().enumerate() {
            self.one(at, host);
        }
        self.finish()
    }

    /// Decides about one virtual host.
    pub(super) fn run_one(mut self, at: usize) -> Planned {
        let wanted = self.wanted;
        if let Some(host) = wanted.virtual_hosts.get(at) {
            self.one(at, host);
        }
        self.finish()
    }

    fn finish(self) -> Planned {
        // Only now may ids that nothing waits for go: a hold that went on has pinned its own again.
        for cluster in self.old_holds.values().flat_map(|hold| hold.waits.keys()) {
            self.clusters.unpin(*cluster);
        }
        Planned { bodies: self.bodies, holds: self.holds, expired: self.expired, hosts: self.shared }
    }

    fn one(&mut self, at: usize, host: &'a Arc<VirtualHost>) {
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
        let key = (host.name.clone(), self.earlier(at));
        let first = self.bodies.len();
        let (kept, fresh) = self.by_old_body(host);
        let waits = self.waits(&key, &unready);
        let since = self.old_holds.get(&key).map_or(self.since, |hold| hold.since);
        let (mut blocking, mut overdue) = (BTreeMap::new(), BTreeSet::new());
        let mut domains = Vec::new();
        let olds =
            kept.into_iter().filter_map(|(at, part)| Some((Some(self.old?.bodies.get(at)?.clone()), part)));
        let new = (!fresh.is_empty()).then_some((None, fresh));
        for (body, part) in new.into_iter().chain(olds).collect::<Vec<_>>() {
            let before = body.as_ref().map_or(&[][..], |body| &body.0.model.routes);
            let gains = gains(before, &host.routes);
            let gains: BTreeSet<_> = gains.into_iter().filter_map(|name| self.clusters.find(name)).collect();
            let blockers = waits.iter().filter(|(cluster, _)| gains.contains(cluster));
            if self.blocked(blockers.clone(), since) {
                blocking.extend(blockers.map(|(cluster, at)| (*cluster, *at)));
                // Domains that are new go on to match what they matched: so far nobody has been told of them.
                if let Some(body) = body {
                    self.keep(&body, part);
                }
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
            let bodies = self.window.start + first..self.window.start + self.bodies.len();
            self.holds.insert(key, Hold { since, waits: blocking, model: host.clone(), at, bodies });
        }
    }

    /// How many virtual hosts before number `at` have its name.
    fn earlier(&mut self, at: usize) -> usize {
        let wanted = self.wanted;
        let earlier = self.earlier.get_or_insert_with(|| {
            let mut seen: Index<'_, usize> = HashMap::default();
            let count = |host: &'a Arc<VirtualHost>| {
                let entry = seen.entry(host.name.as_str()).or_default();
                *entry += 1;
                *entry - 1
            };
            wanted.virtual_hosts.iter().map(count).collect()
        });
        earlier.get(at).copied().unwrap_or_default()
    }

    /// The old bodies that are looked at, by place.
    fn old_bodies(&self) -> impl Iterator<Item = (usize, &'a Arc<Body>)> + use<'a> {
        let bodies = self.old.map_or(&[][..], |old| &old.bodies);
        bodies.iter().enumerate().take(self.window.end).skip(self.window.start)
    }

    /// The body made of an equal virtual host, if the old table has it.
    fn unchanged(&mut self, host: &Arc<VirtualHost>) -> Option<Arc<Body>> {
        let old = self.old.filter(|_| self.same_edits)?;
        let equal = |body: &Body| Arc::ptr_eq(&body.0.model, host) || body.0.model == *host;
        if let Some(body) = old.bodies.get(self.next)
            && body.0.model.name == host.name
        {
            self.next += 1;
            if equal(body) {
                return Some(body.clone());
            }
            // Bodies of one name are several where some were held.
            if self.old_holds.is_empty() {
                return None;
            }
        }
        if self.by_name.is_none() {
            let mut by_name: Index<'a, Vec<usize>> = HashMap::default();
            for (at, body) in self.old_bodies() {
                by_name.entry(&body.0.model.name).or_default().push(at);
            }
            self.by_name = Some(by_name);
        }
        let candidates = self.by_name.as_ref()?.get(host.name.as_str())?;
        let mut bodies = candidates.iter().filter_map(|at| Some((*at, old.bodies.get(*at)?)));
        let (at, body) = bodies.find(|(_, body)| equal(body))?;
        self.next = at + 1;
        Some(body.clone())
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
        let old = self.old_bodies();
        let by_domain = self.by_domain.get_or_insert_with(|| {
            let mut map = HashMap::default();
            for (at, body) in old {
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

/// Clusters that requests may meet by `new` and would not, or more seldom, have met by `old`. What goes where it
/// went is no reason to keep an old body. Routes are taken for the same ones while they come in the same order.
fn gains<'h>(old: &[Arc<Route>], new: &'h [Arc<Route>]) -> BTreeSet<&'h str> {
    let mut olds = old.iter().peekable();
    let mut gains = BTreeSet::new();
    for route in new {
        let before = olds.next_if(|before| before.matcher == route.matcher);
        for name in clusters_of(route) {
            let (before, after) = (before.map_or((0, 1), |before| share(before, name)), share(route, name));
            if before.0 * after.1 < after.0 * before.1 {
                gains.insert(name);
            }
        }
    }
    gains
}

fn clusters_of(route: &Route) -> Vec<&str> {
    match &route.action {
        Action::Route(action) => action.cluster.names(),
        _ => Vec::new(),
    }
}

/// The part of a route's requests that goes to `cluster`, and the whole, which is not 0.
fn share(route: &Route, cluster: &str) -> (u128, u128) {
    let Action::Route(action) = &route.action else { return (0, 1) };
    match &action.cluster {
        ClusterChoice::Single(name) => (u128::from(name == cluster), 1),
        ClusterChoice::Weighted(list) => {
            let sum = |of: &dyn Fn(&&WeightedCluster) -> bool| {
                list.iter().filter(of).map(|share| u128::from(share.weight)).sum::<u128>()
            };
            match sum(&|_| true) {
                // Without any weight the first has everything.
                0 => (u128::from(list.first().is_some_and(|first| first.name == cluster)), 1),
                whole => (sum(&|share| share.header.is_none() && share.name == cluster), whole),
            }
        }
        ClusterChoice::Header(_) => (0, 1),
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
