//! Control-side metrics: configuration, the control plane, the server itself.

use super::build::SharedCounts;
use super::lifecycle::Lifecycle;
use crate::admin::ServerState;
use crate::telemetry::groups::Computed;
use crate::telemetry::{Registration, Registry, Sample, Scope, Value};
use crate::util::hash;
use crate::xds::stats::XdsStats;
use crate::xds::types::ResourceType;
use std::any::Any;
use std::sync::{Arc, PoisonError};

type Out<'a> = &'a mut dyn FnMut(&str, Sample);

/// Registers everything that is computed when it is asked for. Keep the result for as long as it should be
/// visible.
pub fn register(
    registry: &Registry,
    xds: &Arc<XdsStats>,
    counts: &SharedCounts,
    lifecycle: &Arc<Lifecycle>,
    workers: u64,
) -> Vec<Box<dyn Any + Send + Sync>> {
    let mut kept: Vec<Box<dyn Any + Send + Sync>> = Vec::new();
    for kind in ResourceType::ALL {
        let envoys = match kind {
            ResourceType::Cluster => Some(Scope::cds()),
            ResourceType::Listener => Some(Scope::lds()),
            // Envoy has these per cluster, connection manager and route table only.
            ResourceType::Endpoint
            | ResourceType::Route
            | ResourceType::Extension
            | ResourceType::ScopedRoute
            | ResourceType::Runtime => None,
        };
        if let Some(scope) = envoys {
            let (stats, lifecycle) = (xds.clone(), lifecycle.clone());
            kept.push(keep(registry, scope, move |out: Out<'_>| {
                type_stats(&stats, kind, out);
                // Only the first answer has a limit.
                out("init_fetch_timeout", Value::Counter(u64::from(lifecycle.gave_up(kind))));
            }));
        }
        let stats = xds.clone();
        kept.push(keep(registry, Scope::mizzen_xds(kind.label()), move |out: Out<'_>| {
            type_stats(&stats, kind, out);
            contact(&stats, kind, out);
        }));
    }
    let stats = xds.clone();
    kept.push(keep(registry, Scope::control_plane(), move |out: Out<'_>| {
        out("connected_state", gauge(u64::from(stats.connected.get())));
        out("connects", Value::Counter(stats.connects.get()));
        out("disconnects", Value::Counter(stats.disconnects.get()));
        out("unknown_type_url", Value::Counter(stats.unknown_type.get()));
        out("unsolicited", Value::Counter(stats.unsolicited.get()));
        out("pending_requests", gauge(stats.pending_requests.get()));
        let identifier = stats.identifier.get();
        out("identifier", Value::Text((!identifier.is_empty()).then(|| Arc::new(identifier.to_string()))));
    }));
    let (shared, stats) = (counts.clone(), xds.clone());
    kept.push(keep(registry, Scope::mizzen(), move |out: Out<'_>| snapshot(&shared, &stats, out)));
    let shared = counts.clone();
    kept.push(keep(registry, Scope::cluster_manager(), move |out: Out<'_>| {
        let counts = shared.lock().unwrap_or_else(PoisonError::into_inner).clone();
        out("active_clusters", gauge(counts.total_clusters_active));
        out("warming_clusters", gauge(counts.total_clusters_warming));
        out("cluster_added", Value::Counter(counts.cluster_added));
        out("cluster_modified", Value::Counter(counts.cluster_modified));
        out("cluster_removed", Value::Counter(counts.cluster_removed));
        out("cluster_updated", Value::Counter(counts.cluster_updated));
    }));
    let (shared, lifecycle) = (counts.clone(), lifecycle.clone());
    kept.push(keep(registry, Scope::listener_manager(), move |out: Out<'_>| {
        let counts = shared.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let started = lifecycle.state() == ServerState::Live;
        out("workers_started", Value::Gauge(started.then_some(1)));
        out("listener_added", Value::Counter(counts.listener_added));
        // Envoy counts per worker.
        out("listener_create_success", Value::Counter(counts.listener_applied * workers));
        out("listener_create_failure", Value::Counter(lifecycle.sockets.failed.get()));
        out("listener_stopped", Value::Counter(lifecycle.sockets.stopped.get()));
        out("listener_modified", Value::Counter(counts.listener_modified));
        out("listener_removed", Value::Counter(counts.listener_removed));
        out("total_listeners_active", gauge(counts.total_listeners_active));
        out("total_listeners_warming", gauge(counts.total_listeners_warming));
        out("listener_in_place_updated", Value::Counter(counts.listener_in_place_updated));
    }));
    kept
}

fn keep<F>(registry: &Registry, scope: Scope, read: F) -> Box<dyn Any + Send + Sync>
where
    F: Fn(Out<'_>) + Send + Sync + 'static,
{
    let registration: Registration<_> = registry.register(scope, Computed(read));
    Box::new(registration)
}

fn gauge(value: u64) -> Sample {
    Value::Gauge(Some(i64::try_from(value).unwrap_or(i64::MAX)))
}

/// A moment in ms since 1970, if there was one.
fn seen(unix_ms: u64) -> Sample {
    Value::Gauge((unix_ms != 0).then(|| i64::try_from(unix_ms).unwrap_or(i64::MAX)))
}

/// As Envoy: a number that changes with the version, so that graphs can show it.
pub fn version_hash(version: &str) -> Option<i64> {
    (!version.is_empty()).then(|| (hash::xxh64(version.as_bytes(), 0) >> 1) as i64)
}

fn type_stats(stats: &XdsStats, kind: ResourceType, out: Out<'_>) {
    let of = stats.of(kind);
    out("update_attempt", Value::Counter(of.update_attempt.get()));
    out("update_success", Value::Counter(of.update_success.get()));
    out("update_rejected", Value::Counter(of.update_rejected.get()));
    out("update_failure", Value::Counter(of.update_failure.get()));
    out("update_time", seen(of.last_update_ms.get()));
    let version = of.version.get();
    out("version", Value::Gauge(version_hash(&version)));
    out("version_text", Value::Text((of.last_update_ms.get() != 0).then(|| Arc::new(version.to_string()))));
    out("update_duration", Value::Histogram(Box::new(of.update_duration.read())));
    out("config_reload", Value::Counter(of.config_reload.get()));
    out("config_reload_time_ms", seen(of.last_reload_ms.get()));
    out("unchanged", Value::Counter(of.unchanged.get()));
    out("held", gauge(of.held.get()));
    out("rejected", gauge(of.rejected.get()));
    out("delayed_answers", Value::Counter(of.delayed_answers.get()));
}

fn contact(stats: &XdsStats, kind: ResourceType, out: Out<'_>) {
    let last = stats.of(kind).last_contact_ms.get();
    let now = crate::telemetry::clock::unix_millis();
    let seconds = (last != 0).then(|| (now.saturating_sub(last) / 1000) as i64);
    out("seconds_since_contact", Value::Gauge(seconds));
}

fn snapshot(counts: &SharedCounts, stats: &XdsStats, out: Out<'_>) {
    let counts = counts.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let stale = ResourceType::ALL.into_iter().any(|kind| stats.of(kind).stale.get());
    out("snapshot_stale", gauge(u64::from(stale)));
    let last =
        ResourceType::ALL.into_iter().map(|kind| stats.of(kind).last_contact_ms.get()).max().unwrap_or(0);
    let now = crate::telemetry::clock::unix_millis();
    let age = if last == 0 { 0 } else { now.saturating_sub(last) / 1000 };
    out("snapshot_age_seconds", gauge(age));
    out("snapshots_held", gauge(counts.kept_snapshots));
    out("shadowed_by_static", Value::Counter(counts.shadowed_by_static));
    out("route_hold_expired", Value::Counter(counts.hold_expired));
    out("held_virtual_hosts", gauge(counts.held_virtual_hosts));
    out("linger_expired", Value::Counter(counts.linger_expired));
    out("endpoints_fetch_timeout", Value::Counter(counts.endpoints_fetch_timeout));
    out("routes_fetch_timeout", Value::Counter(counts.routes_fetch_timeout));
    out("listener_cold", Value::Counter(counts.listener_cold));
    out("snapshot_generation", gauge(counts.generation));
}
