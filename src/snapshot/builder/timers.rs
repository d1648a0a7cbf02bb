//! When the builder wants to be woken.

use crate::model::{ClusterId, RouteId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

/// Who waits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Key {
    /// A fetch timeout or the end of lingering.
    Cluster(ClusterId),
    /// The next expiry among its held virtual hosts.
    Table(RouteId),
    /// The next expiry among what it waits for.
    Listener(Arc<str>),
}

/// At most one time per key.
#[derive(Default)]
pub(super) struct Timers {
    order: BTreeSet<(Instant, Key)>,
    at: BTreeMap<Key, Instant>,
}

impl Timers {
    /// Sets or clears the time of `key`.
    pub(super) fn set(&mut self, key: Key, at: Option<Instant>) {
        if let Some(old) = self.at.remove(&key) {
            self.order.remove(&(old, key.clone()));
        }
        if let Some(at) = at {
            self.order.insert((at, key.clone()));
            self.at.insert(key, at);
        }
    }

    /// The earliest time.
    pub(super) fn next(&self) -> Option<Instant> {
        self.order.first().map(|(at, _)| *at)
    }

    /// Takes one key that is due.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<Key> {
        self.next().filter(|at| *at <= now)?;
        let (_, key) = self.order.pop_first()?;
        self.at.remove(&key);
        Some(key)
    }
}
