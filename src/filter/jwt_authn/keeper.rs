//! Who keeps remote keys fresh before anybody asks for them: one task per set.

use super::remote::{Remote, Turn};
use super::{FETCH_FAILED, FETCHED};
use crate::filter::ask::{Ask, Heard};
use crate::filter::stats::Counters;
use crate::telemetry::Registration;
use std::sync::{Arc, Weak};
use std::time::Duration;

/// One set and what is counted of it.
pub struct Keeper {
    remote: Weak<Remote>,
    group: Registration<Counters>,
}

/// A fetch under way.
pub struct Fetch(Turn);

impl Keeper {
    pub(super) fn new(remote: &Arc<Remote>, group: Registration<Counters>) -> Self {
        Keeper { remote: Arc::downgrade(remote), group }
    }

    /// The next fetch, and what is to be asked; `None`: nobody uses the keys any more. `Some(None)`: somebody else
    /// fetches them just now.
    pub fn fetch(&self) -> Option<Option<(Fetch, Ask)>> {
        let turn = self.remote.upgrade()?.turn().ok();
        Some(turn.map(|turn| {
            let ask = turn.ask();
            (Fetch(turn), ask)
        }))
    }

    /// Takes the answer in.
    pub fn heard(&self, fetch: Fetch, heard: Heard) {
        self.group.inc(if fetch.0.heard(heard) { FETCHED } else { FETCH_FAILED });
    }

    /// How long until the next fetch; `None`: nobody uses the keys any more.
    pub fn pause(&self) -> Option<Duration> {
        Some(self.remote.upgrade()?.next())
    }
}
