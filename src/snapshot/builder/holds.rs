//! Virtual hosts that keep their old bodies: what keeps them, and how they end.
//!
//! The end of a hold is looked for where a cluster changed or a time is over, and decided about for its virtual host
//! alone; the others of the table keep their bodies.

use super::Builder;
use super::change::Event;
use super::clusters::{Readiness, Waiter};
use super::plan::Plan;
use super::tables::{Body, Hold, HostKey, TableKey};
use super::timers::Key;
use crate::model::{ClusterId, RouteConfig, RouteId};
use crate::router::RouteTable;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

/// When each hold of a table is looked at again: when its first blocker changes, or has lasted long enough.
#[derive(Default)]
pub(super) struct Watches {
    by_hold: BTreeMap<HostKey, (ClusterId, Option<Instant>)>,
    by_cluster: BTreeMap<ClusterId, BTreeSet<HostKey>>,
    by_time: BTreeSet<(Instant, HostKey)>,
    /// Clusters that have changed since.
    woken: BTreeSet<ClusterId>,
}

impl Watches {
    /// A cluster that some hold waits for has changed, and forgot who watches it.
    pub(super) fn wake(&mut self, cluster: ClusterId) {
        self.woken.insert(cluster);
    }

    fn add(&mut self, hold: HostKey, cluster: ClusterId, until: Option<Instant>) {
        self.by_cluster.entry(cluster).or_default().insert(hold.clone());
        self.by_time.extend(until.map(|until| (until, hold.clone())));
        self.by_hold.insert(hold, (cluster, until));
    }

    /// The cluster, if no other hold waits for it.
    fn remove(&mut self, hold: &HostKey) -> Option<ClusterId> {
        let (cluster, until) = self.by_hold.remove(hold)?;
        if let Some(until) = until {
            self.by_time.remove(&(until, hold.clone()));
        }
        let holds = self.by_cluster.get_mut(&cluster)?;
        holds.remove(hold);
        let last = holds.is_empty();
        if last {
            self.by_cluster.remove(&cluster);
        }
        last.then_some(cluster)
    }

    /// Holds to look at now.
    fn due(&mut self, now: Instant) -> BTreeSet<HostKey> {
        let woken = std::mem::take(&mut self.woken);
        let mut due: BTreeSet<HostKey> =
            woken.iter().filter_map(|cluster| self.by_cluster.get(cluster)).flatten().cloned().collect();
        due.extend(self.by_time.iter().take_while(|(at, _)| *at <= now).map(|(_, hold)| hold.clone()));
        due
    }

    fn next(&self) -> Option<Instant> {
        self.by_time.first().map(|(at, _)| *at)
    }

    #[cfg(test)]
    pub(super) fn watched(&self) -> impl Iterator<Item = (&HostKey, ClusterId)> {
        self.by_hold.iter().map(|(hold, (cluster, _))| (hold, *cluster))
    }
}

impl Builder {
    /// Gives the virtual hosts whose holds are over their new bodies.
    pub(super) fn end_holds(&mut self, id: RouteId, now: Instant) {
        let Some(table) = self.tables.get_mut(id) else { return };
        let due = table.watches.due(now);
        let mut ended = Vec::new();
        for key in due {
            self.unwatch_hold(id, &key);
            let Some(hold) = self.tables.get(id).and_then(|table| table.holds.get(&key)) else { continue };
            match self.hold_blocker(hold, now) {
                Some((cluster, until)) => self.watch_hold(id, key, cluster, until),
                None => ended.push(key),
            }
        }
        if !ended.is_empty() {
            self.replace_held(id, ended, now);
        }
        self.set_table_timer(id);
    }

    fn replace_held(&mut self, id: RouteId, ended: Vec<HostKey>, now: Instant) {
        let Some(table) = self.tables.get_mut(id) else { return };
        let Some(mut applied) = table.applied.take() else { return };
        let mut holds = std::mem::take(&mut table.holds);
        let key = table.key.clone();
        let mut ended: Vec<_> = ended.into_iter().filter_map(|key| holds.remove_entry(&key)).collect();
        // From the last on, so that the places of those to come stay what they are.
        ended.sort_by_key(|(_, hold)| std::cmp::Reverse((hold.bodies.start, hold.at)));
        let (mut removed, mut held_on) = (Vec::new(), Vec::new());
        // How many bodies more there are behind a place, which a virtual host without a body shares with others.
        let mut moves: Vec<((usize, usize), isize)> = Vec::new();
        for (host, hold) in ended {
            let (at, range) = (hold.at, hold.bodies.clone());
            let plan = Plan::of_hold(&mut self.clusters, &self.options, &applied, host, hold, now);
            let planned = plan.run_one(at);
            self.note_expired(&key, planned.expired);
            moves.push(((range.end, at), planned.bodies.len() as isize - range.len() as isize));
            removed.extend(applied.bodies.splice(range, planned.bodies));
            held_on.extend(planned.holds.keys().cloned());
            holds.extend(planned.holds);
        }
        move_holds(&mut holds, moves);
        self.set_bodies(id, &applied.config, &applied.bodies);
        if let Some(table) = self.tables.get_mut(id) {
            (table.applied, table.holds) = (Some(applied), holds);
        }
        self.release_bodies(removed);
        for key in held_on {
            self.find_blocker(id, key, now);
        }
    }

    /// Tells of what was applied although it should have waited.
    pub(super) fn note_expired(&mut self, table: &TableKey, expired: Vec<(String, Vec<Arc<str>>)>) {
        for (virtual_host, clusters) in expired {
            self.counts.hold_expired += 1;
            self.event(Event::HoldExpired { table: table.to_string(), virtual_host, clusters });
        }
    }

    /// Makes `bodies` what the table of `id` serves from.
    pub(super) fn set_bodies(&mut self, id: RouteId, config: &RouteConfig, bodies: &[Arc<Body>]) {
        let hosts = bodies.iter().map(|body| body.0.clone()).collect();
        let last = self.next.get().route_table(id);
        let table = RouteTable::compile_after(config, hosts, last.map(|last| &**last));
        self.next.set_table(id, Some(Arc::new(table)));
    }

    /// Lets go of the clusters of bodies that no table holds any more.
    pub(super) fn release_bodies(&mut self, bodies: impl IntoIterator<Item = Arc<Body>>) {
        for body in bodies {
            if let Some(Body(host)) = Arc::into_inner(body) {
                for cluster in host.clusters() {
                    self.clusters.drop_ref(cluster);
                }
            }
        }
    }

    /// The first cluster that keeps `hold` up, and until when at most.
    fn hold_blocker(&self, hold: &Hold, now: Instant) -> Option<(ClusterId, Option<Instant>)> {
        hold.waits.iter().find_map(|(cluster, since)| {
            let readiness = self.clusters.readiness(*cluster);
            let until = self.options.held_until(readiness, *since, hold.since)?;
            until.is_none_or(|until| now < until).then_some((*cluster, until))
        })
    }

    /// Arranges to look again at every hold.
    pub(super) fn watch_holds(&mut self, id: RouteId, now: Instant) {
        let Some(table) = self.tables.get(id) else { return };
        let keys: Vec<HostKey> = table.holds.keys().cloned().collect();
        for key in keys {
            self.find_blocker(id, key, now);
        }
        self.set_table_timer(id);
    }

    fn find_blocker(&mut self, id: RouteId, key: HostKey, now: Instant) {
        let hold = self.tables.get(id).and_then(|table| table.holds.get(&key));
        if let Some((cluster, until)) = hold.and_then(|hold| self.hold_blocker(hold, now)) {
            self.watch_hold(id, key, cluster, until);
        }
    }

    fn watch_hold(&mut self, id: RouteId, key: HostKey, cluster: ClusterId, until: Option<Instant>) {
        self.clusters.watch(cluster, Waiter::Table(id));
        if let Some(table) = self.tables.get_mut(id) {
            table.watches.add(key, cluster, until);
        }
    }

    fn unwatch_hold(&mut self, id: RouteId, key: &HostKey) {
        if let Some(cluster) = self.tables.get_mut(id).and_then(|table| table.watches.remove(key)) {
            self.clusters.unwatch(cluster, &Waiter::Table(id));
        }
    }

    pub(super) fn unwatch_table(&mut self, id: RouteId) {
        let Some(table) = self.tables.get_mut(id) else { return };
        for cluster in std::mem::take(&mut table.watches).by_cluster.into_keys() {
            self.clusters.unwatch(cluster, &Waiter::Table(id));
        }
    }

    fn set_table_timer(&mut self, id: RouteId) {
        let next = self.tables.get(id).and_then(|table| table.watches.next());
        self.timers.set(Key::Table(id), next);
    }
}

impl super::Options {
    /// Until when a virtual host may be held for a cluster; `None` when it need not be. The inner `None` is a
    /// time too far to express.
    pub(super) fn held_until(
        &self,
        readiness: Readiness,
        since: Instant,
        hold_since: Instant,
    ) -> Option<Option<Instant>> {
        let bound = match readiness {
            Readiness::Ready => return None,
            Readiness::Missing => self.missing_cluster_hold,
            Readiness::Warming => self.route_hold,
        };
        let whole = hold_since.checked_add(self.route_hold);
        Some([since.checked_add(bound), whole].into_iter().flatten().min())
    }
}

/// Follows `moves`, of which the last came first.
fn move_holds(holds: &mut BTreeMap<HostKey, Hold>, mut moves: Vec<((usize, usize), isize)>) {
    moves.reverse();
    let mut sum = 0;
    for (_, by) in &mut moves {
        sum += *by;
        *by = sum;
    }
    for hold in holds.values_mut() {
        let before = moves.partition_point(|(place, _)| *place < (hold.bodies.start, hold.at));
        if let Some((_, by)) = before.checked_sub(1).and_then(|last| moves.get(last)) {
            let moved = |place: usize| place.saturating_add_signed(*by);
            hold.bodies = moved(hold.bodies.start)..moved(hold.bodies.end);
        }
    }
}
