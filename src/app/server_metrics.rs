//! `server.`: what is read off the process when asked for.

use super::lifecycle::Lifecycle;
use crate::admin::memory;
use crate::telemetry::{Computed, Registry, Sample, Scope, Value, panics};
use crate::worker::Loads;
use std::sync::Arc;

/// Makes it visible for as long as `registry` lives.
pub fn provide(registry: &Registry, lifecycle: &Arc<Lifecycle>, loads: &Arc<Loads>) {
    let (lifecycle, loads) = (lifecycle.clone(), loads.clone());
    registry.provide(Box::new(move || {
        let (lifecycle, loads) = (lifecycle.clone(), loads.clone());
        let group = Computed(move |out: &mut dyn FnMut(&str, Sample)| {
            let gauge = |value: u64| Value::Gauge(Some(i64::try_from(value).unwrap_or(i64::MAX)));
            out("initialization_time_ms", Value::Histogram(Box::new(lifecycle.initialization.read())));
            out("total_connections", gauge(loads.total() as u64));
            let memory = memory::read();
            out("memory_allocated", gauge(memory.anonymous));
            out("memory_heap_size", gauge(memory.data));
            out("memory_physical_size", gauge(memory.resident));
            out("panics", Value::Counter(panics::count()));
        });
        vec![(Scope::server(), Box::new(group))]
    }));
}
