//! Times to live of the resources that have one (`Resource.ttl`).
//!
//! Takes in what a response says of each resource it names: a time to live, from now on, or none any more.
//! Gives out the names whose time is over. Costs nothing for resources without.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Ttls {
    due: BTreeSet<(Instant, Arc<str>)>,
    by_name: HashMap<Arc<str>, Instant>,
}

impl Ttls {
    /// `name` is good for `ttl` from `now` on; `None`: until further notice.
    pub fn set(&mut self, name: &Arc<str>, ttl: Option<Duration>, now: Instant) {
        self.clear(name);
        // A time beyond what the clock can tell is for ever.
        if let Some(at) = ttl.and_then(|ttl| now.checked_add(ttl)) {
            self.due.insert((at, name.clone()));
            self.by_name.insert(name.clone(), at);
        }
    }

    /// `name` is gone, or good until further notice.
    pub fn clear(&mut self, name: &str) {
        if self.by_name.is_empty() {
            return;
        }
        if let Some((name, at)) = self.by_name.remove_entry(name) {
            self.due.remove(&(at, name));
        }
    }

    /// When the next one is over.
    pub fn next(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Takes out those that are over by `now`.
    pub fn take_due(&mut self, now: Instant) -> Vec<Arc<str>> {
        let mut over = Vec::new();
        while self.due.first().is_some_and(|(at, _)| *at <= now) {
            if let Some((_, name)) = self.due.pop_first() {
                self.by_name.remove(&name);
                over.push(name);
            }
        }
        over
    }
}
