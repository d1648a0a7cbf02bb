//! Virtual hosts that keep their old bodies: what keeps them, and how they end.
//!
//! The end of a hold is decided about for its virtual host alone; the others of the table keep their bodies.

use super::Builder;
use super::change::Event;
use super::clusters::{Readiness, Waiter};
use super::plan::Plan;
use super::tables::{Body, Hold, HostKey, TableKey};
use super::timers::Key;
use crate::model::{ClusterId, RouteConfig, RouteId};
use crate::router::RouteTable;
use std::sync::Arc;
use std::time::Instant;

impl Builder {
    /// Gives the virtual hosts whose holds are over their new bodies.
    pub(super) fn end_holds(&mut self, id: RouteId, now: Instant) {
        let Some(table) = self.tables.get(id) else { return };
        let over = |hold: &Hold| self.hold_blocker(hold, now).is_none();
        let over: Vec<HostKey> =
            table.holds.iter().filter(|(_, hold)| over(hold)).map(|(key, _)| key.clone()).collect();
        if over.is_empty() {
            return;
        }
        let Some(table) = self.tables.get_mut(id) else { return };
        let key = table.key.clone();
        let mut holds = std::mem::take(&mut table.holds);
        let Some(mut applied) = table.applied.take() else { return };
        let mut ended: Vec<_> = over.into_iter().filter_map(|key| holds.remove_entry(&key)).collect();
        // From the last on, so that the places of those to come stay what they are.
        ended.sort_by_key(|(_, hold)| std::cmp::Reverse(hold.bodies.start));
        let mut removed = Vec::new();
        for (host, hold) in ended {
            let (at, range) = (hold.at, hold.bodies.clone());
            let plan = Plan::of_hold(&mut self.clusters, &self.options, &applied, host, hold, now);
            let planned = plan.run_one(at);
            self.note_expired(&key, planned.expired);
            let (before, after) = (range.len(), planned.bodies.len());
            for later in holds.values_mut().filter(|_| before != after) {
                if later.bodies.start >= range.end {
                    later.bodies = later.bodies.start - before + after..later.bodies.end - before + after;
                }
            }
            removed.extend(applied.bodies.splice(range, planned.bodies));
            holds.extend(planned.holds);
        }
        self.set_bodies(id, &applied.config, &applied.bodies);
        if let Some(table) = self.tables.get_mut(id) {
            (table.applied, table.holds) = (Some(applied), holds);
        }
        self.release_bodies(removed);
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

    /// Arranges to look again when what blocks each hold changes, or has lasted long enough.
    pub(super) fn watch_holds(&mut self, id: RouteId, now: Instant) {
        let Some(table) = self.tables.get(id) else { return };
        let blockers: Vec<_> = table.holds.values().filter_map(|hold| self.hold_blocker(hold, now)).collect();
        self.timers.set(Key::Table(id), blockers.iter().filter_map(|(_, until)| *until).min());
        for (cluster, _) in &blockers {
            self.clusters.watch(*cluster, Waiter::Table(id));
        }
        if let Some(table) = self.tables.get_mut(id) {
            table.watching = blockers.into_iter().map(|(cluster, _)| cluster).collect();
        }
    }

    pub(super) fn unwatch_table(&mut self, id: RouteId) {
        let Some(table) = self.tables.get_mut(id) else { return };
        for cluster in std::mem::take(&mut table.watching) {
            self.clusters.unwatch(cluster, &Waiter::Table(id));
        }
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
