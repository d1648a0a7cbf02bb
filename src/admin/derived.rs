//! Gauges of every cluster that follow from the snapshot, made when `/stats` is read.

use crate::cluster::{ClusterEntry, ClusterSlot, Level};
use crate::model::Health;
use crate::snapshot::Store;
use crate::telemetry::{Registry, Sample, Scope, StatGroup, Value};
use std::sync::Arc;

/// Makes `registry` show membership and breaker gauges of all clusters that serve from `store`.
pub fn provide_cluster_gauges(registry: &Registry, store: Arc<Store>) {
    registry.provide(Box::new(move || {
        let snapshot = store.load();
        let ready = snapshot.clusters.iter().filter_map(|slot| match slot {
            ClusterSlot::Ready(entry) => Some(entry),
            ClusterSlot::Absent | ClusterSlot::Warming => None,
        });
        ready
            .map(|entry| {
                let group: Box<dyn StatGroup> = Box::new(Gauges(entry.clone()));
                (Scope::cluster(stat_name(entry)), group)
            })
            .collect()
    }));
}

/// The name of a cluster in metrics.
pub fn stat_name(entry: &ClusterEntry) -> &str {
    entry.spec.model.alt_stat_name.as_deref().unwrap_or(&entry.spec.model.name)
}

struct Gauges(ClusterEntry);

impl StatGroup for Gauges {
    fn visit(&self, out: &mut dyn FnMut(&str, Sample)) {
        let mut gauge = |name: &str, value: i64| out(name, Value::Gauge(Some(value)));
        let (mut total, mut healthy, mut degraded) = (0, 0, 0);
        for endpoint in self.0.endpoints.iter() {
            total += 1;
            match endpoint.health {
                Health::Healthy => healthy += 1,
                Health::Degraded => degraded += 1,
                Health::Unhealthy | Health::Draining => {}
            }
        }
        gauge("membership_total", total);
        gauge("membership_healthy", healthy);
        gauge("membership_degraded", degraded);
        gauge("membership_excluded", 0);
        let limits = &self.0.spec.model.breakers.default;
        for (level, open, remaining) in [
            (Level::Connections, "cx_open", "remaining_cx"),
            (Level::Pending, "rq_pending_open", "remaining_pending"),
            (Level::Requests, "rq_open", "remaining_rq"),
            (Level::Retries, "rq_retry_open", "remaining_retries"),
        ] {
            let (active, limit) = (self.0.spec.breakers.active(level), level.limit(limits));
            gauge(&format!("circuit_breakers.default.{open}"), i64::from(active >= limit));
            gauge(&format!("circuit_breakers.default.{remaining}"), i64::from(limit.saturating_sub(active)));
        }
    }
}
