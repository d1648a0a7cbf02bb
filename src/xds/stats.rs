//! Counters and gauges of the control-plane connection, Envoy's names and meanings.
//!
//! Written by the state (build thread), read by the admin and the metrics endpoint. Plain atomics and two
//! mutexes around texts: nothing here is on a request's path.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::names::Names;
use super::types::{PerType, ResourceType};
use crate::telemetry::Histogram;

/// Everything about one stream, for all types.
#[derive(Debug, Default)]
pub struct XdsStats {
    types: PerType<TypeStats>,
    names: PerType<Arc<Names>>,
    /// Requests that wait for the stream to take them.
    pub pending_requests: Counter,
    /// `control_plane.connected_state`.
    pub connected: Flag,
    /// Streams opened since start.
    pub connects: Counter,
    /// Streams lost and connection attempts that failed.
    pub disconnects: Counter,
    /// Responses of a type URL nobody asked for; they get no answer.
    pub unknown_type: Counter,
    /// Responses of a known type that was not subscribed on this stream; they get no answer.
    pub unsolicited: Counter,
    /// `control_plane.identifier`.
    pub identifier: Text,
    /// Why the last stream or attempt ended.
    pub last_error: Text,
}

impl XdsStats {
    /// The counters of one type.
    #[must_use]
    pub const fn of(&self, kind: ResourceType) -> &TypeStats {
        self.types.get(kind)
    }

    /// The records of one type's names; of EDS and RDS only.
    #[must_use]
    pub const fn names(&self, kind: ResourceType) -> &Arc<Names> {
        self.names.get(kind)
    }
}

/// Counters of one resource type.
#[derive(Debug, Default)]
pub struct TypeStats {
    /// Subscriptions sent on a new stream, plus responses taken in.
    pub update_attempt: Counter,
    /// Responses accepted as a whole; of CDS and LDS also in part, unless the process cannot be ready with it.
    pub update_success: Counter,
    /// Responses with at least one rejected resource.
    pub update_rejected: Counter,
    /// Streams lost and attempts failed while the type was wanted.
    pub update_failure: Counter,
    /// Resources that arrived with the bytes already held.
    pub unchanged: Counter,
    /// Answers held back because the response repeated a rejected one.
    pub delayed_answers: Counter,
    /// Resources held now.
    pub held: Counter,
    /// Resources rejected and not replaced since.
    pub rejected: Counter,
    /// `update_time`: the last accepted response, ms since 1970; 0 before the first.
    pub last_update_ms: Counter,
    /// Responses that changed anything.
    pub config_reload: Counter,
    /// The last of them, ms since 1970; 0 before the first.
    pub last_reload_ms: Counter,
    /// From a response to its verdict, in milliseconds.
    pub update_duration: Histogram,
    /// The last response of any verdict, ms since 1970; 0 before the first.
    pub last_contact_ms: Counter,
    /// What is held comes from disk and the control plane has not answered yet.
    pub stale: Flag,
    /// `version_text`: the last accepted version.
    pub version: Text,
}

/// An atomic number with one writer.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// The value.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
    pub(super) fn add(&self, n: usize) {
        self.0.fetch_add(n as u64, Ordering::Relaxed);
    }
    pub(super) fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }
}

/// An atomic yes or no with one writer.
#[derive(Debug, Default)]
pub struct Flag(AtomicBool);

impl Flag {
    /// The value.
    #[must_use]
    pub fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
    pub(super) fn set(&self, value: bool) {
        self.0.store(value, Ordering::Relaxed);
    }
}

/// A text with one writer.
#[derive(Debug, Default)]
pub struct Text(Mutex<Option<Arc<str>>>);

impl Text {
    /// The text, empty before the first.
    #[must_use]
    pub fn get(&self) -> Arc<str> {
        self.lock().clone().unwrap_or_else(|| Arc::from(""))
    }
    pub(super) fn set(&self, text: Arc<str>) {
        *self.lock() = Some(text);
    }
    fn lock(&self) -> MutexGuard<'_, Option<Arc<str>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
