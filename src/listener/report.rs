//! What people are shown of a listener.

use crate::model::Address;
use crate::snapshot::ListenerSpec;
use std::time::Duration;

/// What the admin shows of a listener on one worker.
#[derive(Clone, Debug)]
pub struct ListenerReport {
    /// Its name.
    pub name: String,
    /// Where it listens; nowhere if it is reached from inside only.
    pub addresses: Vec<Address>,
    /// Its spec's generation.
    pub generation: u64,
    /// Whether it is gone from the configuration.
    pub draining: bool,
    /// Open connections.
    pub connections: usize,
    /// Of them, those on a chain or listener that is no longer configured.
    pub draining_connections: usize,
    /// Open streams.
    pub streams: u32,
    /// Age of the oldest draining connection.
    pub oldest: Option<Duration>,
}

impl ListenerReport {
    /// Of one without connections.
    pub(super) fn idle(spec: &ListenerSpec) -> Self {
        ListenerReport {
            name: spec.model.name.clone(),
            addresses: spec.model.addresses.clone(),
            generation: spec.generation,
            draining: false,
            connections: 0,
            draining_connections: 0,
            streams: 0,
            oldest: None,
        }
    }
}
