//! Per-name numbers of EDS and RDS, from the records of the xDS state to the admin's words.

use super::build::SharedCounts;
use super::metrics::version_hash;
use crate::admin::{Updates, provide_by_name};
use crate::snapshot::Store;
use crate::telemetry::Registry;
use crate::xds::names::NameStats;
use crate::xds::stats::XdsStats;
use crate::xds::types::ResourceType;
use std::sync::{Arc, PoisonError};

/// Makes them visible for as long as `registry` lives.
pub fn provide(registry: &Registry, store: &Arc<Store>, xds: &Arc<XdsStats>, counts: &SharedCounts) {
    let all = |xds: &XdsStats, kind: ResourceType| -> Vec<(Arc<str>, Updates)> {
        let failures = xds.of(kind).update_failure.get();
        let names = xds.names(kind).all();
        names.into_iter().map(|stats| (stats.name.clone(), updates(&stats, failures))).collect()
    };
    let (of_endpoints, of_routes, counts) = (xds.clone(), xds.clone(), counts.clone());
    let endpoints = move || all(&of_endpoints, ResourceType::Endpoint).into_iter().collect();
    let routes = move || {
        let timeouts = counts.lock().unwrap_or_else(PoisonError::into_inner).route_timeouts.clone();
        let mut tables = all(&of_routes, ResourceType::Route);
        for (name, updates) in &mut tables {
            updates.init_fetch_timeout = timeouts.get(name).copied().unwrap_or(0);
        }
        tables.into_iter().collect()
    };
    provide_by_name(registry, store.clone(), Box::new(endpoints), Box::new(routes));
}

/// As Envoy counts a subscription: one attempt at its start, and one with every outcome. `failures` is what the
/// type has counted so far.
fn updates(stats: &NameStats, failures: u64) -> Updates {
    let [success, rejected] = [stats.success, stats.rejected].map(u64::from);
    let failure = failures.saturating_sub(stats.failures_before.into());
    Updates {
        update_attempt: 1 + success + rejected + failure,
        update_success: success,
        update_failure: failure,
        update_rejected: rejected,
        update_empty: stats.emptied.into(),
        update_no_rebuild: stats.unchanged.into(),
        update_time: stats.updated_ms,
        reload_time: stats.changed_ms,
        version: version_hash(&stats.version),
        version_text: stats.version.clone(),
        init_fetch_timeout: 0,
        update_duration: stats.durations(),
    }
}
