//! `server.`: what is read off the process when asked for.

use super::lifecycle::Lifecycle;
use crate::admin::memory;
use crate::telemetry::{Computed, Registry, Sample, Scope, Value, panics};
use crate::tls::{SecretState, Secrets};
use crate::worker::Loads;
use std::sync::Arc;
use std::time::SystemTime;

/// What Envoy shows while there is no certificate.
const NO_CERTIFICATE: u64 = u32::MAX as u64;

/// Makes it visible for as long as `registry` lives.
pub fn provide(registry: &Registry, lifecycle: &Arc<Lifecycle>, loads: &Arc<Loads>, secrets: &Arc<Secrets>) {
    let (lifecycle, loads, secrets) = (lifecycle.clone(), loads.clone(), secrets.clone());
    registry.provide(Box::new(move || {
        let (lifecycle, loads, secrets) = (lifecycle.clone(), loads.clone(), secrets.clone());
        let group = Computed(move |out: &mut dyn FnMut(&str, Sample)| {
            let gauge = |value: u64| Value::Gauge(Some(i64::try_from(value).unwrap_or(i64::MAX)));
            out("initialization_time_ms", Value::Histogram(Box::new(lifecycle.initialization.read())));
            out("total_connections", gauge(loads.total() as u64));
            let memory = memory::read();
            out("memory_allocated", gauge(memory.anonymous));
            out("memory_heap_size", gauge(memory.data));
            out("memory_physical_size", gauge(memory.resident));
            out("panics", Value::Counter(panics::count()));
            out("days_until_first_cert_expiring", gauge(days_until_first_expires(&secrets)));
        });
        vec![(Scope::server(), Box::new(group))]
    }));
}

/// Full days until the first certificate in use expires, those of authorities too; 0 once one has.
fn days_until_first_expires(secrets: &Secrets) -> u64 {
    let now = SystemTime::now();
    let days = secrets.status().into_iter().flat_map(|secret| match secret.state {
        SecretState::Missing => Vec::new(),
        SecretState::Certificate { infos, .. } | SecretState::Trust { infos, .. } => infos,
    });
    let days = days.map(|info| u64::try_from(info.days_left(now)).unwrap_or(0));
    days.min().unwrap_or(NO_CERTIFICATE)
}
