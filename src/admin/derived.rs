//! Numbers of every cluster and route table that follow from what is held, made when `/stats` is read: ten
//! thousand clusters pay nothing for those nobody looks at.

use crate::cluster::{ClusterEntry, ClusterSlot, History, Level};
use crate::model::{Discovery, Health, NetworkFilter, Priority, RouteSource};
use crate::snapshot::{Snapshot, Store};
use crate::telemetry::{HistogramData, Registry, Sample, Scope, StatGroup, Value};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// What the control plane has done with one name, in Envoy's words.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Updates {
    pub update_attempt: u64,
    pub update_success: u64,
    pub update_failure: u64,
    pub update_rejected: u64,
    pub update_empty: u64,
    /// Good copies that changed nothing.
    pub update_no_rebuild: u64,
    /// The last good copy, ms since 1970; 0: none.
    pub update_time: u64,
    /// The last good copy that changed something, ms since 1970; 0: none.
    pub reload_time: u64,
    /// A hash of `version_text`; `None` for an empty version.
    pub version: Option<i64>,
    pub version_text: Arc<str>,
    /// How often waiting for the first copy was given up.
    pub init_fetch_timeout: u64,
    /// How many milliseconds good copies took, each its share of its response.
    pub update_duration: HistogramData,
}

/// Gives the updates of all names of a type.
pub type UpdatesByName = Box<dyn Fn() -> HashMap<Arc<str>, Updates> + Send + Sync>;

/// Makes `registry` show, of all that is in `store`: membership, breakers and endpoint updates of clusters,
/// and updates of route tables.
pub fn provide_by_name(
    registry: &Registry,
    store: Arc<Store>,
    endpoints: UpdatesByName,
    routes: UpdatesByName,
) {
    let of_clusters = store.clone();
    registry.provide(Box::new(move || clusters(&of_clusters.load(), &endpoints())));
    registry.provide(Box::new(move || tables(&store.load(), &routes())));
}

type Groups = Vec<(Scope, Box<dyn StatGroup>)>;

fn clusters(snapshot: &Snapshot, updates: &HashMap<Arc<str>, Updates>) -> Groups {
    let of = |entry: &ClusterEntry| match &entry.spec.model.discovery {
        Discovery::Eds { service_name, .. } if service_name.is_empty() => {
            updates.get(entry.spec.model.name.as_str()).cloned()
        }
        Discovery::Eds { service_name, .. } => updates.get(service_name.as_str()).cloned(),
        _ => None,
    };
    let mut groups: Groups = Vec::new();
    for slot in &snapshot.clusters {
        if let ClusterSlot::Ready(entry) = slot {
            groups.push((Scope::cluster(stat_name(entry)), Box::new(Serving(entry.clone(), of(entry)))));
        }
    }
    for (name, id) in &snapshot.names {
        // Its EDS name is not known here; most are asked for by their own.
        if let ClusterSlot::Warming = snapshot.cluster(*id) {
            groups.push((Scope::cluster(name), Box::new(Warming(updates.get(name).cloned()))));
        }
    }
    groups
}

fn tables(snapshot: &Snapshot, updates: &HashMap<Arc<str>, Updates>) -> Groups {
    let mut scopes = BTreeMap::new();
    for listener in snapshot.listeners.values() {
        let model = &listener.model;
        for chain in model.filter_chains.iter().chain(&model.default_filter_chain) {
            let (scope, prefix, source): (fn(&str, &str) -> Scope, _, _) = match &chain.filter {
                NetworkFilter::Http(http) => (Scope::rds, &http.stat_prefix, &http.routes),
                NetworkFilter::Rpc(rpc) => (Scope::rpc_rds, &rpc.stat_prefix, &rpc.routes),
                NetworkFilter::Tcp(_) => continue,
            };
            if let RouteSource::Rds { name, .. } = source
                && let Some(updates) = updates.get(name.as_str())
            {
                scopes.insert(scope(prefix, name), updates);
            }
        }
    }
    let group = |updates: &Updates| -> Box<dyn StatGroup> { Box::new(Table(updates.clone())) };
    scopes.into_iter().map(|(scope, updates)| (scope, group(updates))).collect()
}

/// The name of a cluster in metrics.
pub fn stat_name(entry: &ClusterEntry) -> &str {
    entry.spec.model.alt_stat_name.as_deref().unwrap_or(&entry.spec.model.name)
}

type Out<'a> = &'a mut dyn FnMut(&str, Sample);

impl Updates {
    fn visit(&self, out: Out<'_>) {
        let mut counter = |name: &str, value: u64| out(name, Value::Counter(value));
        counter("init_fetch_timeout", self.init_fetch_timeout);
        counter("update_attempt", self.update_attempt);
        counter("update_success", self.update_success);
        counter("update_failure", self.update_failure);
        counter("update_rejected", self.update_rejected);
        counter("update_empty", self.update_empty);
        out("update_time", time(self.update_time));
        out("update_duration", Value::Histogram(Box::new(self.update_duration.clone())));
        out("version", Value::Gauge(self.version));
        let text = (self.update_success > 0).then(|| Arc::new(self.version_text.to_string()));
        out("version_text", Value::Text(text));
    }
}

fn time(unix_ms: u64) -> Value {
    Value::Gauge((unix_ms != 0).then(|| i64::try_from(unix_ms).unwrap_or(i64::MAX)))
}

/// A cluster that waits for its first hosts.
struct Warming(Option<Updates>);

impl StatGroup for Warming {
    fn visit(&self, out: Out<'_>) {
        out("warming_state", Value::Gauge(Some(1)));
        if let Some(updates) = &self.0 {
            updates.visit(out);
            out("update_no_rebuild", Value::Counter(updates.update_no_rebuild));
        }
    }
}

/// A route table.
struct Table(Updates);

impl StatGroup for Table {
    fn visit(&self, out: Out<'_>) {
        self.0.visit(out);
        out("config_reload", Value::Counter(self.0.update_success - self.0.update_no_rebuild));
        out("config_reload_time_ms", time(self.0.reload_time));
    }
}

/// A cluster that serves, and the updates of its endpoints where they come from the control plane.
struct Serving(ClusterEntry, Option<Updates>);

impl StatGroup for Serving {
    fn visit(&self, out: Out<'_>) {
        let Serving(entry, updates) = self;
        let History { membership_changes, fetch_timeouts } = entry.history;
        out("membership_change", Value::Counter(membership_changes.into()));
        if let Some(updates) = updates {
            Updates { init_fetch_timeout: fetch_timeouts.into(), ..updates.clone() }.visit(out);
            out("update_no_rebuild", Value::Counter(updates.update_no_rebuild));
            out("warming_state", Value::Gauge(Some(0)));
        }
        let mut gauge = |name: &str, value: i64| out(name, Value::Gauge(Some(value)));
        let (mut total, mut healthy, mut degraded) = (0, 0, 0);
        for endpoint in entry.endpoints.iter() {
            total += 1;
            let state = entry.spec.shared.host(&endpoint.address);
            match state.map_or(endpoint.health, |state| state.health(endpoint.health)) {
                Health::Healthy => healthy += 1,
                Health::Degraded => degraded += 1,
                Health::Unhealthy | Health::Draining => {}
            }
        }
        gauge("membership_total", total);
        gauge("membership_healthy", healthy);
        gauge("membership_degraded", degraded);
        gauge("max_host_weight", entry.endpoints.iter().map(|e| i64::from(e.weight)).max().unwrap_or(0));
        breakers(entry, &mut gauge);
    }
}

/// Which limits are reached, and what is left where that is asked for.
fn breakers(entry: &ClusterEntry, gauge: &mut dyn FnMut(&str, i64)) {
    let spec = &entry.spec;
    for (priority, word) in [(Priority::Default, "default"), (Priority::High, "high")] {
        let limits = spec.model.breakers.of(priority);
        for (level, open, remaining) in [
            (Level::Connections, "cx_open", "remaining_cx"),
            (Level::Pending, "rq_pending_open", "remaining_pending"),
            (Level::Requests, "rq_open", "remaining_rq"),
            (Level::Retries, "rq_retry_open", "remaining_retries"),
        ] {
            let active = spec.breakers.active(level, priority);
            let limit = spec.breakers.limit(level, priority, limits);
            gauge(&format!("circuit_breakers.{word}.{open}"), i64::from(active >= limit));
            let left = if limits.track_remaining { limit.saturating_sub(active) } else { 0 };
            gauge(&format!("circuit_breakers.{word}.{remaining}"), i64::from(left));
        }
    }
}
