//! What happened to each subscribed name: the numbers behind `cluster.<n>.update_*` and
//! `http.<p>.rds.<route>.*`.
//!
//! Owns one small record per EDS and RDS name, in a slab under one lock that the state takes once per
//! response; whoever holds a name keeps its key. Gives out copies to the metrics, which alone need the names.
//! What took no millisecond, nearly all, is counted; only the rest needs a distribution.

use crate::telemetry::HistogramData;
use slab::Slab;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The numbers of one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameStats {
    /// The resource.
    pub name: Arc<str>,
    /// Its version as last accepted; may be empty.
    pub version: Arc<str>,
    /// Good copies that came, equal ones included, and removals.
    pub success: u32,
    /// Good copies that were equal to what is held.
    pub unchanged: u32,
    /// Bad ones.
    pub rejected: u32,
    /// Removals.
    pub emptied: u32,
    /// `update_failure` of the type when the name was subscribed.
    pub failures_before: u32,
    /// Good copies that took less than a millisecond.
    quick: u32,
    /// How many milliseconds the others took.
    slow: Option<Box<HistogramData>>,
    /// The last good copy, ms since 1970; 0 before the first.
    pub updated_ms: u64,
    /// The last good copy that differed, ms since 1970; 0 before the first.
    pub changed_ms: u64,
}

impl NameStats {
    pub(super) fn new(name: Arc<str>, failures_before: u32) -> Self {
        Self {
            name,
            version: Arc::from(""),
            success: 0,
            unchanged: 0,
            rejected: 0,
            emptied: 0,
            failures_before,
            quick: 0,
            slow: None,
            updated_ms: 0,
            changed_ms: 0,
        }
    }

    /// A good copy has come that is equal to what is held.
    pub(super) fn confirmed(&mut self, version: &Arc<str>, unix_ms: u64) {
        self.success += 1;
        self.updated_ms = unix_ms;
        self.version = version.clone();
        self.unchanged += 1;
        self.quick += 1;
    }

    /// A good copy has come that differs; it `took` so long to apply.
    pub(super) fn changed(&mut self, version: &Arc<str>, unix_ms: u64, took: Duration) {
        self.success += 1;
        (self.updated_ms, self.changed_ms) = (unix_ms, unix_ms);
        self.version = version.clone();
        match u64::try_from(took.as_millis()).unwrap_or(u64::MAX) {
            0 => self.quick += 1,
            ms => self.slow.get_or_insert_default().record(ms, 1),
        }
    }

    /// How many milliseconds good copies took.
    #[must_use]
    pub fn durations(&self) -> HistogramData {
        let mut all = self.slow.as_deref().cloned().unwrap_or_default();
        all.record(0, self.quick.into());
        all
    }

    /// The server took it back.
    pub(super) fn emptied(&mut self, unix_ms: u64) {
        self.success += 1;
        self.emptied += 1;
        self.updated_ms = unix_ms;
    }
}

/// The records of one type.
#[derive(Debug, Default)]
pub struct Names(Mutex<Slab<NameStats>>);

impl Names {
    /// Copies of all, in no order.
    #[must_use]
    pub fn all(&self) -> Vec<NameStats> {
        self.lock().iter().map(|(_, stats)| stats.clone()).collect()
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Slab<NameStats>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where a name's record is; 4 bytes, so that holding it costs a resource nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Key(u32);

impl Key {
    /// No record: complete types are not counted by name.
    pub(super) const NONE: Self = Self(u32::MAX);

    pub(super) fn new(index: usize) -> Self {
        Self(u32::try_from(index).unwrap_or(u32::MAX))
    }

    pub(super) const fn index(self) -> usize {
        self.0 as usize
    }
}
